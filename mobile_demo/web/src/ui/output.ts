/** The picture on its way out of the page: what is made of it, and where that goes. */

import { MOVING_BYTES, STICKER_BYTES } from '../core/pack';
import { encodePng, settingsText } from '../core/png';
import { enlarge, type Rgba, STICKER_SIDE, sticker } from '../core/sticker';
import type { GenerateRequest, Picture } from '../core/types';
import type { Format } from '../state/settings';
import type { Ready, Studio } from '../state/studio';
import { fileName } from '../state/words';
import { movingBlob, pngBlob, webpBlob } from './encode';
import { kilobytes } from './format';

/** From one end of a morph to the other. */
const FRAMES = 9;
const FRAME_MS = 110;

/** A file to take along. */
export interface Made {
  blob: Blob;
  name: string;
  /** What is looked at before it leaves; of a morph its first picture. */
  shown: Rgba;
}

export function canShare(type = 'image/png'): boolean {
  return navigator.canShare?.({ files: [new File([], `sticker.${type.split('/')[1]}`, { type })] }) ?? false;
}

export function canCopy(): boolean {
  return typeof ClipboardItem !== 'undefined' && navigator.clipboard?.write !== undefined;
}

/** The file that holds the picture as the model made it, with what made it: what the history keeps. */
export function pictureBytes(picture: Picture, ready: Ready | undefined): Promise<Uint8Array<ArrayBuffer>> {
  return encodePng(picture.rgba, picture.width, picture.height, textOf(picture, ready));
}

/** What the file says about itself. */
export function textOf(picture: Parameters<typeof settingsText>[0], ready: Ready | undefined): string {
  return settingsText(picture, ready?.bundle ?? '', ready?.varies);
}

/** The picture as a file of this format. outline: of a sticker, in pixels. */
export async function made(studio: Studio, picture: Picture, format: Format, outline: number): Promise<Made> {
  const text = textOf(picture, studio.ready.value);
  const name = (suffix: string, extension: string) =>
    fileName(studio.inputs.text.value, picture.request.seed, suffix).replace(/png$/, extension);
  if (format === 'picture') {
    const factor = Math.max(1, Math.round(STICKER_SIDE / picture.width));
    const shown = enlarge(picture.rgba, picture.width, picture.height, factor);
    return { shown, blob: await pngBlob(shown, text), name: name('', 'png') };
  }
  if (format === 'morph') {
    const frames = await morphed(studio, picture.request, outline);
    const blob = await movingBlob(frames, FRAME_MS, text, MOVING_BYTES);
    return { shown: frames[0] as Rgba, blob, name: name('-morph', 'webp') };
  }
  const shown = sticker(await largest(studio, picture), outline);
  if (format === 'webp')
    return { shown, blob: await webpBlob(shown, text, STICKER_BYTES), name: name('-sticker', 'webp') };
  return { shown, blob: await pngBlob(shown, text), name: name('-sticker', 'png') };
}

/** The same picture by the decoder for stickers where the model has it, else the picture itself. */
async function largest(studio: Studio, picture: Picture): Promise<Picture> {
  if (!studio.ready.value?.large) return picture;
  // Without a network it may not be there yet: the small picture makes a sticker too.
  return studio.engine.generate({ ...picture.request, large: true }).catch(() => picture);
}

async function morphed(studio: Studio, request: GenerateRequest, outline: number): Promise<Rgba[]> {
  const { morph } = request;
  if (!morph) throw new Error('There is no morph: switch it on and say what to morph into.');
  const frames: Rgba[] = [];
  for (let i = 0; i < FRAMES; i++) {
    const at = { ...request, large: true, morph: { ...morph, t: i / (FRAMES - 1) } };
    frames.push(sticker(await studio.engine.generate(at), outline));
  }
  return frames;
}

/** Into the browser's downloads. */
export function save(studio: Studio, { blob, name }: Made): void {
  download(blob, name);
  studio.toasts.say(`Saved as ${name} (${kilobytes(blob.size)}), where this browser keeps its downloads.`);
}

export async function share(studio: Studio, file: Made): Promise<void> {
  const { blob, name } = file;
  try {
    await navigator.share({ files: [new File([blob], name, { type: blob.type })] });
  } catch (error) {
    // A closed share sheet is an AbortError, not a failure.
    if ((error as Error).name === 'AbortError') return;
    studio.toasts.say('Sharing was refused.', { label: 'Save instead', run: () => save(studio, file) });
  }
}

/** Clipboards take PNG alone. */
export async function copy(studio: Studio, file: Made): Promise<void> {
  const instead = { label: 'Save it', run: () => save(studio, file) };
  try {
    const blob = file.blob.type === 'image/png' ? file.blob : await pngBlob(file.shown, '');
    await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
    studio.toasts.say(`Copied as PNG (${kilobytes(blob.size)}): paste it into a chat.`);
  } catch {
    studio.toasts.say('The clipboard took no picture. Save it and paste it from there.', instead);
  }
}

export function download(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser reads the blob after the click has returned.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
