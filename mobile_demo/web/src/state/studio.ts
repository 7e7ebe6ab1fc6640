import { batch, effect, signal } from '@preact/signals';
import type { Backend, Picture, StyleName } from '../core/types';
import type { Engine, EngineState } from '../engine/types';
import type { HistoryEntry, HistoryStore } from '../store/history';
import { type Alternative, alternatives, withArticle } from './alternatives';
import { History } from './history';
import { Inputs } from './inputs';
import { Maker, requestKey } from './maker';
import { randomSeed } from './seed';
import { linked, loadSettings, type Shelf, saveSettings } from './settings';
import { Strip, type Tile } from './strip';
import { SWEEP, sweepAt } from './sweep';
import { Toasts } from './toasts';
import { surprise } from './words';

/** Milliseconds after which a picture has stayed: it goes to the history and is announced. */
export const STAYED = 1000;
/** Milliseconds between two pictures of a sweep, for the page to draw. */
const FRAME = 16;

/** The state of an engine that is ready. */
export type Ready = Extract<EngineState, { phase: 'ready' }>;

export interface StudioParts {
  engine: Engine;
  shelf: Shelf;
  /** What a link asks for: the query of the page's address. */
  search?: string;
  openHistory(): Promise<HistoryStore>;
  /** The picture as the bytes of a PNG file. */
  encode(picture: Picture, ready: Ready | undefined): Promise<Uint8Array<ArrayBuffer>>;
}

/** Everything the page shows and does, without the page. */
export class Studio {
  readonly engine: Engine;
  readonly inputs: Inputs;
  readonly maker: Maker;
  readonly strip: Strip;
  readonly history: History;
  readonly toasts = new Toasts();
  readonly state = signal<EngineState>({ phase: 'downloading', loaded: 0, total: 0 });
  /** The last time it was ready: what made the picture shown. */
  readonly ready = signal<Ready | undefined>(undefined);
  readonly picture = signal<Picture | undefined>(undefined);
  readonly playing = signal(false);
  /** The last picture that stayed, in words for a screen reader. */
  readonly announcement = signal('');
  readonly #parts: StudioParts;
  #stay: ReturnType<typeof setTimeout> | undefined;
  #sweep: ReturnType<typeof setTimeout> | undefined;
  #sweepStart = 0;

