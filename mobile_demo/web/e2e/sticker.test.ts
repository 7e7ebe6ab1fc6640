/** White subjects of the shipped model on their white ground: stickers of them have no holes. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { encodePng } from '../src/core/png';
import { cutOut, sticker } from '../src/core/sticker';
import { DIST, launch, phone, WEB } from './browser';
import { type Server, serve } from './server';

const SUBJECTS = ['a rocket', 'a polar bear', 'a skull', 'a swan', 'a snowman', 'a soccer ball'];
const OUT = join(WEB, 'artefacts/stickers');
let browser: Browser;
let server: Server;
let page: Page;

beforeAll(async () => {
  [browser, server] = [await launch(), await serve(DIST, { isolated: true })];
  ({ page } = await phone(browser));
  await page.goto(server.url);
  await page.waitForFunction(() => window.addkit?.state.phase === 'ready', undefined, { timeout: 60_000 });
  mkdirSync(OUT, { recursive: true });
});
afterAll(async () => {
  await browser.close();
  await server.close();
});

/** Transparent pixels with opaque ones to their left, right, above and below, as a share of all that are so enclosed. */
function holes(rgba: Uint8ClampedArray, width: number, height: number): number {
  const opaque = (x: number, y: number) => (rgba[4 * (y * width + x) + 3] as number) > 127;
  const seen = (count: number, at: (k: number) => boolean) => Array.from({ length: count }, (_, k) => at(k));
  let [inside, clear] = [0, 0];
  for (let y = 0; y < height; y++) {
    const row = seen(width, (x) => opaque(x, y));
    for (let x = 0; x < width; x++) {
      const column = seen(height, (k) => opaque(x, k));
      const enclosed = [row.slice(0, x), row.slice(x + 1), column.slice(0, y), column.slice(y + 1)];
      if (row[x]) inside += 1;
      else if (enclosed.every((side) => side.includes(true))) [inside, clear] = [inside + 1, clear + 1];
    }
  }
  return clear / Math.max(1, inside);
}

it('a white subject has no holes', async () => {
  const found: number[] = [];
  for (const subject of SUBJECTS) {
    for (const style of ['3d', 'flat', 'cartoon']) {
      const request = { prompt: `${subject}, ${style} style`, seed: '7', steps: 1 };
      const made = await page.evaluate(async (one) => {
        const { rgba, width, height } = await window.addkit.generate(one);
        return { rgba: [...rgba], width, height };
      }, request);
      const picture = { ...made, rgba: Uint8ClampedArray.from(made.rgba) };
      const share = holes(cutOut(picture.rgba, picture.width, picture.height), picture.width, picture.height);
      found.push(share);
      const one = sticker(picture, 10);
      writeFileSync(
        join(OUT, `${subject.slice(2).replace(' ', '-')}-${style}.png`),
        await encodePng(one.rgba, one.width, one.height),
      );
      expect(share, request.prompt).toBeLessThan(0.03);
    }
  }
  const mean = found.reduce((a, b) => a + b) / found.length;
  console.log(
    `holes: ${(100 * mean).toFixed(1)} % on average, ${(100 * Math.max(...found)).toFixed(1)} % at most`,
  );
  expect(mean).toBeLessThan(0.01);
});
