import { useEffect, useMemo } from 'preact/hooks';
import type { HistoryEntry } from '../store/history';
import { useStudio } from './context';
import { IconButton } from './IconButton';
import { Sheet } from './Sheet';

export function HistorySheet({ onClose }: { onClose(): void }) {
  const { history, toasts } = useStudio();
  const entries = history.entries.value;
  const remove = (keys: string[], text: string) => {
    const undo = history.remove(keys);
    toasts.say(text, { label: 'Undo', run: undo });
  };
  const clear = (
    <button
      type="button"
      class="button"
      data-testid="history-clear"
      disabled={entries.length === 0}
      onClick={() =>
        remove(
          entries.map((entry) => entry.key),
          'History cleared.',
        )
      }
    >
      Clear all
    </button>
  );
  return (
    <Sheet title="History" name="history" onClose={onClose} action={clear}>
      {entries.length === 0 && <p class="nothing">A picture that you look at for a second is kept here.</p>}
      <ul class="history">
        {entries.map((entry) => (
          <Item
            key={entry.key}
            entry={entry}
            onRestored={onClose}
            onRemove={() => remove([entry.key], 'Picture deleted.')}
          />
        ))}
      </ul>
    </Sheet>
  );
}

interface ItemProps {
  entry: HistoryEntry;
  onRestored(): void;
  onRemove(): void;
}

function Item({ entry, onRestored, onRemove }: ItemProps) {
  const studio = useStudio();
  const url = useMemo(() => URL.createObjectURL(new Blob([entry.png], { type: 'image/png' })), [entry.png]);
  useEffect(() => () => URL.revokeObjectURL(url), [url]);
  const { request, text, to } = entry;
  const title = request.morph ? `${text} → ${to}` : text;
  return (
    <li>
      <button
        type="button"
        class="history-item"
        data-testid="history-item"
        aria-label={`${request.morph ? `${text} to ${to}` : (entry.shows ?? request.prompt)}, seed ${request.seed}`}
        onClick={() => {
          studio.restore(entry);
          onRestored();
        }}
      >
        <img src={url} alt="" width={128} height={128} decoding="async" />
        <span class="history-text" dir="auto">
          {title}
        </span>
      </button>
      <IconButton
        icon="trash"
        label={`Delete ${title}, seed ${request.seed}`}
        testId="history-delete"
        onClick={onRemove}
      />
    </li>
  );
}
