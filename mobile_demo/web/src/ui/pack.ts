/** Stickers of the history as one zip file that WhatsApp's sample apps and Telegram take. */

import { packContents, packReadme, STICKER_BYTES, TRAY } from '../core/pack';
import { encodePng } from '../core/png';
import { fitted, type Rgba, sticker } from '../core/sticker';
import type { Studio } from '../state/studio';
import { fileName } from '../state/words';
import type { HistoryEntry } from '../store/history';
import { webpBlob } from './encode';
import { textOf } from './output';

/** onDone: is told how many stickers are made. */
export async function packZip(
  studio: Studio,
  entries: readonly HistoryEntry[],
  onDone: (count: number) => void,
): Promise<Blob> {
  const { zipSync } = await import('fflate');
  const pictures: Record<string, Uint8Array> = {};
  let tray: Rgba | undefined;
  for (const [i, entry] of entries.entries()) {
    const picture = await decoded(entry.png);
    const { request, shows } = entry;
    const text = textOf({ request, prompt: shows ?? request.prompt, ...picture }, studio.ready.value);
    const made = sticker(picture, studio.inputs.outline.value);
    const name = fileName(entry.text, request.seed).replace(/png$/, 'webp');
    const blob = await webpBlob(made, text, STICKER_BYTES);
    pictures[`${String(i + 1).padStart(2, '0')}-${name}`] = new Uint8Array(await blob.arrayBuffer());
    tray ??= fitted(made, TRAY.side, 0);
    onDone(i + 1);
  }
  const facts = { identifier: 'addkit-1', name: 'My stickers', files: Object.keys(pictures) };
  const contents = new TextEncoder().encode(packContents(facts));
  const icon = tray && (await encodePng(tray.rgba, tray.width, tray.height));
  const files = {
    'contents.json': contents,
    'sticker_packs.wasticker': contents,
    'READ ME.txt': new TextEncoder().encode(packReadme(facts)),
    [facts.identifier]: { ...(icon && { 'tray.png': icon }), ...pictures },
  };
  return new Blob([zipSync(files, { level: 0 })], { type: 'application/zip' }); // pictures are packed already
}

async function decoded(png: Uint8Array<ArrayBuffer>): Promise<Rgba> {
  const bitmap = await createImageBitmap(new Blob([png], { type: 'image/png' }));
  const { width, height } = bitmap;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d');
  context?.drawImage(bitmap, 0, 0);
  const rgba = context?.getImageData(0, 0, width, height).data ?? new Uint8ClampedArray(4 * width * height);
  return { rgba, width, height };
}
