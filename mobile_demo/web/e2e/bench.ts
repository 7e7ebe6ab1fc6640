/**
 * The app's speed in Chromium beside the Python runtime's, on the same int8 bundle, turn by turn in one run.
 *
 *     npm run bench [-- --json] [-- --rounds N]
 *
 * PYTHON in the environment names the Python that has the runtime; the project's .venv otherwise.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Page } from 'playwright-core';
import { DIST, launch, phone } from './browser';
import { memoryOf } from './memory';
import { PythonRuntime } from './python';
import { type Server, serve } from './server';

const PICTURES = 10; // in a turn
const WARM_UP = 30; // pictures until V8 has compiled the hot code

interface Turn {
  /** Milliseconds per picture, of new prompts and of a known one. */
  fresh: number;
  known: number;
}

export async function main(args: string[]): Promise<void> {
  const rounds = Number(args[args.indexOf('--rounds') + 1] ?? 0) || 12;
  const server = await serve(DIST);
  const browser = await launch();
  const python = await PythonRuntime.start();
  try {
    const report = {
      browser: browser.version(),
      cores: cpus().length,
      transfer: {} as Transfer,
      first_picture_s: { cold: 0, warm: 0 },
      steady: {},
      memory_mb: {},
      app_js_gzip_kb: appJavaScript(),
    };
    const { context, page } = await phone(browser);
    report.first_picture_s.cold = await firstPicture(page, server.url);
    report.transfer = transferred(server);
    report.first_picture_s.warm = await firstPicture(page, server.url);
    report.steady = await compared(page, python, rounds);
    report.memory_mb = await memoryOf(browser, page);
    await context.close();
    process.stdout.write(
      args.includes('--json') ? `${JSON.stringify(report)}\n` : `${JSON.stringify(report, null, 2)}\n`,
    );
  } finally {
    python?.stop();
    await browser.close();
    await server.close();
  }
}

/** Seconds from the start of the navigation to the first picture. */
async function firstPicture(page: Page, url: string): Promise<number> {
  const start = performance.now();
  await page.goto(url);
  await page.waitForFunction(() => crossOriginIsolated && /ready|failed/.test(window.addkit?.state.phase));
  const state = await page.evaluate(() => window.addkit.state);
  if (state.phase === 'failed') throw new Error(state.problem.message);
  await page.evaluate(() => window.addkit.generate({ prompt: 'a red fox, 3d style', seed: '7', steps: 1 }));
  return (performance.now() - start) / 1000;
}

interface Transfer {
  total_mb: number;
  models_mb: number;
  onnxruntime_mb: number;
}

/** What was downloaded, in megabytes. */
function transferred(server: Server): Transfer {
  const index = JSON.parse(readFileSync(join(DIST, 'models/index.json')).toString());
  const engine = new Set(
    index.engines.wasm.pieces.map(({ sha256 }: { sha256: string }) => `/models/pieces/${sha256}.bin`),
  );
  const megabytes = (wanted: (path: string) => boolean) =>
    [...server.sent].filter(([path]) => wanted(path)).reduce((sum, [, bytes]) => sum + bytes, 0) / 1e6;
  return {
    total_mb: megabytes(() => true),
    models_mb: megabytes((path) => path.startsWith('/models/') && !engine.has(path)),
    onnxruntime_mb: megabytes((path) => engine.has(path) || /\/ort[.-]/.test(path)),
  };
}

/** Kilobytes of gzipped JavaScript that is not ONNX Runtime's. */
function appJavaScript(): number {
  const files = [...readdirSync(join(DIST, 'assets')).map((name) => `assets/${name}`), 'sw.js'];
  const own = files.filter((name) => name.endsWith('.js') && !name.includes('/ort.'));
  return own.reduce((sum, name) => sum + gzipSync(readFileSync(join(DIST, name))).length, 0) / 1000;
}

/** Turns of the app and of the Python runtime, one after the other, and their ratios pair by pair. */
async function compared(page: Page, python: PythonRuntime | undefined, rounds: number) {
  await turn(page, WARM_UP);
  const pairs: { app: Turn; python: Turn | undefined }[] = [];
  for (let i = 0; i < rounds; i++)
    pairs.push({ app: await turn(page, PICTURES), python: await python?.turn(PICTURES) });
  const of = (kind: keyof Turn) => ({
    app_ms: spread(pairs.map(({ app }) => app[kind])),
    ...(python && {
      python_ms: spread(pairs.map((pair) => (pair.python as Turn)[kind])),
      ratio: spread(pairs.map((pair) => pair.app[kind] / (pair.python as Turn)[kind])),
    }),
  });
  const threads = await page.evaluate(() => (window.addkit.state as { threads: number }).threads);
  return {
    threads,
    rounds,
    new_prompts: of('fresh'),
    known_prompt: of('known'),
    ...(!python && { python: 'not run' }),
  };
}

/** `count` pictures of new prompts, then of one prompt with new seeds; medians. */
function turn(page: Page, count: number): Promise<Turn> {
  return page.evaluate(async (pictures) => {
    const { addkit } = window;
    const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] as number;
    const draw = async (prompt: string, seed: number) => {
      const start = performance.now();
      await addkit.generate({ prompt, seed: `${seed}`, steps: 1 });
      return performance.now() - start;
    };
    const fresh: number[] = [];
    const known: number[] = [];
    const run = `${Math.floor(performance.now())}`;
    for (let i = 0; i < pictures; i++) fresh.push(await draw(`a red fox ${run} ${i}`, i));
    for (let i = 0; i < pictures; i++) known.push(await draw('a red fox', i));
    return { fresh: median(fresh), known: median(known) };
  }, count);
}

function spread(values: number[]) {
  const sorted = [...values].sort((a, b) => a - b);
  return { min: sorted[0], median: sorted[sorted.length >> 1], max: sorted.at(-1) };
}
