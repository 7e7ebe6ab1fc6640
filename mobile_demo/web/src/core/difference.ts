/** Mean difference of two opaque pictures, in levels of 255, over the three colours; of other sizes: the most. */
export function difference(a: Uint8ClampedArray, b: Uint8ClampedArray): number {
  if (a.length !== b.length) return 255;
  let sum = 0;
  for (let i = 0; i < a.length; i += 4) {
    for (let c = 0; c < 3; c++) sum += Math.abs((a[i + c] as number) - (b[i + c] as number));
  }
  return sum / ((a.length / 4) * 3);
}
