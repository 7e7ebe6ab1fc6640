/** Exact distances on a grid, by Felzenszwalb and Huttenlocher's lower envelope of parabolas (2012). */

/** Squared distance of every pixel to the nearest one where `is` is not 0; Infinity where there is none. */
export function squaredDistances(is: ArrayLike<number>, width: number, height: number): Float64Array {
  const out = Float64Array.from({ length: width * height }, (_, i) => (is[i] ? 0 : Infinity));
  const longest = Math.max(width, height);
  const line = new Float64Array(longest);
  for (let x = 0; x < width; x++) along(out, x, width, height, line);
  for (let y = 0; y < height; y++) along(out, y * width, 1, width, line);
  return out;
}

/** A mask with `pad` pixels of 0 around it. */
export function padded(is: Uint8Array, width: number, height: number, pad: number): Uint8Array {
  const wide = width + 2 * pad;
  const out = new Uint8Array(wide * (height + 2 * pad));
  for (let y = 0; y < height; y++) out.set(is.subarray(y * width, (y + 1) * width), (y + pad) * wide + pad);
  return out;
}

/** One line of `count` values from `start`, `step` apart: each becomes the least of value + squared way to it. */
function along(values: Float64Array, start: number, step: number, count: number, line: Float64Array): void {
  for (let i = 0; i < count; i++) line[i] = values[start + i * step] as number;
  const [lowest, from] = [new Int32Array(count), new Float64Array(count)];
  let top = -1;
  for (let i = 0; i < count; i++) {
    if (line[i] === Infinity) continue;
    let meet = -Infinity;
    while (top >= 0) {
      meet = meeting(line, lowest[top] as number, i);
      if (meet > (from[top] as number)) break;
      top -= 1;
    }
    if (top < 0) meet = -Infinity;
    top += 1;
    lowest[top] = i;
    from[top] = meet;
  }
  if (top < 0) return;
  for (let i = 0, k = 0; i < count; i++) {
    while (k < top && (from[k + 1] as number) < i) k += 1;
    const at = lowest[k] as number;
    values[start + i * step] = (i - at) ** 2 + (line[at] as number);
  }
}

/** Where the parabola of `b` goes below that of `a`. */
function meeting(line: Float64Array, a: number, b: number): number {
  return ((line[b] as number) + b * b - (line[a] as number) - a * a) / (2 * (b - a));
}
