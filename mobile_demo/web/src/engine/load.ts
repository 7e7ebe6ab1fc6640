/** From models/index.json to a pipeline that makes pictures. */

import { BundleError } from '../core/errors';
import { type Manifest, parseManifest } from '../core/manifest';
import { type Graph, type Graphs, Pipeline } from '../core/pipeline';
import { Tokenizer } from '../core/tokenizer';
import type { Backend } from '../core/types';
import { checkedIndex, type FileEntry, type ModelIndex, travelling } from '../store/index-file';
import { PieceStore } from '../store/pieces';
import { Failure, refused } from '../store/problem';
import {
  type Component,
  componentsOf,
  deviceLost,
  gluePath,
  openGraph,
  outputsOf,
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
  refuseTooLarge(index);
  const progress = new Progress(listener);
  const store = await PieceStore.open(folder, progress);
  const flavour = await flavourFor(backend, index, store);
  const engine = index.engines[flavour];
  const files = await download(store, [...index.files.filter(isNeededNow), engine], progress);
  await store.tidy([...index.files, engine]);
  const manifest = parseManifest(JSON.parse(text(files, 'manifest.json')));
  listener.onState({ phase: 'opening', done: 0, total: componentsOf(manifest).length });
  checkAgainst(manifest, index);
  const glue = new URL(gluePath(engine.path), base).href;
  const runtime = await startRuntime(backend, flavour, taken(files, engine.path), glue, threads);
  const graphs = await openAll(runtime, manifest, files, listener);
  settle(runtime);
  const large = index.files.filter((entry) => !isNeededNow(entry));
  if (large.length) graphs.vae_decoder_512 = later(() => openLarge(store, large, runtime));
  void deviceLost(runtime).then(listener.onLost);
  return new Pipeline(manifest, tokenizersOf(manifest, files), graphs);
}

const LARGE = 'vae_decoder_512';
/** The large decoder is fetched when the first sticker is wanted: the first picture does not wait for it. */
const isNeededNow = ({ path }: FileEntry) => !path.startsWith(`${LARGE}/`);

async function openLarge(store: PieceStore, entries: readonly FileEntry[], runtime: Runtime): Promise<Graph> {
  const files: Files = new Map();
  for (const entry of entries) files.set(entry.path, await store.read(entry));
  return open(runtime, files, LARGE, ['sample']);
}

/** A network that is opened by the first call; the next call tries again where that failed. */
function later(opening: () => Promise<Graph>): Graph {
  let opened: Promise<Graph> | undefined;
  return async (inputs) => {
    opened ??= opening();
    const graph = await opened.catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return graph(inputs);
  };
}

/** The tokenizer of each text encoder. */
function tokenizersOf(manifest: Manifest, files: Files): Tokenizer[] {
  const tokens = { tokenizer: manifest.tokens, tokenizer_2: manifest.tokens2 };
  return manifest.conditioning.textEncoders.map(({ tokenizer: folder }) => {
    const [vocab, merges] = [text(files, `${folder}/vocab.json`), text(files, `${folder}/merges.txt`)];
    const beside = {
      config: optional(files, `${folder}/tokenizer_config.json`),
      map: optional(files, `${folder}/special_tokens_map.json`),
    };
    return Tokenizer.parse(vocab, merges, tokens[folder] ?? beside);
  });
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

/** @throws BundleError for networks that no browser can hold: WebAssembly's memory ends at 4 GiB. */
export function refuseTooLarge({ name, files }: Pick<ModelIndex, 'name' | 'files'>): void {
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  if (total > 2 ** 32) {
    const size = (total / 1e9).toFixed(1);
    throw new BundleError(
      `${name} has ${size} GB of files, and a browser gives a page 4.3 GB at most: use the Python runtime for it`,
    );
  }
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

async function openAll(
  runtime: Runtime,
  manifest: Manifest,
  files: Files,
  listener: Listener,
): Promise<Graphs> {
  const graphs: Partial<Graphs> = {};
  const components = componentsOf(manifest);
  for (const [i, component] of components.entries()) {
    graphs[component] = await open(runtime, files, component, outputsOf(manifest, component));
    listener.onState({ phase: 'opening', done: i + 1, total: components.length });
  }
  return graphs as Graphs;
}

function open(runtime: Runtime, files: Files, component: Component, outputs: string[]) {
  const data = `${component}/model.onnx_data`;
  const external = files.has(data) ? taken(files, data) : undefined;
  return openGraph(runtime, component, outputs, taken(files, `${component}/model.onnx`), external);
}

/** A file's bytes, no longer held by the map, so that its memory can be freed. */
function taken(files: Files, path: string): Uint8Array<ArrayBuffer> {
  const bytes = files.get(path);
  if (!bytes) throw new BundleError(`the bundle lacks ${path}: build the app again`);
  files.delete(path);
  return bytes;
}

/** A file's text where the bundle has it: those of a tokenizer are needed where the manifest does not say it all. */
function optional(files: Files, path: string): string | undefined {
  return files.has(path) ? text(files, path) : undefined;
}

function text(files: Files, path: string): string {
  return new TextDecoder().decode(taken(files, path));
}
