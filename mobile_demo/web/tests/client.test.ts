import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Picture } from '../src/core/types';
import { startEngine } from '../src/engine/client';
import type { FromWorker, ToWorker } from '../src/engine/messages';
import { Cancelled, type Engine, type Notice } from '../src/engine/types';

/** A worker whose answers the test gives. */
class FakeWorker {
  static all: FakeWorker[] = [];
  onmessage?: (event: { data: FromWorker }) => void;
  onerror?: (event: { message: string }) => void;
  sent: ToWorker[] = [];
  ended = false;

  constructor() {
    FakeWorker.all.push(this);
  }

  postMessage(message: ToWorker): void {
    this.sent.push(message);
  }

  terminate(): void {
    this.ended = true;
  }

  say(data: FromWorker): void {
    this.onmessage?.({ data });
  }

  ready(): void {
    const state = {
      phase: 'ready',
      backend: 'wasm',
      threads: 1,
      bundle: 'b',
      width: 1,
      height: 1,
      varies: false,
      things: [],
      large: false,
      steps: [1],
    } as const;
    this.say({ type: 'state', state });
  }

  /** The requested pictures that it has not been told to stop. */
  get asked(): number[] {
    return this.sent.filter((message) => message.type === 'generate').map(({ id }) => id);
  }
}

const request = (prompt: string) => ({ prompt, seed: '7', steps: 1 });
const picture = (prompt: string) => ({ request: request(prompt) }) as Picture;
const settled = () => new Promise((resolve) => setTimeout(resolve));

let engine: Engine;
let notices: Notice[];
const worker = () => FakeWorker.all.at(-1) as FakeWorker;

async function start(backend: 'auto' | 'wasm' | 'webgpu', gpu: boolean): Promise<void> {
  const adapter = gpu ? { info: { isFallbackAdapter: false } } : null;
  vi.stubGlobal('navigator', { gpu: { requestAdapter: async () => adapter }, hardwareConcurrency: 8 });
  engine = startEngine(backend);
  notices = [];
  engine.onNotice((notice) => notices.push(notice));
  await settled();
}

beforeEach(() => {
  FakeWorker.all = [];
  vi.stubGlobal('Worker', FakeWorker);
  vi.stubGlobal('document', { baseURI: 'http://localhost/app/index.html' });
});
afterEach(() => vi.unstubAllGlobals());

describe('engine', () => {
  it('takes WebGPU where there is an adapter, and one thread where the page is not isolated', async () => {
    await start('auto', true);
    expect(worker().sent[0]).toEqual({
      type: 'start',
      backend: 'webgpu',
      threads: 1,
      base: 'http://localhost/app/',
    });
    vi.stubGlobal('crossOriginIsolated', true);
    await start('auto', false);
    expect(worker().sent[0]).toMatchObject({ backend: 'wasm', threads: 4 });
    await start('wasm', true);
    expect(worker().sent[0]).toMatchObject({ backend: 'wasm' });
  });

  it('sends one picture at a time, in order, once the models are open', async () => {
    await start('wasm', false);
    const [a, b] = [engine.generate(request('a')), engine.generate(request('b'))];
    expect(worker().asked).toEqual([]);
    worker().ready();
    expect(worker().asked).toEqual([1]);
    worker().say({ type: 'picture', id: 1, picture: picture('a') });
    expect(worker().asked).toEqual([1, 2]);
    worker().say({ type: 'refused', id: 2, cancelled: false, message: 'no' });
    expect((await a).request.prompt).toBe('a');
    await expect(b).rejects.toThrow('no');
  });

  it('takes an aborted call out of the queue, and stops one at work', async () => {
    await start('wasm', false);
    worker().ready();
    const stop = [new AbortController(), new AbortController()] as const;
    const a = engine.generate(request('a'), stop[0].signal);
    const b = engine.generate(request('b'), stop[1].signal);
    const c = engine.generate(request('c'));
    stop[1].abort();
    await expect(b).rejects.toThrow(Cancelled);
    stop[0].abort();
    await expect(a).rejects.toThrow(Cancelled);
    expect(worker().sent.at(-1)).toEqual({ type: 'cancel', id: 1 });
    worker().say({ type: 'picture', id: 1, picture: picture('late') });
    worker().say({ type: 'picture', id: 3, picture: picture('c') });
    expect((await c).request.prompt).toBe('c');
    expect(worker().asked).toEqual([1, 3]);
    await expect(engine.generate(request('d'), AbortSignal.abort())).rejects.toThrow(Cancelled);
  });

  it('hands the picture at work to the CPU when WebGPU is lost, and says so', async () => {
    await start('auto', true);
    const first = worker();
    first.ready();
    const a = engine.generate(request('a'));
    first.say({ type: 'lost', why: 'device lost\nmore' });
    expect([first.ended, FakeWorker.all.length]).toEqual([true, 2]);
    expect(worker().sent[0]).toMatchObject({ type: 'start', backend: 'wasm' });
    expect(notices).toEqual([
      { kind: 'fallback', message: expect.stringMatching(/^.*device lost\).*CPU\.$/) },
    ]);
    worker().ready();
    expect(worker().asked).toEqual([1]);
    worker().say({ type: 'picture', id: 1, picture: picture('a') });
    expect((await a).request.prompt).toBe('a');
  });

  it('does not make a picture again that was aborted when its worker was replaced', async () => {
    await start('auto', true);
    worker().ready();
    const stop = new AbortController();
    const a = engine.generate(request('a'), stop.signal);
    stop.abort();
    await expect(a).rejects.toThrow(Cancelled);
    worker().say({ type: 'lost', why: 'device lost' });
    worker().ready();
    expect(worker().asked).toEqual([]);
  });

  it('says when WebGPU was asked for and is not there', async () => {
    const told: Notice[] = [];
    vi.stubGlobal('navigator', {});
    engine = startEngine('wasm');
    engine.onNotice((notice) => told.push(notice));
    engine.restart('webgpu');
    await settled();
    expect(told.map(({ kind }) => kind)).toEqual(['fallback']);
    expect(worker().sent[0]).toMatchObject({ backend: 'wasm' });
  });

  it('fails with a reason when the browser ends its worker, and starts again', async () => {
    await start('wasm', false);
    worker().ready();
    const a = engine.generate(request('a'));
    worker().onerror?.({ message: '' });
    expect(engine.state).toMatchObject({ phase: 'failed', problem: { kind: 'memory' } });
    engine.restart();
    await settled();
    worker().ready();
    worker().say({ type: 'picture', id: 1, picture: picture('a') });
    expect((await a).request.prompt).toBe('a');
  });

  it('does not blame memory for a worker that never began', async () => {
    await start('wasm', false);
    worker().onerror?.({ message: '' });
    expect(engine.state).toMatchObject({ phase: 'failed', problem: { kind: 'internal' } });
  });

  it('refuses a browser that cannot run it', async () => {
    vi.stubGlobal('DecompressionStream', undefined);
    await start('auto', true);
    expect(engine.state).toMatchObject({ phase: 'failed', problem: { kind: 'browser' } });
    expect(FakeWorker.all).toEqual([]);
  });
});
