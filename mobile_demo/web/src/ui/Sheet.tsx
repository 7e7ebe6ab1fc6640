import type { ComponentChildren } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { useBack } from './back';
import { IconButton } from './IconButton';
import { ToastList } from './ToastList';

export type SheetName = 'history' | 'more' | 'take';

interface Props {
  title: string;
  name: SheetName;
  onClose(): void;
  /** Stands beside the title. */
  action?: ComponentChildren;
  children: ComponentChildren;
}

/** A modal sheet: from below on a phone, at the side on a wide screen. The browser holds focus in it; Esc closes it. */
export function Sheet({ title, name, onClose, action, children }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => dialog.current?.showModal(), []);
  useBack(() => dialog.current?.close());
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the click is one beside the sheet; the key for it is Esc
    <dialog
      ref={dialog}
      class="side-sheet"
      aria-labelledby={`${name}-title`}
      data-testid={`${name}-sheet`}
      onClose={onClose}
      onClick={(event) => event.target === dialog.current && onClose()}
    >
      <div class="side-sheet-body">
        <header>
          <h2 id={`${name}-title`}>{title}</h2>
          {action}
          <IconButton
            icon="close"
            label="Close"
            testId={`${name}-close`}
            onClick={() => dialog.current?.close()}
          />
        </header>
        <div class="side-sheet-content">{children}</div>
      </div>
      <ToastList />
    </dialog>
  );
}
