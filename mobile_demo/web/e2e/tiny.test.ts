/** The tiny bundle of the golden vectors in Chromium, on the CPU and on WebGPU as SwiftShader computes it. */

import { readFileSync } from 'node:fs';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { psnr } from '../tests/golden';
import { DIST, launch, phone, SOFTWARE_GPU, TINY, WEB } from './browser';
import { type Server, serve } from './server';

const golden = JSON.parse(readFileSync(`${WEB}/../../tests/golden/tiny_bundle/end_to_end.json`).toString());
let server: Server;

beforeAll(async () => {
  server = await serve(DIST, { models: TINY, isolated: true });
});
afterAll(() => server.close());

/** Every golden picture of the tiny bundle, by the page's engine. */
async function compare(page: Page): Promise<void> {
  let ran = 0;
  for (const {
    prompt,
    seed,
    num_inference_steps: steps,
    guidance_scale: scale,
    negative_prompt,
    rgb,
  } of golden.cases) {
    const request = {
      prompt,
      seed,
      steps,
      ...(scale && { guidance: { scale, negativePrompt: negative_prompt } }),
    };
    const rgba = await page.evaluate(async (one) => [...(await window.addkit.generate(one)).rgba], request);
    const found = rgba.filter((_, i) => i % 4 !== 3);
    expect(psnr(found, Buffer.from(rgb, 'base64')), prompt).toBeGreaterThanOrEqual(golden.tolerance.psnr_db);
    ran += 1;
  }
  expect(ran).toBe(golden.count);
}

async function ready(page: Page): Promise<string> {
  await page.waitForFunction(() => window.addkit?.state.phase === 'ready', undefined, { timeout: 60_000 });
  return page.evaluate(() => (window.addkit.state as { backend: string }).backend);
}

describe('on the CPU', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launch();
  });
  afterAll(() => browser.close());

  it('makes the golden pictures', async () => {
    const { page } = await phone(browser);
    await page.goto(server.url);
    expect(await ready(page)).toBe('wasm');
    await compare(page);
  });
});

describe('on WebGPU', () => {
  let browser: Browser;
  let page: Page;
  beforeAll(async () => {
    browser = await launch(SOFTWARE_GPU);
  });
  afterAll(() => browser.close());
  afterEach(() => page.close());

  it('makes the golden pictures', async () => {
    ({ page } = await phone(browser));
    await page.goto(`${server.url}?software-gpu`);
    expect(await ready(page)).toBe('webgpu');
    await compare(page);
  });

  it('falls back to the CPU and says so when the device is lost, also without a network', async () => {
    ({ page } = await phone(browser));
    await page.goto(`${server.url}?software-gpu`);
    await ready(page);
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.context().setOffline(true);
    await (await browser.newBrowserCDPSession()).send('Browser.crashGpuProcess');
    await page.evaluate(() => window.addkit.generate({ prompt: 'a pizza', seed: '0', steps: 1 }));
    await page.waitForFunction(() => (window.addkit.state as { backend?: string }).backend === 'wasm');
    await expect(page.getByTestId('toast').first().textContent()).resolves.toMatch(/CPU/);
  });
});
