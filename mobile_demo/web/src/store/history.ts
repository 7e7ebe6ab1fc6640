import { type DBSchema, type IDBPDatabase, openDB } from 'idb';
import type { GenerateRequest, StyleName } from '../core/types';

export const MOST_ENTRIES = 200;

export interface HistoryEntry {
  /** The request's key: one entry per request. */
  key: string;
  /** Milliseconds since 1970 at which the picture was last shown. */
  at: number;
  /** What was typed, without the style's words. */
  text: string;
  style: StyleName;
  /** The second prompt of a morph as typed; '' for none. */
  to: string;
  request: GenerateRequest;
  /** The prompt as the seed completed it, where it did. */
  shows?: string;
  png: Uint8Array<ArrayBuffer>;
}

/** Where the history is kept. Calls reject where the browser takes storage away. */
export interface HistoryStore {
  /** Newest first. */
  list(): Promise<HistoryEntry[]>;
  put(entries: readonly HistoryEntry[]): Promise<void>;
  remove(keys: readonly string[]): Promise<void>;
  /** Calls back when another page of the app has changed it. */
  follow?(listener: () => void): void;
}

interface Schema extends DBSchema {
  pictures: { key: string; value: HistoryEntry; indexes: { at: number } };
}

/** The history in IndexedDB. Rejects where it is refused (private mode, blocked storage). */
export async function openHistory(name = 'addkit-history'): Promise<HistoryStore> {
  let opened: Promise<IDBPDatabase<Schema>> | undefined;
  const forget = () => {
    opened = undefined;
  };
  const open = () => {
    opened ??= openDB<Schema>(name, 1, {
      upgrade(db) {
        db.createObjectStore('pictures', { keyPath: 'key' }).createIndex('at', 'at');
      },
      terminated: forget,
    });
    return opened;
  };
  /** Once more with a new connection where the site's data were cleared under an open page. */
  const using = async <T>(work: (database: IDBPDatabase<Schema>) => Promise<T>): Promise<T> => {
    try {
      return await work(await open());
    } catch {
      forget();
      return work(await open());
    }
  };
  const pages = typeof BroadcastChannel === 'function' ? new BroadcastChannel(name) : undefined;
  await open();
  return {
    list: () => using(async (database) => (await database.getAllFromIndex('pictures', 'at')).reverse()),
    put: async (entries) => {
      await using((database) => put(database, entries));
      pages?.postMessage('changed');
      askToKeep();
    },
    remove: async (keys) => {
      await using(async (database) => {
        const change = database.transaction('pictures', 'readwrite');
        await Promise.all([...keys.map((key) => change.store.delete(key)), change.done]);
      });
      pages?.postMessage('changed');
    },
    follow: (listener) => pages?.addEventListener('message', listener),
  };
}

/** The browser may ask the person, so it is done when there is something to keep. */
function askToKeep(): void {
  void globalThis.navigator?.storage?.persist?.().catch(() => false);
}

/** Writes the entries and drops the oldest beyond MOST_ENTRIES, in one transaction. */
async function put(database: IDBPDatabase<Schema>, entries: readonly HistoryEntry[]): Promise<void> {
  const change = database.transaction('pictures', 'readwrite');
  const writes = entries.map((entry) => change.store.put(entry));
  const keys = await change.store.index('at').getAllKeys();
  const oldest = keys.slice(0, Math.max(0, keys.length - MOST_ENTRIES));
  await Promise.all([...writes, ...oldest.map((key) => change.store.delete(key)), change.done]);
}
