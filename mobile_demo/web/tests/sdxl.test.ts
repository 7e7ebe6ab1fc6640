import { describe, expect, it, test } from 'vitest';
import { parseManifest } from '../src/core/manifest';
import { type Graphs, Pipeline, type Tensor, type TextGraph } from '../src/core/pipeline';
import { Tokenizer } from '../src/core/tokenizer';
import { componentsOf, outputsOf } from '../src/engine/graphs';
import { refuseTooLarge } from '../src/engine/load';
import { bytes, floats, golden } from './golden';

interface Near {
  near: string[];
}
interface Encoder {
  ids: number[];
  states: Near;
  pooled: Near | null;
}
interface Call {
  timestep: number;
  sample: Near;
  encoder_hidden_states: Near;
  text_embeds: Near;
  time_ids: number[];
  output: Near;
}
interface Case {
  prompt: string;
  seed: number;
  steps: number;
  guidance: number;
  negative_prompt: string | null;
  calls: Call[];
  latents: Near;
}

const data = golden('sdxl.json', 'manifest', 'tokenizer', 'rows', 'texts', 'cases');
const manifest = parseManifest(data.manifest);
const [vocab, merges] = ['vocab.json', 'merges.txt'].map((name) =>
  bytes(`${data.tokenizer}/${name}`).toString(),
) as [string, string];
const tokenizers = [manifest.tokens, manifest.tokens2].map((tokens) =>
  Tokenizer.parse(vocab, merges, tokens),
);

function near(found: ArrayLike<number>, { near: bits }: Near, what: string): void {
  const expected = floats(bits);
  expect(found.length, what).toBe(expected.length);
  expected.forEach((value, i) => {
    const slack = data.tolerance.relative * Math.max(1, Math.abs(value));
    expect(Math.abs((found[i] as number) - value), `${what} ${i}`).toBeLessThanOrEqual(slack);
  });
}

/** What diffusers' own encoder gave for these ids. */
function encoder(which: 0 | 1): TextGraph {
  return async ({ input_ids }) => {
    const ids = [...(input_ids as Tensor).data].map(Number);
    const pad = (which ? manifest.tokens2 : manifest.tokens)?.padId;
    const known = data.texts.find(({ encoders }: { encoders: Encoder[] }) => {
      const own = (encoders[which] as Encoder).ids;
      return ids.every((id, i) => id === (own[i] ?? pad));
    });
    expect(known, `the ids of diffusers' tokenizer ${which + 1}`).toBeDefined();
    const { states, pooled } = known.encoders[which] as Encoder;
    return pooled ? [floats(states.near), floats(pooled.near)] : floats(states.near);
  };
}

test('a bundle that no browser can hold is refused by its size', () => {
  const file = { path: 'unet/model.onnx_data', sha256: '', pieces: [] };
  expect(() => refuseTooLarge({ name: 'xl', files: [{ ...file, bytes: 5.1e9 }] })).toThrow(/^xl has 5.1 GB/);
  expect(() => refuseTooLarge({ name: 'xl', files: [{ ...file, bytes: 3.5e9 }] })).not.toThrow();
});

describe('a bundle of SDXL', () => {
  it('has two text encoders, of which the later layers are asked for', () => {
    expect(componentsOf(manifest)).toEqual(['unet', 'text_encoder', 'text_encoder_2', 'vae_decoder']);
    expect(outputsOf(manifest, 'text_encoder')).toEqual(['hidden_states.1']);
    expect(outputsOf(manifest, 'text_encoder_2')).toEqual(['hidden_states.1', 'text_embeds']);
    expect(data.cases.length).toBe(data.count);
  });

  it.each(data.cases as Case[])(
    "$prompt, guidance $guidance: its U-Net gets what diffusers' gets",
    async (one) => {
      const calls = [...one.calls];
      let decoded: Float32Array | undefined;
      const graphs: Graphs = {
        text_encoder: encoder(0),
        text_encoder_2: encoder(1),
        unet: async (inputs) => {
          const call = calls.shift() as Call;
          const { encoder_hidden_states: states, text_embeds, time_ids, sample, timestep } = inputs;
          near((sample as Tensor).data as Float32Array, call.sample, 'sample');
          near((text_embeds as Tensor).data as Float32Array, call.text_embeds, 'text_embeds');
          const width = (states as Tensor).shape[2] as number;
          const rows = data.rows.flatMap((row: number) => [
            ...((states as Tensor).data as Float32Array).subarray(row * width, (row + 1) * width),
          ]);
          near(rows, call.encoder_hidden_states, 'encoder_hidden_states');
          expect([...(time_ids as Tensor).data]).toEqual(call.time_ids);
          expect((timestep as Tensor).data[0]).toBe(call.timestep);
          return floats(call.output.near);
        },
        vae_decoder: async ({ latent_sample }) => {
          decoded = (latent_sample as Tensor).data as Float32Array;
          return new Float32Array(3 * manifest.imageSize[0] * manifest.imageSize[1]);
        },
      };
      const { prompt, steps, negative_prompt } = one;
      const guidance = one.guidance
        ? { scale: one.guidance, negativePrompt: negative_prompt ?? '' }
        : undefined;
      const request = { prompt, seed: `${one.seed}`, steps, ...(guidance && { guidance }) };
      await new Pipeline(manifest, tokenizers, graphs).generate(request);
      expect(calls.length).toBe(0);
      near(
        (decoded as Float32Array).map((value) => value * manifest.scalingFactor),
        one.latents,
        'latents',
      );
    },
  );
});
