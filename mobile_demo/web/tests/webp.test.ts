import { describe, expect, test } from 'vitest';
import { packContents, packProblem } from '../src/core/pack';
import { animated, chunksOf, withMetadata } from '../src/core/webp';

/** A WebP file of these chunks. */
function file(...chunks: [id: string, ...data: number[]][]): Uint8Array {
  const body = chunks.flatMap(([id, ...data]) => [
    ...new TextEncoder().encode(id),
    ...[data.length, 0, 0, 0],
    ...data,
    ...(data.length % 2 ? [0] : []),
  ]);
  const letters = (text: string) => [...new TextEncoder().encode(text)];
  return Uint8Array.from([...letters('RIFF'), body.length + 4, 0, 0, 0, ...letters('WEBP'), ...body]);
}

const SIMPLE = file(['VP8 ', 1, 2, 3]);
const CLEAR = file(['VP8X', 0x10, 0, 0, 0, 1, 0, 0, 1, 0, 0], ['ALPH', 9], ['VP8 ', 1, 2, 3, 4]);
const metadata = { xmp: '<x/>', parameters: 'a fox\n7' };
const ids = (bytes: Uint8Array) => chunksOf(bytes).map(({ id }) => id);

describe('WebP', () => {
  test('gets metadata behind its picture, and a header that names both', () => {
    const made = withMetadata(SIMPLE, 512, 300, metadata);
    expect(ids(made)).toEqual(['VP8X', 'VP8 ', 'EXIF', 'XMP ']);
    const [header, picture, exif, xmp] = chunksOf(made);
    expect([...(header?.data ?? [])]).toEqual([0x0c, 0, 0, 0, 255, 1, 0, 43, 1, 0]);
    expect([...(picture?.data ?? [])]).toEqual([1, 2, 3]);
    expect(new TextDecoder().decode(xmp?.data)).toBe('<x/>');
    const text = new TextDecoder('utf-16be').decode(exif?.data.subarray(52));
    expect(text).toBe('a fox\n7');
    expect(new DataView(made.buffer).getUint32(4, true)).toBe(made.length - 8);
  });

  test('keeps its transparency', () => {
    const made = withMetadata(CLEAR, 2, 2, metadata);
    expect(ids(made)).toEqual(['VP8X', 'ALPH', 'VP8 ', 'EXIF', 'XMP ']);
    expect(chunksOf(made)[0]?.data[0]).toBe(0x1c);
  });

  test('moves without end, each frame in the place of the one before', () => {
    const made = animated(
      [
        { webp: CLEAR, duration: 100 },
        { webp: CLEAR, duration: 300 },
      ],
      2,
      2,
      metadata,
    );
    expect(ids(made)).toEqual(['VP8X', 'ANIM', 'ANMF', 'ANMF', 'EXIF', 'XMP ']);
    const frame = chunksOf(made)[3]?.data ?? new Uint8Array();
    expect([...frame.subarray(0, 16)]).toEqual([0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 44, 1, 0, 2]);
    expect(String.fromCharCode(...frame.subarray(16, 20))).toBe('ALPH');
  });

  test('is refused where the browser gave something else', () => {
    expect(() => chunksOf(Uint8Array.of(0x89, 0x50, 0x4e, 0x47))).toThrow(/no WebP/);
  });
});

describe('a pack', () => {
  test('has 3 to 30 stickers', () => {
    expect([2, 3, 30, 31].map((count) => packProblem(count) === undefined)).toEqual([
      false,
      true,
      true,
      false,
    ]);
    expect(packProblem(1)).toMatch(/2 more/);
    expect(packProblem(33)).toMatch(/3 out/);
  });

  test('says what WhatsApp asks of it', () => {
    const facts = {
      identifier: 'addkit-1',
      name: 'x'.repeat(200),
      files: ['01-a.webp', '02-b.webp', '03-c.webp'],
    };
    const { sticker_packs } = JSON.parse(packContents(facts));
    expect(sticker_packs).toHaveLength(1);
    const [pack] = sticker_packs;
    expect(pack.name).toHaveLength(128);
    expect(pack.identifier).toBe('addkit-1');
    expect(pack.tray_image_file).toBe('tray.png');
    expect(pack.stickers.map((one: { image_file: string }) => one.image_file)).toEqual(facts.files);
    for (const { emojis } of pack.stickers) expect(emojis.length).toBeGreaterThan(0);
  });
});