  constructor(parts: StudioParts) {
    const { engine, shelf } = parts;
    const generate: Engine['generate'] = (request, signal) => engine.generate(request, signal);
    this.#parts = parts;
    this.engine = engine;
    this.inputs = new Inputs(linked(parts.search ?? '', loadSettings(shelf)));
    this.strip = new Strip(generate);
    this.maker = new Maker(generate, {
      picture: (picture) => this.#show(picture),
      problem: (message) => {
        this.pause();
        this.toasts.warn(message);
      },
    });
    this.history = new History(parts.openHistory, () =>
      this.toasts.warn('The history cannot be kept on this device. It lasts until this page is closed.'),
    );
    effect(() => saveSettings(shelf, this.inputs.settings));
    engine.onState((state) => this.#follow(state));
    engine.onNotice((notice) => this.toasts.warn(notice.message));
    this.makeNow();
  }

  type(field: 'text' | 'to' | 'seed', value: string): void {
    this.inputs[field].value = value;
    this.#want('type');
  }

  /** A ready prompt that replaces what was typed. */
  use(text: string): void {
    this.inputs.text.value = text;
    this.#want('make');
  }

  choose(change: { style?: StyleName; steps?: number; plain?: boolean; morphing?: boolean }): void {
    batch(() => {
      if (change.style !== undefined) this.inputs.style.value = change.style;
      if (change.steps !== undefined) this.inputs.steps.value = change.steps;
      if (change.plain !== undefined) this.inputs.plain.value = change.plain;
      if (change.morphing !== undefined) this.inputs.morphing.value = change.morphing;
    });
    this.#want('make');
  }

  /** What is set, without waiting for a pause. */
  makeNow(): void {
    this.#want('make');
  }

  /**
   * The same prompt under another seed, unless the seed is locked; without a prompt a thing to be surprised by. Where seeds
   * change next to nothing, because the model has no table, the next variation that looks different.
   */
  makeAnother(): void {
    const { locked, seed, text } = this.inputs;
    if (!text.value.trim()) text.value = withArticle(surprise(this.ready.value?.things ?? []));
    else if (locked.value) return;
    else if (!this.ready.value?.varies && this.#showNext()) return;
    if (!locked.value) seed.value = randomSeed();
    this.#want('make');
  }

  /** Chooses a word for what the seed would choose; null leaves it out, undefined gives it back to the seed. */
  wish(property: string, word: string | null | undefined): void {
    const { [property]: _, ...others } = this.inputs.words.value;
    this.inputs.words.value = word === undefined ? others : { ...others, [property]: word };
    this.#want('make');
  }

  /** The variation after the one that is shown. Whether there is one. */
  #showNext(): boolean {
    const tiles = this.strip.tiles.value;
    const shown = this.picture.value && requestKey(this.picture.value.request);
    const at = tiles.findIndex(({ request }) => requestKey(request) === shown);
    const next = at < 0 ? undefined : tiles[(at + 1) % tiles.length];
    if (!next || tiles.length < 2) return false;
    this.showVariation(next);
    return true;
  }

  cancel(): void {
    this.pause();
    this.maker.cancel();
    this.strip.stop();
  }

  /** Starts the engine again, on the backend that was chosen last. */
  restart(): void {
    this.engine.restart(this.inputs.backend.value);
  }

  /** The network is back: models that could not be fetched without it are fetched now. */
  reconnect(): void {
    const state = this.state.value;
    if (state.phase === 'failed' && state.problem.kind === 'offline') this.restart();
  }

  runOn(backend: Backend | 'auto'): void {
    this.inputs.backend.value = backend;
    this.restart();
  }

  /** The bytes of the picture's PNG file. */
  encode(picture: Picture): Promise<Uint8Array<ArrayBuffer>> {
    return this.#parts.encode(picture, this.ready.value);
  }

  /** t: percent. */
  drag(t: number): void {
    this.pause();
    this.inputs.t.value = t;
    this.#want('drag');
  }

  showVariation(tile: Tile): void {
    batch(() => {
      this.inputs.seed.value = tile.request.seed;
      this.inputs.text.value = tile.text;
      this.inputs.style.value = tile.style;
    });
    const wish = this.inputs.request.value;
    if (wish && requestKey(wish) === requestKey(tile.request)) {
      this.pause();
      this.maker.cancel();
      this.#show(tile.picture);
    } else {
      this.#want('make');
    }
  }

  restore(entry: HistoryEntry): void {
    batch(() => this.inputs.restore(entry));
    this.#want('make');
  }

  /** The morph goes back and forth by itself. */
  play(): void {
    if (!this.inputs.morphTo.value) return;
    this.playing.value = true;
    this.#sweepStart = performance.now() - (this.inputs.t.value / 100) * SWEEP;
    this.#sweepOn();
  }

  pause(): void {
    clearTimeout(this.#sweep);
    if (!this.playing.value) return;
    this.playing.value = false;
    const picture = this.picture.value;
    if (picture) this.#settle(picture);
  }

  #sweepOn(): void {
    const t = sweepAt(performance.now() - this.#sweepStart);
    const moved = t !== this.inputs.t.value;
    this.inputs.t.value = t;
    if (moved) this.#want('drag');
    if (this.maker.idle) this.#sweepLater();
  }

  #sweepLater(): void {
    clearTimeout(this.#sweep);
    this.#sweep = setTimeout(() => this.#sweepOn(), FRAME);
  }

  #want(how: 'type' | 'make' | 'drag'): void {
    if (how !== 'drag') this.pause();
    clearTimeout(this.#stay);
    this.strip.stop();
    const wish = this.inputs.request.value;
    const picture = this.picture.value;
    if (!this.inputs.prompt.value) {
      this.maker.cancel();
      this.strip.clear();
      this.picture.value = undefined;
    } else if (!wish) {
      this.maker.cancel();
    } else if (picture && requestKey(picture.request) === requestKey(wish)) {
      this.maker.cancel();
      this.#settle(picture);
    } else {
      this.maker[how](wish);
    }
  }

  #show(picture: Picture): void {
    this.picture.value = picture;
    clearTimeout(this.#stay);
    if (this.playing.value) this.#sweepLater();
    else if (this.maker.idle) this.#settle(picture); // else a newer one follows
  }

  /** The picture may stay: variations follow after a pause, the history after a longer one. */
  #settle(picture: Picture): void {
    const own = this.#own(picture);
    this.strip.follow(own, () => alternatives(own, picture.open.length > 0));
    clearTimeout(this.#stay);
    this.#stay = setTimeout(() => void this.#keep(picture), STAYED);
  }

  #own(picture: Picture): Alternative & { picture: Picture } {
    return {
      request: picture.request,
      text: this.inputs.text.value.trim(),
      style: this.inputs.style.value,
      picture,
    };
  }

  async #keep(picture: Picture): Promise<void> {
    const { text, style, to } = this.inputs;
    const entry = {
      text: text.value.trim(),
      style: style.value,
      to: to.value.trim(),
      request: picture.request,
      ...(picture.prompt !== picture.request.prompt && { shows: picture.prompt }),
    };
    this.announcement.value = `Picture of ${picture.prompt}, seed ${picture.request.seed}`;
    const png = await this.encode(picture);
    this.history.add({ ...entry, key: requestKey(picture.request), at: Date.now(), png });
  }

  #follow(state: EngineState): void {
    this.state.value = state;
    if (state.phase === 'ready') {
      this.ready.value = state;
      const { steps } = this.inputs; // what was kept may be of another model
      if (!state.steps.includes(steps.value)) {
        steps.value = state.steps[0] ?? 1;
        this.makeNow();
      }
    }
    this.maker.setReady(state.phase === 'ready');
    const picture = this.picture.value;
    if (state.phase === 'ready' && picture && this.maker.idle) this.#settle(picture);
    if (state.phase !== 'ready') this.strip.stop();
  }
}
