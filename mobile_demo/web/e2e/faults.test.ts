/** What goes wrong on the way: the download, the storage, the patience of a person. */

import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { DIST, launch, phone, picture, shot, TINY } from './browser';
import { type Server, serve } from './server';

const isPiece = (path: string) => path.startsWith('/models/pieces/');
let browser: Browser;
let server: Server;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

beforeEach(async () => {
  server = await serve(DIST, { models: TINY, isolated: true });
  ({ context, page } = await phone(browser));
});
afterEach(async () => {
  await context.close();
  await server.close();
});

async function makesPictures(): Promise<void> {
  await page.getByTestId('prompt').fill('a pizza');
  await picture(page, 'a pizza, 3d style');
}

/** Pieces in Cache Storage. */
function kept(): Promise<number> {
  return page.evaluate(async () => (await (await caches.open('addkit-models')).keys()).length);
}

describe('a download', () => {
  it('that arrives damaged is found by its hash and repaired by a second one', async () => {
    const seen = new Set<string>();
    server.fault = (path) =>
      isPiece(path) && !seen.has(path) && seen.add(path) && seen.size === 3 ? 'corrupt' : undefined;
    await page.goto(server.url);
    await makesPictures();
    await expect(page.getByTestId('toast').first().textContent()).resolves.toMatch(/damaged/);
  });

  it('that stays damaged is refused in words, and works when tried again', async () => {
    server.fault = (path) => (isPiece(path) ? 'corrupt' : undefined);
    await page.goto(server.url);
    await page.getByTestId('retry').waitFor({ state: 'visible', timeout: 30_000 });
    await expect(page.getByRole('alert').textContent()).resolves.toMatch(/damaged/);
    await shot(page, 'damaged');
    server.fault = () => undefined;
    await page.getByTestId('retry').click();
    await makesPictures();
  });

  it('is found out when what was kept is damaged later', async () => {
    await page.goto(server.url);
    await makesPictures();
    await page.evaluate(async () => {
      const cache = await caches.open('addkit-models');
      const [first] = await cache.keys();
      await cache.put(first as Request, new Response(new Uint8Array(10)));
    });
    const before = server.requests.filter(isPiece).length;
    await page.reload();
    await makesPictures();
    expect(server.requests.filter(isPiece).length).toBe(before + 1);
  });

  it('goes on where a reload broke it off', async () => {
    let answered = 0;
    server.fault = (path) => (isPiece(path) && ++answered > 4 ? { delay: 60_000 } : undefined);
    await page.goto(server.url);
    await expect.poll(kept).toBe(4);
    await shot(page, 'downloading');
    server.fault = () => undefined;
    server.requests.length = 0;
    await page.reload();
    await makesPictures();
    expect(server.requests.filter(isPiece).length).toBe((await kept()) - 4);
  });

  it('goes on by itself when the network is back', async () => {
    let answered = 0;
    server.fault = (path) => (isPiece(path) && ++answered > 4 ? 'drop' : undefined);
    await page.goto(server.url);
    await page.getByTestId('retry').waitFor({ state: 'visible', timeout: 30_000 });
    await context.setOffline(true);
    server.fault = () => undefined;
    await context.setOffline(false);
    await makesPictures();
  });

  it('that the network drops says so, and goes on when tried again', async () => {
    let answered = 0;
    server.fault = (path) => (isPiece(path) && ++answered > 4 ? 'drop' : undefined);
    await page.goto(server.url);
    await page.getByTestId('retry').waitFor({ state: 'visible', timeout: 30_000 });
    await expect(page.getByRole('alert').textContent()).resolves.toMatch(/network/);
    server.fault = () => undefined;
    await page.getByTestId('retry').click();
    await makesPictures();
  });
});

describe('storage', () => {
  it('that is full lets the app work from memory and say so', async () => {
    const client = await context.newCDPSession(page);
    await page.goto(server.url);
    await client.send('Storage.overrideQuotaForOrigin', {
      origin: new URL(server.url).origin,
      quotaSize: 1000,
    });
    await page.evaluate(() => caches.delete('addkit-models'));
    await page.reload();
    await makesPictures();
    await expect(page.getByTestId('toast').first().textContent()).resolves.toMatch(/no room/);
    await shot(page, 'no-room');
  });
});

describe('patience', () => {
  it('can run out: a picture can be cancelled', async () => {
    await page.goto(server.url);
    await makesPictures();
    const outcome = await page.evaluate(async () => {
      const stop = new AbortController();
      const first = window.addkit.generate({ prompt: 'a fox', seed: '1', steps: 4 }, stop.signal);
      stop.abort();
      const name = await first.catch((error: Error) => error.name);
      return [name, (await window.addkit.generate({ prompt: 'a fox', seed: '1', steps: 1 })).width];
    });
    expect(outcome).toEqual(['Cancelled', 40]);
  });
});
