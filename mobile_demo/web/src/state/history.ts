import { signal } from '@preact/signals';
import { type HistoryEntry, type HistoryStore, MOST_ENTRIES } from '../store/history';

/** The history as shown. It is kept in memory; the store follows, and its loss is reported once. */
export class History {
  /** Newest first, one per request. */
  readonly entries = signal<readonly HistoryEntry[]>([]);
  readonly #onLost: () => void;
  #store: HistoryStore | undefined;
  #work: Promise<void>;

  /** open: opens the store. onLost: is called once, where the store cannot be opened or written any more. */
  constructor(open: () => Promise<HistoryStore>, onLost: () => void) {
    this.#onLost = onLost;
    this.#work = this.#attempt(async () => {
      this.#store = await open();
      const kept = await this.#store.list();
      this.#merge(kept);
      this.#store.follow?.(() => this.#read());
    });
  }

  /** Resolves when everything so far is written. */
  get settled(): Promise<void> {
    return this.#work;
  }

  /** The entry comes first; an older one of the same request goes. */
  add(entry: HistoryEntry): void {
    this.#merge([entry]);
    this.#write((store) => store.put([entry]));
  }

  /** Takes entries out. Returns what puts them back. */
  remove(keys: readonly string[]): () => void {
    const gone = this.entries.value.filter((entry) => keys.includes(entry.key));
    this.entries.value = this.entries.value.filter((entry) => !keys.includes(entry.key));
    this.#write((store) => store.remove(keys));
    return () => {
      this.#merge(gone);
      this.#write((store) => store.put(gone));
    };
  }

  #merge(more: readonly HistoryEntry[]): void {
    const byKey = new Map<string, HistoryEntry>();
    for (const entry of [...this.entries.value, ...more]) {
      const known = byKey.get(entry.key);
      if (!known || known.at <= entry.at) byKey.set(entry.key, entry);
    }
    this.entries.value = [...byKey.values()].sort((a, b) => b.at - a.at).slice(0, MOST_ENTRIES);
  }

  /** Another page changed it. */
  #read(): void {
    this.#write(async (store) => {
      this.entries.value = await store.list();
    });
  }

  #write(change: (store: HistoryStore) => Promise<void>): void {
    this.#work = this.#work.then(() => this.#attempt(async () => this.#store && (await change(this.#store))));
  }

  async #attempt(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch {
      this.#store = undefined;
      this.#onLost();
    }
  }
}
