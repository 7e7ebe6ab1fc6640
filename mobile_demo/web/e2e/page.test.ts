/** The page over an engine of discs, served as while developing: its states, its keys, and axe on each state. */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { strFromU8, unzipSync } from 'fflate';
import type { Browser, Page } from 'playwright-core';
import { createServer, type ViteDevServer } from 'vite';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { FakeEngine } from '../tests/fake-engine';
import { launch, phone, picture, shot, WEB } from './browser';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js')).toString();

declare global {
  var fake: FakeEngine;
  var axe: {
    run(): Promise<{ violations: { id: string; impact: string; nodes: { target: string[] }[] }[] }>;
  };
}

let server: ViteDevServer;
let browser: Browser;
let page: Page;
let errors: string[] = [];

beforeAll(async () => {
  server = await createServer({
    root: WEB,
    configFile: false,
    logLevel: 'error',
    cacheDir: 'node_modules/.vite-page',
  });
  await server.listen();
  browser = await launch();
});
afterEach(async () => {
  await page.context().close();
  expect(errors).toEqual([]);
});
afterAll(async () => {
  await browser.close();
  await server.close();
});

async function open(query = '', options = {}): Promise<void> {
  ({ page, errors } = await phone(browser, options));
  page.setDefaultTimeout(10_000);
  await page.goto(`${server.resolvedUrls?.local[0]}?fake${query}`);
  await page.getByTestId('status').waitFor();
}

const at = (id: string) => page.getByTestId(id);
const begun = () => page.evaluate(() => fake.begun.map(({ prompt }) => prompt));

async function draw(text: string): Promise<void> {
  await at('prompt').fill(text);
  await picture(page, `${text}, 3d style`);
}

