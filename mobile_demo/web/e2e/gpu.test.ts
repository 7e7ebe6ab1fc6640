/** The default bundle on WebGPU as SwiftShader computes it: slow, but the same kernels as on a phone. */

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { psnr } from '../tests/golden';
import { DIST, launch, phone, SOFTWARE_GPU, WEB } from './browser';
import { serve } from './server';

const LEAST = 30; // dB: in float on the GPU, in 8 bits in the golden picture

it('draws what the Python runtime draws', { timeout: 180_000 }, async () => {
  const [{ prompt, seed, num_inference_steps: steps, rgb }] = JSON.parse(
    readFileSync(`${WEB}/../../tests/golden/default_bundle.json`).toString(),
  ).cases;
  const [server, browser] = [await serve(DIST, { isolated: true }), await launch(SOFTWARE_GPU)];
  try {
    const { page } = await phone(browser);
    await page.goto(`${server.url}?software-gpu`);
    await page.waitForFunction(() => window.addkit);
    const request = { prompt, seed, steps };
    const made = await page.evaluate(async (one) => {
      const { backend, rgba } = await window.addkit.generate(one);
      return { backend, rgb: [...rgba].filter((_, i) => i % 4 !== 3) };
    }, request);
    expect(made.backend).toBe('webgpu');
    expect(psnr(made.rgb, Buffer.from(rgb, 'base64'))).toBeGreaterThanOrEqual(LEAST);
  } finally {
    await browser.close();
    await server.close();
  }
});
