import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Notice } from '../src/engine/types';
import type { FileEntry } from '../src/store/index-file';
import { PieceStore } from '../src/store/pieces';

const BASE = new URL('http://localhost/models/');
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const content = Uint8Array.from({ length: 5000 }, (_, i) => (i * i) % 251);
const packed = [0, 2000, 4000].map((start) =>
  gzipSync(content.subarray(start, Math.min(start + 2000, 5000))),
);
const file: FileEntry = {
  path: 'unet/model.onnx',
  bytes: content.length,
  sha256: sha256(content),
  pieces: packed.map((bytes) => ({ sha256: sha256(bytes), bytes: bytes.length })),
};
const total = packed.reduce((sum, { length }) => sum + length, 0);
const url = (i: number) => new URL(`pieces/${file.pieces[i]?.sha256}.bin`, BASE).href;

let kept: Map<string, Uint8Array>;
let asked: string[];
let loaded: number;
let notices: Notice[];
/** What the network gives for a URL, and how often it has been asked. */
let network: (url: string, time: number) => Uint8Array;

/** Cache Storage as far as the store uses it. */
const cache = {
  match: async (key: string) => (kept.has(key) ? new Response(kept.get(key) as BodyInit) : undefined),
  put: async (key: string, response: Response) =>
    void kept.set(key, new Uint8Array(await response.arrayBuffer())),
  delete: async (key: string) => kept.delete(key),
  keys: async () => [...kept.keys()].map((key) => ({ url: key })),
};

const plain = (key: string) =>
  packed[file.pieces.findIndex(({ sha256 }) => key.includes(sha256))] as Uint8Array;
const damaged = (bytes: Uint8Array) => bytes.map((byte, i) => (i === 30 ? byte ^ 4 : byte));

beforeEach(() => {
  [kept, asked, loaded, notices, network] = [new Map(), [], 0, [], plain];
  vi.stubGlobal('location', new URL('http://localhost:8000/'));
  vi.stubGlobal('caches', { open: async () => ({ ...cache }) });
  vi.stubGlobal('fetch', async (key: string) => {
    asked.push(key);
    return new Response(network(key, asked.filter((one) => one === key).length) as BodyInit);
  });
});
afterEach(() => vi.unstubAllGlobals());

function store(): Promise<PieceStore> {
  return PieceStore.open(BASE, {
    onBytes: (bytes) => {
      loaded += bytes;
    },
    onNotice: (notice) => notices.push(notice),
  });
}

