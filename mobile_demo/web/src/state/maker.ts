import { type ReadonlySignal, signal } from '@preact/signals';
import type { GenerateRequest, Picture } from '../core/types';
import { Cancelled, type Engine } from '../engine/types';

/** Milliseconds. */
export const TYPING_PAUSE = 150;
export const SLOW_AFTER = 400;

/** The same picture is asked for by the same key. */
export function requestKey(request: GenerateRequest): string {
  const { prompt, seed, steps, morph, plain, words } = request;
  return JSON.stringify([
    prompt,
    seed,
    steps,
    morph ? [morph.to, morph.t] : null,
    ...(plain ? ['plain'] : []),
    ...(words && Object.keys(words).length ? [Object.entries(words).sort()] : []),
  ]);
}

export interface MakerEvents {
  picture(picture: Picture): void;
  /** A line that can be shown. */
  problem(message: string): void;
}

/**
 * Makes the main picture, one at a time, the latest wish only. A result of an older wish is dropped.
 * While the engine is not ready the wish is kept, and comes true by itself.
 */
export class Maker {
  readonly #busy = signal(false);
  readonly #slow = signal(false);
  readonly #generate: Engine['generate'];
  readonly #events: MakerEvents;
  #ready = false;
  #wanted: GenerateRequest | undefined;
  #running: AbortController | undefined;
  #pause: ReturnType<typeof setTimeout> | undefined;
  #slowTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(generate: Engine['generate'], events: MakerEvents) {
    this.#generate = generate;
    this.#events = events;
  }

  /** A picture is being made. */
  get busy(): ReadonlySignal<boolean> {
    return this.#busy;
  }

  /** It has taken longer than SLOW_AFTER. */
  get slow(): ReadonlySignal<boolean> {
    return this.#slow;
  }

  /** Nothing runs, and nothing is waited for. */
  get idle(): boolean {
    return !this.#running && !this.#wanted;
  }

  /**
   * The text changed: `request` starts once typing has paused. What runs is finished and shown: a slow device that began
   * anew with every key would show nothing until the last.
   */
  type(request: GenerateRequest): void {
    clearTimeout(this.#pause);
    this.#wanted = request;
    this.#pause = setTimeout(() => {
      this.#pause = undefined;
      if (!this.#running) this.#start();
    }, TYPING_PAUSE);
  }

  /** A choice was made: what runs is aborted, and `request` starts now. */
  make(request: GenerateRequest): void {
    this.#replace(request);
    this.#start();
  }

  /** A slider moves: what runs is finished and shown, then the latest `request` starts. */
  drag(request: GenerateRequest): void {
    if (this.#pause) this.#replace(request);
    this.#wanted = request;
    if (!this.#running) this.#start();
  }

  /** Nothing is wanted any more. */
  cancel(): void {
    this.#replace(undefined);
  }

  /** Whether the engine takes requests; what was wanted meanwhile starts. */
  setReady(ready: boolean): void {
    this.#ready = ready;
    if (ready && !this.#running && !this.#pause) this.#start();
  }

  #replace(request: GenerateRequest | undefined): void {
    clearTimeout(this.#pause);
    this.#pause = undefined;
    this.#running?.abort();
    this.#running = undefined;
    this.#wanted = request;
    this.#setBusy(false);
  }

  #start(): void {
    const request = this.#wanted;
    if (!request || !this.#ready) {
      this.#setBusy(false);
      return;
    }
    this.#wanted = undefined;
    this.#running = new AbortController();
    this.#setBusy(true);
    void this.#run(request, this.#running);
  }

  async #run(request: GenerateRequest, running: AbortController): Promise<void> {
    const outcome = await this.#generate(request, running.signal).catch((error: unknown) => error);
    if (this.#running !== running) return;
    this.#running = undefined;
    if (outcome instanceof Cancelled || (outcome instanceof Error && !this.#ready)) {
      // The engine stopped it, not the person: it starts again or has failed, and the wish outlives that.
      this.#wanted ??= request;
    } else if (outcome instanceof Error) {
      this.#events.problem(outcome.message);
    } else {
      this.#events.picture(outcome as Picture);
    }
    if (!this.#running && !this.#pause) this.#start();
  }

  #setBusy(busy: boolean): void {
    if (busy === this.#busy.value) return;
    this.#busy.value = busy;
    clearTimeout(this.#slowTimer);
    this.#slow.value = false;
    if (!busy) return;
    this.#slowTimer = setTimeout(() => {
      this.#slow.value = true;
    }, SLOW_AFTER);
  }
}
