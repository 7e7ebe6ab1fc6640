/** The page's side of the engine: a queue in front of one Web Worker, which is replaced when WebGPU gives up. */

import type { Backend, GenerateRequest, Picture } from '../core/types';
import { supported, threadsHere, webgpuHere } from './browser';
import type { FromWorker, ToWorker } from './messages';
import { Cancelled, type Engine, type EngineState, type Notice, type Problem } from './types';

interface Job {
  id: number;
  request: GenerateRequest;
  /** Nobody waits for it any more; the worker has been told to stop. */
  aborted: boolean;
  resolve(picture: Picture): void;
  reject(error: Error): void;
}

/** Starts to load the models at once. `backend` 'auto': WebGPU where the browser has it. */
export function startEngine(backend: Backend | 'auto' = 'auto'): Engine {
  const engine = new WorkerEngine();
  engine.restart(backend);
  return engine;
}

class WorkerEngine implements Engine {
  state: EngineState = { phase: 'downloading', loaded: 0, total: 0 };
  private readonly stateListeners = new Set<(state: EngineState) => void>();
  private readonly noticeListeners = new Set<(notice: Notice) => void>();
  private readonly waiting: Job[] = [];
  private running: Job | undefined;
  private worker: Worker | undefined;
  private ids = 0;
  private starts = 0;
  private heard = false; // the present worker has said something

  onState(listener: (state: EngineState) => void): () => void {
    this.stateListeners.add(listener);
    listener(this.state);
    return () => this.stateListeners.delete(listener);
  }

  onNotice(listener: (notice: Notice) => void): () => void {
    this.noticeListeners.add(listener);
    return () => this.noticeListeners.delete(listener);
  }

  generate(request: GenerateRequest, signal?: AbortSignal): Promise<Picture> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(new Cancelled('cancelled'));
      const job: Job = { id: ++this.ids, request, aborted: false, resolve, reject };
      signal?.addEventListener('abort', () => this.abort(job), { once: true });
      this.waiting.push(job);
      this.next();
    });
  }

  restart(backend: Backend | 'auto' = 'auto'): void {
    this.stop();
    this.setState({ phase: 'downloading', loaded: 0, total: 0 });
    void this.start(backend);
  }

  private async start(wanted: Backend | 'auto'): Promise<void> {
    const start = ++this.starts;
    const problem = supported();
    if (problem) return this.setState({ phase: 'failed', problem });
    const gpu = wanted !== 'wasm' && (await webgpuHere());
    if (start !== this.starts) return; // another start came meanwhile
    if (wanted === 'webgpu' && !gpu) this.fellBack('this browser offers no WebGPU');
    this.spawn(gpu ? 'webgpu' : 'wasm');
  }

  private spawn(backend: Backend): void {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
    this.worker = worker;
    this.heard = false;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.receive(data);
    worker.onerror = () => this.fail();
    const base = new URL('.', document.baseURI).href;
    this.send({ type: 'start', backend, threads: threadsHere(), base });
  }

  private send(message: ToWorker): void {
    this.worker?.postMessage(message);
  }

  private receive(message: FromWorker): void {
    this.heard = true;
    if (message.type === 'state') this.setState(message.state);
    if (message.type === 'notice') this.notify(message.notice);
    if (message.type === 'lost') this.replace(message.why);
    if (message.type === 'picture') this.finished(message.id)?.resolve(message.picture);
    if (message.type === 'refused') {
      this.finished(message.id)?.reject(
        message.cancelled ? new Cancelled('cancelled') : new Error(message.message),
      );
    }
    this.next();
  }

  private finished(id: number): Job | undefined {
    const job = this.running?.id === id ? this.running : undefined;
    if (job) this.running = undefined;
    return job;
  }

  /** The CPU takes over what WebGPU could not do. */
  private replace(why: string): void {
    this.stop(); // the picture at work goes back to the front of the queue
    this.fellBack(why);
    this.setState({ phase: 'downloading', loaded: 0, total: 0 });
    this.starts += 1;
    this.spawn('wasm');
  }

  private fellBack(why: string): void {
    const reason = why.split('\n')[0]?.slice(0, 120);
    this.notify({
      kind: 'fallback',
      message: `The GPU cannot be used (${reason}); pictures are made on the CPU.`,
    });
  }

  private stop(): void {
    this.worker?.terminate();
    this.worker = undefined;
    if (this.running && !this.running.aborted) this.waiting.unshift(this.running);
    this.running = undefined;
  }

  /** The worker ended: before it said anything, its script did not load; later, most likely memory ran out. */
  private fail(): void {
    const began = this.heard;
    this.stop();
    const problem: Problem = began
      ? { kind: 'memory', message: 'The browser ended the work. Close other tabs or apps and try again.' }
      : {
          kind: 'internal',
          message: 'A part of the app did not load. Connect to the network and load the page again.',
        };
    this.setState({ phase: 'failed', problem });
  }

  private abort(job: Job): void {
    job.aborted = true;
    const at = this.waiting.indexOf(job);
    if (at >= 0) this.waiting.splice(at, 1);
    else if (this.running === job) this.send({ type: 'cancel', id: job.id });
    job.reject(new Cancelled('cancelled'));
  }

  private next(): void {
    if (this.running || this.state.phase !== 'ready') return;
    this.running = this.waiting.shift();
    if (this.running) this.send({ type: 'generate', id: this.running.id, request: this.running.request });
  }

  private setState(state: EngineState): void {
    this.state = state;
    for (const listener of this.stateListeners) listener(state);
  }

  private notify(notice: Notice): void {
    for (const listener of this.noticeListeners) listener(notice);
  }
}
