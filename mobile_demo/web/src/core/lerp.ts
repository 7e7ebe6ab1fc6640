const f32 = Math.fround;

/** From `a` (t = 0) to `b` (t = 1) in a straight line, in single precision; the ends are exact. */
export function lerp(a: Float32Array, b: Float32Array, t: number): Float32Array {
  if (t === 0) return a;
  if (t === 1) return b;
  const [rest, part] = [f32(1 - t), f32(t)];
  return a.map((value, i) => f32(rest * value) + f32(part * (b[i] as number)));
}
