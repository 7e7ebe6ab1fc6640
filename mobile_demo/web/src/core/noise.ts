/**
 * Seed -> the normals that torch's CPU generator draws: MT19937, then torch's own order of Box-Muller.
 *
 * torch on an x86-64 processor evaluates the Box-Muller pairs in single precision, with the Cephes polynomials and
 * fused multiply-adds; so does this file, and the same seed gives the same bits.
 */

/** torch's own range of seeds. */
export const SEED_MIN = -(2n ** 63n);
export const SEED_MAX = 2n ** 64n - 1n;

const STATE = 624;
const SHIFT = 397;
const BLOCK = 16; // torch turns uniforms into normals 16 at a time: 8 radii, then 8 angles

const f32 = Math.fround;
const LN2_LOW = f32(-2.1219444e-4);
const LN2_HIGH = f32(0.693359375);
const LOG = [
  7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
  2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
].map(f32);
const PI_4 = [0.78515625, 2.4187564849853516e-4, 3.774894977445941e-8].map(f32); // pi / 4 in three parts
const SIN = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1].map(f32);
const COS = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2].map(f32);

/**
 * `torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))`, f32[product of shape], to 1 ulp.
 * `draw`: how many times the generator gave as much before.
 * @throws RangeError when the seed is out of torch's range, -2**63 to 2**64 - 1 (its low 32 bits count).
 */
export function randn(seed: bigint, shape: readonly number[], draw = 0): Float32Array {
  const size = shape.reduce((product, side) => product * side, 1);
  const word = Number(BigInt.asUintN(32, checkSeed(seed)));
  return size >= BLOCK ? normals(word, size, draw) : fewNormals(word, size, draw);
}

/** The seed itself; RangeError when torch would refuse it. */
export function checkSeed(seed: bigint): bigint {
  if (seed < SEED_MIN || seed > SEED_MAX) {
    throw new RangeError(`seed ${seed} is out of range: -2**63 to 2**64 - 1 is allowed`);
  }
  return seed;
}

/** The first `count` outputs, u32, of the Mersenne Twister (Matsumoto and Nishimura 1998). */
export function mt19937(seed: number, count: number): Uint32Array {
  const state = new Uint32Array(STATE);
  state[0] = seed;
  for (let i = 1; i < STATE; i++) {
    const last = state[i - 1] as number;
    state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
  }
  const out = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    if (i % STATE === 0) twist(state);
    out[i] = temper(state[i % STATE] as number);
  }
  return out;
}

function twist(state: Uint32Array): void {
  for (let i = 0; i < STATE; i++) {
    const word = ((state[i] as number) & 0x80000000) | ((state[(i + 1) % STATE] as number) & 0x7fffffff);
    state[i] = (state[(i + SHIFT) % STATE] as number) ^ (word >>> 1) ^ (word & 1 ? 0x9908b0df : 0);
  }
}

function temper(word: number): number {
  let w = word ^ (word >>> 11);
  w ^= (w << 7) & 0x9d2c5680;
  w ^= (w << 15) & 0xefc60000;
  return w ^ (w >>> 18);
}

/** torch's path for 16 values and more: whole blocks first; a ragged end gets 16 uniforms of its own. */
function normals(seed: number, size: number, draw: number): Float32Array {
  const ragged = size % BLOCK;
  const taken = size + (ragged ? BLOCK : 0);
  const words = mt19937(seed, taken * (draw + 1)).subarray(taken * draw);
  const values = new Float32Array(size);
  for (let start = 0; start + BLOCK <= size; start += BLOCK) boxMuller(words, start, values, start);
  if (ragged) boxMuller(words, size, values, size - BLOCK);
  return values;
}

/** One block: words `from + j` and `from + j + 8` become normals `to + j` and `to + j + 8`. */
function boxMuller(words: Uint32Array, from: number, values: Float32Array, to: number): void {
  for (let j = 0; j < BLOCK / 2; j++) {
    const radius = f32(Math.sqrt(f32(-2 * log(f32(1 - uniform(words[from + j] as number))))));
    const [sine, cosine] = sincos(f32(f32(2 * Math.PI) * uniform(words[from + j + BLOCK / 2] as number)));
    values[to + j] = radius * cosine;
    values[to + j + BLOCK / 2] = radius * sine;
  }
}

/** 24 bits of a word as a float in [0, 1). */
function uniform(word: number): number {
  return (word & 0xffffff) * 2 ** -24;
}

/** torch's path below 16 values: Box-Muller in double precision, the sine kept for the next value or draw. */
function fewNormals(seed: number, size: number, draw: number): Float32Array {
  const total = size * (draw + 1);
  const words = mt19937(seed, 4 * Math.ceil(total / 2));
  const uniforms = Array.from({ length: words.length / 2 }, (_, i) => {
    const [high, low] = [words[2 * i] as number, words[2 * i + 1] as number];
    return ((high & 0x1fffff) * 2 ** 32 + low) * 2 ** -53;
  });
  const values: number[] = [];
  for (let i = 0; i < uniforms.length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log1p(-(uniforms[i + 1] as number)));
    const angle = 2 * Math.PI * (uniforms[i] as number);
    values.push(radius * Math.cos(angle), radius * Math.sin(angle));
  }
  return Float32Array.from(values.slice(total - size, total));
}

/** a * b + c rounded once: in double precision the product of two floats is exact. */
function fma(a: number, b: number, c: number): number {
  return f32(a * b + c);
}

/** Horner's rule, highest power first. */
function poly(x: number, coefficients: readonly number[]): number {
  return coefficients.reduce((y, coefficient) => fma(y, x, coefficient));
}

/** Natural logarithm of a float in (0, 1]. Source: Cephes logf (Moshier). */
function log(x: number): number {
  let e = Math.floor(Math.log2(x)) + 1;
  let m = x / 2 ** e; // in [0.5, 1): x is at least 2**-24, so this is exact
  if (m >= 1) [m, e] = [m / 2, e + 1];
  if (m < 0.5) [m, e] = [m * 2, e - 1];
  if (m < f32(Math.SQRT1_2)) [m, e] = [m + m, e - 1];
  m = f32(m - 1);
  const z = f32(m * m);
  const y = f32(fma(f32(poly(m, LOG) * m), z, f32(e * LN2_LOW)) - f32(z * 0.5));
  return fma(e, LN2_HIGH, f32(m + y));
}

/** Sine and cosine of a float in [0, 2 pi]. Source: Cephes sinf and cosf (Moshier). */
function sincos(angle: number): [number, number] {
  const octant = (Math.trunc(f32(angle * f32(4 / Math.PI))) + 1) & ~1;
  const x = PI_4.reduce((rest, part) => fma(octant, -part, rest), angle);
  const z = f32(x * x);
  const cosine = f32(fma(f32(poly(z, COS) * z), z, -f32(z * 0.5)) + 1);
  const sine = fma(f32(poly(z, SIN) * z), x, x);
  const [s, c] = octant & 2 ? [cosine, sine] : [sine, cosine];
  return [octant & 4 ? -s : s, (octant + 2) & 4 ? -c : c];
}
