/**
 * Which part of a picture is its subject, for models without an alpha channel: pictures on a plain background.
 *
 * A white bear on white is told from its ground by a few levels only, and not all around. So faint differences count
 * where they are joined to clear ones, and the background is what a ball can reach that rolls in from the border: gaps
 * that are narrower than the ball are closed, and what lies behind them is the subject.
 */

import { padded, squaredDistances } from './distance';

/** The ball's radius, as a share of the picture's width. */
const BALL = 0.06;
/** Joined parts smaller than this share of the picture are noise. */
const SPECK = 0.003;
/** Levels: how far a faint difference is above the ground's own noise, and a clear one above a faint one. */
const FAINT = { least: 3.5, most: 9, over: 1.5 };
const CLEAR = 7;
/** A strong colour leaves a halo around itself: this share of it is no difference. radius: pixels. */
const HALO = { share: 0.03, radius: 4 };
/** What is faint and thinner than two of these, as a share of the width, is no part of the subject. */
const BUMP = 0.02;
/** A subject that differs by more than this has an edge that can be measured: the share of it in each pixel. */
const MEASURABLE = 40;
const EDGE = 2.5;

/** The subject's share of each pixel, 0 to 1. rgba: 8 bits, row by row. */
export function matte(rgba: Uint8ClampedArray, width: number, height: number): Float32Array {
  const distance = distances(rgba, borderColour(rgba, width, height));
  const calm = blurred(distance, width, height);
  const noise = quantile(border(calm, width, height), 0.7) + FAINT.over;
  const faint = Math.min(FAINT.most, Math.max(FAINT.least, noise));
  const near = largest(distance, width, height, HALO.radius);
  const over = calm.map((value, i) => value - HALO.share * (near[i] as number));
  const found = opened(joined(over, width, height, faint, faint + CLEAR), width, height, BUMP * width);
  const subject = found.map((is, i) => (is || (calm[i] as number) > MEASURABLE ? 1 : 0));
  const outside = rolledOver(subject, width, height, BALL * width);
  return softened(distance, outside, width, height);
}

/** The median of the border's pixels, channel by channel. */
export function borderColour(
  rgba: Uint8ClampedArray,
  width: number,
  height: number,
): [number, number, number] {
  const channel = (c: number) =>
    quantile(
      border(
        Float32Array.from({ length: width * height }, (_, i) => rgba[4 * i + c] as number),
        width,
        height,
      ),
      0.5,
    );
  return [channel(0), channel(1), channel(2)];
}

function border(values: Float32Array, width: number, height: number): number[] {
  return [...values].filter((_, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    return x === 0 || y === 0 || x === width - 1 || y === height - 1;
  });
}

function quantile(values: number[], share: number): number {
  return values.sort((a, b) => a - b)[Math.floor(share * (values.length - 1))] as number;
}

/** Levels of the channel that differs most. */
function distances(rgba: Uint8ClampedArray, colour: readonly number[]): Float32Array {
  return Float32Array.from({ length: rgba.length / 4 }, (_, i) =>
    Math.max(...[0, 1, 2].map((c) => Math.abs((rgba[4 * i + c] as number) - (colour[c] as number)))),
  );
}

/** The mean of each pixel and its eight neighbours. */
function blurred(values: Float32Array, width: number, height: number): Float32Array {
  return Float32Array.from(values, (_, i) => {
    let [sum, count] = [0, 0];
    for (const at of around(i, width, height)) {
      sum += values[at] as number;
      count += 1;
    }
    return sum / count;
  });
}

/** A pixel and its neighbours, those that there are. */
function* around(i: number, width: number, height: number): Generator<number> {
  const [x, y] = [i % width, Math.floor(i / width)];
  for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
    for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) yield v * width + u;
  }
}

/** 1 where values of at least `faint` are joined to one of at least `clear`, in parts larger than a speck. */
function joined(
  values: Float32Array,
  width: number,
  height: number,
  faint: number,
  clear: number,
): Uint8Array {
  const [out, seen] = [new Uint8Array(values.length), new Uint8Array(values.length)];
  for (let start = 0; start < values.length; start++) {
    if (seen[start] || (values[start] as number) < faint) continue;
    const part = flood(start, seen, (i) => (values[i] as number) >= faint, width, height);
    const isClear = part.some((i) => (values[i] as number) >= clear);
    if (isClear && part.length > SPECK * values.length) for (const i of part) out[i] = 1;
  }
  return out;
}

/** All pixels that are joined to `start` through those that `pass`; they are marked as seen. */
function flood(
  start: number,
  seen: Uint8Array,
  pass: (i: number) => boolean,
  width: number,
  height: number,
): number[] {
  const part = [start];
  seen[start] = 1;
  for (let at = 0; at < part.length; at++) {
    for (const i of around(part[at] as number, width, height)) {
      if (seen[i] || !pass(i)) continue;
      seen[i] = 1;
      part.push(i);
    }
  }
  return part;
}

/** Without what no disc of this radius fits into. */
function opened(is: Uint8Array, width: number, height: number, radius: number): Uint8Array {
  const toOutside = squaredDistances(
    is.map((one) => 1 - one),
    width,
    height,
  );
  const core = is.map((_, i) => ((toOutside[i] as number) > radius * radius ? 1 : 0));
  const toCore = squaredDistances(core, width, height);
  return is.map((one, i) => (one && (toCore[i] as number) <= radius * radius ? 1 : 0));
}

/** 1 where a ball of this radius gets that rolls in from beyond the border and never touches the subject. */
function rolledOver(subject: Uint8Array, width: number, height: number, radius: number): Uint8Array {
  const pad = Math.ceil(radius) + 1;
  const [wide, high] = [width + 2 * pad, height + 2 * pad];
  const room = squaredDistances(padded(subject, width, height, pad), wide, high);
  const centres = new Uint8Array(wide * high);
  flood(0, centres, (i) => (room[i] as number) > radius * radius, wide, high);
  const reach = squaredDistances(centres, wide, high);
  return Uint8Array.from(subject, (is, i) => {
    const at = (Math.floor(i / width) + pad) * wide + (i % width) + pad;
    return is || (reach[at] as number) > radius * radius ? 0 : 1;
  });
}

/** 0 outside, 1 inside; along the edge the share that the colours tell, or where they tell none a smooth step. */
function softened(distance: Float32Array, outside: Uint8Array, width: number, height: number): Float32Array {
  const toOutside = squaredDistances(outside, width, height);
  const smooth = blurred(
    blurred(
      Float32Array.from(outside, (is) => 1 - is),
      width,
      height,
    ),
    width,
    height,
  );
  const strongest = largest(distance, width, height, Math.ceil(EDGE));
  return Float32Array.from(outside, (is, i) => {
    const strong = strongest[i] as number;
    const step = Math.min(1, Math.max(0, 1.5 * (smooth[i] as number) - 0.25));
    if (strong < MEASURABLE) return step;
    if (is) return 0;
    if ((toOutside[i] as number) > EDGE * EDGE) return 1;
    return Math.min(1, (distance[i] as number) / (0.75 * strong));
  });
}

/** The largest value within `radius` of each pixel, in a square. */
function largest(values: Float32Array, width: number, height: number, radius: number): Float32Array {
  let found = values;
  for (let turn = 0; turn < radius; turn++) {
    const before = found;
    found = Float32Array.from(before, (_, i) => {
      let most = 0;
      for (const at of around(i, width, height)) most = Math.max(most, before[at] as number);
      return most;
    });
  }
  return found;
}
