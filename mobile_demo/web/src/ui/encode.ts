/** Pictures as files: PNG by our own encoder, WebP by the browser's, both with what made them. */

import { encodePng, XMP } from '../core/png';
import type { Rgba } from '../core/sticker';
import { animated, chunksOf, type Frame, withMetadata } from '../core/webp';

const QUALITIES = [0.92, 0.85, 0.75, 0.6, 0.45, 0.3, 0.15];

export async function pngBlob({ rgba, width, height }: Rgba, parameters: string): Promise<Blob> {
  return new Blob([await encodePng(rgba, width, height, parameters)], { type: 'image/png' });
}

let able: Promise<boolean> | undefined;

/** Whether this browser encodes WebP: Safari gives PNG in its place. */
export function encodesWebp(): Promise<boolean> {
  const pixel = { rgba: new Uint8ClampedArray(4), width: 1, height: 1 };
  able ??= encoded(pixel, 0.5).then(
    (bytes) => chunksOf(bytes).length > 0,
    () => false,
  );
  return able;
}

/** As good as `most` bytes allow. */
export async function webpBlob(picture: Rgba, parameters: string, most: number): Promise<Blob> {
  for (const quality of QUALITIES) {
    const made = withMetadata(await encoded(picture, quality), picture.width, picture.height, {
      xmp: XMP,
      parameters,
    });
    if (made.length <= most) return new Blob([made], { type: 'image/webp' });
  }
  throw new Error(`This sticker does not fit into ${most / 1000} kB.`);
}

/** The pictures there and back again, each for `duration` milliseconds, as good as `most` bytes allow. */
export async function movingBlob(
  pictures: readonly Rgba[],
  duration: number,
  parameters: string,
  most: number,
): Promise<Blob> {
  const { width, height } = pictures[0] as Rgba;
  for (const quality of QUALITIES) {
    const there: Frame[] = [];
    for (const picture of pictures) there.push({ webp: await encoded(picture, quality), duration });
    const frames = [...there, ...there.slice(1, -1).reverse()];
    const made = animated(frames, width, height, { xmp: XMP, parameters });
    if (made.length <= most) return new Blob([made], { type: 'image/webp' });
  }
  throw new Error(`This morph does not fit into ${most / 1000} kB.`);
}

async function encoded(picture: Rgba, quality: number): Promise<Uint8Array> {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext('2d')?.putImageData(new ImageData(picture.rgba, picture.width, picture.height), 0, 0);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, 'image/webp', quality));
  if (!blob) throw new Error('this browser made no picture of it: free some memory and try again');
  return new Uint8Array(await blob.arrayBuffer());
}
