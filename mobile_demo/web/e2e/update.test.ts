/** A newer version of the app is put on the server while an older one is open. */

import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DIST, launch, phone, picture, TINY, WEB } from './browser';
import { type Server, serve } from './server';

const APP = join(WEB, 'artefacts/app');
let browser: Browser;
let server: Server;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
  rmSync(APP, { recursive: true, force: true });
  cpSync(DIST, APP, { recursive: true });
  server = await serve(APP, { models: TINY });
  browser = await launch();
  ({ context, page } = await phone(browser));
});
afterAll(async () => {
  await browser.close();
  await server.close();
});

/** The same app under another title: index.html and its entry in the service worker's list change. */
function deploy(): void {
  edit('index.html', /<title>[^<]*/, '<title>Next');
  edit('sw.js', /[0-9a-f]{32}(?=","url":"index.html")/, '0'.repeat(32));
}

function edit(name: string, from: RegExp, to: string): void {
  const before = readFileSync(join(APP, name)).toString();
  const after = before.replace(from, to);
  expect(after).not.toBe(before);
  writeFileSync(join(APP, name), after);
}

async function draws(on: Page, text: string): Promise<void> {
  await on.getByTestId('prompt').fill(text);
  await picture(on, `${text}, 3d style`);
}

/** The title once the page has been loaded again and shows its controls, by whichever version. */
async function started(): Promise<string> {
  await page.reload();
  await page.getByTestId('prompt').waitFor();
  return page.title();
}

it('goes on with the old version while another page is open, and comes with the next start of the only one', async () => {
  await page.goto(server.url);
  await page.waitForFunction(() => crossOriginIsolated);
  await draws(page, 'a red fox');
  deploy();
  const other = await context.newPage();
  await other.goto(server.url);
  await other.evaluate(async () => (await navigator.serviceWorker.ready).update());
  await other.waitForFunction(async () => Boolean((await navigator.serviceWorker.ready).waiting));
  await other.reload();
  await draws(other, 'a blue car');
  await draws(page, 'a green apple');
  expect([await page.title(), await other.title()]).toEqual(['ADDKit Stickers', 'ADDKit Stickers']);
  await other.close();
  await expect.poll(started, { timeout: 60_000, interval: 1000 }).toBe('Next'); // the browser may go on listing a closed page
  await draws(page, 'a rocket');
  await context.setOffline(true);
  await page.reload();
  await picture(page, 'a rocket, 3d style');
  expect(await page.title()).toBe('Next');
});
