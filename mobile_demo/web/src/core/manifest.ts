/** manifest.json: its fields, read as strictly as the Python runtime reads them (runtime/manifest.py). */

import { readTokens, type Tokens } from './added';
import { type Conditioning, readConditioning, SD } from './conditioning';
import { BundleError } from './errors';
import { isPrintable } from './plain';
import { CLEAN, ddimWeights, type Level, type PredictionType } from './schedule';
import { Variation } from './variation';

const FORMAT_VERSION = 1;
const PRECISIONS = ['fp32', 'fp16', 'int8', 'int8-weights', 'int4-weights'];
const MOST = {
  side: 4096,
  pixels: 2048 ** 2,
  latents: 2 ** 24,
  tokens: 4096,
  timestep: 10_000,
  weight: 1e6,
  memory: 8,
  sizes: 100,
  files: 1000,
  bytes: 16e9,
};
const MOST_NAME = 200;

/**
 * One call of the U-Net and what the scheduler makes of its output: a sum of `latents[k]` times the U-Net's input k
 * steps ago, `outputs[k]` times its output k steps ago, and `noise` times the seed's fresh noise number `draw`.
 */
export interface Step extends Level {
  timestep: number;
  latents: readonly number[];
  outputs: readonly number[];
  noise: number;
  draw: number;
  /** Of the noise that a run starts from here with. */
  noiseScale: number;
}

/** What a file of the bundle must be. */
export interface FileFacts {
  /** 64 hexadecimal digits. */
  sha256: string;
  bytes: number;
}

/** The facts of a bundle that the app uses. */
export interface Manifest {
  name: string;
  precision: string;
  /** Height, width in pixels; the app draws this size, also where the bundle lists others. */
  imageSize: [number, number];
  /** Channels, height, width. */
  latentShape: [number, number, number];
  predictionType: PredictionType;
  /** Latents are divided by it before the decoder. */
  scalingFactor: number;
  /** That the text encoder reads, start and end marks included. */
  maxTokens: number;
  /** Number of steps -> the steps, noisiest first. */
  steps: Map<number, Step[]>;
  /** Every file but manifest.json, by its path with "/". */
  files: Map<string, FileFacts>;
  /** Padding and added tokens; undefined in bundles of older versions. */
  tokens: Tokens | undefined;
  /** The same of a second text encoder's tokenizer. */
  tokens2: Tokens | undefined;
  /** What the U-Net is told. */
  conditioning: Conditioning;
  /** What prompts leave open; undefined: they are drawn as they are typed. */
  variation: Variation | undefined;
}

const FIELDS: Record<string, (value: unknown) => unknown> = {
  format_version: (value) => value,
  name: readName,
  precision: (value) => oneOf(value, PRECISIONS),
  image_size: (value) => sizes(value, 2, MOST.pixels),
  latent_shape: (value) => sizes(value, 3, MOST.latents),
  prediction_type: (value) => oneOf(value, ['v_prediction', 'epsilon']),
  scaling_factor: (value) => real(value, 1e-6, 1e6),
  max_tokens: (value) => whole(value, 3, MOST.tokens),
  steps: readSteps,
  files: readFiles,
  licences: readLicences,
  training: object,
  parity: object,
  tokenizer: (value) => (value === undefined ? undefined : readTokens(value)),
  tokenizer_2: (value) => (value === undefined ? undefined : readTokens(value)),
  conditioning: (value) => (value === undefined ? SD : readConditioning(value)),
  sizes: (value) => (value === undefined ? undefined : readSizes(value)),
  variation: (value) => (value === undefined ? undefined : Variation.parse(value)),
};
// Fields that bundles of older versions, with one text encoder, of one size, or without a table lack.
const OPTIONAL = ['tokenizer', 'tokenizer_2', 'conditioning', 'sizes', 'variation'];

/** Checks and converts parsed JSON. @throws BundleError on an unknown or missing field or a bad value. */
export function parseManifest(data: unknown): Manifest {
  const fields = named('', () => object(data));
  if (fields.format_version !== FORMAT_VERSION) {
    const found = shown(fields.format_version);
    throw new BundleError(
      `manifest.json: format_version ${found} is unknown, this app reads ${FORMAT_VERSION}`,
    );
  }
  checkKeys(fields, Object.keys(FIELDS));
  const read = Object.fromEntries(
    Object.entries(FIELDS).map(([name, reader]) => [name, named(name, () => reader(fields[name]))]),
  );
  checkSizes(
    read.sizes as number[][] | undefined,
    read.image_size as number[],
    (read.latent_shape as number[]).slice(1),
  );
  checkFiles(read.files as Map<string, FileFacts>, read.conditioning as Conditioning);
  return {
    name: read.name as string,
    precision: read.precision as string,
    imageSize: read.image_size as [number, number],
    latentShape: read.latent_shape as [number, number, number],
    predictionType: read.prediction_type as PredictionType,
    scalingFactor: read.scaling_factor as number,
    maxTokens: read.max_tokens as number,
    steps: withWeights(read.steps as Map<number, Step[]>, read.prediction_type as PredictionType),
    files: read.files as Map<string, FileFacts>,
    tokens: read.tokenizer as Tokens | undefined,
    tokens2: read.tokenizer_2 as Tokens | undefined,
    conditioning: read.conditioning as Conditioning,
    variation: read.variation as Variation | undefined,
  };
}

