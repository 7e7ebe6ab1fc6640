import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { difference } from '../src/core/difference';
import type { EngineState } from '../src/engine/types';
import { coloured, withArticle } from '../src/state/alternatives';
import { TYPING_PAUSE } from '../src/state/maker';
import { linked, loadSettings, type Shelf, saveSettings, withoutLink } from '../src/state/settings';
import { STRIP_PAUSE, VARIATIONS, VISIBLE } from '../src/state/strip';
import { STAYED, Studio } from '../src/state/studio';
import { SWEEP, sweepAt } from '../src/state/sweep';
import { byHash, FakeEngine, type FakeOptions, ready } from './fake-engine';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const TAKES = 40;

function memoryShelf(): NonNullable<Shelf> {
  const kept = new Map<string, string>();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
}

function setUp(options: FakeOptions = {}, shelf: Shelf = memoryShelf()) {
  const engine = new FakeEngine({ takes: TAKES, ...options });
  const studio = new Studio({
    engine,
    shelf,
    openHistory: async () => ({ list: async () => [], put: async () => {}, remove: async () => {} }),
    encode: async (picture, ready) =>
      new TextEncoder().encode(`${ready?.bundle ?? ''} ${picture.request.prompt}`),
  });
  const shown = () => studio.picture.value?.request;
  return { engine, studio, shelf, shown };
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

test('typing makes a picture in the style, of the seed', async () => {
  const { studio, shown } = setUp();
  studio.type('text', 'a red fox');
  await pass(TYPING_PAUSE + TAKES);
  expect(shown()).toEqual({ prompt: 'a red fox, 3d style', seed: '7', steps: 1 });
});

test('without a prompt nothing is made, and the picture goes', async () => {
  const { engine, studio, shown } = setUp();
  await pass(5000);
  expect(engine.begun).toEqual([]);
  studio.use('a red fox');
  await pass(TAKES);
  studio.type('text', '  ');
  expect(shown()).toBeUndefined();
  expect(studio.strip.tiles.value).toEqual([]);
});

test('a space at the end makes no new picture, and the old one still counts as stayed', async () => {
  const { engine, studio } = setUp();
  studio.use('a red fox');
  await pass(TAKES);
  studio.type('text', 'a red fox ');
  await pass(TYPING_PAUSE + TAKES);
  expect(engine.begun).toHaveLength(1);
  await pass(STAYED);
  expect(studio.history.entries.value).toHaveLength(1);
});

test('a seed that is none makes nothing and leaves the picture', async () => {
  const { engine, studio, shown } = setUp();
  studio.use('a red fox');
  await pass(TAKES);
  studio.type('seed', '1.5');
  await pass(200);
  expect(studio.inputs.seedIsValid.value).toBe(false);
  expect(engine.begun).toHaveLength(1);
  expect(shown()?.seed).toBe('7');
});

test('another picture has another seed, unless the seed is locked', async () => {
  const { studio, shown } = setUp();
  studio.use('a red fox');
  studio.makeAnother();
  await pass(TAKES);
  const seed = shown()?.seed;
  expect(seed).not.toBe('7');
  studio.inputs.locked.value = true;
  studio.makeAnother();
  await pass(TAKES);
  expect(shown()?.seed).toBe(seed);
});

test('a picture that was wanted while the model travelled appears by itself', async () => {
  const { engine, studio, shown } = setUp({ state: { phase: 'downloading', loaded: 1, total: 2 } });
  studio.type('text', 'a red fox');
  await pass(5000);
  expect(shown()).toBeUndefined();
  engine.become(ready());
  await pass(TAKES);
  expect(shown()?.prompt).toBe('a red fox, 3d style');
});

describe('variations', () => {
  const all = STRIP_PAUSE + 40 * TAKES;
  const differences = ({ strip }: Studio) =>
    strip.tiles.value.flatMap((a, i) =>
      strip.tiles.value.slice(i + 1).map((b) => difference(a.picture.rgba, b.picture.rgba)),
    );

  test('change words where seeds change nothing, once typing has paused, and any two look different', async () => {
    const { engine, studio } = setUp();
    engine.look = byHash;
    studio.use('a fox');
    await pass(TAKES + STRIP_PAUSE - 1);
    expect(engine.begun).toHaveLength(1);
    await pass(all);
    expect(studio.strip.tiles.value).toHaveLength(VARIATIONS + 1);
    expect(new Set(engine.begun.map(({ seed }) => seed))).toEqual(new Set(['7']));
    expect(Math.min(...differences(studio))).toBeGreaterThanOrEqual(VISIBLE);
  });

  test('are other seeds where the model completes prompts; those that look the same are passed over', async () => {
    const { engine, studio } = setUp({ state: ready('wasm', true) });
    engine.look = byHash; // two sizes: the seeds give two pictures, words the rest
    studio.use('a fox');
    await pass(all);
    const tiles = studio.strip.tiles.value;
    expect(tiles.map(({ request }) => request.seed).slice(0, 2)).toEqual(['7', '8']);
    expect(tiles.map(({ picture }) => picture.prompt).slice(0, 2)).toEqual([
      'a fox, 3d style, large',
      'a fox, 3d style, small',
    ]);
    expect(tiles).toHaveLength(VARIATIONS + 1);
    expect(Math.min(...differences(studio))).toBeGreaterThanOrEqual(VISIBLE);
  });

  test('fill the strip with the most different of what there is', async () => {
    const { engine, studio } = setUp();
    engine.look = () => 200;
    studio.use('a fox');
    await pass(all);
    expect(studio.strip.tiles.value).toHaveLength(VARIATIONS + 1);
  });

  test('are those of the last picture only', async () => {
    const { engine, studio } = setUp();
    studio.use('a red fox');
    await pass(TAKES + STRIP_PAUSE - 10);
    studio.choose({ style: 'flat' });
    await pass(TAKES + all);
    expect(engine.begun.slice(1).map(({ prompt }) => prompt)).not.toContain('a red fox, 3d style, large');
    expect(studio.strip.tiles.value[0]?.request.prompt).toBe('a red fox, flat style');
  });

  test('are aborted at once by typing', async () => {
    const { engine, studio, shown } = setUp();
    studio.use('a red fox');
    await pass(TAKES + STRIP_PAUSE + TAKES + 1);
    expect(engine.begun).toHaveLength(3);
    studio.type('text', 'a blue car');
    await pass(TYPING_PAUSE);
    expect(engine.begun.at(-1)?.prompt).toBe('a blue car, 3d style');
    await pass(TAKES);
    expect(engine.begun).toHaveLength(4);
    expect(shown()?.prompt).toBe('a blue car, 3d style');
  });

  test('a tap shows one without making it again, and the strip stays', async () => {
    const { engine, studio, shown } = setUp();
    studio.use('a red fox');
    await pass(TAKES + all);
    const tiles = studio.strip.tiles.value;
    const made = engine.begun.length;
    const [, , third] = tiles;
    if (third) studio.showVariation(third);
    expect(shown()).toEqual(third?.request);
    expect(studio.inputs.request.value).toEqual(third?.request);
    await pass(all);
    expect(engine.begun).toHaveLength(made);
    expect(studio.strip.tiles.value).toEqual(tiles);
  });
});

describe('the dice', () => {
  test("surprises with a thing where nothing is typed, one of the model's where it has a table", async () => {
    const { studio, shown } = setUp({ state: ready('wasm', true) });
    studio.makeAnother();
    await pass(TAKES);
    expect(shown()?.prompt).toBe('a badger, 3d style');
    const without = setUp();
    without.studio.makeAnother();
    await pass(TAKES);
    expect(without.shown()?.prompt).toMatch(/^an? [\w -]+, 3d style$|^cherries/);
  });

  test('walks through the variations where seeds change nothing', async () => {
    const { engine, studio, shown } = setUp();
    engine.look = byHash;
    studio.use('a fox');
    await pass(TAKES + STRIP_PAUSE + 40 * TAKES);
    const tiles = studio.strip.tiles.value;
    studio.makeAnother();
    expect(shown()).toEqual(tiles[1]?.request);
    studio.makeAnother();
    expect(shown()).toEqual(tiles[2]?.request);
  });

  test('has articles and colours in their places', () => {
    expect(['fox', 'owl', 'cherries', 'octopus'].map(withArticle)).toEqual([
      'a fox',
      'an owl',
      'cherries',
      'an octopus',
    ]);
    expect(coloured('an owl')[0]).toBe('a blue owl');
    expect(coloured('an owl').at(-1)).toBe('an orange owl');
    expect(coloured('Owls')[0]).toBe('blue Owls');
    expect(coloured('a red owl')).toEqual([]);
  });
});

describe('words that the seed chose', () => {
  const words = (studio: Studio) => studio.picture.value?.open.map(({ word }) => word);

  test('are kept for other seeds, changed, left out and given back', async () => {
    const { studio, shown } = setUp({ state: ready('wasm', true) });
    studio.use('a red fox');
    await pass(TAKES);
    expect(words(studio)).toEqual(['large']);
    studio.wish('size', 'huge');
    await pass(TAKES);
    studio.type('seed', '8');
    await pass(TYPING_PAUSE + TAKES);
    expect(words(studio)).toEqual(['huge']);
    expect(shown()?.words).toEqual({ size: 'huge' });
    studio.wish('size', null);
    await pass(TAKES);
    expect(studio.picture.value?.prompt).toBe('a red fox, 3d style');
    expect(words(studio)).toEqual([null]);
    studio.wish('size', undefined);
    await pass(TAKES);
    expect(words(studio)).toEqual(['small']);
    expect(shown()?.words).toBeUndefined();
  });

  test('outlast a reload', async () => {
    const { studio, shelf } = setUp({ state: ready('wasm', true) });
    studio.wish('size', 'huge');
    studio.wish('facing', null);
    expect(setUp({}, shelf).studio.inputs.words.value).toEqual({ size: 'huge', facing: null });
  });
});

describe('the morph', () => {
  async function morphing() {
    const made = setUp();
    made.studio.use('a red fox');
    made.studio.type('to', 'a pizza');
    made.studio.choose({ morphing: true });
    await pass(TAKES);
    return made;
  }

  test('mixes the two prompts, both in the style', async () => {
    const { studio, shown } = await morphing();
    expect(shown()?.morph).toEqual({ to: 'a pizza, 3d style', t: 0.5 });
    studio.drag(25);
    await pass(TAKES);
    expect(shown()?.morph?.t).toBe(0.25);
  });

  test('a drag makes the picture under way and the last one', async () => {
    const { engine, studio, shown } = await morphing();
    const before = engine.begun.length;
    for (let t = 60; t <= 80; t++) studio.drag(t);
    await pass(3 * TAKES);
    expect(engine.begun.slice(before).map(({ morph }) => morph?.t)).toEqual([0.6, 0.8]);
    expect(shown()?.morph?.t).toBe(0.8);
  });

  test('plays back and forth, keeps nothing of it, and stops by typing', async () => {
    const { engine, studio } = await morphing();
    studio.play();
    await pass(2 * SWEEP);
    const seen = engine.begun.map(({ morph }) => morph?.t ?? 0);
    expect(Math.max(...seen)).toBeGreaterThan(0.95);
    expect(Math.min(...seen.slice(5))).toBeLessThan(0.05);
    expect(studio.history.entries.value).toEqual([]);
    studio.type('text', 'a blue car');
    expect(studio.playing.value).toBe(false);
    const made = engine.begun.length;
    await pass(TYPING_PAUSE + TAKES + 100);
    expect(engine.begun).toHaveLength(made + 1);
  });

  test('does not play without a second prompt', async () => {
    const { studio } = setUp();
    studio.choose({ morphing: true });
    studio.play();
    expect(studio.playing.value).toBe(false);
  });

  test('turns at both ends', () => {
    expect([0, SWEEP / 2, SWEEP, 1.5 * SWEEP, 2 * SWEEP].map(sweepAt)).toEqual([0, 50, 100, 50, 0]);
  });
});

describe('the history', () => {
  test('keeps what stayed a second, not what passed by', async () => {
    const { studio } = setUp();
    for (const text of ['a', 'a red', 'a red fox']) {
      studio.type('text', text);
      await pass(STAYED - 100);
    }
    await pass(STAYED);
    expect(studio.history.entries.value.map(({ text }) => text)).toEqual(['a red fox']);
    expect(studio.announcement.value).toBe('Picture of a red fox, 3d style, seed 7');
    expect(new TextDecoder().decode(studio.history.entries.value[0]?.png)).toBe(
      'sticker-128 a red fox, 3d style',
    );
  });

  test('does not keep a picture whose words were changed before it stayed', async () => {
    const { engine, studio } = setUp();
    studio.use('a red fox');
    await pass(TAKES + STAYED - 100);
    engine.takes = 5000;
    studio.type('text', 'a blue car');
    await pass(STAYED);
    expect(studio.history.entries.value).toEqual([]);
  });

  test('restores prompt, style, seed, steps and morph', async () => {
    const { studio, shown } = setUp();
    studio.use('a red fox');
    studio.type('to', 'a pizza');
    studio.type('seed', '12');
    studio.choose({ style: 'flat', steps: 3, morphing: true });
    studio.drag(20);
    await pass(2 * TAKES + STAYED);
    const before = shown();
    studio.choose({ style: 'none', steps: 1, morphing: false });
    studio.type('to', '');
    studio.use('a blue car');
    await pass(TAKES + STAYED);
    const entry = studio.history.entries.value[1];
    if (entry) studio.restore(entry);
    await pass(TAKES);
    expect(shown()).toEqual(before);
    expect(studio.inputs.settings).toMatchObject({
      text: 'a red fox',
      to: 'a pizza',
      style: 'flat',
      seed: '12',
    });
  });
});

test('a reload restores what was set', async () => {
  const { studio, shelf } = setUp();
  studio.use('a red fox');
  studio.choose({ style: 'cartoon', steps: 2 });
  studio.inputs.theme.value = 'dark';
  studio.inputs.locked.value = true;
  const again = setUp({}, shelf);
  await pass(TAKES);
  expect(again.studio.inputs.settings).toEqual(studio.inputs.settings);
  expect(again.shown()).toEqual({ prompt: 'a red fox, cartoon style', seed: '7', steps: 2 });
});

test.each([undefined, { getItem: () => '{"steps":9,"style":3,"seed":"x"', setItem: () => {} }])(
  'damaged or refused settings are the default ones',
  (shelf) => {
    const { studio } = setUp({}, shelf);
    expect(studio.inputs.settings).toMatchObject({
      text: '',
      style: '3d',
      seed: '7',
      steps: 1,
      theme: 'auto',
    });
  },
);

test('settings that make no sense are replaced one by one', () => {
  const kept = JSON.stringify({
    text: 'a fox',
    steps: 9,
    style: 'oil',
    seed: '1.5',
    theme: 'dark',
    locked: 'yes',
    backend: 'npu',
  });
  const { studio } = setUp({}, { getItem: () => kept, setItem: () => {} });
  expect(studio.inputs.settings).toEqual({
    text: 'a fox',
    steps: 1,
    plain: false,
    words: {},
    format: 'png',
    outline: 10,
    style: '3d',
    seed: '7',
    theme: 'dark',
    locked: false,
    to: '',
    backend: 'auto',
  });
});

test('notices are shown until they are dismissed, the same one once', async () => {
  const { engine, studio } = setUp();
  engine.notify({ kind: 'fallback', message: 'The GPU went away.' });
  engine.notify({ kind: 'fallback', message: 'The GPU went away.' });
  await pass(60_000);
  expect(studio.toasts.list.value.map(({ text }) => text)).toEqual(['The GPU went away.']);
  studio.toasts.dismiss(studio.toasts.list.value[0]?.id ?? 0);
  expect(studio.toasts.list.value).toEqual([]);
});

test('the engine starts again on the backend that was chosen, after a reload too', () => {
  const { engine, studio, shelf } = setUp();
  studio.runOn('wasm');
  studio.restart();
  expect(engine.restarts).toEqual(['wasm', 'wasm']);
  expect(loadSettings(shelf).backend).toBe('wasm');
});

test('the engine starts again when the network is back, and only where that was missing', () => {
  const { engine, studio } = setUp();
  studio.reconnect();
  engine.become({ phase: 'failed', problem: { kind: 'memory', message: 'Too little.' } });
  studio.reconnect();
  expect(engine.restarts).toEqual([]);
  engine.become({ phase: 'failed', problem: { kind: 'offline', message: 'No network.' } });
  studio.reconnect();
  expect(engine.restarts).toEqual(['auto']);
});

test('a long prompt is cut between characters', () => {
  const shelf = memoryShelf();
  saveSettings(shelf, { ...loadSettings(shelf), text: `a${'🦊'.repeat(1500)}` });
  expect(loadSettings(shelf).text).toBe(`a${'🦊'.repeat(999)}`);
});

test('short messages go by themselves', async () => {
  const { studio } = setUp();
  studio.toasts.say('Sticker copied.');
  expect(studio.toasts.list.value).toHaveLength(1);
  await pass(10_000);
  expect(studio.toasts.list.value).toEqual([]);
});

test('a prompt that the seed completed is announced and kept as that; as typed it is another picture', async () => {
  const { engine, studio, shown } = setUp({ state: ready('wasm', true) });
  studio.use('a red fox');
  await pass(TAKES + STAYED);
  expect(studio.picture.value?.prompt).toBe('a red fox, 3d style, large');
  expect(studio.announcement.value).toBe('Picture of a red fox, 3d style, large, seed 7');
  expect(studio.history.entries.value[0]?.shows).toBe('a red fox, 3d style, large');
  studio.choose({ plain: true });
  await pass(TAKES + STAYED);
  expect(shown()).toEqual({ prompt: 'a red fox, 3d style', seed: '7', steps: 1, plain: true });
  expect(studio.picture.value?.prompt).toBe('a red fox, 3d style');
  const [plain, whole] = studio.history.entries.value;
  expect([plain?.shows, plain?.request.plain, whole?.request.plain]).toEqual([undefined, true, undefined]);
  expect(studio.strip.tiles.value.every(({ request }) => request.plain)).toBe(true);
  if (whole) studio.restore(whole);
  expect(studio.inputs.plain.value).toBe(false);
  await pass(TAKES);
  expect(engine.begun.at(-1)).toEqual({ prompt: 'a red fox, 3d style', seed: '7', steps: 1 });
});

test('that prompts are drawn as typed outlasts a reload', () => {
  const { studio, shelf } = setUp();
  expect(loadSettings(shelf).plain).toBe(false);
  studio.choose({ plain: true });
  expect(setUp({}, shelf).studio.inputs.plain.value).toBe(true);
});

test('a link sets prompt, seed and style over what was kept, as far as it makes sense', () => {
  const kept = { ...loadSettings(undefined), text: 'a fox', seed: '9', words: { size: 'huge' } };
  expect(linked('?prompt=an%20owl&seed=12&style=flat', kept)).toEqual({
    ...kept,
    text: 'an owl',
    seed: '12',
    style: 'flat',
    words: {},
  });
  expect(linked('?seed=1.5&style=oil&fake', kept)).toEqual(kept);
  expect(linked(`?prompt=${'x'.repeat(3000)}`, kept).text).toHaveLength(2000);
  expect(withoutLink('http://localhost/app/?prompt=a&seed=1&software-gpu=')).toBe(
    'http://localhost/app/?software-gpu=',
  );
});

test('steps that the model does not have become those that it has', async () => {
  const shelf = memoryShelf();
  saveSettings(shelf, { ...loadSettings(shelf), text: 'a fox', steps: 4 });
  const { engine, shown } = setUp({ state: { phase: 'downloading', loaded: 0, total: 0 } }, shelf);
  engine.become({ ...ready(), steps: [1] } as EngineState);
  await pass(TAKES);
  expect(shown()?.steps).toBe(1);
});
