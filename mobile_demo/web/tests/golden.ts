/** The golden files of tests/golden, read in place; every test asserts that it ran as many cases as its file states. */

import { readFileSync } from 'node:fs';
import { expect } from 'vitest';

export const ROOT = new URL('../../../', import.meta.url);

/** A file of the repository. */
export function bytes(path: string): Buffer {
  return readFileSync(new URL(path, ROOT));
}

/** A golden file; a field that the test does not read is an error, as a case could hide in it. */
// biome-ignore lint/suspicious/noExplicitAny: only the test knows its form
export function golden(name: string, ...known: string[]): any {
  const data = JSON.parse(bytes(`tests/golden/${name}`).toString());
  expect(Object.keys(data).sort()).toEqual(['reference', 'count', 'tolerance', ...known].sort());
  return data;
}

/** Floats from their bits in hexadecimal digits. */
export function floats(bits: string[]): Float32Array<ArrayBuffer> {
  return new Float32Array(Uint32Array.from(bits, (text) => Number.parseInt(text, 16)).buffer);
}

/** How many floats lie between two of them. */
export function ulps(a: number, b: number): number {
  const rank = (x: number) => {
    const [whole] = new Int32Array(Float32Array.of(x).buffer) as unknown as [number];
    return whole < 0 ? -(whole & 0x7fffffff) : whole;
  };
  return Math.abs(rank(a) - rank(b));
}

/** Peak signal-to-noise ratio of 8-bit pictures in decibels. */
export function psnr(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  return 10 * Math.log10(255 ** 2 / Math.max(sum / a.length, 1e-9));
}
