/**
 * The models' files, from Cache Storage where they are kept, else from the network, piece by piece.
 *
 * Every piece is compared with its hash whenever it is read. A damaged one is fetched again, once; what has arrived
 * is kept at once, so that an interrupted download resumes where it stopped.
 */

import { digest } from '../core/digest';
import type { Notice } from '../engine/types';
import type { FileEntry, Piece } from './index-file';
import { Failure, refused } from './problem';

const CACHE = 'addkit-models';
const AT_ONCE = 4; // requests
const STALLED = 30; // seconds without a byte: the browser itself would wait for minutes

/** What a download reports while it runs. */
export interface Listener {
  /** Bytes that are here now, of those that travel. */
  onBytes(bytes: number): void;
  onNotice(notice: Notice): void;
}

/** Reads files. One store serves one download. */
export class PieceStore {
  private refused = false; // Cache Storage takes no more

  private constructor(
    private readonly base: URL,
    private readonly cache: Cache | undefined,
    private readonly listener: Listener,
  ) {}

  /** `base`: the folder of models/index.json. */
  static async open(base: URL, listener: Listener): Promise<PieceStore> {
    return new PieceStore(base, await openCache(), listener);
  }

  /** A file's bytes, of which every piece and the whole have been compared with their hashes. @throws Failure */
  async read(file: FileEntry): Promise<Uint8Array<ArrayBuffer>> {
    const whole = new Uint8Array(file.bytes);
    let at = 0;
    const unpacked = await mapped(file.pieces, AT_ONCE, async (piece) => unpack(await this.piece(piece)));
    for (const bytes of unpacked) {
      whole.set(bytes, at);
      at += bytes.length;
    }
    if (at !== file.bytes || (await digest(whole)) !== file.sha256) throw corrupted(file.path);
    return whole;
  }

  /** Whether every piece of a file is kept, right or damaged; false where the browser's storage cannot be read. */
  async has(file: FileEntry): Promise<boolean> {
    try {
      const found = await Promise.all(file.pieces.map((piece) => this.cache?.match(this.url(piece))));
      return found.every(Boolean);
    } catch {
      return false;
    }
  }

  /** Removes what no listed file needs: the pieces of an earlier bundle. */
  async tidy(files: readonly FileEntry[]): Promise<void> {
    const needed = new Set(files.flatMap(({ pieces }) => pieces.map((piece) => this.url(piece))));
    try {
      for (const { url } of (await this.cache?.keys()) ?? [])
        if (!needed.has(url)) await this.cache?.delete(url);
    } catch {
      // The browser took its storage away: what is here works all the same.
    }
  }

  private async piece(piece: Piece): Promise<Uint8Array<ArrayBuffer>> {
    const url = this.url(piece);
    const kept = await this.kept(url);
    if (kept && (await digest(kept)) === piece.sha256) {
      this.listener.onBytes(kept.length);
      return kept;
    }
    const bytes = await this.fetched(piece, Boolean(kept));
    await this.keep(url, bytes);
    return bytes;
  }

  /** undefined where it is not kept, or the browser's storage cannot be read. */
  private async kept(url: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    try {
      const response = await this.cache?.match(url);
      return response && new Uint8Array(await response.arrayBuffer());
    } catch {
      return undefined;
    }
  }

  /** From the network; a second time when the first came damaged, and also when a kept one was (`damaged`). */
  private async fetched(piece: Piece, damaged: boolean): Promise<Uint8Array<ArrayBuffer>> {
    let repaired = damaged;
    for (let attempt = 0; attempt < 2; attempt++) {
      const bytes = await this.request(piece);
      if ((await digest(bytes)) === piece.sha256) {
        if (repaired)
          this.listener.onNotice({
            kind: 'repaired',
            message: 'A damaged file was found and fetched again.',
          });
        return bytes;
      }
      this.listener.onBytes(-bytes.length);
      repaired = true;
    }
    throw corrupted(`piece ${piece.sha256.slice(0, 12)}`);
  }

  /** The bytes of one request, reported as they arrive. Not through the HTTP cache: they would be kept twice. */
  private async request(piece: Piece): Promise<Uint8Array<ArrayBuffer>> {
    let told = 0;
    const patience = new Patience();
    try {
      const response = await fetch(this.url(piece), { cache: 'no-store', signal: patience.signal });
      if (!response.ok || !response.body) throw refused(response.status);
      const parts: Uint8Array<ArrayBuffer>[] = [];
      for await (const part of streamed(response.body)) {
        patience.renew();
        parts.push(part as Uint8Array<ArrayBuffer>);
        told += part.length;
        this.listener.onBytes(part.length);
      }
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    } catch (error) {
      this.listener.onBytes(-told);
      if (error instanceof Failure) throw error;
      throw new Failure(
        'offline',
        `The models could not be fetched (${(error as Error).message}). Connect to the network and try again: the download resumes where it stopped.`,
      );
    } finally {
      patience.end();
    }
  }

  private async keep(url: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.cache || this.refused) return;
    try {
      await this.cache.put(url, new Response(bytes));
    } catch (error) {
      this.refused = true;
      const why =
        (error as Error).name === 'QuotaExceededError'
          ? 'There is no room to keep the models'
          : 'The browser does not keep the models';
      this.listener.onNotice({
        kind: 'not-kept',
        message: `${why}: they work until this page is closed. Free some storage to use the app offline.`,
      });
    }
  }

  private url(piece: Piece): string {
    return new URL(`pieces/${piece.sha256}.bin`, this.base).href;
  }
}

/**
 * Cache Storage, which private windows and plain http may not offer. In the shell (mobile_demo/shell) the models are a
 * part of the app's package: they are here already.
 */
async function openCache(): Promise<Cache | undefined> {
  const inShell = location.protocol === 'capacitor:' || location.origin === 'https://localhost';
  if (inShell) return undefined;
  try {
    return await globalThis.caches?.open(CACHE);
  } catch {
    return undefined;
  }
}

/** Aborts a request to which nothing has come for STALLED seconds. */
class Patience {
  private readonly controller = new AbortController();
  readonly signal = this.controller.signal;
  private timer = this.wait();

  renew(): void {
    clearTimeout(this.timer);
    this.timer = this.wait();
  }

  end(): void {
    clearTimeout(this.timer);
  }

  private wait(): ReturnType<typeof setTimeout> {
    const reason = new Error(`nothing came for ${STALLED} seconds`);
    return setTimeout(() => this.controller.abort(reason), 1000 * STALLED);
  }
}

/** Safari before 26.4 cannot iterate over a stream. */
async function* streamed(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}

async function unpack(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Results in the order of `items`, at most `limit` at work. After an error none is started; those running end first. */
async function mapped<T, R>(items: readonly T[], limit: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  let failed = false;
  const lane = async () => {
    while (next < items.length && !failed) {
      const i = next++;
      try {
        results[i] = await work(items[i] as T);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: limit }, lane));
  for (const outcome of lanes) if (outcome.status === 'rejected') throw outcome.reason;
  return results;
}

function corrupted(what: string): Failure {
  return new Failure(
    'corrupted',
    `A file arrived damaged twice (${what}). Try again, over another network if there is one.`,
  );
}