describe('PieceStore', () => {
  it('joins the pieces, keeps them, tells every byte once, and asks only once', async () => {
    expect(await (await store()).read(file)).toEqual(content);
    expect([loaded, kept.size, asked.length]).toEqual([total, 3, 3]);
    loaded = 0;
    expect(await (await store()).read(file)).toEqual(content);
    expect([loaded, asked.length]).toEqual([total, 3]);
    expect(notices).toEqual([]);
  });

  it('goes on where a download broke off', async () => {
    network = (key) => {
      if (key === url(2)) throw new TypeError('network error');
      return plain(key);
    };
    await expect((await store()).read(file)).rejects.toMatchObject({ kind: 'offline' });
    expect(loaded).toBeLessThan(total);
    [network, asked, loaded] = [plain, [], 0];
    expect(await (await store()).read(file)).toEqual(content);
    expect([asked, loaded]).toEqual([[url(2)], total]);
  });

  it('gives up a request to which nothing comes any more, and goes on when it is tried again', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const answered = globalThis.fetch;
    vi.stubGlobal('fetch', async (key: string, { signal }: { signal: AbortSignal }) => {
      if (key !== url(1)) return answered(key);
      const begun = plain(key).slice(0, 20);
      const stalled = new ReadableStream({
        start(controller) {
          controller.enqueue(begun);
          signal.addEventListener('abort', () => controller.error(signal.reason));
        },
      });
      return new Response(stalled);
    });
    const reading = (await store()).read(file);
    const failed = expect(reading).rejects.toMatchObject({
      kind: 'offline',
      message: expect.stringContaining('nothing came for 30 seconds'),
    });
    await vi.waitFor(() => expect([kept.size, loaded]).toEqual([2, total - plain(url(1)).length + 20]));
    vi.advanceTimersByTime(30_000);
    await failed;
    vi.useRealTimers();
    vi.stubGlobal('fetch', answered);
    [asked, loaded] = [[], 0];
    expect(await (await store()).read(file)).toEqual(content);
    expect([asked, loaded]).toEqual([[url(1)], total]);
  });

  it('tells a server that refuses from a network that is not there', async () => {
    vi.stubGlobal('fetch', async () => new Response('no', { status: 404 }));
    const failure = (await store()).read(file);
    await expect(failure).rejects.toMatchObject({ kind: 'server', message: expect.stringContaining('404') });
  });

  it('repairs a piece that arrives damaged once', async () => {
    network = (key, time) => (key === url(1) && time === 1 ? damaged(plain(key)) : plain(key));
    expect(await (await store()).read(file)).toEqual(content);
    expect([loaded, notices.map(({ kind }) => kind)]).toEqual([total, ['repaired']]);
    expect(kept.get(url(1))).toEqual(new Uint8Array(plain(url(1))));
  });

  it('refuses a piece that arrives damaged twice, and keeps nothing of it', async () => {
    network = (key) => (key === url(1) ? damaged(plain(key)) : plain(key));
    await expect((await store()).read(file)).rejects.toMatchObject({ kind: 'corrupted' });
    expect(kept.has(url(1))).toBe(false);
  });

  it('finds a kept piece that was damaged since', async () => {
    await (await store()).read(file);
    kept.set(url(0), damaged(plain(url(0))));
    [asked, notices] = [[], []];
    expect(await (await store()).read(file)).toEqual(content);
    expect([asked, notices.map(({ kind }) => kind)]).toEqual([[url(0)], ['repaired']]);
  });

  it('works from memory when there is no room, and says so once', async () => {
    const full = {
      ...cache,
      put: async () => Promise.reject(new DOMException('full', 'QuotaExceededError')),
    };
    vi.stubGlobal('caches', { open: async () => full });
    expect(await (await store()).read(file)).toEqual(content);
    expect(notices).toEqual([{ kind: 'not-kept', message: expect.stringContaining('no room') }]);
  });

  it('works from memory when storage can neither be read nor written', async () => {
    const refuse = () => Promise.reject(new DOMException('gone', 'UnknownError'));
    vi.stubGlobal('caches', {
      open: async () => ({ match: refuse, put: refuse, delete: refuse, keys: refuse }),
    });
    const opened = await store();
    expect(await opened.has(file)).toBe(false);
    expect(await opened.read(file)).toEqual(content);
    await opened.tidy([file]);
    expect(notices.map(({ kind }) => kind)).toEqual(['not-kept']);
  });

  it("works without Cache Storage and without the browser's own SHA-256, as over plain http", async () => {
    vi.stubGlobal('caches', undefined);
    vi.stubGlobal('crypto', {});
    expect(await (await store()).read(file)).toEqual(content);
    network = (key) => damaged(plain(key));
    await expect((await store()).read(file)).rejects.toMatchObject({ kind: 'corrupted' });
  });

  it.each(['capacitor://localhost/', 'https://localhost/'])(
    'keeps nothing in the shell, %s',
    async (address) => {
      vi.stubGlobal('location', { protocol: address.split('//')[0], origin: address.slice(0, -1) });
      await (await store()).read(file);
      expect([kept.size, notices]).toEqual([0, []]);
    },
  );

  it('refuses pieces that are whole but make another file', async () => {
    const other = { ...file, sha256: sha256(new Uint8Array(1)) };
    await expect((await store()).read(other)).rejects.toMatchObject({ kind: 'corrupted' });
  });

  it('tidies away what no file needs any more', async () => {
    kept.set(new URL('pieces/old.bin', BASE).href, new Uint8Array(1));
    const opened = await store();
    await opened.read(file);
    await opened.tidy([file]);
    expect([...kept.keys()].sort()).toEqual([0, 1, 2].map(url).sort());
  });
});
