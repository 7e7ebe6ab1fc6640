import { type ReadonlySignal, signal } from '@preact/signals';
import type { GenerateRequest, Picture } from '../core/types';
import type { Engine } from '../engine/types';
import { requestKey } from './maker';
import { seedsAfter } from './seed';

/** Milliseconds without a new picture before variations are made. */
export const STRIP_PAUSE = 350;
export const VARIATIONS = 6;

export interface Tile {
  request: GenerateRequest;
  picture?: Picture;
}

/**
 * The main picture and the same prompt under the next seeds, made one after another when nothing else is to be done.
 * The strip stays where it is while its own pictures are tapped.
 */
export class Strip {
  readonly #tiles = signal<readonly Tile[]>([]);
  readonly #generate: Engine['generate'];
  #running: AbortController | undefined;
  #pause: ReturnType<typeof setTimeout> | undefined;

  constructor(generate: Engine['generate']) {
    this.#generate = generate;
  }

  get tiles(): ReadonlySignal<readonly Tile[]> {
    return this.#tiles;
  }

  /** A main picture was shown: after a pause the strip is its own, unless it holds that picture already. */
  follow(picture: Picture): void {
    this.stop();
    this.#pause = setTimeout(() => {
      const key = requestKey(picture.request);
      if (!this.#tiles.value.some((tile) => requestKey(tile.request) === key)) this.#begin(picture);
      void this.#fill();
    }, STRIP_PAUSE);
  }

  /** Stops at once; what was made stays. */
  stop(): void {
    clearTimeout(this.#pause);
    this.#running?.abort();
    this.#running = undefined;
  }

  clear(): void {
    this.stop();
    this.#tiles.value = [];
  }

  #begin(picture: Picture): void {
    const { request } = picture;
    const next = seedsAfter(request.seed, VARIATIONS).map((seed) => ({ request: { ...request, seed } }));
    this.#tiles.value = [{ request, picture }, ...next];
  }

  async #fill(): Promise<void> {
    const running = new AbortController();
    this.#running = running;
    for (const [i, tile] of this.#tiles.value.entries()) {
      if (tile.picture) continue;
      // A variation that fails leaves its place empty: the main picture reports what is wrong.
      const picture = await this.#generate(tile.request, running.signal).catch(() => undefined);
      if (running.signal.aborted || !picture) return;
      this.#tiles.value = this.#tiles.value.with(i, { request: tile.request, picture });
    }
  }
}
