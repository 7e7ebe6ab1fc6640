import { type ReadonlySignal, signal } from '@preact/signals';
import { difference } from '../core/difference';
import type { Picture } from '../core/types';
import type { Engine } from '../engine/types';
import type { Alternative } from './alternatives';
import { requestKey } from './maker';

/** Milliseconds without a new picture before variations are made. */
export const STRIP_PAUSE = 350;
export const VARIATIONS = 6;
/** Pictures that differ by less, in levels of 255 on average, look the same in a strip. */
export const VISIBLE = 15;

export interface Tile extends Alternative {
  picture: Picture;
}

/**
 * The main picture and variations of it, made one after another when nothing else is to be done. One that looks like
 * another of them is passed over. The strip stays where it is while its own pictures are tapped.
 */
export class Strip {
  readonly #tiles = signal<readonly Tile[]>([]);
  readonly #generate: Engine['generate'];
  #left: Alternative[] = [];
  /** Those that were passed over, for places that nothing better fills. */
  #passed: Tile[] = [];
  #running: AbortController | undefined;
  #pause: ReturnType<typeof setTimeout> | undefined;

  constructor(generate: Engine['generate']) {
    this.#generate = generate;
  }

  /** The main picture first, then what has been made so far. */
  get tiles(): ReadonlySignal<readonly Tile[]> {
    return this.#tiles;
  }

  /** A main picture was shown: after a pause the strip is its own, unless it holds that picture already. */
  follow(own: Tile, others: () => Alternative[]): void {
    this.stop();
    this.#pause = setTimeout(() => {
      const key = requestKey(own.request);
      if (!this.#tiles.value.some((tile) => requestKey(tile.request) === key)) {
        this.#tiles.value = [own];
        this.#left = others();
        this.#passed = [];
      }
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

  async #fill(): Promise<void> {
    const running = new AbortController();
    this.#running = running;
    while (this.#tiles.value.length <= VARIATIONS) {
      const [next] = this.#left;
      if (!next) break;
      // A variation that fails leaves its place empty: the main picture reports what is wrong.
      const picture = await this.#generate(next.request, running.signal).catch(() => undefined);
      if (running.signal.aborted || !picture) return;
      this.#left = this.#left.slice(1);
      const tile = { ...next, picture };
      if (this.#apart(tile) >= VISIBLE) this.#tiles.value = [...this.#tiles.value, tile];
      else this.#passed.push(tile);
    }
    this.#fillUp();
  }

  /** No wishes are left: the most different of those that were passed over take the places that are. */
  #fillUp(): void {
    while (this.#tiles.value.length <= VARIATIONS && this.#passed.length) {
      const best = this.#passed.reduce((a, b) => (this.#apart(b) > this.#apart(a) ? b : a));
      this.#passed = this.#passed.filter((tile) => tile !== best);
      this.#tiles.value = [...this.#tiles.value, best];
    }
  }

  /** How far a picture is from the nearest of the strip's. */
  #apart({ picture }: Tile): number {
    return Math.min(...this.#tiles.value.map((tile) => difference(tile.picture.rgba, picture.rgba)));
  }
}
