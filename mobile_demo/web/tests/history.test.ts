import 'fake-indexeddb/auto';
import { expect, test } from 'vitest';
import { History } from '../src/state/history';
import { type HistoryEntry, type HistoryStore, MOST_ENTRIES, openHistory } from '../src/store/history';

let databases = 0;

function entry(key: string, at: number): HistoryEntry {
  const request = { prompt: key, seed: '7', steps: 1 };
  return { key, at, text: key, style: '3d', to: '', request, png: new Uint8Array([1, 2, 3]) };
}

function fresh() {
  const name = `history-${databases++}`;
  const lost: string[] = [];
  const open = () =>
    new History(
      () => openHistory(name),
      () => lost.push('lost'),
    );
  return { name, open, lost };
}

const keys = (history: History) => history.entries.value.map(({ key }) => key);

test('is there again after a reload, newest first', async () => {
  const { open } = fresh();
  const history = open();
  history.add(entry('fox', 1));
  history.add(entry('car', 2));
  expect(keys(history)).toEqual(['car', 'fox']);
  await history.settled;
  const again = open();
  await again.settled;
  expect(keys(again)).toEqual(['car', 'fox']);
  expect(again.entries.value[1]).toEqual(entry('fox', 1));
});

test('a request that comes again moves to the front', async () => {
  const { open } = fresh();
  const history = open();
  for (const [i, key] of ['fox', 'car', 'fox'].entries()) history.add(entry(key, i));
  expect(keys(history)).toEqual(['fox', 'car']);
  await history.settled;
  const again = open();
  await again.settled;
  expect(keys(again)).toEqual(['fox', 'car']);
});

test('what is added before the store has opened counts as newer than what it holds', async () => {
  const { open } = fresh();
  const history = open();
  history.add(entry('fox', 1));
  history.add(entry('car', 2));
  await history.settled;
  const again = open();
  again.add(entry('fox', 3));
  await again.settled;
  expect(again.entries.value.map(({ key, at }) => [key, at])).toEqual([
    ['fox', 3],
    ['car', 2],
  ]);
});

test('keeps the newest 200', async () => {
  const { name, open } = fresh();
  const history = open();
  for (let i = 0; i < MOST_ENTRIES + 5; i++) history.add(entry(`picture ${i}`, i));
  expect(history.entries.value).toHaveLength(MOST_ENTRIES);
  await history.settled;
  const kept = await (await openHistory(name)).list();
  expect(kept).toHaveLength(MOST_ENTRIES);
  expect(kept[0]?.key).toBe('picture 204');
  expect(kept.at(-1)?.key).toBe('picture 5');
});

test('one is deleted, all are cleared, and both come back by undo', async () => {
  const { name, open } = fresh();
  const history = open();
  for (const [i, key] of ['fox', 'car', 'sun'].entries()) history.add(entry(key, i));
  const undoOne = history.remove(['car']);
  expect(keys(history)).toEqual(['sun', 'fox']);
  undoOne();
  expect(keys(history)).toEqual(['sun', 'car', 'fox']);
  const undoAll = history.remove(['fox', 'car', 'sun']);
  await history.settled;
  expect(await (await openHistory(name)).list()).toEqual([]);
  undoAll();
  await history.settled;
  expect((await (await openHistory(name)).list()).map(({ key }) => key)).toEqual(['sun', 'car', 'fox']);
});

test('without IndexedDB it lasts as long as the page, and says so once', async () => {
  const lost: string[] = [];
  const history = new History(
    () => Promise.reject(new DOMException('refused')),
    () => lost.push('lost'),
  );
  await history.settled;
  history.add(entry('fox', 1));
  history.add(entry('car', 2));
  await history.settled;
  expect(keys(history)).toEqual(['car', 'fox']);
  expect(lost).toEqual(['lost']);
});

test('a store that fills up is told of once, and nothing shown is lost', async () => {
  const lost: string[] = [];
  const full: HistoryStore = {
    list: async () => [entry('old', 0)],
    put: () => Promise.reject(new DOMException('full', 'QuotaExceededError')),
    remove: async () => {},
  };
  const history = new History(
    async () => full,
    () => lost.push('lost'),
  );
  history.add(entry('fox', 1));
  history.add(entry('car', 2));
  await history.settled;
  expect(keys(history)).toEqual(['car', 'fox', 'old']);
  expect(lost).toEqual(['lost']);
});

test('what one page adds and deletes, another shows', async () => {
  const { open } = fresh();
  const [one, other] = [open(), open()];
  await Promise.all([one.settled, other.settled]);
  one.add(entry('fox', 1));
  await expect.poll(() => keys(other)).toEqual(['fox']);
  other.remove(['fox']);
  await expect.poll(() => keys(one)).toEqual([]);
});
