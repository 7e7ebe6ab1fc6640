/** From `a` (t = 0) to `b` (t = 1) in a straight line; the ends are exact. */
export function lerp(a: Float32Array, b: Float32Array, t: number): Float32Array {
  if (t === 0) return a;
  if (t === 1) return b;
  return a.map((value, i) => (1 - t) * value + t * (b[i] as number));
}