describe('axe finds nothing', () => {
  const states: [name: string, query: string, go: () => Promise<unknown>][] = [
    ['empty', '', async () => {}],
    ['starting', '&phase=starting', async () => {}],
    ['downloading', '&phase=downloading', () => at('prompt').fill('a red fox')],
    ['opening', '&phase=opening', async () => {}],
    ['failed', '&phase=failed', async () => {}],
    [
      'slow',
      '&takes=60000',
      () =>
        at('prompt')
          .fill('a red fox')
          .then(() => at('cancel').waitFor()),
    ],
    ['picture', '', () => draw('a red fox').then(() => at('variation-6').locator('canvas').waitFor())],
    ['completed', '&varies', () => draw('a red fox').then(() => at('chips').waitFor())],
    [
      'as typed',
      '&varies',
      () =>
        at('more')
          .click()
          .then(() => at('plain').click()),
    ],
    ['seed', '', () => draw('a red fox').then(() => at('seed').fill('1.5'))],
    ['morph', '', () => draw('a red fox').then(() => at('morph-toggle').click())],
    [
      'toast',
      '',
      () => page.evaluate(() => fake.notify({ kind: 'fallback', message: 'The GPU went away.' })),
    ],
    [
      'history',
      '',
      () =>
        draw('a red fox')
          .then(() => page.waitForTimeout(1500))
          .then(() => at('history-open').click()),
    ],
    ['more', '', () => at('more').click()],
    [
      'take',
      '',
      () =>
        draw('a red fox')
          .then(() => at('take').click())
          .then(() => at('preview').waitFor()),
    ],
  ];
  const looks = [
    [360, 740, ['light', 'dark']],
    [1280, 800, ['light']],
  ] as const;
  for (const [width, height, schemes] of looks) {
    it.each(states)(`${width}x${height}: %s`, async (name, query, go) => {
      await open(query, { reducedMotion: 'reduce', viewport: { width, height }, isMobile: width < 900 });
      await go();
      await page.evaluate(AXE);
      for (const colorScheme of schemes) {
        await page.emulateMedia({ colorScheme });
        await shot(page, `page-${name}-${width}-${colorScheme}`);
        const { violations } = await page.evaluate(() => axe.run());
        expect(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target)}`)).toEqual([]);
      }
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
    });
  }
});

describe('a picture', () => {
  it('that takes long can be cancelled by button and by Esc', async () => {
    await open('&takes=3000');
    await at('prompt').fill('a red fox');
    await at('cancel').click();
    await at('cancel').waitFor({ state: 'detached' });
    await at('prompt').press('Enter');
    await at('cancel').waitFor();
    await page.keyboard.press('Escape');
    await at('cancel').waitFor({ state: 'detached' });
    await page.waitForTimeout(3500);
    expect(await at('picture').count()).toBe(0);
  });

  it('waits for the model while a person types, and appears by itself', async () => {
    await open('&phase=downloading');
    expect(await at('progress').getAttribute('aria-valuenow')).toBe('40');
    await at('prompt').fill('a red fox');
    await page.evaluate(() => fake.restart());
    await picture(page, 'a red fox, 3d style');
    expect(await at('progress').count()).toBe(0);
  });

  it('is made after trying again', async () => {
    await open('&phase=failed');
    await at('prompt').fill('a red fox');
    await at('retry').click();
    await picture(page, 'a red fox, 3d style');
  });

  it('of an example takes one tap', async () => {
    await open();
    await page.getByRole('button', { name: 'a birthday cake' }).click();
    await picture(page, 'a birthday cake, 3d style');
    expect(await at('prompt').inputValue()).toBe('a birthday cake');
  });

  it('shows its stages', async () => {
    await open();
    await draw('a red fox');
    expect(await at('time').textContent()).toBe('40 ms, WASM, 2 threads');
    await at('time').click();
    expect(await at('time').textContent()).toBe('40 ms, text 4 · U-Net 24 · decoder 12');
  });
});

describe('the keyboard', () => {
  it('walks through the styles by arrows', async () => {
    await open();
    await draw('a red fox');
    await at('style-3d').locator('input').focus();
    await page.keyboard.press('ArrowRight');
    await picture(page, 'a red fox, flat style');
    await page.keyboard.press('ArrowRight');
    await picture(page, 'a red fox, cartoon style');
  });

  it('moves the morph by arrows', async () => {
    await open();
    await draw('a red fox');
    await at('morph-toggle').click();
    await at('morph-prompt').fill('a pizza');
    await at('morph-slider').focus();
    await page.keyboard.press('ArrowRight');
    await page.waitForSelector('[data-testid=picture][data-t="0.51"]');
    await page.keyboard.press('End');
    await page.waitForSelector('[data-testid=picture][data-t="1"]');
  });

  it('reaches everything in the order in which it is seen', async () => {
    await open('', { viewport: { width: 1280, height: 800 }, isMobile: false, hasTouch: false });
    await draw('a red fox');
    await at('more').focus();
    const order: (string | undefined)[] = [];
    for (let i = 0; i < 16; i++) {
      await page.keyboard.press('Tab');
      const place = (el: Element | null) =>
        (el?.closest('[data-testid]') as HTMLElement | null)?.dataset.testid;
      order.push(await page.evaluate(`(${place})(document.activeElement)`));
    }
    const seen = order.filter((id) => !id?.startsWith('variation'));
    const after = seen.slice(seen.indexOf('take'));
    expect(after.slice(0, 8)).toEqual([
      'take',
      'prompt',
      'prompt-clear',
      'seed-dice',
      'style-3d',
      'seed',
      'seed-lock',
      'morph-toggle',
    ]);
  });

  it('closes a sheet by Esc and comes back to where it was', async () => {
    await open();
    await at('more').focus();
    await page.keyboard.press('Enter');
    await at('more-sheet').waitFor();
    await page.keyboard.press('Escape');
    await at('more-sheet').waitFor({ state: 'detached' });
    expect(await at('more').evaluate((button) => button === document.activeElement)).toBe(true);
  });
});

describe('the seed', () => {
  it('stays while its lock is closed', async () => {
    await open();
    await draw('a red fox');
    await at('seed-lock').click();
    expect(await at('seed-lock').getAttribute('aria-pressed')).toBe('true');
    expect(await at('seed-dice').isDisabled()).toBe(true);
    await at('seed-lock').click();
    await at('seed-dice').click();
    await page.waitForFunction(
      () => document.querySelector<HTMLElement>('[data-testid=picture]')?.dataset.seed !== '7',
    );
  });
});

describe('the morph', () => {
  it('plays and stops', async () => {
    await open();
    await draw('a red fox');
    await at('morph-toggle').click();
    expect(await at('morph-play').isDisabled()).toBe(true);
    await at('morph-prompt').fill('a pizza');
    await at('morph-play').click();
    await page.waitForTimeout(600);
    await at('morph-play').click();
    const made = await begun();
    expect(made.length).toBeGreaterThan(5);
    const t = await at('picture').getAttribute('data-t');
    expect(Number(t)).toBeGreaterThan(0.5);
  });
});

describe('the history', () => {
  it('brings back what was deleted, from within its sheet', async () => {
    await open();
    for (const text of ['a red fox', 'a blue car']) {
      await draw(text);
      await page.waitForTimeout(1300);
    }
    await at('history-open').click();
    await at('history-item').nth(1).waitFor();
    await at('history-delete').first().click();
    expect(await at('history-item').count()).toBe(1);
    await at('toast-action').click();
    expect(await at('history-item').count()).toBe(2);
    await at('history-clear').click();
    expect(await at('history-item').count()).toBe(0);
    await at('toast-action').click();
    await at('history-item').nth(1).click();
    await picture(page, 'a red fox, 3d style');
  });

  it('lasts for the visit where storage is refused, and says so', async () => {
    ({ page, errors } = await phone(browser));
    await page.addInitScript(() => {
      const refuse = () => {
        throw new DOMException('refused', 'SecurityError');
      };
      Object.defineProperty(globalThis, 'localStorage', { get: refuse });
      IDBFactory.prototype.open = refuse;
    });
    await page.goto(`${server.resolvedUrls?.local[0]}?fake`);
    await at('toast').waitFor();
    await draw('a red fox');
    await page.waitForTimeout(1300);
    await at('history-open').click();
    expect(await at('history-item').count()).toBe(1);
    expect(await at('toast').count()).toBe(1);
  });
});

describe('taking a picture along', () => {
  const facts = (text: RegExp) =>
    page.waitForFunction((source) => {
      const shown = document.querySelector('[data-testid=take-facts]')?.textContent ?? '';
      return new RegExp(source).test(shown);
    }, text.source);

  it('shows format and size before it saves, and says where it went', async () => {
    await open();
    await draw('a red fox');
    await at('take').click();
    await facts(/^PNG, 512 × 512, transparent, \d+ kB$/);
    expect(await at('share').count()).toBe(0); // this browser shares no files
    const [png] = await Promise.all([page.waitForEvent('download'), at('save').click()]);
    expect(png.suggestedFilename()).toBe('a-red-fox-7-sticker.png');
    expect(await at('toast').first().textContent()).toMatch(/Saved as a-red-fox-7-sticker.png \(\d+ kB\)/);
    await at('format-webp').click();
    await facts(/^WebP, 512 × 512, transparent, \d{1,2} kB$|^WebP.* 100 kB$/);
    await at('format-picture').click();
    await facts(/^PNG, 512 × 512, with its background, /);
    expect(await at('outline').count()).toBe(0);
    await at('take-close').click();
    await page.waitForFunction(() => !history.state?.sheet); // the way back is taken, which a reload would cut short
    await page.reload();
    await at('status').waitFor();
    await draw('a red fox');
    await at('take').click();
    await facts(/with its background/);
  });

  it('hands the sticker to the share sheet', async () => {
    ({ page, errors } = await phone(browser));
    await page.addInitScript(() => {
      navigator.canShare = () => true;
      navigator.share = async (data) => void Object.assign(globalThis, { shared: data?.files?.[0] });
    });
    await page.goto(`${server.resolvedUrls?.local[0]}?fake`);
    await draw('a red fox');
    await at('take').click();
    await facts(/^PNG/);
    await at('share').click();
    await page.waitForFunction('globalThis.shared');
    const [name, width] = await page.evaluate(async () => {
      const { shared } = globalThis as unknown as { shared: File };
      return [shared.name, (await createImageBitmap(shared)).width] as const;
    });
    expect([name, width]).toEqual(['a-red-fox-7-sticker.png', 512]);
  });

  it('can save where the clipboard refuses', async () => {
    await open();
    await page.evaluate(() => {
      navigator.clipboard.write = () => Promise.reject(new DOMException('refused', 'NotAllowedError'));
    });
    await draw('a red fox');
    await at('take').click();
    await facts(/^PNG/);
    await at('copy').click();
    const [download] = await Promise.all([page.waitForEvent('download'), at('toast-action').click()]);
    expect(download.suggestedFilename()).toBe('a-red-fox-7-sticker.png');
  });

  it('moves a morph, in a file that a browser plays', async () => {
    await open();
    await draw('a red fox');
    expect(await at('format-morph').count()).toBe(0);
    await at('morph-toggle').click();
    await at('morph-prompt').fill('a pizza');
    await page.waitForSelector('[data-testid=picture][data-to^="a pizza"]');
    await at('take').click();
    await at('format-morph').click();
    await facts(/^WebP, 512 × 512, transparent, \d+ kB$/);
    const [download] = await Promise.all([page.waitForEvent('download'), at('save').click()]);
    expect(download.suggestedFilename()).toBe('a-red-fox-7-morph.webp');
    const file = readFileSync(await download.path());
    expect(file.length).toBeLessThan(500_000);
    const frames = await page.evaluate(
      async (bytes) => {
        const decoder = new ImageDecoder({ data: Uint8Array.from(bytes), type: 'image/webp' });
        await decoder.tracks.ready;
        return decoder.tracks.selectedTrack?.frameCount;
      },
      [...file],
    );
    expect(frames).toBe(16);
  });

  it('makes a pack of three stickers or more', async () => {
    await open();
    for (const text of ['a red fox', 'a blue car', 'an owl']) {
      await draw(text);
      await page.waitForTimeout(1300);
    }
    await at('history-open').click();
    await at('pack-toggle').click();
    for (const i of [0, 1]) await at('history-item').nth(i).click();
    expect(await at('pack-status').textContent()).toBe('A pack needs at least 3 stickers: choose 1 more.');
    expect(await at('pack-save').isDisabled()).toBe(true);
    await at('history-item').nth(2).click();
    await shot(page, 'pack');
    const [download] = await Promise.all([page.waitForEvent('download'), at('pack-save').click()]);
    expect(download.suggestedFilename()).toBe('stickers.zip');
    const files = unzipSync(readFileSync(await download.path()));
    const { sticker_packs } = JSON.parse(strFromU8(files['contents.json'] as Uint8Array));
    const [{ identifier, tray_image_file, stickers }] = sticker_packs;
    expect(stickers).toHaveLength(3);
    for (const { image_file } of stickers) {
      const bytes = files[`${identifier}/${image_file}`] as Uint8Array;
      expect(bytes.length).toBeLessThanOrEqual(100_000);
      expect(strFromU8(bytes, true)).toMatch(/^RIFF.{4}WEBPVP8X.+trainedAlgorithmicMedia/s);
    }
    const tray = files[`${identifier}/${tray_image_file}`] as Uint8Array;
    expect(new DataView(tray.buffer, tray.byteOffset).getUint32(16)).toBe(96);
    expect(tray.length).toBeLessThanOrEqual(50_000);
  });
});

it('shows what the seed added, and nothing of it as typed', async () => {
  await open('&varies');
  await draw('a red fox');
  const whole = 'a red fox, 3d style, large';
  expect(await at('picture').getAttribute('aria-label')).toBe(whole);
  expect(await at('chip-word-size').inputValue()).toBe('large');
  await at('more').click();
  await at('plain').click();
  expect(await at('plain').getAttribute('aria-checked')).toBe('true');
  await at('more-close').click();
  await page.waitForSelector('[data-testid=picture][aria-label="a red fox, 3d style"]');
  expect(await at('chips').count()).toBe(0);
  await page.reload();
  await at('status').waitFor();
  await page.waitForSelector('[data-testid=picture][aria-label="a red fox, 3d style"]');
});

it('has no switch where the model completes nothing', async () => {
  await open();
  await at('more').click();
  await at('steps-1').waitFor();
  expect(await at('plain').count()).toBe(0);
});

it('the colours chosen are those shown, after a reload too', async () => {
  await open();
  await at('more').click();
  await at('theme-dark').click();
  const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  expect(await ground()).toBe('rgb(14, 25, 22)');
  await page.reload();
  await at('status').waitFor();
  expect(await ground()).toBe('rgb(14, 25, 22)');
});

it('the engine is chosen, and pictures come from it', async () => {
  await open();
  await draw('a red fox');
  await at('more').click();
  await at('engine-webgpu').click();
  expect(await page.evaluate(() => fake.restarts)).toEqual(['webgpu']);
  await at('more-close').click();
  await page.waitForSelector('[data-testid=status][data-phase=ready]');
  await draw('a blue car');
  expect(await at('picture').getAttribute('data-backend')).toBe('webgpu');
});

it('with the keyboard open the prompt and the picture are both seen', async () => {
  await open('', { viewport: { width: 360, height: 400 } });
  await at('prompt').focus();
  await draw('a red fox');
  for (const id of ['prompt', 'picture']) {
    const box = await at(id).boundingBox();
    expect(box && box.y >= 0 && box.y + box.height <= 400, id).toBe(true);
    expect(box?.height).toBeGreaterThanOrEqual(44);
  }
});

describe('a phone', () => {
  it('goes back from a sheet to the page, and from there away', async () => {
    await open();
    const before = await page.evaluate(() => history.length);
    for (const [button, sheet] of [
      ['more', 'more-sheet'],
      ['history-open', 'history-sheet'],
    ] as const) {
      await at(button).click();
      await at(sheet).waitFor();
      await page.goBack();
      await at(sheet).waitFor({ state: 'detached' });
      expect(await at('prompt').isVisible()).toBe(true);
    }
    await at('more').click();
    await at('more-close').click();
    await at('more-sheet').waitFor({ state: 'detached' });
    await at('history-open').click();
    await page.goBack();
    await at('history-sheet').waitFor({ state: 'detached' });
    expect(await page.evaluate(() => history.length)).toBe(before + 1); // one entry ahead, none behind
    await page.goBack();
    await page.waitForURL('about:blank');
  });

  it.each([
    [360, 740],
    [360, 420],
    [360, 400],
    [360, 330],
    [360, 280],
    [360, 200],
    [740, 360],
    [740, 250],
    [1280, 410],
  ])(
    'of %i x %i pixels shows prompt and dice whole, and is not scrolled by a pixel',
    async (width, height) => {
      await open('&varies', { viewport: { width, height } });
      await draw('a red fox');
      await at('prompt').evaluate((field) => field.blur());
      await page.waitForTimeout(300);
      for (const id of ['prompt', 'seed-dice']) {
        const box = await at(id).boundingBox();
        expect(box && box.y >= 0 && box.y + box.height <= height && box.x + box.width <= width, id).toBe(
          true,
        );
        expect(box?.height).toBeGreaterThanOrEqual(44);
      }
      await shot(page, `low-${width}x${height}`);
      const over = await page.evaluate(() =>
        [document.documentElement, document.body, document.querySelector('.shell')].map((one) =>
          one ? one.scrollHeight - one.clientHeight : -1,
        ),
      );
      expect(over).toEqual([0, 0, 0]);
    },
  );

  it('shows what is chosen where colours are forced', async () => {
    await open('', { forcedColors: 'active' });
    await draw('a red fox');
    const ground = (id: string) =>
      at(id)
        .locator('span')
        .evaluate((span) => getComputedStyle(span).backgroundColor);
    expect(await ground('style-3d')).not.toBe(await ground('style-flat'));
    await at('morph-toggle').click();
    await shot(page, 'forced-colours');
  });

  it('with larger text has larger text', async () => {
    await open();
    const size = () => at('prompt').evaluate((field) => Number.parseFloat(getComputedStyle(field).fontSize));
    const before = await size();
    await page.addStyleTag({ content: 'html { font-size: 150% !important }' });
    expect((await size()) / before).toBeCloseTo(1.5, 2);
    await shot(page, 'large-text');
  });

  it('opens a link to a prompt and a seed', async () => {
    await open('&prompt=an%20owl&seed=12&style=flat');
    await picture(page, 'an owl, flat style', '12');
    expect(await page.evaluate(() => location.search)).toBe('?fake=');
    await draw2('a blue car');
    await page.reload();
    await picture(page, 'a blue car, flat style', '12');
  });

  it('shares its history between two tabs, and asks to keep it', async () => {
    await open();
    await page.evaluate(() => {
      navigator.storage.persist = async () => Object.assign(globalThis, { asked: true }) && true;
    });
    const other = await page.context().newPage();
    await other.goto(page.url());
    await other.getByTestId('history-open').click();
    expect(await other.getByTestId('history-item').count()).toBe(0);
    await draw('a red fox');
    await other.getByTestId('history-item').waitFor();
    expect(await page.evaluate('globalThis.asked')).toBe(true);
    await other.getByTestId('history-delete').click();
    await at('history-open').click();
    await at('history-item').waitFor({ state: 'detached' });
  });
});

async function draw2(text: string): Promise<void> {
  await at('prompt').fill(text);
  await picture(page, `${text}, flat style`);
}
