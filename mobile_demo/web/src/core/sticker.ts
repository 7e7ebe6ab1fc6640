/** From a picture to a sticker: its background made transparent, enlarged smoothly, with a die-cut outline. */

import { padded, squaredDistances } from './distance';
import { borderColour, matte } from './matte';

/** 8-bit RGBA, row by row. */
export interface Rgba {
  rgba: Uint8ClampedArray<ArrayBuffer>;
  width: number;
  height: number;
}

/** Side of a sticker in pixels, and what it leaves free around itself. */
export const STICKER_SIDE = 512;
const MARGIN = 8;
/** Scissors follow no notch that is narrower than two of these, in pixels. */
const BEND = 14;

/** A sticker of 512 pixels. outline: width of its white edge, in pixels; 0 for none. */
export function sticker(picture: Rgba, outline: number): Rgba {
  const { rgba, width, height } = picture;
  const clear = isOpaque(rgba) ? cutOut(rgba, width, height) : rgba;
  return outlined(fitted({ rgba: clear, width, height }, STICKER_SIDE, outline + MARGIN), outline);
}

function isOpaque(rgba: Uint8ClampedArray): boolean {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] !== 255) return false;
  return true;
}

/** The same picture with its background transparent and the edge's colours freed of it. */
export function cutOut(
  rgba: Uint8ClampedArray,
  width: number,
  height: number,
): Uint8ClampedArray<ArrayBuffer> {
  const background = borderColour(rgba, width, height);
  const shares = matte(rgba, width, height);
  const out = new Uint8ClampedArray(rgba);
  for (const [i, share] of shares.entries()) {
    out[4 * i + 3] = share * 255;
    for (let c = 0; c < 3; c++)
      out[4 * i + c] = unmixed(rgba[4 * i + c] as number, background[c] as number, share);
  }
  return out;
}

/** The subject's colour where a pixel is `alpha` of it over the background. */
function unmixed(value: number, background: number, alpha: number): number {
  return alpha > 0 ? background + (value - background) / alpha : value;
}

/** The picture enlarged to a square of `side`, smaller where what can be seen would come nearer to its edge than `margin`. */
export function fitted({ rgba, width, height }: Rgba, side: number, margin: number): Rgba {
  const [left, top, right, bottom] = bounds(rgba, width, height);
  const room = side - 2 * margin;
  const factor = Math.min(side / Math.max(width, height), room / Math.max(right - left, bottom - top, 1));
  const within = (low: number, high: number, middle: number) =>
    Math.min(Math.max(middle, margin - low * factor), side - margin - high * factor);
  const shiftX = within(left, right, (side - width * factor) / 2);
  const shiftY = within(top, bottom, (side - height * factor) / 2);
  const across: Axis = { side, factor, shift: shiftX, repeat: false };
  return resampled({ rgba, width, height }, across, { ...across, shift: shiftY });
}

/** The smallest box around what can be seen: left, top, right, bottom; the last two are beyond it. */
function bounds(rgba: Uint8ClampedArray, width: number, height: number): [number, number, number, number] {
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let i = 0; i < width * height; i++) {
    if ((rgba[4 * i + 3] as number) < 8) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
  }
  return right ? [left, top, right, bottom] : [0, 0, width, height];
}

/** With a white edge of `size` pixels around what can be seen, as if cut from paper. */
function outlined({ rgba, width, height }: Rgba, size: number): Rgba {
  if (size <= 0) return { rgba, width, height };
  const edge = size + BEND;
  const seen = mask(rgba, (alpha) => alpha > 127);
  // Beyond the picture there is room as well: the notch between it and the subject is none.
  const [wide, high] = [width + 2 * BEND, height + 2 * BEND];
  const away = squaredDistances(padded(seen, width, height, BEND), wide, high);
  const free = away.map((one) => (one > edge * edge ? 1 : 0));
  const inner = squaredDistances(free, wide, high);
  const out = new Uint8ClampedArray(rgba.length);
  for (let i = 0; i < seen.length; i++) {
    const at = (Math.floor(i / width) + BEND) * wide + (i % width) + BEND;
    const paper = Math.min(1, Math.max(0, Math.sqrt(inner[at] as number) - BEND + 0.5));
    const alpha = (rgba[4 * i + 3] as number) / 255;
    const whole = alpha + paper * (1 - alpha);
    for (let c = 0; c < 3; c++)
      out[4 * i + c] = whole && ((rgba[4 * i + c] as number) * alpha + 255 * paper * (1 - alpha)) / whole;
    out[4 * i + 3] = whole * 255;
  }
  return { rgba: out, width, height };
}

