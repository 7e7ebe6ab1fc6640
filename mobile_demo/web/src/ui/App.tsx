import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { useStudio } from './context';
import { Dock } from './Dock';
import { statusText } from './format';
import { HistorySheet } from './HistorySheet';
import { IconButton } from './IconButton';
import { MoreSheet } from './MoreSheet';
import type { SheetName } from './Sheet';
import { Stage } from './Stage';
import { TakeSheet } from './TakeSheet';
import { ToastList } from './ToastList';
import { UnderPicture } from './UnderPicture';

export function App() {
  const studio = useStudio();
  const sheet = useSignal<SheetName | undefined>(undefined);
  const close = () => {
    sheet.value = undefined;
  };
  useEscape(() => studio.cancel());
  useHiding(() => studio.pause());
  useOnline(() => studio.reconnect());
  return (
    <div class="shell">
      <main class="app">
        <Header
          onMore={() => {
            sheet.value = 'more';
          }}
        />
        <Stage />
        <UnderPicture
          onTake={() => {
            sheet.value = 'take';
          }}
        />
        <Dock
          onOpen={(name) => {
            sheet.value = name;
          }}
        />
      </main>
      <p class="hidden" role="status" data-testid="announcement">
        {studio.announcement.value}
      </p>
      {sheet.value === 'history' && <HistorySheet onClose={close} />}
      {sheet.value === 'more' && <MoreSheet onClose={close} />}
      {sheet.value === 'take' && <TakeSheet onClose={close} />}
      {!sheet.value && <ToastList />}
    </div>
  );
}

function Header({ onMore }: { onMore(): void }) {
  const state = useStudio().state.value;
  return (
    <header class="bar">
      <img src={`${import.meta.env.BASE_URL}icons/favicon.svg`} alt="" width={30} height={30} />
      <h1>ADDKit</h1>
      <p class="state" role="status" data-testid="status" data-phase={state.phase}>
        {statusText(state)}
      </p>
      <IconButton icon="more" label="More settings" testId="more" onClick={onMore} />
    </header>
  );
}

/** The page goes out of sight: another tab, another app, the screen off. */
function useHiding(run: () => void): void {
  useEffect(() => {
    const onChange = () => document.hidden && run();
    document.addEventListener('visibilitychange', onChange);
    return () => document.removeEventListener('visibilitychange', onChange);
  }, [run]);
}

/** The browser sees a network again. */
function useOnline(run: () => void): void {
  useEffect(() => {
    addEventListener('online', run);
    return () => removeEventListener('online', run);
  }, [run]);
}

/** Esc on the page itself; within a sheet it closes the sheet. */
function useEscape(run: () => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === 'Escape' && !document.querySelector('dialog[open]')) run();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [run]);
}
