import { readdirSync } from 'node:fs';
import { describe, expect, it, test } from 'vitest';
import { readTokens } from '../src/core/added';
import { BundleError } from '../src/core/errors';
import { parseManifest, type Step } from '../src/core/manifest';
import { randn } from '../src/core/noise';
import { toRgba, toUint8 } from '../src/core/pixels';
import { Memory } from '../src/core/sampler';
import {
  CLEAN,
  ddimWeights,
  type Level,
  type PredictionType,
  scaledLinearLevels,
  trailingTimesteps,
  weightedSum,
} from '../src/core/schedule';
import { Tokenizer } from '../src/core/tokenizer';
import { bytes, floats, golden, ROOT, ulps } from './golden';

test('tokenizer: ids exactly', () => {
  const data = golden('tokenizer.json', 'max_tokens', 'groups');
  expect(data.tolerance).toBe('exact');
  let ran = 0;
  for (const group of data.groups) {
    const [vocab, merges] = ['vocab.json', 'merges.txt'].map((name) =>
      bytes(`${group.tokenizer}/${name}`).toString(),
    );
    const { pad_id, added } = group;
    const tokens = added && readTokens({ pad_id, added });
    const tokenizer = Tokenizer.parse(vocab as string, merges as string, tokens);
    for (const { text, ids } of group.cases) {
      const padding = Array(data.max_tokens - ids.length).fill(group.pad_id);
      expect([...tokenizer.encode(text, data.max_tokens).ids].map(Number), text).toEqual([
        ...ids,
        ...padding,
      ]);
      ran += 1;
    }
  }
  expect(ran).toBe(data.count);
  expect(ran).toBeGreaterThan(1200);
});

describe('tokenizer', () => {
  const [vocab, merges] = ['vocab.json', 'merges.txt'].map((name) =>
    bytes(`runtime/bundles/sticker-128/tokenizer/${name}`).toString(),
  ) as [string, string];

  it('reads a page that is one word, as languages without spaces write it', () => {
    const { ids, droppedWords } = Tokenizer.parse(vocab, merges).encode('ก'.repeat(10_000));
    expect([ids.length, droppedWords.length]).toEqual([77, 1]);
  }, 15_000);

  it("refuses half of a character by an error that is not the GPU's fault", () => {
    expect(() => Tokenizer.parse(vocab, merges).encode('fox \ud83e')).toThrow(RangeError);
  });
});

test('noise: within the stated ulps', () => {
  const data = golden('noise.json', 'cases', 'draws');
  let ran = 0;
  for (const { seed, shape, at, bits } of data.cases) {
    const found = randn(BigInt(seed), shape);
    expect(found.length).toBe(shape.reduce((a: number, b: number) => a * b, 1));
    const expected = floats(bits);
    const far = at.map((index: number, i: number) => ulps(found[index] as number, expected[i] as number));
    expect(Math.max(...far), `seed ${seed}, ${shape}`).toBeLessThanOrEqual(data.tolerance.ulp);
    ran += 1;
  }
  for (const { seed, shape, draw, at, bits } of data.draws) {
    const found = randn(BigInt(seed), shape, draw);
    const expected = floats(bits);
    const far = at.map((index: number, i: number) => ulps(found[index] as number, expected[i] as number));
    expect(Math.max(...far), `draw ${draw}, ${shape}`).toBeLessThanOrEqual(data.tolerance.ulp);
  }
  expect(data.draws.length).toBeGreaterThan(20);
  expect(ran).toBe(data.count);
  expect(ran).toBeGreaterThan(200);
});

interface Case {
  prediction_type: PredictionType;
  steps: number;
  timesteps: number[];
  calls: (Record<'alphas' | 'sigmas' | 'x' | 'model_output' | 'expected', string[]> &
    Record<'timestep' | 'next_timestep', number>)[];
}

interface Run {
  scheduler: string;
  seed: number;
  shape: number[];
  steps: (Omit<Step, 'noiseScale'> & { noise_scale: number })[];
  model_outputs: string[][];
  expected: string[];
}

