import { describe, expect, it } from 'vitest';
import { cutOut, enlarge } from '../src/core/sticker';

const SIZE = 16;
type Colour = [number, number, number];
const WHITE: Colour = [250, 251, 249];

/** A picture of SIZE by SIZE from a function of x and y. */
function drawn(colour: (x: number, y: number) => Colour): Uint8ClampedArray<ArrayBuffer> {
  const rgba = new Uint8ClampedArray(SIZE * SIZE * 4).fill(255);
  for (let i = 0; i < SIZE * SIZE; i++) rgba.set(colour(i % SIZE, Math.floor(i / SIZE)), 4 * i);
  return rgba;
}

const at = (rgba: Uint8ClampedArray, x: number, y: number, width = SIZE) =>
  [...rgba.subarray(4 * (y * width + x), 4 * (y * width + x) + 4)] as [number, number, number, number];
const ring = (x: number, y: number) => Math.max(Math.abs(x - 7.5), Math.abs(y - 7.5));

describe('cutOut', () => {
  it('removes the background and keeps the subject, with white inside it', () => {
    const eye = drawn((x, y) => (ring(x, y) < 1 ? WHITE : ring(x, y) < 5 ? [200, 30, 20] : WHITE));
    const out = cutOut(eye, SIZE, SIZE);
    expect(at(out, 0, 0)[3]).toBe(0);
    expect(at(out, 5, 5)).toEqual([200, 30, 20, 255]);
    expect(at(out, 7, 7)).toEqual([...WHITE, 255]);
  });

  it('frees a soft edge of the background colour', () => {
    const mixed: Colour = [236, 229, 226]; // a little red over white
    const out = cutOut(
      drawn((x, y) => (ring(x, y) < 4 ? [200, 30, 20] : ring(x, y) < 5 ? mixed : WHITE)),
      SIZE,
      SIZE,
    );
    const [red, green, , alpha] = at(out, 3, 7);
    expect(alpha).toBeGreaterThan(0);
    expect(alpha).toBeLessThan(255);
    expect(green).toBeLessThan(mixed[1]);
    expect(red).toBeLessThan(mixed[0]);
  });

  it('takes any plain colour for background', () => {
    const out = cutOut(
      drawn((x, y) => (ring(x, y) < 5 ? [240, 240, 20] : [20, 40, 160])),
      SIZE,
      SIZE,
    );
    expect([at(out, 0, 8)[3], at(out, 8, 8)[3]]).toEqual([0, 255]);
  });
});

describe('enlarge', () => {
  it('keeps flat areas and sizes, and draws no dark seam around what is transparent', () => {
    const rgba = drawn((x) => (x < 8 ? [255, 0, 0] : [0, 0, 0]));
    for (let i = 0; i < SIZE * SIZE; i++) if (i % SIZE >= 8) rgba[4 * i + 3] = 0;
    const { rgba: out, width, height } = enlarge(rgba, SIZE, SIZE, 4);
    expect([width, height, out.length]).toEqual([64, 64, 64 * 64 * 4]);
    expect(at(out, 4, 30, 64)).toEqual([255, 0, 0, 255]);
    expect(at(out, 60, 30, 64)[3]).toBe(0);
    for (let x = 0; x < 64; x++)
      if (at(out, x, 30, 64)[3] > 8) expect(at(out, x, 30, 64)[0]).toBeGreaterThan(247);
  });

  it('reproduces a ramp away from the borders', () => {
    const { rgba: out } = enlarge(
      drawn((x) => [x * 16, x * 16, x * 16]),
      SIZE,
      SIZE,
      2,
    );
    for (let x = 4; x < 28; x++) expect(Math.abs(at(out, x, 9, 32)[0] - (x * 8 - 4))).toBeLessThanOrEqual(1);
  });
});
