/** f32 [-1, 1] -> u8 pictures. */

const f32 = Math.fround;

/** [-1, 1] -> 0..255: clamp, then floor(x * 255 + 0.5), so that halves go up everywhere; not-a-number is 0. */
export function toUint8(x: number): number {
  const half = f32(f32(x / 2) + 0.5);
  const unit = half > 0 ? Math.min(half, 1) : 0;
  return Math.floor(f32(f32(unit * 255) + 0.5));
}

/** f32[3, H, W] in [-1, 1] -> RGBA bytes, row by row, opaque; f32[4, H, W] has alpha in [0, 1] as well. */
export function toRgba(chw: Float32Array, height: number, width: number): Uint8ClampedArray<ArrayBuffer> {
  const area = height * width;
  const rgba = new Uint8ClampedArray(area * 4).fill(255);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < area; i++) rgba[4 * i + channel] = toUint8(chw[channel * area + i] as number);
  }
  if (chw.length === 4 * area)
    for (let i = 0; i < area; i++) rgba[4 * i + 3] = toUint8(2 * (chw[3 * area + i] as number) - 1);
  return rgba;
}
