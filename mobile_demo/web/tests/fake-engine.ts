import type { Backend, GenerateRequest, OpenWord, Picture } from '../src/core/types';
import { Cancelled, type Engine, type EngineState, type Notice } from '../src/engine/types';

const SIDE = 128;

export interface FakeOptions {
  /** Milliseconds per picture. */
  takes?: number;
  /** The state that it stays in; without it the fake is ready. */
  state?: EngineState;
}

/** An engine for tests and for work on the page: discs in place of networks, one at a time, in order of the calls. */
export class FakeEngine implements Engine {
  state: EngineState;
  /** Every request that was started, in order. */
  readonly begun: GenerateRequest[] = [];
  readonly restarts: (Backend | 'auto' | undefined)[] = [];
  /** The next pictures fail with this. */
  failure: Error | undefined;
  takes: number;
  /** A gray level that a picture has all over, by its prompt, in place of a disc. */
  look: ((prompt: string) => number) | undefined;
  #last: Promise<unknown> = Promise.resolve();
  readonly #onState = new Set<(state: EngineState) => void>();
  readonly #onNotice = new Set<(notice: Notice) => void>();

  constructor({ takes = 40, state = ready() }: FakeOptions = {}) {
    this.takes = takes;
    this.state = state;
  }

  onState(listener: (state: EngineState) => void): () => void {
    this.#onState.add(listener);
    listener(this.state);
    return () => this.#onState.delete(listener);
  }

  onNotice(listener: (notice: Notice) => void): () => void {
    this.#onNotice.add(listener);
    return () => this.#onNotice.delete(listener);
  }

  become(state: EngineState): void {
    this.state = state;
    for (const listener of this.#onState) listener(state);
  }

  notify(notice: Notice): void {
    for (const listener of this.#onNotice) listener(notice);
  }

  restart(backend?: Backend | 'auto'): void {
    this.restarts.push(backend);
    this.become({ phase: 'opening', done: 1, total: 3 });
    setTimeout(() => this.become(ready(backend === 'webgpu' ? 'webgpu' : 'wasm')), 300);
  }

  generate(request: GenerateRequest, signal?: AbortSignal): Promise<Picture> {
    const result = this.#last.then(() => this.#make(request, signal));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #make(request: GenerateRequest, signal?: AbortSignal): Promise<Picture> {
    if (signal?.aborted) throw new Cancelled();
    this.begun.push(request);
    await pause(this.takes, signal);
    if (this.failure) throw this.failure;
    const { backend, varies } =
      this.state.phase === 'ready' ? this.state : { backend: 'wasm' as const, varies: false };
    const picture = draw(request, this.takes, backend, varies && !request.plain);
    if (this.look) picture.rgba.fill(this.look(picture.prompt));
    return picture;
  }
}

export function ready(backend: Backend = 'wasm', varies = false): EngineState {
  return {
    phase: 'ready',
    backend,
    threads: 2,
    bundle: 'sticker-128',
    width: SIDE,
    height: SIDE,
    varies,
    things: varies ? ['badger'] : [],
    large: false,
    steps: [1, 2, 3, 4],
  };
}

/** A disc on white: its colour from the words, its place from the seed, its size from the morph. */
function draw(request: GenerateRequest, takes: number, backend: Backend, varies: boolean): Picture {
  const { seed, morph } = request;
  const open: OpenWord[] = varies ? sizes(seed, request.words ?? {}) : [];
  const complete = (text: string) => [text, ...open.flatMap(({ word }) => word ?? [])].join(', ');
  const prompt = complete(request.prompt);
  const t = morph?.t ?? 0;
  const from = colour(prompt);
  const second = morph && complete(morph.to);
  const to = colour(second ?? prompt);
  const shift = Number(BigInt.asUintN(16, BigInt(seed) * 40503n)) / 65536;
  const [cx, cy, radius] = [44 + 40 * shift, 64, 40 - 12 * t];
  const rgba = new Uint8ClampedArray(SIDE * SIDE * 4);
  for (let i = 0; i < SIDE * SIDE; i++) {
    const away = Math.hypot((i % SIDE) - cx, Math.floor(i / SIDE) - cy);
    const cover = Math.min(1, Math.max(0, radius - away));
    const shade = 1.15 - 0.4 * (away / radius);
    const pixel = from.map((value, c) => 255 - cover * (255 - shade * (value + t * ((to[c] ?? 0) - value))));
    rgba.set([...pixel, 255], i * 4);
  }
  const read = prompt.split(' ');
  return {
    request,
    prompt,
    ...(second !== undefined && { to: second }),
    open,
    width: SIDE,
    height: SIDE,
    rgba,
    ms: { text_encoder: takes * 0.1, unet: takes * 0.6, vae_decoder: takes * 0.3, total: takes },
    backend,
    droppedWords: read.slice(40),
  };
}

/** Levels that are far apart for most prompts. */
export function byHash(prompt: string): number {
  let hash = 7;
  for (const letter of prompt) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) % 9973;
  return ((hash * 7) % 16) * 17;
}

const SIZES = ['small', 'large', 'huge'];

function sizes(seed: string, words: NonNullable<GenerateRequest['words']>): OpenWord[] {
  const drawn = SIZES[BigInt(seed) % 2n ? 1 : 0] as string;
  return [{ property: 'size', word: words.size === undefined ? drawn : words.size, options: SIZES }];
}

function colour(prompt: string): number[] {
  let hash = 7;
  for (const letter of prompt) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) % 9973;
  return [60 + (hash % 180), 60 + ((hash * 7) % 150), 50 + ((hash * 13) % 190)];
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(new Cancelled());
    });
  });
}

/** The fake that a page's address asks for: ?fake&takes=900&phase=downloading. The page's scripts find it as `fake`. */
export function fakeOfPage(search: string): FakeEngine {
  const asked = new URLSearchParams(search);
  const states: Record<string, EngineState> = {
    downloading: { phase: 'downloading', loaded: 12_400_000, total: 31_000_000 },
    starting: { phase: 'downloading', loaded: 0, total: 0 },
    opening: { phase: 'opening', done: 1, total: 3 },
    failed: {
      phase: 'failed',
      problem: { kind: 'memory', message: 'The model needs about 200 MB. Close other tabs, then try again.' },
    },
  };
  const state = states[asked.get('phase') ?? ''] ?? ready('wasm', asked.has('varies'));
  const fake = new FakeEngine({ takes: Number(asked.get('takes') ?? 40), state });
  Object.assign(globalThis, { fake });
  return fake;
}
