/** Debian's Chromium in mobile emulation, by playwright-core. */

import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

export const WEB = resolve(import.meta.dirname, '..');
export const DIST = join(WEB, 'dist');
export const TINY = join(WEB, 'artefacts/tiny-models');
const ARTEFACTS = join(WEB, 'artefacts/screenshots');

// The background flags keep Chromium from asking for updates and the like during a test.
const ARGS = [
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
/** WebGPU computed on the CPU, by SwiftShader. */
export const SOFTWARE_GPU = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-features=Vulkan',
];
export const PHONE = {
  viewport: { width: 360, height: 740 },
  deviceScaleFactor: 2,
  isMobile: true,
  hasTouch: true,
};

/** `CHROMIUM` in the environment names another browser. */
export function launch(args: string[] = []): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, args: [...ARGS, ...args] });
}

/** A page of a fresh profile; `errors` holds its uncaught errors and what its security policy refused. */
export async function phone(
  browser: Browser,
  options = {},
): Promise<{ context: BrowserContext; page: Page; errors: string[] }> {
  const context = await browser.newContext({ ...PHONE, ...options });
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => {
    if (/Content Security Policy/.test(message.text())) errors.push(message.text());
  });
  return { context, page, errors };
}

/** Waits for a picture of exactly this prompt (as it was sent, style and all) and, where given, this seed. */
export async function picture(page: Page, prompt: string, seed?: string): Promise<void> {
  const wanted = `[data-testid=picture][data-prompt="${prompt}"]${seed ? `[data-seed="${seed}"]` : ''}`;
  await page.waitForSelector(wanted, { timeout: 60_000 });
}

/** RGBA bytes of the shown picture, at its native size. */
export function pixels(page: Page): Promise<number[]> {
  return page.$eval('[data-testid=picture]', (canvas) => {
    const { width, height } = canvas as HTMLCanvasElement;
    const context = (canvas as HTMLCanvasElement).getContext('2d') as CanvasRenderingContext2D;
    return [...context.getImageData(0, 0, width, height).data];
  });
}

/** Keeps a screenshot as a test artefact. */
export async function shot(page: Page, name: string): Promise<void> {
  mkdirSync(ARTEFACTS, { recursive: true });
  await page.screenshot({ path: join(ARTEFACTS, `${name}.png`) });
}
