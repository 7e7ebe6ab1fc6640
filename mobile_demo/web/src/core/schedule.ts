/**
 * Schedule maths: alpha_t and sigma_t, the weights of a DDIM step, and sums of arrays.
 *
 * Variance-preserving: x_t = alpha_t * x0 + sigma_t * eps with alpha_t**2 + sigma_t**2 = 1.
 */

export type PredictionType = 'v_prediction' | 'epsilon';

/** Weights of the picture and of the noise in noised latents. */
export interface Level {
  alpha: number;
  sigma: number;
}

/** The level after the last step: the picture without noise. */
export const CLEAN: Level = { alpha: 1, sigma: 0 };

const f32 = Math.fround;

/** Weights of x and of the model's output in x at level `next`: DDIM with eta = 0 (Song et al. 2021, eq. 12). */
export function ddimWeights(kind: PredictionType, now: Level, next: Level = CLEAN): [number, number] {
  const { alpha, sigma } = now;
  return kind === 'v_prediction'
    ? [next.alpha * alpha + next.sigma * sigma, next.sigma * alpha - next.alpha * sigma]
    : [next.alpha / alpha, next.sigma - (next.alpha * sigma) / alpha];
}

/**
 * The sum of weight * array over the terms whose weight is not 0, in their order.
 *
 * Every operation is rounded to single precision, as numpy rounds it: a network in 8 bits turns the last bit of its
 * input into a difference that can be seen.
 */
export function weightedSum(terms: readonly [number, Float32Array][]): Float32Array {
  const [first, ...others] = terms
    .filter(([weight]) => weight !== 0)
    .map(([weight, array]) => [f32(weight), array] as const);
  if (!first) throw new Error('a sum needs a term');
  const total = first[1].map((value) => first[0] * value);
  for (const [weight, array] of others) {
    for (let i = 0; i < total.length; i++) {
      total[i] = (total[i] as number) + f32(weight * (array[i] as number));
    }
  }
  return total;
}

/** The n timesteps of diffusers' `timestep_spacing: trailing`, noisiest first, such as 999, 666, 332. */
export function trailingTimesteps(n: number, trainTimesteps = 1000): number[] {
  return Array.from({ length: n }, (_, i) => roundHalfEven(trainTimesteps - (i * trainTimesteps) / n) - 1);
}

/** The level at every timestep of diffusers' `scaled_linear` schedule. */
export function scaledLinearLevels(betaStart: number, betaEnd: number, trainTimesteps: number): Level[] {
  const [first, last] = [Math.sqrt(betaStart), Math.sqrt(betaEnd)];
  let product = 1;
  return Array.from({ length: trainTimesteps }, (_, t) => {
    product *= 1 - (first + ((last - first) * t) / (trainTimesteps - 1)) ** 2;
    return { alpha: Math.sqrt(product), sigma: Math.sqrt(1 - product) };
  });
}

/** To the nearest whole number, halves to the even one, as numpy rounds. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
