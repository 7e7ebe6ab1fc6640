/** From models/index.json to a pipeline that makes pictures. */

import { BundleError } from '../core/errors';
import { type Manifest, parseManifest } from '../core/manifest';
import { type Graphs, Pipeline } from '../core/pipeline';
import { Tokenizer } from '../core/tokenizer';
import type { Backend } from '../core/types';
import { checkedIndex, type FileEntry, type ModelIndex, travelling } from '../store/index-file';
import { PieceStore } from '../store/pieces';
import { Failure, refused } from '../store/problem';
import {
  COMPONENTS,
  type Component,
  deviceLost,
  gluePath,
  openGraph,
  type Runtime,
  settle,
  startRuntime,
} from './graphs';
import type { EngineState, Notice } from './types';

/** Reported while it loads. */
export interface Listener {
  onState(state: EngineState): void;
  onNotice(notice: Notice): void;
  /** The GPU went away after the models were opened. */
  onLost(why: string): void;
}

/** A pipeline on `backend`. `base`: the app's folder. @throws Failure, BundleError */
export async function load(
  base: URL,
  backend: Backend,
  threads: number,
  listener: Listener,
): Promise<Pipeline> {
  const folder = new URL('models/', base);
  const index = await readIndex(folder);
  const progress = new Progress(listener);
  const store = await PieceStore.open(folder, progress);
  const flavour = await flavourFor(backend, index, store);
  const engine = index.engines[flavour];
  const files = await download(store, [...index.files, engine], progress);
  listener.onState({ phase: 'opening', done: 0, total: COMPONENTS.length });
  const manifest = parseManifest(JSON.parse(text(files, 'manifest.json')));
  checkAgainst(manifest, index);
  const glue = new URL(gluePath(engine.path), base).href;
  const runtime = await startRuntime(backend, flavour, taken(files, engine.path), glue, threads);
  const graphs = await openAll(runtime, files, listener);
  settle(runtime);
  void deviceLost(runtime).then(listener.onLost);
  const [vocab, merges] = [text(files, 'tokenizer/vocab.json'), text(files, 'tokenizer/merges.txt')];
  const tokenizer = Tokenizer.parse(vocab, merges, manifest.tokens);
  return new Pipeline(manifest, tokenizer, graphs);
}

async function readIndex(folder: URL): Promise<ModelIndex> {
  const response = await fetch(new URL('index.json', folder)).catch((error: Error) => {
    throw new Failure(
      'offline',
      `The list of models could not be fetched (${error.message}). Connect to the network and try again.`,
    );
  });
  if (!response.ok) throw refused(response.status);
  const data: unknown = await response.json().catch(() => {
    throw refused('The server sent something else');
  });
  return checkedIndex(data);
}

/**
 * Which of ONNX Runtime's builds to fetch: the backend's own, unless the one for WebGPU is here and the CPU's is not. It
 * computes on the CPU too, and the network may be gone with the GPU.
 */
async function flavourFor(backend: Backend, { engines }: ModelIndex, store: PieceStore): Promise<Backend> {
  const onlyOther = !(await store.has(engines[backend])) && (await store.has(engines.webgpu));
  return onlyOther ? 'webgpu' : backend;
}

/** Adds up what has arrived and reports it. */
class Progress {
  private loaded = 0;
  private total = 0;
  readonly onNotice: Listener['onNotice'];

  constructor(private readonly listener: Listener) {
    this.onNotice = listener.onNotice;
  }

  start(total: number): void {
    this.total = total;
    this.onBytes(0);
  }

  onBytes(bytes: number): void {
    this.loaded += bytes;
    this.listener.onState({ phase: 'downloading', loaded: this.loaded, total: this.total });
  }
}

type Files = Map<string, Uint8Array<ArrayBuffer>>;

/** All files, one after the other. */
async function download(store: PieceStore, entries: FileEntry[], progress: Progress): Promise<Files> {
  progress.start(travelling(entries));
  const files: Files = new Map();
  for (const entry of entries) files.set(entry.path, await store.read(entry));
  await store.tidy(entries);
  return files;
}

/** The index was made from this manifest: names, sizes and hashes are the same. */
function checkAgainst(manifest: Manifest, index: ModelIndex): void {
  for (const { path, sha256, bytes } of index.files) {
    const facts = manifest.files.get(path);
    if (path !== 'manifest.json' && (facts?.sha256 !== sha256 || facts.bytes !== bytes)) {
      throw new BundleError(`${path} is not what ${manifest.name}'s manifest says: build the app again`);
    }
  }
}

async function openAll(runtime: Runtime, files: Files, listener: Listener): Promise<Graphs> {
  const graphs: Partial<Graphs> = {};
  for (const [i, component] of COMPONENTS.entries()) {
    graphs[component] = await open(runtime, files, component);
    listener.onState({ phase: 'opening', done: i + 1, total: COMPONENTS.length });
  }
  return graphs as Graphs;
}

function open(runtime: Runtime, files: Files, component: Component) {
  const data = `${component}/model.onnx_data`;
  const external = files.has(data) ? taken(files, data) : undefined;
  return openGraph(runtime, component, taken(files, `${component}/model.onnx`), external);
}

/** A file's bytes, no longer held by the map, so that its memory can be freed. */
function taken(files: Files, path: string): Uint8Array<ArrayBuffer> {
  const bytes = files.get(path);
  if (!bytes) throw new BundleError(`the bundle lacks ${path}: build the app again`);
  files.delete(path);
  return bytes;
}

function text(files: Files, path: string): string {
  return new TextDecoder().decode(taken(files, path));
}
