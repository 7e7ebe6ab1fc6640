/** From a picture on a plain background to a sticker: the background made transparent, then enlarged smoothly. */

/** 8-bit RGBA, row by row. */
export interface Rgba {
  rgba: Uint8ClampedArray<ArrayBuffer>;
  width: number;
  height: number;
}

// Distances from the background's colour, in levels of the channel that differs most: up to NEAR a pixel is
// background, from FAR on it is the subject; between them lies the soft edge that a one-step model draws.
const NEAR = 20;
const FAR = 48;

/**
 * The same picture with its background transparent and the edge's colours freed of it.
 *
 * The background is what is joined to the picture's border and near to the border's median colour: white inside the
 * subject stays.
 */
export function cutOut(
  rgba: Uint8ClampedArray,
  width: number,
  height: number,
): Uint8ClampedArray<ArrayBuffer> {
  const background = borderColour(rgba, width, height);
  const distance = distances(rgba, background);
  const outside = flooded(distance, width, height);
  const out = new Uint8ClampedArray(rgba);
  for (let i = 0; i < outside.length; i++) {
    if (!outside[i]) continue;
    const alpha = Math.min(1, Math.max(0, ((distance[i] as number) - NEAR) / (FAR - NEAR)));
    out[4 * i + 3] = alpha * 255;
    for (let c = 0; c < 3; c++)
      out[4 * i + c] = unmixed(rgba[4 * i + c] as number, background[c] as number, alpha);
  }
  return out;
}

/** The subject's colour where a pixel is `alpha` of it over the background. */
function unmixed(value: number, background: number, alpha: number): number {
  return alpha > 0 ? background + (value - background) / alpha : value;
}

/** The median of the border's pixels, channel by channel. */
function borderColour(rgba: Uint8ClampedArray, width: number, height: number): [number, number, number] {
  const border: number[] = [];
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [i % width, Math.floor(i / width)];
    if (x === 0 || y === 0 || x === width - 1 || y === height - 1) border.push(4 * i);
  }
  const median = (c: number) =>
    border.map((at) => rgba[at + c] as number).sort((a, b) => a - b)[border.length >> 1];
  return [median(0) as number, median(1) as number, median(2) as number];
}

function distances(rgba: Uint8ClampedArray, colour: readonly number[]): Float32Array {
  return Float32Array.from({ length: rgba.length / 4 }, (_, i) =>
    Math.max(...[0, 1, 2].map((c) => Math.abs((rgba[4 * i + c] as number) - (colour[c] as number)))),
  );
}

/** 1 where a pixel can be reached from the border through pixels nearer than FAR. */
function flooded(distance: Float32Array, width: number, height: number): Uint8Array {
  const reached = new Uint8Array(distance.length);
  const open: number[] = [];
  const visit = (x: number, y: number) => {
    const i = y * width + x;
    if (x < 0 || y < 0 || x >= width || y >= height || reached[i] || (distance[i] as number) >= FAR) return;
    reached[i] = 1;
    if ((distance[i] as number) <= NEAR) open.push(i); // the soft edge belongs to it, and is not passed through
  };
  for (let x = 0; x < width; x++) for (const y of [0, height - 1]) visit(x, y);
  for (let y = 0; y < height; y++) for (const x of [0, width - 1]) visit(x, y);
  for (let i = open.pop(); i !== undefined; i = open.pop()) {
    const [x, y] = [i % width, Math.floor(i / width)];
    for (const [dx, dy] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
      [1, 1],
      [1, -1],
      [-1, 1],
      [-1, -1],
    ] as const) {
      visit(x + dx, y + dy);
    }
  }
  return reached;
}

/** `factor` times as wide and high, by Catmull-Rom's cubic on colours weighted by their alpha. */
export function enlarge(rgba: Uint8ClampedArray, width: number, height: number, factor: number): Rgba {
  const weighted = Float32Array.from(rgba, (value, i) =>
    i % 4 === 3 ? value : (value * alphaAt(rgba, i)) / 255,
  );
  const wide = stretched(weighted, width, height, factor);
  const turned = stretched(transposed(wide, width * factor, height), height, width * factor, factor);
  const full = transposed(turned, height * factor, width * factor);
  const out = new Uint8ClampedArray(full.length);
  for (let i = 0; i < full.length; i += 4) {
    const alpha = Math.min(255, Math.max(0, full[i + 3] as number));
    for (let c = 0; c < 3; c++) out[i + c] = alpha > 0 ? ((full[i + c] as number) * 255) / alpha : 0;
    out[i + 3] = alpha;
  }
  return { rgba: out, width: width * factor, height: height * factor };
}

function alphaAt(rgba: Uint8ClampedArray, i: number): number {
  return rgba[i - (i % 4) + 3] as number;
}

/** Rows `factor` times as long: four neighbours with Catmull and Rom's weights (1974), borders repeated. */
function stretched(values: Float32Array, width: number, height: number, factor: number): Float32Array {
  const out = new Float32Array(values.length * factor);
  for (let x = 0; x < width * factor; x++) {
    const place = (x + 0.5) / factor - 0.5;
    const first = Math.floor(place) - 1;
    const weights = catmullRom(place - Math.floor(place));
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < 4; c++) {
        let sum = 0;
        for (let k = 0; k < 4; k++) {
          const at = Math.min(width - 1, Math.max(0, first + k));
          sum += (weights[k] as number) * (values[4 * (y * width + at) + c] as number);
        }
        out[4 * (y * width * factor + x) + c] = sum;
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
