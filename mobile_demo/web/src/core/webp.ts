/** WebP's container: metadata put into a file that the browser encoded, and several of them joined to an animation. */

import { concatenated } from './bytes';

interface Chunk {
  /** Four letters. */
  id: string;
  data: Uint8Array;
}

export interface Metadata {
  xmp: string;
  /** The `parameters` text, in EXIF's UserComment, as A1111's web UI writes it. */
  parameters: string;
}

export interface Frame {
  /** A WebP file of one picture. */
  webp: Uint8Array;
  /** Milliseconds. */
  duration: number;
}

const FLAGS = { alpha: 0x10, exif: 0x08, xmp: 0x04, animation: 0x02 };
const NO_BLENDING = 2; // a frame replaces what was there, transparent pixels too

/** The same picture with metadata. @throws Error when the bytes are no WebP file. */
export function withMetadata(
  webp: Uint8Array,
  width: number,
  height: number,
  metadata: Metadata,
): Uint8Array<ArrayBuffer> {
  const picture = pictureChunks(webp);
  const alpha = hasAlpha(picture) ? FLAGS.alpha : 0;
  const header = extended(width, height, alpha | FLAGS.exif | FLAGS.xmp);
  return file([header, ...picture, ...described(metadata)]);
}

/** An animation that goes on for ever. All frames are of this size. */
export function animated(
  frames: readonly Frame[],
  width: number,
  height: number,
  metadata: Metadata,
): Uint8Array<ArrayBuffer> {
  const header = extended(width, height, FLAGS.animation | FLAGS.alpha | FLAGS.exif | FLAGS.xmp);
  const parts = frames.map(({ webp, duration }) => {
    const place = new Uint8Array(16); // at 0, 0
    put24(place, 6, width - 1);
    put24(place, 9, height - 1);
    put24(place, 12, duration);
    place[15] = NO_BLENDING;
    return { id: 'ANMF', data: concatenated([place, ...pictureChunks(webp).map(written)]) };
  });
  const loops = new Uint8Array(6); // a transparent ground, no end
  return file([header, { id: 'ANIM', data: loops }, ...parts, ...described(metadata)]);
}

/** A file's chunks. @throws Error when the bytes are no WebP file. */
export function chunksOf(webp: Uint8Array): Chunk[] {
  const view = new DataView(webp.buffer, webp.byteOffset, webp.byteLength);
  const letters = (at: number) => String.fromCharCode(...webp.subarray(at, at + 4));
  if (webp.length < 20 || letters(0) !== 'RIFF' || letters(8) !== 'WEBP')
    throw new Error('this browser encodes no WebP');
  const chunks: Chunk[] = [];
  for (let at = 12; at + 8 <= webp.length; ) {
    const size = view.getUint32(at + 4, true);
    chunks.push({ id: letters(at), data: webp.subarray(at + 8, at + 8 + size) });
    at += 8 + size + (size % 2);
  }
  return chunks;
}

const pictureChunks = (webp: Uint8Array): Chunk[] =>
  chunksOf(webp).filter(({ id }) => ['ALPH', 'VP8 ', 'VP8L'].includes(id));

/** A lossless picture may have alpha: its header's bit says so. */
function hasAlpha(chunks: readonly Chunk[]): boolean {
  return chunks.some(({ id, data }) => id === 'ALPH' || (id === 'VP8L' && ((data[4] as number) & 0x10) > 0));
}

function extended(width: number, height: number, flags: number): Chunk {
  const data = new Uint8Array(10);
  data[0] = flags;
  put24(data, 4, width - 1);
  put24(data, 7, height - 1);
  return { id: 'VP8X', data };
}

function described({ xmp, parameters }: Metadata): Chunk[] {
  return [
    { id: 'EXIF', data: exif(parameters) },
    { id: 'XMP ', data: new TextEncoder().encode(xmp) },
  ];
}

/** TIFF's header, a directory that points to EXIF's own, and in that one the comment in UTF-16. Source: EXIF 2.3. */
function exif(comment: string): Uint8Array {
  const data = new Uint8Array(44 + 8 + 2 * comment.length);
  const view = new DataView(data.buffer);
  data.set([0x4d, 0x4d, 0, 42]); // big-endian
  view.setUint32(4, 8);
  directory(view, 8, 0x8769, 4, 1, 26); // the place of EXIF's directory
  directory(view, 26, 0x9286, 7, 8 + 2 * comment.length, 44); // the comment
  data.set(new TextEncoder().encode('UNICODE\0'), 44);
  for (let i = 0; i < comment.length; i++) view.setUint16(52 + 2 * i, comment.charCodeAt(i));
  return data;
}

/** A directory of one entry, and none after it. */
function directory(
  view: DataView,
  at: number,
  tag: number,
  type: number,
  count: number,
  value: number,
): void {
  view.setUint16(at, 1);
  view.setUint16(at + 2, tag);
  view.setUint16(at + 4, type);
  view.setUint32(at + 6, count);
  view.setUint32(at + 10, value);
}

function file(chunks: readonly Chunk[]): Uint8Array<ArrayBuffer> {
  const body = concatenated([new TextEncoder().encode('WEBP'), ...chunks.map(written)]);
  return concatenated([written({ id: 'RIFF', data: body })]);
}

/** Name, size, data, and a byte more where the size is odd. */
function written({ id, data }: Chunk): Uint8Array {
  const out = new Uint8Array(8 + data.length + (data.length % 2));
  out.set(new TextEncoder().encode(id));
  new DataView(out.buffer).setUint32(4, data.length, true);
  out.set(data, 8);
  return out;
}

function put24(data: Uint8Array, at: number, value: number): void {
  data.set([value & 255, (value >> 8) & 255, (value >> 16) & 255], at);
}