function mask(rgba: Uint8ClampedArray, is: (alpha: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: rgba.length / 4 }, (_, i) => (is(rgba[4 * i + 3] as number) ? 1 : 0));
}

/** How a row is laid out anew. */
interface Axis {
  side: number;
  factor: number;
  shift: number;
  /** Beyond the picture's edge there is more of its edge; else nothing. */
  repeat: boolean;
}

/** `factor` times as wide and high, by Catmull-Rom's cubic on colours weighted by their alpha. */
export function enlarge(rgba: Uint8ClampedArray, width: number, height: number, factor: number): Rgba {
  const axis = (side: number): Axis => ({ side: side * factor, factor, shift: 0, repeat: true });
  return resampled({ rgba, width, height }, axis(width), axis(height));
}

function resampled(
  { rgba, width, height }: Pick<Rgba, 'width' | 'height'> & { rgba: Uint8ClampedArray },
  across: Axis,
  down: Axis,
): Rgba {
  const weighted = Float32Array.from(rgba, (value, i) =>
    i % 4 === 3 ? value : (value * alphaAt(rgba, i)) / 255,
  );
  const wide = stretched(weighted, width, height, across);
  const turned = stretched(transposed(wide, across.side, height), height, across.side, down);
  const full = transposed(turned, down.side, across.side);
  const out = new Uint8ClampedArray(full.length);
  for (let i = 0; i < full.length; i += 4) {
    const alpha = Math.min(255, Math.max(0, full[i + 3] as number));
    for (let c = 0; c < 3; c++) out[i + c] = alpha > 0 ? ((full[i + c] as number) * 255) / alpha : 0;
    out[i + 3] = alpha;
  }
  return { rgba: out, width: across.side, height: down.side };
}

function alphaAt(rgba: Uint8ClampedArray, i: number): number {
  return rgba[i - (i % 4) + 3] as number;
}

/** Rows laid out anew: four neighbours with Catmull and Rom's weights (1974). */
function stretched(values: Float32Array, width: number, height: number, axis: Axis): Float32Array {
  const { side, factor, shift, repeat } = axis;
  const out = new Float32Array(4 * side * height);
  for (let x = 0; x < side; x++) {
    const place = (x + 0.5 - shift) / factor - 0.5;
    const first = Math.floor(place) - 1;
    const weights = catmullRom(place - Math.floor(place));
    for (let k = 0; k < 4; k++) {
      const at = Math.min(width - 1, Math.max(0, first + k));
      if (at !== first + k && !repeat) continue;
      const weight = weights[k] as number;
      for (let y = 0; y < height; y++) {
        const [from, to] = [4 * (y * width + at), 4 * (y * side + x)];
        for (let c = 0; c < 4; c++)
          out[to + c] = (out[to + c] as number) + weight * (values[from + c] as number);
      }
    }
  }
  return out;
}

function catmullRom(t: number): [number, number, number, number] {
  const [t2, t3] = [t * t, t * t * t];
  return [(-t3 + 2 * t2 - t) / 2, (3 * t3 - 5 * t2 + 2) / 2, (-3 * t3 + 4 * t2 + t) / 2, (t3 - t2) / 2];
}

function transposed(values: Float32Array, width: number, height: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      out.set(values.subarray(4 * (y * width + x), 4 * (y * width + x) + 4), 4 * (x * height + y));
    }
  }
  return out;
}
