import { useSignal } from '@preact/signals';
import { useEffect, useMemo } from 'preact/hooks';
import { packProblem } from '../core/pack';
import type { HistoryEntry } from '../store/history';
import { useStudio } from './context';
import { kilobytes } from './format';
import { IconButton } from './IconButton';
import { download } from './output';
import { packZip } from './pack';
import { Sheet } from './Sheet';

export function HistorySheet({ onClose }: { onClose(): void }) {
  const { history, toasts } = useStudio();
  const entries = history.entries.value;
  const remove = (keys: string[], text: string) => {
    const undo = history.remove(keys);
    toasts.say(text, { label: 'Undo', run: undo });
  };
  const picked = useSignal<readonly string[] | undefined>(undefined);
  const packed = entries.filter(({ key }) => picked.value?.includes(key));
  const pick = (key: string) => {
    const keys = picked.value ?? [];
    picked.value = keys.includes(key) ? keys.filter((one) => one !== key) : [...keys, key];
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
    <Sheet
      title="History"
      name="history"
      onClose={onClose}
      action={
        <>
          <button
            type="button"
            class="button"
            data-testid="pack-toggle"
            aria-pressed={picked.value !== undefined}
            disabled={entries.length === 0}
            onClick={() => {
              picked.value = picked.value ? undefined : [];
            }}
          >
            Pack
          </button>
          {clear}
        </>
      }
    >
      {entries.length === 0 && <p class="nothing">A picture that you look at for a second is kept here.</p>}
      <ul class="history">
        {entries.map((entry) => (
          <Item
            key={entry.key}
            entry={entry}
            picked={picked.value?.includes(entry.key)}
            onPick={() => pick(entry.key)}
            onRestored={onClose}
            onRemove={() => remove([entry.key], 'Picture deleted.')}
          />
        ))}
      </ul>
      {picked.value && <PackBar entries={packed} />}
    </Sheet>
  );
}

/** How many are chosen, and the way out. */
function PackBar({ entries }: { entries: readonly HistoryEntry[] }) {
  const studio = useStudio();
  const done = useSignal<number | undefined>(undefined);
  const problem = packProblem(entries.length);
  const make = async () => {
    done.value = 0;
    try {
      const zip = await packZip(studio, entries, (count) => {
        done.value = count;
      });
      download(zip, 'stickers.zip');
      studio.toasts.say(
        `Saved stickers.zip (${entries.length} stickers, ${kilobytes(zip.size)}), where this browser keeps its downloads.`,
      );
    } catch (error) {
      studio.toasts.warn((error as Error).message);
    }
    done.value = undefined;
  };
  return (
    <div class="pack-bar">
      <p role="status" data-testid="pack-status">
        {done.value !== undefined
          ? `${done.value} of ${entries.length} made`
          : (problem ?? `${entries.length} chosen.`)}
      </p>
      <button
        type="button"
        class="button primary"
        data-testid="pack-save"
        disabled={problem !== undefined || done.value !== undefined}
        onClick={() => void make()}
      >
        Save pack
      </button>
    </div>
  );
}

interface ItemProps {
  entry: HistoryEntry;
  /** undefined: nothing is being picked. */
  picked: boolean | undefined;
  onPick(): void;
  onRestored(): void;
  onRemove(): void;
}

function Item({ entry, picked, onPick, onRestored, onRemove }: ItemProps) {
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
          if (picked !== undefined) return onPick();
          studio.restore(entry);
          onRestored();
        }}
        {...(picked !== undefined && { 'aria-pressed': picked })}
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
