/**
 * Schedule maths: alpha_t and sigma_t, x0, re-noising and the deterministic DDIM step.
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

/**
 * x at level `next` from x at level `now`, without fresh noise (DDIM, eta = 0). `output`: the model's.
 *
 * Every operation is rounded to single precision, as numpy rounds it: a network in 8 bits turns the last bit of its
 * input into a difference that can be seen.
 */
export function ddimStep(
  x: Float32Array,
  output: Float32Array,
  kind: PredictionType,
  now: Level,
  next: Level = CLEAN,
): Float32Array {
  const [alpha, sigma, nextAlpha, nextSigma] = [now.alpha, now.sigma, next.alpha, next.sigma].map(
    f32,
  ) as Four;
  return x.map((value, i) => {
    const out = output[i] as number;
    const x0 =
      kind === 'v_prediction'
        ? f32(f32(alpha * value) - f32(sigma * out))
        : f32(f32(value - f32(sigma * out)) / alpha);
    if (next === CLEAN) return x0;
    const eps = kind === 'v_prediction' ? f32(f32(sigma * value) + f32(alpha * out)) : out;
    return f32(nextAlpha * x0) + f32(nextSigma * eps);
  });
}

type Four = [number, number, number, number];

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
