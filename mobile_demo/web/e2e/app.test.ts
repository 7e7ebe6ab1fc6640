/** The default bundle in Chromium on an emulated phone, from plain static hosting. */

import { readFileSync } from 'node:fs';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { psnr } from '../tests/golden';
import { DIST, launch, phone, picture, pixels, shot, WEB } from './browser';
import { type Server, serve } from './server';

let server: Server;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let errors: string[];

beforeAll(async () => {
  [server, browser] = [await serve(DIST), await launch()];
  ({ context, page, errors } = await phone(browser, { permissions: ['clipboard-read', 'clipboard-write'] }));
});
afterAll(async () => {
  await browser.close();
  await server.close();
});

const field = () => page.getByTestId('prompt');

describe('first visit', () => {
  it('loads once, isolates itself through the service worker, and makes a picture of what is typed', async () => {
    await page.goto(server.url);
    await page.waitForFunction(() => crossOriginIsolated);
    await field().fill('a red fox');
    await picture(page, 'a red fox, 3d style');
    await shot(page, 'first-picture');
    const fetched = server.requests.filter((path) => path.startsWith('/models/pieces/'));
    expect(new Set(fetched).size).toBe(fetched.length);
    expect(await page.getByTestId('time').textContent()).toMatch(/\d+\s*ms/);
  });

  it('sends nothing over the network from then on', async () => {
    const before = server.requests.length;
    const elsewhere: string[] = [];
    context.on('request', (request) => elsewhere.push(request.url()));
    await field().fill('a slice of pizza');
    await picture(page, 'a slice of pizza, 3d style');
    const label = () => page.getByTestId('picture').getAttribute('aria-label');
    const [shownBefore, seedBefore] = [await label(), await seed()];
    await page.getByTestId('seed-dice').click();
    await expect
      .poll(async () => (await label()) !== shownBefore || (await seed()) !== seedBefore)
      .toBe(true);
    await field().fill('a slice of pizza');
    await page.getByTestId('style-3d').click();
    await picture(page, 'a slice of pizza, 3d style');
    const own = (path: string) => path !== '/sw.js'; // by which the browser looks for a newer version
    expect(server.requests.slice(before).filter(own)).toEqual([]);
    expect(elsewhere.filter((url) => !url.startsWith('blob:') && !url.startsWith('data:'))).toEqual([]);
  });
});

async function seed(): Promise<string | undefined> {
  return page.$eval('[data-testid=picture]', (canvas) => (canvas as HTMLElement).dataset.seed);
}

describe('pictures', () => {
  it('are the same for the same seed, and others for another', async () => {
    const seen = [];
    for (const one of ['7', '8', '7']) {
      await page.getByTestId('seed').fill(one);
      await page.getByTestId('seed').press('Enter');
      await picture(page, 'a slice of pizza, 3d style', one);
      seen.push(await pixels(page));
    }
    expect(seen[2]).toEqual(seen[0]);
    expect(seen[1]).not.toEqual(seen[0]);
  });

  it('follow the last text typed, whatever came before it', async () => {
    await field().fill('');
    await field().pressSequentially('a blue car', { delay: 30 });
    await picture(page, 'a blue car, 3d style');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await picture(page, 'a blue car, 3d style');
  });

  it('change with the style', async () => {
    await page.getByTestId('style-flat').click();
    await picture(page, 'a blue car, flat style');
  });

  it('come in variations, and a tap takes one over', async () => {
    const variation = page.getByTestId('variation-2');
    await variation.waitFor({ state: 'visible' });
    await variation.locator('canvas, img').first().waitFor({ state: 'visible', timeout: 30_000 });
    const label = await variation.getAttribute('aria-label');
    await variation.click();
    await page.waitForFunction(
      (shown) =>
        document.querySelector<HTMLElement>('[data-testid=picture]')?.dataset.shows ===
        shown?.split(', seed')[0],
      label,
    );
    await shot(page, 'variations');
  });

  it('morph between two prompts', async () => {
    await field().fill('a blue car');
    await page.getByTestId('style-flat').click();
    await page.getByTestId('morph-toggle').click();
    await page.getByTestId('morph-prompt').fill('a red apple');
    await page.getByTestId('morph-slider').fill('50');
    await page.waitForSelector('[data-testid=picture][data-t="0.5"]');
    await shot(page, 'morph');
    await page.getByTestId('morph-toggle').click();
  });
});

