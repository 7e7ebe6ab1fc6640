/** Resident memory of the browser's processes, from Linux's /proc. */

import { readFileSync } from 'node:fs';
import type { Browser, Page } from 'playwright-core';

/** Megabytes: the page's process (now, and at most since it started), and what the page itself accounts for. */
export async function memoryOf(browser: Browser, page: Page): Promise<Record<string, number | string>> {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const sizes = processInfo.filter(({ type }) => type === 'renderer').map(({ id }) => residentOf(id));
  const largest = sizes.reduce((a, b) => (b.peak > a.peak ? b : a), { now: 0, peak: 0 });
  const accounted = await page.evaluate(async () => {
    const performance = globalThis.performance as Performance & {
      measureUserAgentSpecificMemory?: () => Promise<{ bytes: number }>;
    };
    return (await performance.measureUserAgentSpecificMemory?.())?.bytes;
  });
  return {
    renderer_now: largest.now,
    renderer_peak: largest.peak,
    page: accounted === undefined ? 'not known' : accounted / 1e6,
  };
}

function residentOf(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`).toString();
  const field = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) * 1.024e-3;
  return { now: field('VmRSS'), peak: field('VmHWM') };
}
