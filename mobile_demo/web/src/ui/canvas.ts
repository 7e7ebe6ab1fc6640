import type { RefObject } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import type { Picture } from '../core/types';

/** For a canvas of the picture's own size: draws its pixels 1:1 whenever the picture changes; CSS makes them large. */
export function usePixels(picture: Picture | undefined): RefObject<HTMLCanvasElement | null> {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    if (!picture) return;
    const pixels = new ImageData(picture.rgba, picture.width, picture.height);
    canvas.current?.getContext('2d')?.putImageData(pixels, 0, 0);
  }, [picture]);
  return canvas;
}
