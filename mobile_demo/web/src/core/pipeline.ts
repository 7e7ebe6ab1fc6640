/** Tokens -> text -> latents -> picture: the chapters of runtime/pipeline.py, over graphs that anybody may run. */

import type { GenerateRequest, Picture, Times } from '../core/types';
import { BundleError } from './errors';
import { lerp } from './lerp';
import type { Manifest, Step } from './manifest';
import { checkSeed, randn } from './noise';
import { toRgba } from './pixels';
import { Memory } from './sampler';
import { mixed, type Text, Texts, zeros } from './texts';
import type { Tokenizer } from './tokenizer';

/** An array with its shape. */
export interface Tensor {
  data: Float32Array | BigInt64Array;
  shape: number[];
}

/** One opened network: inputs by name -> its main output, f32, batch of one. */
export type Graph = (inputs: Record<string, Tensor>) => Promise<Float32Array>;

/** An opened text encoder: its states, and behind them the pooled text where that is used. */
export type TextGraph = (inputs: Record<string, Tensor>) => Promise<Float32Array | Float32Array[]>;

/** The networks of a bundle. */
export interface Graphs {
  text_encoder: TextGraph;
  text_encoder_2?: TextGraph;
  unet: Graph;
  vae_decoder: Graph;
  /** latent_sample -> f32[1, 4, 512, 512]: colours in [-1, 1], alpha in [0, 1]. */
  vae_decoder_512?: Graph;
}

const LARGE: [number, number] = [512, 512];

/** What a picture shows, and what it changes to in a morph. */
type Prompts = Pick<Picture, 'prompt' | 'to' | 'open'>;

/** A loaded bundle. The same request gives the same picture. */
export class Pipeline {
  private readonly texts: Texts;

  /** `tokenizers`: of each text encoder, or the only one's. */
  constructor(
    readonly manifest: Manifest,
    tokenizers: Tokenizer | readonly Tokenizer[],
    private readonly graphs: Graphs,
  ) {
    const { conditioning, maxTokens } = manifest;
    this.texts = new Texts(conditioning.textEncoders, [tokenizers].flat(), graphs, maxTokens);
  }

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
    const prompts = this.completed(request, seed);
    const { text, droppedWords } = await timed(ms, 'text_encoder', () =>
      this.text(prompts, request.morph?.t, checkpoint),
    );
    const { guidance } = request;
    const unwanted =
      guidance &&
      (await timed(ms, 'text_encoder', () => this.unwanted(guidance.negativePrompt, text, checkpoint)));
    const memory = new Memory(seed, latentShape);
    for (const step of steps) {
      await checkpoint();
      const output = await timed(ms, 'unet', async () => {
        const wanted = await this.predict(latents, step, text);
        return unwanted ? lerp(await this.predict(latents, step, unwanted), wanted, guidance.scale) : wanted;
      });
      latents = memory.step(step, latents, output);
    }
    await checkpoint();
    const large = request.large === true && this.graphs.vae_decoder_512 !== undefined;
    const chw = await timed(ms, 'vae_decoder', () => this.decode(latents, large));
    const [height, width] = large ? LARGE : this.manifest.imageSize;
    const rgba = toRgba(chw, height, width);
    ms.total = performance.now() - started;
    return { request, ...prompts, width, height, rgba, ms, droppedWords };
  }

  /** The request's prompts with words for what they leave open, where the bundle has a table of them. */
  private completed({ prompt, morph, plain, words = {} }: GenerateRequest, seed: bigint): Prompts {
    const { variation } = this.manifest;
    const fits = (text: string) => this.texts.fits(text);
    const complete = (text: string) =>
      variation && !plain ? variation.completeFor(text, seed, words, fits) : { prompt: text, open: [] };
    return morph ? { ...complete(prompt), to: complete(morph.to).prompt } : complete(prompt);
  }

  private steps(count: number): Step[] {
    const steps = this.manifest.steps.get(count);
    if (!steps) {
      throw new RangeError(`${count} steps are not allowed: ${[...this.manifest.steps.keys()].join(', ')}`);
    }
    return steps;
  }

  /** The prompt, mixed with the second one where there is one. */
  private async text({ prompt, to }: Prompts, t = 0, checkpoint: () => Promise<void>) {
    const first = await this.texts.encode(prompt, checkpoint);
    if (to === undefined) return first;
    if (!(t >= 0 && t <= 1)) throw new RangeError(`t is ${t}: 0 to 1 is allowed`);
    const second = await this.texts.encode(to, checkpoint);
    return {
      text: mixed(first.text, second.text, t),
      droppedWords: [...first.droppedWords, ...second.droppedWords],
    };
  }

  /** The negative prompt; where there is none, its encoding too, or zeros, as the manifest says. */
  private async unwanted(prompt: string, wanted: Text, checkpoint: () => Promise<void>): Promise<Text> {
    if (!prompt && this.manifest.conditioning.zerosWithoutNegativePrompt) return zeros(wanted);
    return (await this.texts.encode(prompt, checkpoint)).text;
  }

  private async predict(latents: Float32Array, step: Step, text: Text): Promise<Float32Array> {
    const { latentShape, maxTokens, imageSize } = this.manifest;
    const { states, pooled } = text;
    return this.graphs.unet({
      sample: { data: latents, shape: [1, ...latentShape] },
      timestep: { data: Float32Array.of(step.timestep), shape: [] },
      encoder_hidden_states: { data: states, shape: [1, maxTokens, states.length / maxTokens] },
      ...(pooled && {
        text_embeds: { data: pooled, shape: [1, pooled.length] },
        time_ids: { data: Float32Array.of(...imageSize, 0, 0, ...imageSize), shape: [1, 6] },
      }),
    });
  }

  private async decode(latents: Float32Array, large: boolean): Promise<Float32Array> {
    const { name, latentShape, imageSize, scalingFactor } = this.manifest;
    const data = latents.map((value) => value / scalingFactor);
    const decoder = (large && this.graphs.vae_decoder_512) || this.graphs.vae_decoder;
    const chw = await decoder({ latent_sample: { data, shape: [1, ...latentShape] } });
    const [channels, size] = large ? [4, LARGE] : [3, imageSize];
    if (chw.length !== channels * size[0] * size[1]) {
      throw new BundleError(`bundle ${name} made ${chw.length} values; ${size} pixels are needed`);
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
