/** Between the page (client.ts) and the Web Worker (worker.ts). */

import type { Backend, GenerateRequest, Picture } from '../core/types';
import type { EngineState, Notice } from './types';

export type ToWorker =
  | { type: 'start'; backend: Backend; threads: number; base: string }
  | { type: 'generate'; id: number; request: GenerateRequest }
  | { type: 'cancel'; id: number };

export type FromWorker =
  | { type: 'state'; state: EngineState }
  | { type: 'notice'; notice: Notice }
  /** WebGPU cannot open the models or went away: a worker with another backend must take over. */
  | { type: 'lost'; why: string }
  | { type: 'picture'; id: number; picture: Picture }
  | { type: 'refused'; id: number; cancelled: boolean; message: string };
