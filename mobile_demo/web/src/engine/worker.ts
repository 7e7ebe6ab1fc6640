/** The Web Worker: loads the models and makes pictures, one at a time, so that the page never waits for it. */

import type { Pipeline } from '../core/pipeline';
import type { Backend, GenerateRequest } from '../core/types';
import { Failure, problemOf } from '../store/problem';
import { load } from './load';
import type { FromWorker, ToWorker } from './messages';
import { Cancelled, type Notice } from './types';

const cancelled = new Set<number>();
let pipeline: Promise<Pipeline> | undefined;
let backend: Backend = 'wasm';

function post(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

self.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === 'start') start(data);
  if (data.type === 'generate') void generate(data.id, data.request);
  if (data.type === 'cancel') cancelled.add(data.id);
};

function start({ backend: wanted, threads, base }: ToWorker & { type: 'start' }): void {
  backend = wanted;
  pipeline = load(new URL(base), backend, threads, {
    onState: (state) => post({ type: 'state', state }),
    onNotice: (notice: Notice) => post({ type: 'notice', notice }),
    onLost: (why) => post({ type: 'lost', why }),
  });
  pipeline.then(
    ({ manifest }) => {
      const [height, width] = manifest.imageSize;
      post({
        type: 'state',
        state: {
          phase: 'ready',
          backend,
          threads,
          bundle: manifest.name,
          width,
          height,
          varies: manifest.variation !== undefined,
          things: some(manifest.variation?.things() ?? []),
          large: manifest.files.has('vae_decoder_512/model.onnx'),
          steps: [...manifest.steps.keys()].sort((a, b) => a - b),
        },
      });
    },
    (error: unknown) => report(error),
  );
}

const MOST_THINGS = 300;

/** At most MOST_THINGS of a list, taken evenly. */
function some(list: string[]): string[] {
  const step = Math.max(1, Math.ceil(list.length / MOST_THINGS));
  return list.filter((_, i) => i % step === 0);
}

/** A failed start: on the CPU it is final, on WebGPU another worker tries the CPU, unless the files are missing. */
function report(error: unknown): void {
  const problem = problemOf(error);
  if (backend === 'webgpu' && (problem.kind === 'internal' || problem.kind === 'memory')) {
    post({ type: 'lost', why: (error as Error).message });
  } else {
    post({ type: 'state', state: { phase: 'failed', problem } });
  }
}

async function generate(id: number, request: GenerateRequest): Promise<void> {
  try {
    if (!pipeline) throw new Error('the engine has not been started');
    const made = await (await pipeline).generate(request, () => checkpoint(id));
    post({ type: 'picture', id, picture: { ...made, backend } }, [made.rgba.buffer]);
  } catch (error) {
    refuse(id, error as Error);
  } finally {
    cancelled.delete(id);
  }
}

function refuse(id: number, error: Error): void {
  const stopped = error instanceof Cancelled;
  if (backend === 'webgpu' && !stopped && !(error instanceof RangeError) && !(error instanceof Failure))
    post({ type: 'lost', why: error.message });
  else post({ type: 'refused', id, cancelled: stopped, message: error.message });
}

/** Lets messages in, then stops a picture that nobody waits for. */
async function checkpoint(id: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
  if (cancelled.has(id)) throw new Cancelled('cancelled');
}
