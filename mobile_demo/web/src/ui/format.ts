/** Numbers and states in words. */
import type { Picture } from '../core/types';
import type { EngineState, ProblemKind } from '../engine/types';
import type { Ready } from '../state/studio';

export function milliseconds(ms: number): string {
  return `${Math.round(ms)} ms`;
}

/** 12_345_678 -> '12.3 MB'. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** 12_345 -> '13 kB': rounded up, so that no file is larger than what is said. */
export function kilobytes(bytes: number): string {
  return `${Math.ceil(bytes / 1000)} kB`;
}

/** 'WASM, 2 threads' or 'WebGPU'. */
export function runsOn({ backend, threads }: Pick<Ready, 'backend' | 'threads'>): string {
  if (backend === 'webgpu') return 'WebGPU';
  return `WASM, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
}

/** Where this picture was made: the threads are those of the engine that is ready, where that is the same one. */
export function madeOn(picture: Picture, ready: Ready | undefined): string {
  if (ready?.backend === picture.backend) return runsOn(ready);
  return picture.backend === 'webgpu' ? 'WebGPU' : 'WASM';
}

export function stages({ ms }: Picture): string {
  const [text, unet, decoder] = [ms.text_encoder, ms.unet, ms.vae_decoder].map(Math.round);
  return `text ${text} · U-Net ${unet} · decoder ${decoder}`;
}

/** How far the engine is: a fraction from 0 to 1, or undefined while that is unknown. */
export function fraction(state: EngineState): number | undefined {
  if (state.phase === 'downloading') return state.total ? Math.min(1, state.loaded / state.total) : undefined;
  if (state.phase === 'opening') return state.total ? state.done / state.total : undefined;
  return undefined;
}

export function progressText(state: EngineState): string {
  if (state.phase === 'opening') return 'Opening the model';
  if (state.phase !== 'downloading') return '';
  if (!state.total) return 'Getting the model';
  const percent = Math.floor(100 * Math.min(1, state.loaded / state.total));
  return `${megabytes(state.loaded)} of ${megabytes(state.total)} · ${percent} %`;
}

const PHASES = { downloading: 'Getting the model', opening: 'Opening the model', failed: 'Not running' };

export function statusText(state: EngineState): string {
  return state.phase === 'ready' ? 'On this device' : PHASES[state.phase];
}

export const PROBLEM_TITLES: Record<ProblemKind, string> = {
  offline: 'No network',
  server: 'The model is not there',
  corrupted: 'The model arrived damaged',
  memory: 'Not enough memory',
  browser: 'This browser cannot run it',
  internal: 'Something went wrong',
};