describe('schedule', () => {
  const data = golden('schedule.json', 'config', 'cases', 'runs');
  const { relative } = data.tolerance;
  const levels = scaledLinearLevels(
    data.config.beta_start,
    data.config.beta_end,
    data.config.num_train_timesteps,
  );

  it('is tested on every case', () => {
    expect(data.config.beta_schedule).toBe('scaled_linear');
    expect(data.cases.length).toBe(data.count);
  });

  it.each(data.cases as Case[])(
    '$prediction_type in $steps steps',
    ({ prediction_type, steps, timesteps, calls }) => {
      expect(trailingTimesteps(steps).slice(0, timesteps.length)).toEqual(timesteps);
      for (const call of calls) {
        const now = levels[call.timestep] as Level;
        const next = call.next_timestep < 0 ? CLEAN : (levels[call.next_timestep] as Level);
        near([now.alpha, next.alpha], floats(call.alphas), relative);
        near([now.sigma, next.sigma], floats(call.sigmas), relative);
        const [ofLatents, ofOutput] = ddimWeights(prediction_type, now, next);
        const sum = weightedSum([
          [ofLatents, floats(call.x)],
          [ofOutput, floats(call.model_output)],
        ]);
        near(sum, floats(call.expected), relative);
      }
    },
  );

  it.each(data.runs as Run[])('$scheduler, $steps.length evaluations', (run) => {
    const steps: Step[] = run.steps.map(({ noise_scale, ...step }) => ({ ...step, noiseScale: noise_scale }));
    const memory = new Memory(BigInt(run.seed), run.shape);
    const scale = Math.fround((steps[0] as Step).noiseScale);
    let latents: Float32Array = randn(BigInt(run.seed), run.shape).map((value) => value * scale);
    for (const [i, step] of steps.entries()) {
      latents = memory.step(step, latents, floats(run.model_outputs[i] as string[]));
    }
    near(latents, floats(run.expected), relative);
  });
});

function near(found: ArrayLike<number>, expected: Float32Array, relative: number): void {
  const slack = relative * Math.max(...expected.map(Math.abs));
  expected.forEach((value, i) => {
    expect(Math.abs((found[i] as number) - value)).toBeLessThanOrEqual(relative * Math.abs(value) + slack);
  });
}

test('pixels: exactly', () => {
  const data = golden('pixels.json', 'cases', 'pictures');
  expect(data.tolerance).toBe('exact');
  for (const { bits, expected } of data.cases)
    expect(toUint8(floats([bits])[0] as number), bits).toBe(expected);
  for (const { bits, height, width, rgb } of data.pictures) {
    const rgba = [...toRgba(floats(bits), height, width)];
    expect(rgba.filter((_, i) => i % 4 !== 3)).toEqual(rgb);
    expect(rgba.filter((_, i) => i % 4 === 3).every((alpha) => alpha === 255)).toBe(true);
  }
  expect(data.cases.length + data.pictures.length).toBe(data.count);
  expect(data.count).toBeGreaterThan(500);
});

describe('manifests', () => {
  const data = golden('manifests/index.json', 'cases');

  it('are all listed', () => {
    const files = ['valid', 'invalid'].flatMap((folder) =>
      readdirSync(new URL(`tests/golden/manifests/${folder}`, ROOT)).map((name) => `${folder}/${name}`),
    );
    expect(data.cases.map((row: { file: string }) => row.file).sort()).toEqual(files.sort());
    expect(data.cases.length).toBe(data.count);
  });

  it.each(data.cases as { file: string; valid: boolean }[])('$file', ({ file, valid }) => {
    const parsed = JSON.parse(bytes(`tests/golden/manifests/${file}`).toString());
    if (valid) {
      const manifest = parseManifest(parsed);
      expect(manifest.name).toBe(parsed.name);
      expect(manifest.files.size).toBe(Object.keys(parsed.files).length);
      expect([...manifest.steps.keys()].map(String)).toEqual(Object.keys(parsed.steps));
      return;
    }
    expect(() => parseManifest(parsed)).toThrow(BundleError);
    expect(() => parseManifest(parsed)).toThrow(/^manifest\.json[^\n]*$/);
  });
});
