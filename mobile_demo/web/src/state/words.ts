/** From what a person types to the prompt that the model was trained on, and to a file's name. */

import type { StyleName } from '../core/types';

export interface Style {
  name: StyleName;
  label: string;
  /** The words of the training captions (train/sticker/captions.py); none for 'none'. */
  words: string;
}

export const STYLES: readonly Style[] = [
  { name: '3d', label: '3D', words: '3d style' },
  { name: 'flat', label: 'Flat', words: 'flat style' },
  { name: 'cartoon', label: 'Cartoon', words: 'cartoon style' },
  { name: 'none', label: 'None', words: '' },
];

export const EXAMPLES = [
  'a fox',
  'a birthday cake',
  'a hamburger',
  'an owl',
  'a green apple',
  'a rocket',
] as const;

/** What the dice surprises with where the model names no things of its own. */
export const THINGS = [
  ...['fox', 'owl', 'octopus', 'penguin', 'tiger', 'whale', 'unicorn', 'dragon', 'frog', 'bee'],
  ...['hamburger', 'pizza', 'birthday cake', 'pineapple', 'watermelon', 'doughnut', 'avocado', 'cherries'],
  ...['rocket', 'guitar', 'violin', 'robot', 'hot air balloon', 'sailboat', 'steam train', 'bicycle'],
  ...['crown', 'gift', 'lighthouse', 'castle', 'mushroom', 'cactus', 'rainbow', 'snowman', 'jack-o-lantern'],
] as const;

/** One of the things, at random. */
export function surprise(things: readonly string[]): string {
  const from = things.length ? things : THINGS;
  return from[Math.floor(Math.random() * from.length)] as string;
}

export function isStyleName(value: unknown): value is StyleName {
  return STYLES.some((style) => style.name === value);
}

/** 'a red fox' in '3d' is 'a red fox, 3d style'. Nothing typed gives ''; a style typed by hand is kept alone. */
export function fullPrompt(text: string, style: StyleName): string {
  const subject = text
    .trim()
    .replace(/\s+/g, ' ')
    .replace(/[\s,]+$/, '');
  const words = STYLES.find((each) => each.name === style)?.words ?? '';
  if (!subject || !words || /\b(3d|flat|cartoon) style\b/i.test(subject)) return subject;
  return `${subject}, ${words}`;
}

/** 'A red fox!', '7' -> 'a-red-fox-7.png'; at most 60 characters of the text. */
export function fileName(text: string, seed: string, suffix = ''): string {
  const words = text
    .normalize('NFKC')
    .toLowerCase()
    .match(/[\p{L}\p{N}]+/gu);
  const stem = Array.from((words ?? ['sticker']).join('-'))
    .slice(0, 60)
    .join('')
    .replace(/-+$/, '');
  return `${stem}-${seed}${suffix}.png`;
}
