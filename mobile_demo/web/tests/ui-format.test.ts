import { expect, test } from 'vitest';
import type { Picture } from '../src/core/types';
import type { EngineState } from '../src/engine/types';
import { fraction, madeOn, progressText, runsOn, stages, statusText } from '../src/ui/format';

const READY = {
  phase: 'ready',
  backend: 'wasm',
  threads: 2,
  bundle: 'tiny',
  width: 8,
  height: 8,
  varies: false,
  things: [],
  large: false,
  steps: [1],
} as const;

test.each<[EngineState, number | undefined, string, string]>([
  [{ phase: 'downloading', loaded: 0, total: 0 }, undefined, 'Getting the model', 'Getting the model'],
  [
    { phase: 'downloading', loaded: 12_400_000, total: 31_000_000 },
    0.4,
    '12.4 MB of 31.0 MB · 40 %',
    'Getting the model',
  ],
  // More than was announced, as a server that packs files differently may send.
  [{ phase: 'downloading', loaded: 3e6, total: 2e6 }, 1, '3.0 MB of 2.0 MB · 100 %', 'Getting the model'],
  [{ phase: 'opening', done: 1, total: 4 }, 0.25, 'Opening the model', 'Opening the model'],
  [READY, undefined, '', 'On this device'],
  [{ phase: 'failed', problem: { kind: 'memory', message: 'short' } }, undefined, '', 'Not running'],
])('%j', (state, done, progress, status) => {
  expect(fraction(state)).toBe(done);
  expect(progressText(state)).toBe(progress);
  expect(statusText(state)).toBe(status);
});

test('one thread is no plural', () => {
  expect(runsOn({ backend: 'wasm', threads: 1 })).toBe('WASM, 1 thread');
  expect(runsOn({ backend: 'wasm', threads: 2 })).toBe('WASM, 2 threads');
  expect(runsOn({ backend: 'webgpu', threads: 2 })).toBe('WebGPU');
});

test('a picture of the GPU stays one after the engine fell back', () => {
  const picture = { backend: 'webgpu' } as Picture;
  expect(madeOn(picture, READY)).toBe('WebGPU');
  expect(madeOn({ ...picture, backend: 'wasm' }, READY)).toBe('WASM, 2 threads');
});

test('the stages are named in their order', () => {
  const ms = { text_encoder: 2.6, unet: 21.4, vae_decoder: 9.5, total: 34 };
  expect(stages({ ms } as Picture)).toBe('text 3 · U-Net 21 · decoder 10');
});
