/** Tokens -> text -> latents -> picture: the chapters of runtime/pipeline.py, over graphs that anybody may run. */

import type { GenerateRequest, Picture, Times } from '../core/types';
import { BundleError } from './errors';
import { lerp } from './lerp';
import type { Manifest, Step } from './manifest';
import { checkSeed, randn } from './noise';
import { toRgba } from './pixels';
import { Memory } from './sampler';
import type { Tokenizer } from './tokenizer';

/** An array with its shape. */
export interface Tensor {
  data: Float32Array | BigInt64Array;
  shape: number[];
}

/** One opened network: inputs by name -> its main output, f32, batch of one. */
export type Graph = (inputs: Record<string, Tensor>) => Promise<Float32Array>;

/** The networks of a bundle. */
export interface Graphs {
  text_encoder: Graph;
  unet: Graph;
  vae_decoder: Graph;
}

const KEPT_TEXTS = 64;

/** A loaded bundle. The same request gives the same picture. */
export class Pipeline {
  private readonly texts = new Map<string, Float32Array>();

  constructor(
    readonly manifest: Manifest,
    private readonly tokenizer: Tokenizer,
    private readonly graphs: Graphs,
  ) {}

  /**
   * One picture, without the backend's name. `checkpoint` is awaited before every network and may throw to stop.
   * @throws RangeError for a seed or number of steps that is not allowed, BundleError for a model that fails.
   */
  async generate(
    request: GenerateRequest,
    checkpoint: () => Promise<void> = async () => {},
  ): Promise<Omit<Picture, 'backend'>> {
    const started = performance.now();
    const ms: Times = { text_encoder: 0, unet: 0, vae_decoder: 0, total: 0 };
    const steps = this.steps(request.steps);
    const { latentShape } = this.manifest;
    const seed = checkSeed(parseSeed(request.seed));
    let latents = scaled(randn(seed, latentShape), steps);
    const text = await timed(ms, 'text_encoder', () => this.text(request, checkpoint));
    const { guidance } = request;
    const unwanted =
      guidance && (await timed(ms, 'text_encoder', () => this.states(guidance.negativePrompt, checkpoint)));
    const memory = new Memory(seed, latentShape);
    for (const step of steps) {
      await checkpoint();
      const output = await timed(ms, 'unet', async () => {
        const wanted = await this.predict(latents, step, text.states);
        return unwanted
          ? lerp(await this.predict(latents, step, unwanted.states), wanted, guidance.scale)
          : wanted;
      });
      latents = memory.step(step, latents, output);
    }
    await checkpoint();
    const chw = await timed(ms, 'vae_decoder', () => this.decode(latents));
    const [height, width] = this.manifest.imageSize;
    const rgba = toRgba(chw, height, width);
    ms.total = performance.now() - started;
    return { request, width, height, rgba, ms, droppedWords: text.droppedWords };
  }

  private steps(count: number): Step[] {
    const steps = this.manifest.steps.get(count);
    if (!steps) {
      throw new RangeError(`${count} steps are not allowed: ${[...this.manifest.steps.keys()].join(', ')}`);
    }
    return steps;
  }

  /** States of the prompt, f32[tokens, width], mixed with the second prompt's where there is one. */
  private async text(request: GenerateRequest, checkpoint: () => Promise<void>) {
    const first = await this.states(request.prompt, checkpoint);
    if (!request.morph) return first;
    const { to, t } = request.morph;
    if (!(t >= 0 && t <= 1)) throw new RangeError(`t is ${t}: 0 to 1 is allowed`);
    const second = await this.states(to, checkpoint);
    return {
      states: lerp(first.states, second.states, t),
      droppedWords: [...first.droppedWords, ...second.droppedWords],
    };
  }

  private async states(prompt: string, checkpoint: () => Promise<void>) {
    const { maxTokens } = this.manifest;
    const { ids, droppedWords } = this.tokenizer.encode(prompt, maxTokens);
    const key = ids.join(' ');
    const known = this.texts.get(key);
    if (known) return { states: known, droppedWords };
    await checkpoint();
    const states = await this.graphs.text_encoder({ input_ids: { data: ids, shape: [1, maxTokens] } });
    if (this.texts.size >= KEPT_TEXTS) this.texts.delete(this.texts.keys().next().value as string);
    this.texts.set(key, states);
    return { states, droppedWords };
  }

  private async predict(latents: Float32Array, step: Step, states: Float32Array): Promise<Float32Array> {
    const { latentShape, maxTokens } = this.manifest;
    return this.graphs.unet({
      sample: { data: latents, shape: [1, ...latentShape] },
      timestep: { data: Float32Array.of(step.timestep), shape: [] },
      encoder_hidden_states: { data: states, shape: [1, maxTokens, states.length / maxTokens] },
    });
  }

  private async decode(latents: Float32Array): Promise<Float32Array> {
    const { name, latentShape, imageSize, scalingFactor } = this.manifest;
    const data = latents.map((value) => value / scalingFactor);
    const chw = await this.graphs.vae_decoder({ latent_sample: { data, shape: [1, ...latentShape] } });
    if (chw.length !== 3 * imageSize[0] * imageSize[1]) {
      throw new BundleError(
        `bundle ${name} made ${chw.length} values; its manifest says ${imageSize} pixels`,
      );
    }
    if (!allFinite(chw)) throw new BundleError(`bundle ${name} computed values that are not numbers`);
    return chw;
  }
}

/** The first noise as the scheduler scales it. */
function scaled(noise: Float32Array, [first]: readonly Step[]): Float32Array {
  const scale = Math.fround(first?.noiseScale ?? 1);
  return scale === 1 ? noise : noise.map((value) => scale * value);
}

/** A plain loop: `every` with a function takes ten times as long. */
function allFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}

/** @throws RangeError when the text is not a whole number. */
export function parseSeed(text: string): bigint {
  if (!/^-?\d{1,20}$/.test(text))
    throw new RangeError(`seed ${text || 'is empty'}: a whole number is needed`);
  return BigInt(text);
}

async function timed<T>(ms: Times, stage: keyof Times, work: () => Promise<T>): Promise<T> {
  const start = performance.now();
  try {
    return await work();
  } finally {
    ms[stage] += performance.now() - start;
  }
}
