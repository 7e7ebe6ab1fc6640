import { describe, expect, it, test } from 'vitest';
import { squaredDistances } from '../src/core/distance';
import { cutOut, enlarge, type Rgba, sticker } from '../src/core/sticker';

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

describe('a sticker', () => {
  const side = 64;
  /** A pale disc, hardly darker than its ground, that opens into the ground on one side; with a dark eye. */
  function pale(): Rgba {
    const rgba = new Uint8ClampedArray(side * side * 4).fill(255);
    for (let i = 0; i < side * side; i++) {
      const [x, y] = [i % side, Math.floor(i / side)];
      const away = Math.hypot(x - 32, y - 32);
      if (away < 20) rgba.set([246, 246, 250], 4 * i);
      if (away < 20 && away > 18) rgba.set([225, 225, 235], 4 * i);
      if (away < 20 && Math.abs(x - 32) < 2 && y < 32) rgba.set([255, 255, 255], 4 * i); // a gap in its edge
      if (Math.hypot(x - 26, y - 30) < 3) rgba.set([20, 20, 20], 4 * i);
    }
    return { rgba, width: side, height: side };
  }
  const alphaAt = ({ rgba, width }: Rgba, x: number, y: number) => rgba[4 * (y * width + x) + 3] as number;

  it('has no hole where a white subject opens into a white ground', () => {
    const { rgba, width, height } = pale();
    const out = cutOut(rgba, width, height);
    let inside = 0;
    for (let i = 0; i < side * side; i++) {
      const away = Math.hypot((i % side) - 32, Math.floor(i / side) - 32);
      if (away < 17) {
        expect(out[4 * i + 3], `pixel ${i}`).toBeGreaterThan(200);
        inside += 1;
      }
      if (away > 25) expect(out[4 * i + 3]).toBe(0);
    }
    expect(inside).toBeGreaterThan(800);
  });

  it('is 512 pixels, with a white edge of the chosen width, inside its margin', () => {
    const red = drawnLarge((away) => (away < 20 ? [200, 30, 20] : [255, 255, 255]));
    const [none, wide] = [sticker(red, 0), sticker(red, 20)];
    for (const one of [none, wide]) expect([one.width, one.height]).toEqual([512, 512]);
    const row = ({ rgba }: Rgba) =>
      Array.from({ length: 512 }, (_, x) => rgba[4 * (256 * 512 + x) + 3] as number);
    const width = (one: Rgba) => row(one).filter((alpha) => alpha > 127).length;
    expect(width(wide) - width(none)).toBeGreaterThanOrEqual(37);
    expect(width(wide) - width(none)).toBeLessThanOrEqual(43);
    const edge = row(wide).findIndex((alpha) => alpha > 250);
    expect([...wide.rgba.subarray(4 * (256 * 512 + edge + 4), 4 * (256 * 512 + edge + 4) + 3)]).toEqual([
      255, 255, 255,
    ]);
    expect(alphaAt(wide, 2, 256)).toBe(0);
    const full = sticker(
      drawnLarge((away) => (away < 31 ? [200, 30, 20] : [255, 255, 255])),
      20,
    );
    for (let i = 0; i < 512; i++) expect(alphaAt(full, i, 3) + alphaAt(full, 3, i)).toBe(0);
  });

  it('has an edge that goes from full to nothing in steps, not at once', () => {
    const one = sticker(
      drawnLarge((away) => (away < 20 ? [200, 30, 20] : [255, 255, 255])),
      0,
    );
    const soft = one.rgba.filter((alpha, i) => i % 4 === 3 && alpha > 12 && alpha < 243).length;
    expect(soft).toBeGreaterThan(2 * Math.PI * 150); // more than a pixel all around
  });

  function drawnLarge(colour: (away: number) => Colour): Rgba {
    const rgba = new Uint8ClampedArray(side * side * 4).fill(255);
    for (let i = 0; i < side * side; i++)
      rgba.set(colour(Math.hypot((i % side) - 31.5, Math.floor(i / side) - 31.5)), 4 * i);
    return { rgba, width: side, height: side };
  }
});

test('distances are exact', () => {
  const [width, height] = [23, 17];
  const is = Uint8Array.from({ length: width * height }, (_, i) => ((i * 7919) % 37 === 0 ? 1 : 0));
  const found = squaredDistances(is, width, height);
  for (let i = 0; i < is.length; i++) {
    let least = Infinity;
    for (let j = 0; j < is.length; j++) {
      if (!is[j]) continue;
      const [dx, dy] = [(i % width) - (j % width), Math.floor(i / width) - Math.floor(j / width)];
      least = Math.min(least, dx * dx + dy * dy);
    }
    expect(found[i]).toBe(least);
  }
  expect(squaredDistances(new Uint8Array(4), 2, 2)).toEqual(new Float64Array(4).fill(Infinity));
});