/** What `read` gives; what it throws, as a BundleError that names the field. */
function named<T>(field: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    const where = field ? `manifest.json: ${field}` : 'manifest.json';
    throw error instanceof BundleError ? error : new BundleError(`${where}: ${(error as Error).message}`);
  }
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

/** Exactly these keys: an unread one would be a hidden mistake. */
function checkKeys(found: Record<string, unknown>, known: string[]): void {
  const unknown = Object.keys(found).filter((key) => !known.includes(key));
  const missing = known.filter((key) => !Object.hasOwn(found, key) && !OPTIONAL.includes(key));
  if (unknown.length) throw new BundleError(`manifest.json: unknown field ${shown(unknown.join(', '))}`);
  if (missing.length) throw new BundleError(`manifest.json: missing field ${missing.join(', ')}`);
}

function object(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error('an object is needed');
  return value as Record<string, unknown>;
}

function list(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw new Error('a list is needed');
  return value;
}

function readName(value: unknown): string {
  if (typeof value !== 'string' || !value || value.length > MOST_NAME || !isPrintable(value)) {
    throw new Error(
      `text of 1 to ${MOST_NAME} characters that can be printed is needed, not ${shown(value)}`,
    );
  }
  return value;
}

function oneOf(value: unknown, allowed: string[]): string {
  if (typeof value !== 'string' || !allowed.includes(value)) {
    throw new Error(`one of ${allowed.join(', ')} is needed, not ${shown(value)}`);
  }
  return value;
}

function whole(value: unknown, least: number, most: number): number {
  if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) {
    throw new Error(`a whole number from ${least} to ${most} is needed, not ${shown(value)}`);
  }
  return value as number;
}

function real(value: unknown, least: number, most: number): number {
  if (typeof value !== 'number' || !(value >= least && value <= most)) {
    throw new Error(`a number from ${least} to ${most} is needed, not ${shown(value)}`);
  }
  return value;
}

/** `count` sizes whose product is at most `most`. */
function sizes(value: unknown, count: number, most: number): number[] {
  const found = list(value).map((size) => whole(size, 1, MOST.side));
  if (found.length !== count) throw new Error(`${count} whole numbers are needed, not ${shown(value)}`);
  const product = found.reduce((a, b) => a * b);
  if (product > most) throw new Error(`they multiply to ${product}, ${most} at most is allowed`);
  return found;
}

/** [[height, width], ...], each once. */
function readSizes(value: unknown): number[][] {
  const found = list(value).map((size) => sizes(size, 2, MOST.pixels));
  if (found.length < 1 || found.length > MOST.sizes)
    throw new Error(`1 to ${MOST.sizes} sizes are needed, not ${found.length}`);
  if (new Set(found.map(String)).size !== found.length) throw new Error('a size appears twice');
  return found;
}

/** Every size has whole latents, and one is the size of a call that names none. */
function checkSizes(several: number[][] | undefined, own: number[], latents: number[]): void {
  if (several === undefined) return;
  const whole = several.every((size) =>
    size.every((side, i) => (side * (latents[i] as number)) % (own[i] as number) === 0),
  );
  if (!whole) throw new BundleError("manifest.json: sizes has one that is no multiple of a latent's pixels");
  if (!several.some((size) => String(size) === String(own)))
    throw new BundleError(`manifest.json: sizes lacks image_size, ${shown(own)}`);
}

/** {"1": [{timestep, alpha, sigma}], ...}: as many entries as the key says, noisiest first. */
function readSteps(value: unknown): Map<number, Step[]> {
  const entries = Object.entries(object(value));
  if (!entries.length) throw new Error('at least one number of steps is needed');
  return new Map(entries.map(([key, steps]) => [count(key), readStepsOf(count(key), list(steps))]));
}

function count(key: string): number {
  if (!/^[1-9][0-9]{0,3}$/.test(key)) throw new Error(`${shown(key)} is not a number of steps`);
  return Number(key);
}

