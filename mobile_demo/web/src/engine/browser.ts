/** What this browser can do. */

import type { Problem } from './types';

const MOST_THREADS = 4; // a phone's fast cores: with the slow ones in, every operator waits for them

// A module whose one function adds two vectors: browsers without WebAssembly SIMD do not take it.
const SIMD = Uint8Array.of(
  0,
  97,
  115,
  109,
  1,
  0,
  0,
  0,
  1,
  5,
  1,
  96,
  0,
  1,
  123,
  3,
  2,
  1,
  0,
  10,
  10,
  1,
  8,
  0,
  65,
  0,
  253,
  15,
  253,
  98,
  11,
);

/** Why the engine cannot run here at all; undefined where it can. */
export function supported(): Problem | undefined {
  const able = typeof WebAssembly === 'object' && typeof Worker === 'function' && WebAssembly.validate(SIMD);
  if (able && typeof DecompressionStream === 'function') return undefined;
  return {
    kind: 'browser',
    message:
      'This browser is too old: it lacks WebAssembly SIMD. Safari 16.4, Chrome 91, Firefox 113 or later can run the app.',
  };
}

/** Threads for WebAssembly: one unless the page is cross-origin isolated, which shared memory needs. */
export function threadsHere(): number {
  if (!globalThis.crossOriginIsolated) return 1;
  return Math.min(MOST_THREADS, Math.max(1, navigator.hardwareConcurrency || 1));
}

/** Whether WebGPU offers a real adapter: one that computes on the CPU is slower than WebAssembly. */
export async function webgpuHere(): Promise<boolean> {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && (ACCEPTS_SOFTWARE || !adapter?.info.isFallbackAdapter);
  } catch {
    return false;
  }
}

/** `?software-gpu` in the address lets the tests use an adapter that computes on the CPU. */
const ACCEPTS_SOFTWARE = new URLSearchParams(globalThis.location?.search).has('software-gpu');
