import { describe, expect, it, vi } from 'vitest';
import { BundleError } from '../src/core/errors';
import { parseManifest } from '../src/core/manifest';
import { type Graph, type Graphs, Pipeline, parseSeed, type TextGraph } from '../src/core/pipeline';
import { Tokenizer } from '../src/core/tokenizer';
import type { Variation } from '../src/core/variation';
import { Cancelled } from '../src/engine/types';
import { bytes } from './golden';

const TINY = 'tests/golden/tiny_bundle';
const manifest = parseManifest(JSON.parse(bytes(`${TINY}/manifest.json`).toString()));
const tokenizer = Tokenizer.parse(
  bytes(`${TINY}/tokenizer/vocab.json`).toString(),
  bytes(`${TINY}/tokenizer/merges.txt`).toString(),
);
const [HEIGHT, WIDTH] = manifest.imageSize;
const request = { prompt: 'a fox', seed: '7', steps: 1 };

/** Graphs that compute nothing, with their calls on record. */
function graphs(changes: Partial<Graphs> = {}) {
  const size = manifest.latentShape.reduce((a, b) => a * b);
  const filled = (length: number, value: number) => async () => new Float32Array(length).fill(value);
  return {
    text_encoder: vi.fn<TextGraph>(changes.text_encoder ?? filled(manifest.maxTokens * 8, 2)),
    unet: vi.fn<Graph>(changes.unet ?? filled(size, 0)),
    vae_decoder: vi.fn<Graph>(changes.vae_decoder ?? filled(3 * HEIGHT * WIDTH, 1)),
  };
}

