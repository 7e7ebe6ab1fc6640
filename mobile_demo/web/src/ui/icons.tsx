/** Line icons on a grid of 24, drawn for this app. They are decoration: the button's label says what it does. */

const PATHS = {
  dice: 'M6 4h12a2 2 0 0 1 2 2v12a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2ZM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01',
  lock: 'M6 11h12a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1ZM8 11V8a4 4 0 0 1 8 0v3',
  unlock: 'M6 11h12a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1ZM8 11V7a4 4 0 0 1 7.6-1.7',
  morph: 'M9 5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11ZM15.2 8.2a5.5 5.5 0 1 1-5.9 10.2',
  history: 'M4.5 12a7.5 7.5 0 1 1 2.3 5.4M4.5 12 3 10m1.5 2 2-1.6M12 8v4.3l3 1.7',
  more: 'M4 8h9M17 8h3M4 16h3M11 16h9M15 5.8a2.2 2.2 0 1 1 0 4.4 2.2 2.2 0 0 1 0-4.4ZM9 13.8a2.2 2.2 0 1 1 0 4.4 2.2 2.2 0 0 1 0-4.4Z',
  save: 'M12 4v10m0 0-4-4m4 4 4-4M5 16v2.5A1.5 1.5 0 0 0 6.5 20h11a1.5 1.5 0 0 0 1.5-1.5V16',
  share:
    'M12 14V4m0 0L8.5 7.5M12 4l3.5 3.5M8 11H6.5A1.5 1.5 0 0 0 5 12.5v6A1.5 1.5 0 0 0 6.5 20h11a1.5 1.5 0 0 0 1.5-1.5v-6a1.5 1.5 0 0 0-1.5-1.5H16',
  sticker: 'M13 20H7a3 3 0 0 1-3-3V7a3 3 0 0 1 3-3h10a3 3 0 0 1 3 3v6l-7 7Zm0 0v-4a3 3 0 0 1 3-3h4',
  close: 'm6.5 6.5 11 11m0-11-11 11',
  play: 'M8 5.5v13l10.5-6.5L8 5.5Z',
  pause: 'M8.5 6v12M15.5 6v12',
  trash: 'M5 7h14M10 7V5h4v2m-7 0 .8 11.6a1.5 1.5 0 0 0 1.5 1.4h5.4a1.5 1.5 0 0 0 1.5-1.4L17 7',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
