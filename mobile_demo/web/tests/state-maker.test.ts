import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { GenerateRequest, Picture } from '../src/core/types';
import { Cancelled } from '../src/engine/types';
import { Maker, SLOW_AFTER, TYPING_PAUSE } from '../src/state/maker';
import { FakeEngine } from './fake-engine';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const request = (prompt: string): GenerateRequest => ({ prompt, seed: '7', steps: 1 });

function setUp(takes = 100) {
  const engine = new FakeEngine({ takes });
  const pictures: Picture[] = [];
  const problems: string[] = [];
  const maker = new Maker((...call) => engine.generate(...call), {
    picture: (picture) => pictures.push(picture),
    problem: (message) => problems.push(message),
  });
  maker.setReady(true);
  const begun = () => engine.begun.map(({ prompt }) => prompt);
  const shown = () => pictures.map((picture) => picture.request.prompt);
  return { engine, maker, problems, begun, shown };
}

test('only the text at which typing pauses is made', async () => {
  const { maker, begun, shown } = setUp();
  for (const text of ['f', 'fo', 'fox']) {
    maker.type(request(text));
    await vi.advanceTimersByTimeAsync(TYPING_PAUSE - 1);
  }
  expect(begun()).toEqual([]);
  await vi.advanceTimersByTimeAsync(1 + 100);
  expect(begun()).toEqual(['fox']);
  expect(shown()).toEqual(['fox']);
});

test('a slow picture is finished and shown while somebody types, then the newest text is made', async () => {
  const { maker, begun, shown } = setUp(500);
  maker.type(request('f'));
  await vi.advanceTimersByTimeAsync(TYPING_PAUSE + 100);
  for (const text of ['fo', 'fox', 'foxes']) {
    maker.type(request(text));
    await vi.advanceTimersByTimeAsync(100);
  }
  await vi.advanceTimersByTimeAsync(300);
  expect(begun()).toEqual(['f', 'foxes']);
  expect(shown()).toEqual(['f']);
  await vi.advanceTimersByTimeAsync(500);
  expect(shown()).toEqual(['f', 'foxes']);
});

test('a choice aborts the picture before it at once', async () => {
  const { maker, begun, shown } = setUp(500);
  maker.make(request('old'));
  await vi.advanceTimersByTimeAsync(100);
  maker.make(request('new'));
  await vi.advanceTimersByTimeAsync(500);
  expect(begun()).toEqual(['old', 'new']);
  expect(shown()).toEqual(['new']);
});

test('a late result of an engine that cannot abort is dropped', async () => {
  const finish: ((picture: Picture) => void)[] = [];
  const pictures: Picture[] = [];
  const generate = () => new Promise<Picture>((resolve) => finish.push(resolve));
  const maker = new Maker(generate, { picture: (picture) => pictures.push(picture), problem: () => {} });
  maker.setReady(true);
  maker.make(request('old'));
  maker.make(request('new'));
  const picture = (prompt: string) => ({ request: request(prompt) }) as Picture;
  finish[1]?.(picture('new'));
  finish[0]?.(picture('old'));
  await vi.advanceTimersByTimeAsync(1);
  expect(pictures.map((each) => each.request.prompt)).toEqual(['new']);
});

test('a drag lets what runs finish and keeps the latest wish alone', async () => {
  const { maker, begun, shown } = setUp(100);
  for (const t of ['1', '2', '3', '4']) {
    maker.drag(request(t));
    await vi.advanceTimersByTimeAsync(10);
  }
  expect(begun()).toEqual(['1']);
  await vi.advanceTimersByTimeAsync(200);
  expect(begun()).toEqual(['1', '4']);
  expect(shown()).toEqual(['1', '4']);
});

test('a picture is slow after a while, and can be cancelled', async () => {
  const { maker, shown } = setUp(5000);
  maker.make(request('fox'));
  await vi.advanceTimersByTimeAsync(SLOW_AFTER - 1);
  expect(maker.slow.value).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  expect(maker.slow.value).toBe(true);
  maker.cancel();
  expect(maker.slow.value).toBe(false);
  expect(maker.idle).toBe(true);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(shown()).toEqual([]);
});

test('the wish waits for the engine, the last one alone', async () => {
  const { maker, begun } = setUp();
  maker.setReady(false);
  maker.make(request('first'));
  maker.type(request('second'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(begun()).toEqual([]);
  maker.setReady(true);
  await vi.advanceTimersByTimeAsync(1000);
  expect(begun()).toEqual(['second']);
});

test('a restart of the engine does not lose the wish', async () => {
  const { engine, maker, begun, shown, problems } = setUp(100);
  engine.failure = new Cancelled();
  maker.make(request('fox'));
  maker.setReady(false);
  await vi.advanceTimersByTimeAsync(100);
  engine.failure = undefined;
  maker.setReady(true);
  await vi.advanceTimersByTimeAsync(100);
  expect(begun()).toEqual(['fox', 'fox']);
  expect(shown()).toEqual(['fox']);
  expect(problems).toEqual([]);
});

test('what goes wrong is told, and the next picture is made', async () => {
  const { engine, maker, problems, shown } = setUp(100);
  engine.failure = new Error('memory is short');
  maker.make(request('fox'));
  await vi.advanceTimersByTimeAsync(100);
  expect(problems).toEqual(['memory is short']);
  expect(maker.busy.value).toBe(false);
  engine.failure = undefined;
  maker.make(request('car'));
  await vi.advanceTimersByTimeAsync(100);
  expect(shown()).toEqual(['car']);
});