describe('taking a picture along', () => {
  it('saves a sticker that says how it was made, as PNG and as WebP of at most 100 kB', async () => {
    await page.getByTestId('take').click();
    for (const [format, begin] of [
      ['png', /^a-blue-car.*-sticker\.png$/],
      ['webp', /^a-blue-car.*-sticker\.webp$/],
    ] as const) {
      await page.getByTestId(`format-${format}`).click();
      await page.waitForFunction(
        (kind) => document.querySelector('[data-testid=take-facts]')?.textContent?.startsWith(kind),
        format === 'png' ? 'PNG' : 'WebP',
      );
      await page.getByTestId('preview').waitFor();
      const [download] = await Promise.all([page.waitForEvent('download'), page.getByTestId('save').click()]);
      expect(download.suggestedFilename()).toMatch(begin);
      const file = readFileSync(await download.path());
      if (format === 'png') {
        expect(file.toString('latin1')).toMatch(/parameters\0{5}a blue car, flat style\nSteps: 1, /);
      } else {
        expect(file.length).toBeLessThanOrEqual(100_000);
        expect(file.swap16().toString('utf16le')).toContain('a blue car, flat style\nSteps: 1, ');
      }
    }
    await shot(page, 'take');
    await page.getByTestId('format-png').click();
  });

  it('copies a sticker of 512 pixels with a transparent background', async () => {
    await page.waitForFunction(() =>
      document.querySelector('[data-testid=take-facts]')?.textContent?.startsWith('PNG'),
    );
    await page.getByTestId('copy').click();
    await page.waitForFunction(() => document.querySelector('.toasts')?.textContent?.includes('Copied'));
    const found = await page.evaluate(async () => {
      const [item] = await navigator.clipboard.read();
      const bitmap = await createImageBitmap((await item?.getType('image/png')) as Blob);
      const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext(
        '2d',
      ) as OffscreenCanvasRenderingContext2D;
      context.drawImage(bitmap, 0, 0);
      const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
      let clear = 0;
      for (let i = 3; i < data.length; i += 4) if (data[i] === 0) clear += 1;
      return { width: bitmap.width, corner: data[3], clear: clear / (data.length / 4) };
    });
    expect(found.width).toBe(512);
    expect(found.corner).toBe(0);
    expect(found.clear).toBeGreaterThan(0.1);
    await page.getByTestId('take-close').click();
  });

  it('keeps a history, and brings a picture of it back', async () => {
    await field().fill('a smiling sun');
    await picture(page, 'a smiling sun, flat style');
    await new Promise((resolve) => setTimeout(resolve, 2500));
    await page.getByTestId('history-open').click();
    await shot(page, 'history');
    await page.getByTestId('history-item').nth(1).click();
    await page.waitForFunction(
      () =>
        document.querySelector<HTMLElement>('[data-testid=picture]')?.dataset.prompt !==
        'a smiling sun, flat style',
    );
  });
});

describe('later visits', () => {
  it('work offline, and remember prompt and seed', async () => {
    await page.getByTestId('style-flat').click();
    await field().fill('an octopus');
    await picture(page, 'an octopus, flat style');
    const before = await pixels(page);
    await context.setOffline(true);
    await page.reload();
    await picture(page, 'an octopus, flat style');
    expect(await pixels(page)).toEqual(before);
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
    await context.setOffline(false);
  });
});

describe("after the site's data were cleared under an open page", () => {
  it('pictures and history go on, and the next visits are whole again, offline too', async () => {
    const client = await context.newCDPSession(page);
    await client.send('Storage.clearDataForOrigin', {
      origin: new URL(server.url).origin,
      storageTypes: 'all',
    });
    await field().fill('a pizza');
    await picture(page, 'a pizza, flat style');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(await page.getByTestId('toast').count()).toBe(0);
    await page.reload();
    await picture(page, 'a pizza, flat style');
    await page.getByTestId('history-open').click();
    expect(await page.getByTestId('history-item').count()).toBe(1);
    await page.goBack();
    await mended();
    await context.setOffline(true);
    await page.reload();
    await picture(page, 'a pizza, flat style');
    await context.setOffline(false);
  });

  it('files of the app that went alone come back with the next visit', async () => {
    await page.evaluate(async () => {
      for (const name of await caches.keys()) if (name.includes('precache')) await caches.delete(name);
    });
    await page.reload();
    await picture(page, 'a pizza, flat style');
    await mended();
    await context.setOffline(true);
    await page.reload();
    await picture(page, 'a pizza, flat style');
    await context.setOffline(false);
  });

  /** All files of the app are kept again. */
  async function mended(): Promise<void> {
    await page.waitForFunction(async () => {
      const name = (await caches.keys()).find((one) => one.includes('precache'));
      const keys = name ? await (await caches.open(name)).keys() : [];
      return (
        keys.some(({ url }) => url.includes('index.html')) && keys.some(({ url }) => url.includes('worker-'))
      );
    });
  }
});

describe('one truth', () => {
  const golden = JSON.parse(readFileSync(`${WEB}/../../tests/golden/default_bundle.json`).toString());

  it('draws what the Python runtime draws', async () => {
    let ran = 0;
    for (const { prompt, to, t, seed, num_inference_steps: steps, psnr_db, rgb } of golden.cases) {
      const request = { prompt, seed, steps, ...(to && { morph: { to, t } }) };
      const rgba = await page.evaluate(async (one) => [...(await window.addkit.generate(one)).rgba], request);
      const found = rgba.filter((_, i) => i % 4 !== 3);
      expect(psnr(found, Buffer.from(rgb, 'base64')), prompt).toBeGreaterThanOrEqual(
        psnr_db ?? golden.tolerance.psnr_db,
      );
      ran += 1;
    }
    expect(ran).toBe(golden.count);
  });
});

it('no error went uncaught, and the page may not reach any other address', async () => {
  expect(errors).toEqual([]);
  const reached = await page.evaluate(() =>
    fetch('https://example.org/').then(
      () => true,
      () => false,
    ),
  );
  expect([reached, errors.length > 0 && errors[0]]).toEqual([
    false,
    expect.stringContaining("connect-src 'self'"),
  ]);
});
