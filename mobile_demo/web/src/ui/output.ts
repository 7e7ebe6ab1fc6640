/** The picture on its way out of the page: a file, a share sheet, the clipboard. */
import { encodePng, settingsText } from '../core/png';
import { cutOut, enlarge } from '../core/sticker';
import type { Picture } from '../core/types';
import type { Ready, Studio } from '../state/studio';
import { fileName } from '../state/words';

/** A sticker or a shared picture is this many times as large as the model's picture: 512 for 128. */
const FACTOR = 4;

export function canShare(): boolean {
  return navigator.canShare?.({ files: [new File([], 'sticker.png', { type: 'image/png' })] }) ?? false;
}

export function canCopy(): boolean {
  return typeof ClipboardItem !== 'undefined' && navigator.clipboard?.write !== undefined;
}

/** The file that holds the picture as the model made it, with what made it. */
export function pictureBytes(picture: Picture, ready: Ready | undefined): Promise<Uint8Array<ArrayBuffer>> {
  return encodePng(picture.rgba, picture.width, picture.height, textOf(picture, ready));
}

/** What the file says about itself. */
function textOf(picture: Picture, ready: Ready | undefined): string {
  return settingsText(picture, ready?.bundle ?? '', ready?.varies);
}

export async function savePicture(studio: Studio): Promise<void> {
  const picture = studio.picture.value;
  if (picture) download(pngBlob(await studio.encode(picture)), nameOf(studio, picture));
}

export async function saveSticker(studio: Studio): Promise<void> {
  const picture = studio.picture.value;
  if (!picture) return;
  download(
    await enlarged(studio, picture, cutOut(picture.rgba, picture.width, picture.height)),
    nameOf(studio, picture, '-sticker'),
  );
  studio.toasts.say('Sticker saved.');
}

export async function sharePicture(studio: Studio): Promise<void> {
  const picture = studio.picture.value;
  if (!picture) return;
  const blob = await enlarged(studio, picture, picture.rgba);
  const file = new File([blob], nameOf(studio, picture), { type: 'image/png' });
  try {
    await navigator.share({ files: [file], title: picture.prompt });
  } catch (error) {
    // A closed share sheet is an AbortError, not a failure.
    if ((error as Error).name === 'AbortError') return;
    studio.toasts.say('Sharing was refused.', { label: 'Save instead', run: () => void savePicture(studio) });
  }
}

/** The clipboard gets a promise of the picture: Safari takes nothing once the tap is over. */
export async function copySticker(studio: Studio): Promise<void> {
  const picture = studio.picture.value;
  if (!picture) return;
  const save = { label: 'Save it', run: () => void saveSticker(studio) };
  const blob = enlarged(studio, picture, cutOut(picture.rgba, picture.width, picture.height));
  try {
    await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
    studio.toasts.say('Sticker copied.', save);
  } catch {
    studio.toasts.say('The clipboard took no picture. Save the sticker and paste it from there.', save);
  }
}

async function enlarged(studio: Studio, picture: Picture, rgba: Uint8ClampedArray): Promise<Blob> {
  const large = enlarge(rgba, picture.width, picture.height, FACTOR);
  const settings = textOf(picture, studio.ready.value);
  return pngBlob(await encodePng(large.rgba, large.width, large.height, settings));
}

function pngBlob(bytes: Uint8Array<ArrayBuffer>): Blob {
  return new Blob([bytes], { type: 'image/png' });
}

function nameOf(studio: Studio, picture: Picture, suffix = ''): string {
  return fileName(studio.inputs.text.value, picture.request.seed, suffix);
}

function download(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser reads the blob after the click has returned.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
