/** Milliseconds from one end of the morph to the other. */
export const SWEEP = 4000;

/** Percent at a time of the sweep: 0 to 100 and back, again and again. elapsed: milliseconds since it was at 0. */
export function sweepAt(elapsed: number): number {
  const turn = (elapsed / SWEEP) % 2;
  return Math.round(100 * (turn <= 1 ? turn : 2 - turn));
}
