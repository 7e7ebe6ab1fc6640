/** models/index.json: which pieces make which file. Written by scripts/models.mjs. */

import { BundleError } from '../core/errors';
import type { Backend } from '../core/types';

/** What travels and is kept: gzipped, named by the SHA-256 of its bytes. */
export interface Piece {
  sha256: string;
  bytes: number;
}

/** A file: its pieces, unpacked and joined, have `bytes` bytes with this SHA-256. */
export interface FileEntry extends Piece {
  path: string;
  pieces: Piece[];
}

export interface ModelIndex {
  format_version: 1;
  /** The bundle's. */
  name: string;
  /** A hash of what the pieces were made from, for scripts/models.mjs. */
  source: string;
  /** manifest.json, the tokenizer's two files, the three networks. */
  files: FileEntry[];
  /** ONNX Runtime's WebAssembly for each backend. */
  engines: Record<Backend, FileEntry>;
}

/** @throws BundleError when it has another format. */
export function checkedIndex(data: unknown): ModelIndex {
  const index = data as Partial<ModelIndex> | null;
  if (index?.format_version !== 1 || !Array.isArray(index.files) || !index.engines) {
    throw new BundleError('models/index.json has a format that this app does not read: build the app again');
  }
  return index as ModelIndex;
}

/** Bytes that travel for some files. */
export function travelling(files: readonly FileEntry[]): number {
  return files.flatMap(({ pieces }) => pieces).reduce((sum, { bytes }) => sum + bytes, 0);
}
