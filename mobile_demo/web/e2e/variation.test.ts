/** Variations, chips and dice: the shipped bundle as it is, and with a table of variation added to its manifest. */

import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { difference } from '../src/core/difference';
import { DIST, launch, phone, picture, shot, WEB } from './browser';
import { type Server, serve } from './server';

const BUNDLE = join(WEB, '../../runtime/bundles/sticker-128');
const WITH_TABLE = join(WEB, 'artefacts/bundle-with-table');
const MODELS = join(WEB, 'artefacts/models-with-table');
const property = (...words: string[]) => ({
  words: Object.fromEntries(words.map((word) => [word, 1 / words.length])),
});
const TABLE = {
  version: 1,
  kinds: {
    animals: {
      words: ['fox', 'owl', 'tiger'],
      properties: {
        colors: property('red', 'blue', 'green'),
        style: { ...property('3d style', 'flat style', 'cartoon style'), names: ['3d', 'flat', 'cartoon'] },
      },
    },
  },
  order: ['style', 'colors'],
  separator: ', ',
};

let browser: Browser;
let server: Server;
let context: BrowserContext;
let page: Page;
let errors: string[];

beforeAll(async () => {
  browser = await launch();
  rmSync(WITH_TABLE, { recursive: true, force: true });
  cpSync(BUNDLE, WITH_TABLE, { recursive: true });
  const manifest = JSON.parse(readFileSync(join(BUNDLE, 'manifest.json')).toString());
  writeFileSync(join(WITH_TABLE, 'manifest.json'), JSON.stringify({ ...manifest, variation: TABLE }));
  execFileSync(process.execPath, [join(WEB, 'scripts/models.mjs'), WITH_TABLE, MODELS], { stdio: 'inherit' });
});
afterEach(async () => {
  await context.close();
  await server.close();
  expect(errors).toEqual([]);
});
afterAll(() => browser.close());

const at = (id: string) => page.getByTestId(id);

async function open(models?: string): Promise<void> {
  server = await serve(DIST, { isolated: true, ...(models && { models }) });
  ({ context, page, errors } = await phone(browser));
  await page.goto(server.url);
  await page.waitForFunction(() => window.addkit?.state.phase === 'ready', undefined, { timeout: 60_000 });
}

/** The strip's pictures, the main one first, once all seven are there. */
async function strip(): Promise<Uint8ClampedArray[]> {
  await at('variation-6').locator('canvas').waitFor({ timeout: 60_000 });
  const all = await page.$$eval('.variation canvas', (canvases) =>
    canvases.map((canvas) => {
      const { width, height } = canvas as HTMLCanvasElement;
      return [
        ...((canvas as HTMLCanvasElement).getContext('2d')?.getImageData(0, 0, width, height).data ?? []),
      ];
    }),
  );
  return all.map((bytes) => Uint8ClampedArray.from(bytes));
}

/** The smallest mean difference of any two, in levels of 255. */
function nearest(pictures: Uint8ClampedArray[]): number {
  return Math.min(...pictures.flatMap((a, i) => pictures.slice(i + 1).map((b) => difference(a, b))));
}

describe('six variations are six pictures', () => {
  it.each([
    ['with a table', MODELS],
    ['without one', undefined],
  ])('%s', async (name, models) => {
    await open(models);
    const found: number[] = [];
    for (const text of ['a fox', 'an owl', 'a birthday cake']) {
      await at('prompt').fill(text);
      await picture(page, `${text}, 3d style`);
      await page.waitForFunction(() => document.querySelector('.variation canvas'));
      await page.waitForTimeout(500);
      const pictures = await strip();
      expect(pictures).toHaveLength(7);
      found.push(nearest(pictures));
      await shot(page, `variations-${name.replaceAll(' ', '-')}-${text.replaceAll(' ', '-')}`);
    }
    console.log(`variations ${name}: nearest two differ by ${found.map((one) => one.toFixed(1)).join(', ')}`);
    expect(Math.min(...found)).toBeGreaterThanOrEqual(15);
  });
});

describe('the words that the seed chose', () => {
  it('are chips: kept, changed, left out', async () => {
    await open(MODELS);
    await at('prompt').fill('a fox');
    await picture(page, 'a fox, 3d style');
    await at('chip-word-colors').selectOption('blue');
    const shows = (text: string) => page.waitForSelector(`[data-testid=picture][data-shows="${text}"]`);
    await shows('a fox, 3d style, blue');
    expect(await at('chip-lock-colors').getAttribute('aria-pressed')).toBe('true');
    for (let i = 0; i < 3; i++) {
      const before = await at('picture').getAttribute('data-seed');
      await at('seed-dice').click();
      await page.waitForFunction(
        (old) => document.querySelector<HTMLElement>('[data-testid=picture]')?.dataset.seed !== old,
        before,
      );
      expect(await at('picture').getAttribute('data-shows')).toBe('a fox, 3d style, blue');
    }
    await shot(page, 'chips');
    await at('chip-word-colors').selectOption('');
    await shows('a fox, 3d style');
    await at('chip-lock-colors').click();
    await page.waitForFunction(
      () => document.querySelector<HTMLElement>('[data-testid=picture]')?.dataset.shows !== 'a fox, 3d style',
    );
  });

  it('come with a surprise where nothing is typed', async () => {
    await open(MODELS);
    await at('seed-dice').click();
    await at('picture').waitFor();
    expect(await at('prompt').inputValue()).toMatch(/^an? (fox|owl|tiger)$/);
    await at('chip-colors').waitFor();
  });
});
