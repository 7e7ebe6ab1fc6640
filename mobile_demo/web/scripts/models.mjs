/**
 * The bundle and ONNX Runtime's WebAssembly -> public/models: small gzipped pieces that any static server can hold.
 *
 *     node scripts/models.mjs [BUNDLE [OUT]]
 *
 * BUNDLE: a folder of `python -m export.onnx`; without one the project's default bundle. OUT: instead of public/models.
 *
 * Every file of the bundle is compared with its manifest's hash first. A piece is named by the hash of its bytes, so
 * that a new bundle shares what did not change; index.json lists which pieces make which file.
 */

import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { argv, env, exit, stderr } from 'node:process';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const WEB = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const DEFAULT = resolve(WEB, '../../runtime/bundles/sticker-128');
const ORT = join(WEB, 'node_modules/onnxruntime-web/dist');
/** Flavours of ONNX Runtime: a device fetches one. */
const ENGINES = { wasm: 'ort-wasm-simd-threaded', webgpu: 'ort-wasm-simd-threaded.asyncify' };
const PIECE = 2 ** 20; // bytes before gzip: what an interrupted download loses
const COMPONENTS = ['text_encoder', 'text_encoder_2', 'unet', 'vae_decoder', 'vae_decoder_512'];
const TOKENIZERS = ['tokenizer', 'tokenizer_2'];

const sha256 = (/** @type {Uint8Array} */ bytes) => createHash('sha256').update(bytes).digest('hex');

/** Whether the app needs a file of the bundle: the image encoder is not for it. `told`: the manifest's fields. */
function isNeeded(/** @type {string} */ path, /** @type {string[]} */ told) {
  const [folder, name] = path.split('/');
  if (TOKENIZERS.includes(folder ?? '')) {
    const more = told.includes(folder ?? '') ? [] : ['tokenizer_config.json', 'special_tokens_map.json'];
    return ['vocab.json', 'merges.txt', ...more].includes(name ?? '');
  }
  return COMPONENTS.includes(folder ?? '') && /\.onnx(_data)?$/.test(name ?? '');
}

/** A file cut into pieces, each written to `out` and listed with the hash of what travels. */
function cut(/** @type {string} */ path, /** @type {Uint8Array} */ bytes, /** @type {string} */ out) {
  const pieces = [];
  for (let at = 0; at < bytes.length; at += PIECE) {
    const packed = gzipSync(bytes.subarray(at, at + PIECE), { level: 9 });
    const hash = sha256(packed);
    writeFileSync(join(out, 'pieces', `${hash}.bin`), packed);
    pieces.push({ sha256: hash, bytes: packed.length });
  }
  return { path, bytes: bytes.length, sha256: sha256(bytes), pieces };
}

/** The bundle's files, checked; ends the program with one line when one is damaged. */
function bundleFiles(/** @type {string} */ bundle) {
  const text = readFileSync(join(bundle, 'manifest.json'));
  const manifest = JSON.parse(text.toString());
  const files = Object.entries(manifest.files).filter(([path]) => isNeeded(path, Object.keys(manifest)));
  const read = files.map(([path, facts]) => {
    const bytes = readFileSync(join(bundle, path));
    if (sha256(bytes) !== facts.sha256)
      fail(`${join(bundle, path)} is not what manifest.json says: restore it`);
    return { path, bytes };
  });
  return { name: manifest.name, files: [{ path: 'manifest.json', bytes: text }, ...read] };
}

/** @returns {never} */
function fail(/** @type {string} */ message) {
  stderr.write(`models: ${message}\n`);
  exit(2);
}

function main() {
  const bundle = resolve(argv[2] ?? env.ADDKIT_BUNDLE ?? DEFAULT);
  const out = resolve(argv[3] ?? join(WEB, 'public/models'));
  if (!existsSync(join(bundle, 'manifest.json'))) fail(`${bundle} is not a bundle: manifest.json is missing`);
  copyGlue();
  const source = sourceOf(bundle);
  if (existsSync(join(out, 'index.json')) && readJson(join(out, 'index.json')).source === source) return;
  const { name, files } = bundleFiles(bundle);
  const unfinished = `${out}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(join(unfinished, 'pieces'), { recursive: true });
  const index = {
    format_version: 1,
    name,
    source,
    files: files.map(({ path, bytes }) => cut(path, bytes, unfinished)),
    engines: Object.fromEntries(
      Object.entries(ENGINES).map(([flavour, stem]) => [
        flavour,
        cut(`${stem}.wasm`, readFileSync(join(ORT, `${stem}.wasm`)), unfinished),
      ]),
    ),
  };
  writeFileSync(join(unfinished, 'index.json'), JSON.stringify(index));
  rmSync(out, { recursive: true, force: true });
  renameSync(unfinished, out);
  report(index);
}

/** The script that comes with each flavour's WebAssembly, beside the app. */
function copyGlue() {
  mkdirSync(join(WEB, 'public/ort'), { recursive: true });
  for (const stem of Object.values(ENGINES)) {
    copyFileSync(join(ORT, `${stem}.mjs`), join(WEB, 'public/ort', `${stem}.mjs`));
  }
}

/** A hash of all that the pieces are made from: with the same one there is nothing to do. */
function sourceOf(/** @type {string} */ bundle) {
  const parts = [
    join(bundle, 'manifest.json'),
    join(WEB, 'package-lock.json'),
    fileURLToPath(import.meta.url),
  ];
  return sha256(Buffer.concat(parts.map((path) => readFileSync(path))));
}

function readJson(/** @type {string} */ path) {
  return JSON.parse(readFileSync(path).toString());
}

function report(
  /** @type {{name: string, files: {pieces: {bytes: number}[]}[], engines: Record<string, {pieces: {bytes: number}[]}>}} */ index,
) {
  const size = (/** @type {{pieces: {bytes: number}[]}[]} */ entries) =>
    (entries.flatMap(({ pieces }) => pieces).reduce((sum, { bytes }) => sum + bytes, 0) / 1e6).toFixed(1);
  const engines = Object.entries(index.engines).map(([flavour, entry]) => `${flavour} ${size([entry])} MB`);
  stderr.write(`models: ${index.name} ${size(index.files)} MB, ONNX Runtime ${engines.join(' or ')}\n`);
}

main();
