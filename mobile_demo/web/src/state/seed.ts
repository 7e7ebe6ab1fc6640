/** Seeds are whole numbers from -2**63 to 2**64 - 1, kept as decimal digits: more than a `number` holds. */

import { SEED_MAX, SEED_MIN } from '../core/noise';

export const SEED_PROBLEM = 'A seed is a whole number from −2⁶³ to 2⁶⁴ − 1.';

/** The seed in its one spelling ('+007' is '7'), or undefined where the text is not a seed. */
export function parseSeed(text: string): string | undefined {
  const digits = text.trim().replace('−', '-');
  if (!/^[+-]?\d{1,40}$/.test(digits)) return undefined;
  const value = BigInt(digits.replace('+', ''));
  return value < SEED_MIN || value > SEED_MAX ? undefined : value.toString();
}

/** A seed below 2**32. */
export function randomSeed(): string {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

/** The `count` seeds after this one; after the highest comes 0. */
export function seedsAfter(seed: string, count: number): string[] {
  const first = BigInt(seed);
  return Array.from({ length: count }, (_, i) => {
    const next = first + BigInt(i) + 1n;
    return String(next > SEED_MAX ? next - SEED_MAX - 1n : next);
  });
}
