/** The only file that imports ONNX Runtime: a bundle's networks, opened on a backend. */

import type { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-web';
import type { TextEncoder } from '../core/conditioning';
import { BundleError } from '../core/errors';
import type { Manifest } from '../core/manifest';
import type { Graph, Tensor, TextGraph } from '../core/pipeline';
import type { Backend } from '../core/types';

type Ort = typeof import('onnxruntime-web/wasm');

/** Main outputs by what a network is. Source: the names of optimum's ORTStableDiffusionPipeline. */
const OUTPUTS = { unet: 'out_sample', vae_decoder: 'sample', vae_decoder_512: 'sample' };
export type Component = keyof typeof OUTPUTS | TextEncoder['component'];

/** In the order in which they are opened: the largest first, so that the others fit into the memory it leaves. */
export function componentsOf({ conditioning }: Manifest): Component[] {
  return ['unet', ...conditioning.textEncoders.map(({ component }) => component), 'vae_decoder'];
}

/** The outputs of a network that are used. */
export function outputsOf({ conditioning }: Manifest, component: Component): string[] {
  if (component in OUTPUTS) return [OUTPUTS[component as keyof typeof OUTPUTS]];
  const encoder = conditioning.textEncoders.find((one) => one.component === component) as TextEncoder;
  return encoder.pooled === null ? [encoder.states] : [encoder.states, encoder.pooled];
}

// On WebGPU, ONNX Runtime 1.30's MultiHeadAttention leaves out the causal mask, and a prompt's words see those after them.
// The text encoder takes a few milliseconds of the CPU, once per prompt.
const ON_CPU: readonly Component[] = ['text_encoder', 'text_encoder_2'];
// A GPU has no 8-bit products: the graph's roundings to 8 bits are dropped and its weights unpacked when it is opened.
const IN_FLOAT = { disable_quant_qdq: '1', enable_quant_qdq_cleanup: '1' };
// Threads take work in smaller and smaller parts: the one that the page's work delays is not waited for as long.
const SHARED_OUT = { dynamic_block_base: '4' };

/** ONNX Runtime, ready to open networks. */
export interface Runtime {
  ort: Ort;
  backend: Backend;
}

/**
 * Starts ONNX Runtime from its WebAssembly. `flavour`: which of its builds that is; the one for WebGPU computes on the
 * CPU too. `glue`: the URL of the script that comes with it.
 */
export async function startRuntime(
  backend: Backend,
  flavour: Backend,
  wasm: Uint8Array,
  glue: string,
  threads: number,
): Promise<Runtime> {
  const ort =
    flavour === 'webgpu' ? await import('onnxruntime-web/webgpu') : await import('onnxruntime-web/wasm');
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = { mjs: glue };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  return { ort, backend };
}

/** Frees the WebAssembly's bytes, once it runs. */
export function settle({ ort }: Runtime): void {
  delete ort.env.wasm.wasmBinary;
}

/** Resolves, with the reason, when the GPU goes away; never on the CPU. To be asked once a network is open. */
export async function deviceLost({ ort, backend }: Runtime): Promise<string> {
  if (backend !== 'webgpu') return new Promise(() => {});
  const { message } = await (await ort.env.webgpu.device).lost;
  return message || 'the device was lost';
}

/** The script that comes with a backend's WebAssembly, below the app's folder. */
export function gluePath(wasmPath: string): string {
  return `ort/${wasmPath.replace(/\.wasm$/, '.mjs')}`;
}

/** Opens one network. `outputs`: that it is asked for. `external`: model.onnx_data, where the bundle has one. */
export async function openGraph(
  { ort, backend }: Runtime,
  component: Component,
  outputs: readonly string[],
  model: Uint8Array,
  external?: Uint8Array,
): Promise<Graph & TextGraph> {
  const provider = ON_CPU.includes(component) ? 'wasm' : backend;
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [provider],
    graphOptimizationLevel: 'all',
    extra: { session: { ...SHARED_OUT, ...(provider === 'webgpu' && IN_FLOAT) } },
    ...(external && { externalData: [{ path: 'model.onnx_data', data: external }] }),
  });
  const missing = outputs.filter((output) => !session.outputNames.includes(output));
  if (missing.length) {
    throw new BundleError(
      `${component} gives ${session.outputNames.join(', ')}; ${missing.join(', ')} is needed`,
    );
  }
  const graph = async (inputs: Record<string, Tensor>) => {
    const given = await run(ort, session, component, inputs, outputs);
    return given.length === 1 ? given[0] : given;
  };
  return graph as Graph & TextGraph; // which of the two follows from the number of outputs
}

async function run(
  ort: Ort,
  session: InferenceSession,
  component: Component,
  inputs: Record<string, Tensor>,
  outputs: readonly string[],
): Promise<Float32Array[]> {
  const feeds = session.inputMetadata.map((meta) => {
    const given = inputs[meta.name];
    if (!given || !meta.isTensor) throw new BundleError(`${component} takes ${meta.name}, which is unknown`);
    return [meta.name, fitted(ort, given, meta.type, meta.shape.length)] as const;
  });
  const results = await session.run(Object.fromEntries(feeds), outputs);
  const found: Float32Array[] = [];
  for (const output of outputs) {
    const result = results[output] as OrtTensor;
    if (result.type !== 'float32')
      throw new BundleError(`${component} gives ${result.type}; float32 is needed`);
    found.push((await result.getData()) as Float32Array);
    result.dispose();
  }
  return found;
}

/** A tensor in the type that the graph takes; a scalar as rank 1 where the graph wants that (timestep). */
function fitted(ort: Ort, { data, shape }: Tensor, type: string, rank: number): OrtTensor {
  const dims = shape.length === 0 && rank === 1 ? [1] : shape;
  switch (type) {
    case 'float32':
      return new ort.Tensor(
        type,
        data instanceof Float32Array ? data : Float32Array.from(data, Number),
        dims,
      );
    case 'int64':
      return new ort.Tensor(type, BigInt64Array.from(Array.from(data, BigInt)), dims);
    case 'int32':
      return new ort.Tensor(type, Int32Array.from(data, Number), dims);
    default:
      throw new BundleError(
        `a network takes ${type}, which this app does not feed: export it with --precision int8`,
      );
  }
}
