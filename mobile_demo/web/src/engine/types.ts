/** What the page and the engine say to each other: plain data, so that it crosses to a Web Worker as it is. */

import type { Backend, GenerateRequest, Picture } from '../core/types';

/** Whether the engine can make pictures, and if not yet, why. */
export type EngineState =
  /** Bytes of the models, as they travel. `total` is 0 until it is known. */
  | { phase: 'downloading'; loaded: number; total: number }
  /** The graphs are being opened: `done` of `total`. */
  | { phase: 'opening'; done: number; total: number }
  | {
      phase: 'ready';
      backend: Backend;
      threads: number;
      bundle: string;
      width: number;
      height: number;
      /** Its model completes prompts by the seed. */
      varies: boolean;
      /** Things that its table knows, some of them; none without a table. */
      things: readonly string[];
      /** It has the decoder for stickers of 512 pixels with transparency. */
      large: boolean;
      /** Numbers of steps that it has. */
      steps: readonly number[];
    }
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