function readStepsOf(n: number, entries: unknown[]): Step[] {
  const steps = entries.map(readStep);
  const falling = steps.every((step, i) => i === 0 || step.timestep <= (steps[i - 1] as Step).timestep);
  const distinct = new Set(steps.map((step) => step.timestep)).size;
  // A solver of second order evaluates the U-Net up to twice a step, the second time at the same timestep.
  if (!falling || distinct !== n || steps.length > 2 * n) {
    throw new Error(`${n} falling timesteps are needed under ${n}`);
  }
  const early = steps.findIndex(
    ({ latents, outputs }, i) => Math.max(latents.length, outputs.length) > i + 1,
  );
  if (early >= 0) throw new Error(`step ${early + 1} of ${n} needs more steps before it than there are`);
  return steps;
}

function readStep(value: unknown): Step {
  const entry = object(value);
  const optional = ['latents', 'outputs', 'noise', 'draw', 'noise_scale'].filter((key) => key in entry);
  checkKeys(entry, ['timestep', 'alpha', 'sigma', ...optional]);
  const [alpha, sigma] = [real(entry.alpha, 0, 1), real(entry.sigma, 0, 1)];
  const timestep = real(entry.timestep, -MOST.timestep, MOST.timestep);
  if (Math.abs(alpha ** 2 + sigma ** 2 - 1) > 1e-3) {
    throw new Error(`alpha**2 + sigma**2 is not 1 at timestep ${timestep}`);
  }
  const [latents, outputs] = [weights(entry.latents ?? []), weights(entry.outputs ?? [])];
  const noise = real(entry.noise ?? 0, -MOST.weight, MOST.weight);
  const draw = whole(entry.draw ?? 0, 0, MOST.memory);
  if (!latents.length !== !outputs.length || !noise !== !draw) {
    throw new Error('latents goes with outputs, and noise with draw');
  }
  const noiseScale = real(entry.noise_scale ?? 1, 0, MOST.weight);
  return { timestep, alpha, sigma, latents, outputs, noise, draw, noiseScale };
}

function weights(value: unknown): number[] {
  const found = list(value).map((weight) => real(weight, -MOST.weight, MOST.weight));
  if (found.length > MOST.memory) throw new Error(`a list of at most ${MOST.memory} numbers is needed`);
  return found;
}

/** Those of a manifest that gives levels alone (addkit 0.2 and before) are DDIM's from level to level. */
function withWeights(table: Map<number, Step[]>, kind: PredictionType): Map<number, Step[]> {
  const complete = (step: Step, next: Level): Step => {
    if (step.outputs.length) return step;
    const [ofLatents, ofOutput] = ddimWeights(kind, step, next);
    return { ...step, latents: [ofLatents], outputs: [ofOutput] };
  };
  return new Map(
    [...table].map(([n, steps]) => [n, steps.map((step, i) => complete(step, steps[i + 1] ?? CLEAN))]),
  );
}

/** {"unet/model.onnx": {sha256, bytes}, ...}; a path that leaves the folder is refused. */
function readFiles(value: unknown): Map<string, FileFacts> {
  const entries = Object.entries(object(value));
  if (entries.length > MOST.files)
    throw new Error(`${entries.length} files are too many, ${MOST.files} at most`);
  return new Map(entries.map(([path, facts]) => [inside(path), readFacts(facts)]));
}

/** The networks and tokenizers that every call needs must be among the files. */
function checkFiles(files: Map<string, FileFacts>, { textEncoders }: Conditioning): void {
  const networks = [...textEncoders.map(({ component }) => component), 'unet', 'vae_decoder'];
  const tokenizers = textEncoders.flatMap(({ tokenizer }) => [
    `${tokenizer}/vocab.json`,
    `${tokenizer}/merges.txt`,
  ]);
  const wanted = [...networks.map((part) => `${part}/model.onnx`), ...tokenizers];
  const missing = wanted.filter((path) => !files.has(path));
  if (missing.length) throw new BundleError(`manifest.json: files lacks ${missing.join(', ')}`);
}

/** The path itself, when every system reads it as the same file below the folder, and not as a hidden one. */
function inside(path: string): string {
  const usual = isPrintable(path) && path.length <= MOST_NAME && !/[\\:*?"<>|]/.test(path);
  const plain = path.split('/').every((part) => part !== '' && !/^[. ]|[. ]$/.test(part));
  if (!usual || !plain || path === 'manifest.json')
    throw new Error(`${shown(path)} is not a path inside the bundle`);
  return path;
}

function readFacts(value: unknown): FileFacts {
  const facts = object(value);
  checkKeys(facts, ['sha256', 'bytes']);
  if (typeof facts.sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(facts.sha256)) {
    throw new Error('sha256 must be 64 hexadecimal digits');
  }
  return { sha256: facts.sha256, bytes: whole(facts.bytes, 0, MOST.bytes) };
}

function readLicences(value: unknown): unknown[] {
  for (const entry of list(value)) checkKeys(object(entry), ['what', 'licence', 'source']);
  return value as unknown[];
}