describe('Pipeline', () => {
  it("asks every network once a step, with the manifest's timesteps", async () => {
    const nets = graphs();
    const picture = await new Pipeline(manifest, tokenizer, nets).generate({ ...request, steps: 3 });
    const timesteps = nets.unet.mock.calls.map(([inputs]) => inputs.timestep?.data[0]);
    expect(timesteps).toEqual(manifest.steps.get(3)?.map(({ timestep }) => timestep));
    expect([nets.text_encoder.mock.calls.length, nets.vae_decoder.mock.calls.length]).toEqual([1, 1]);
    expect([picture.width, picture.height, picture.rgba.length]).toEqual([WIDTH, HEIGHT, WIDTH * HEIGHT * 4]);
    expect(picture.rgba.every((level) => level === 255)).toBe(true);
  });

  it('keeps the text states of prompts that it has seen, and no endless number of them', async () => {
    const nets = graphs();
    const pipeline = new Pipeline(manifest, tokenizer, nets);
    for (const prompt of ['a', 'b', 'a', 'A ']) await pipeline.generate({ ...request, prompt });
    expect(nets.text_encoder).toHaveBeenCalledTimes(2);
    for (let i = 0; i < 70; i++) await pipeline.generate({ ...request, prompt: `${i}` });
    nets.text_encoder.mockClear();
    await pipeline.generate({ ...request, prompt: 'a' });
    expect(nets.text_encoder).toHaveBeenCalledTimes(1);
  });

  it('mixes two prompts in a straight line', async () => {
    let turn = 0;
    const nets = graphs({
      text_encoder: async () => new Float32Array(manifest.maxTokens * 8).fill(turn++ ? 6 : 2),
    });
    await new Pipeline(manifest, tokenizer, nets).generate({ ...request, morph: { to: 'a cat', t: 0.25 } });
    expect(nets.unet.mock.calls[0]?.[0].encoder_hidden_states?.data[0]).toBe(3);
  });

  it('completes the prompts by the seed, unless they are to stay as typed', async () => {
    const nets = graphs();
    const varied = parseManifest(JSON.parse(bytes('tests/golden/manifests/valid/variation.json').toString()));
    const table = varied.variation as Variation;
    const pipeline = new Pipeline(varied, tokenizer, nets);
    const made = await pipeline.generate({ ...request, morph: { to: 'a pizza', t: 0.5 } });
    expect([made.prompt, made.to]).toEqual([table.complete('a fox', 7n), table.complete('a pizza', 7n)]);
    expect(made.request.prompt).toBe('a fox');
    const ids = nets.text_encoder.mock.calls.map(([inputs]) => inputs.input_ids?.data);
    expect(ids).toEqual(
      [made.prompt, made.to as string].map((text) => tokenizer.encode(text, varied.maxTokens).ids),
    );
    nets.text_encoder.mockClear();
    const again = await pipeline.generate({ ...request, prompt: made.prompt });
    expect([again.prompt, nets.text_encoder.mock.calls.length]).toEqual([made.prompt, 0]);
    const plain = await pipeline.generate({ ...request, plain: true });
    expect([plain.prompt, plain.to]).toEqual(['a fox', undefined]);
    const long = `a fox, ${'x '.repeat(90)}`;
    expect((await pipeline.generate({ ...request, prompt: long })).prompt).toBe(long);
    await pipeline.generate({ ...request, guidance: { scale: 2, negativePrompt: 'a dog' } });
    expect(nets.text_encoder.mock.calls.at(-1)?.[0].input_ids?.data).toEqual(
      tokenizer.encode('a dog', varied.maxTokens).ids,
    );
  });

  it('stops between two networks', async () => {
    const nets = graphs();
    let asked = 0;
    const stop = async () => {
      if (++asked === 3) throw new Cancelled('cancelled');
    };
    await expect(new Pipeline(manifest, tokenizer, nets).generate(request, stop)).rejects.toThrow(Cancelled);
    expect([nets.unet.mock.calls.length, nets.vae_decoder.mock.calls.length]).toEqual([1, 0]);
  });

  it('names the words that were dropped', async () => {
    const prompt = `${'fox '.repeat(80)}and a cat`;
    const { droppedWords } = await new Pipeline(manifest, tokenizer, graphs()).generate({
      ...request,
      prompt,
    });
    expect(droppedWords.slice(-3)).toEqual(['and', 'a', 'cat']);
  });

  it('refuses what is not allowed, in one line that says what is', async () => {
    const pipeline = new Pipeline(manifest, tokenizer, graphs());
    await expect(pipeline.generate({ ...request, steps: 9 })).rejects.toThrow(
      /^9 steps are not allowed: 1, 2, 3, 4$/,
    );
    await expect(pipeline.generate({ ...request, seed: `${2n ** 64n}` })).rejects.toThrow(/out of range/);
    await expect(pipeline.generate({ ...request, morph: { to: '', t: 1.5 } })).rejects.toThrow(/0 to 1/);
    await expect(pipeline.generate({ ...request, prompt: 'a \ud83e fox' })).rejects.toThrow(/not valid text/);
  });

  it('refuses a model that gives other sizes or no numbers', async () => {
    for (const values of [new Float32Array(5), new Float32Array(3 * HEIGHT * WIDTH).fill(Number.NaN)]) {
      const pipeline = new Pipeline(manifest, tokenizer, graphs({ vae_decoder: async () => values }));
      await expect(pipeline.generate(request)).rejects.toThrow(BundleError);
    }
  });
});

it.each(['', ' ', '1.5', '0x7', '1e3', 'seven', '-'])('parseSeed refuses %j', (text) => {
  expect(() => parseSeed(text)).toThrow(RangeError);
});

it("parseSeed reads torch's whole range", () => {
  expect([parseSeed('18446744073709551615'), parseSeed('-9223372036854775808')]).toEqual([
    2n ** 64n - 1n,
    -(2n ** 63n),
  ]);
});

describe('Tokenizer.parse', () => {
  it.each([
    ['[]', /no JSON object/],
    ['{', /cannot be read/],
    ['{"a": 1}', /lacks/],
    ['{"<|startoftext|>": 0, "<|endoftext|>": "1"}', /whole number/],
  ])('refuses %s', (vocab, why) => {
    expect(() => Tokenizer.parse(vocab, '')).toThrow(why);
    expect(() => Tokenizer.parse(vocab, '')).toThrow(BundleError);
  });
});
