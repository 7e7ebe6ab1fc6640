/** What the page and the engine say to each other: plain data, so that it crosses to a Web Worker as it is. */

/** Where the networks run. */
export type Backend = 'webgpu' | 'wasm';

/** The stages of one picture, as the Python runtime names them. */
export interface Times {
  text_encoder: number;
  unet: number;
  vae_decoder: number;
  total: number;
}

/** One picture to make. */
export interface GenerateRequest {
  prompt: string;
  /** A whole number from -2**63 to 2**64 - 1 in decimal digits: more than a `number` holds. */
  seed: string;
  /** Calls of the U-Net, 1 to 4. */
  steps: number;
  /** A second prompt to mix with: text states go from `prompt` (t = 0) to `to` (t = 1) in a straight line. */
  morph?: { to: string; t: number };
  /** Classifier-free guidance away from a second prompt, as in diffusers; one-step models need none. */
  guidance?: { scale: number; negativePrompt: string };
}

/** One picture that was made. */
export interface Picture {
  request: GenerateRequest;
  width: number;
  height: number;
  /** RGBA, 8 bits, row by row, opaque: `width * height * 4` bytes, as ImageData takes them. */
  rgba: Uint8ClampedArray<ArrayBuffer>;
  /** Milliseconds. */
  ms: Times;
  backend: Backend;
  /** The words at the prompt's end that the text encoder has no room for. */
  droppedWords: string[];
}

/** Whether the engine can make pictures, and if not yet, why. */
export type EngineState =
  /** Bytes of the models, as they travel. `total` is 0 until it is known. */
  | { phase: 'downloading'; loaded: number; total: number }
  /** The graphs are being opened: `done` of `total`. */
  | { phase: 'opening'; done: number; total: number }
  | { phase: 'ready'; backend: Backend; threads: number; bundle: string; width: number; height: number }
  | { phase: 'failed'; problem: Problem };

/** What went wrong, in a line that says what to do. */
export interface Problem {
  kind: ProblemKind;
  message: string;
}

export type ProblemKind =
  | 'offline' // the models are not all here and the network is not there
  | 'server' // it answers, but not with the models
  | 'corrupted' // a file's hash is still wrong after a second download
  | 'memory' // the device has too little of it
  | 'browser' // no WebAssembly SIMD, no workers
  | 'internal';

/** Something that a person should hear of though work goes on. */
export type Notice =
  /** The GPU went away or cannot run the model: pictures are made on the CPU from here on. */
  | { kind: 'fallback'; message: string }
  /** The models could not be kept (no room): they stay in memory until the page is closed. */
  | { kind: 'not-kept'; message: string }
  /** A damaged file was found by its hash and fetched again. */
  | { kind: 'repaired'; message: string };

/** Thrown into a call whose signal was aborted, or which a later one replaced. */
export class Cancelled extends Error {
  override name = 'Cancelled';
}

/** What the page holds. */
export interface Engine {
  readonly state: EngineState;
  /** Calls back at once with the present state and at every change. Returns a function that ends it. */
  onState(listener: (state: EngineState) => void): () => void;
  onNotice(listener: (notice: Notice) => void): () => void;
  /**
   * One picture. Calls wait their turn, first come, first served; an aborted one leaves the queue or stops
   * between two networks. Rejects with Cancelled, or an Error whose message can be shown.
   */
  generate(request: GenerateRequest, signal?: AbortSignal): Promise<Picture>;
  /** Starts again after `failed`, or with another backend ('auto': WebGPU where there is one). */
  restart(backend?: Backend | 'auto'): void;
}
