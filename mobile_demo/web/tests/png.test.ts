import { inflateSync, crc32 as zlibCrc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { crc32, encodePng, settingsText } from '../src/core/png';
import type { Picture } from '../src/core/types';

const [WIDTH, HEIGHT] = [5, 3];
const rgba = Uint8ClampedArray.from({ length: WIDTH * HEIGHT * 4 }, (_, i) => (i * 37) % 256);

/** Chunks of a PNG file by type, each CRC compared with zlib's. */
function chunks(file: Uint8Array): Map<string, Buffer[]> {
  const buffer = Buffer.from(file);
  expect(buffer.subarray(0, 8)).toEqual(Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]));
  const found = new Map<string, Buffer[]>();
  for (let at = 8; at < buffer.length; ) {
    const size = buffer.readUInt32BE(at);
    const type = buffer.toString('latin1', at + 4, at + 8);
    expect(buffer.readUInt32BE(at + 8 + size)).toBe(zlibCrc32(buffer.subarray(at + 4, at + 8 + size)));
    found.set(type, [...(found.get(type) ?? []), buffer.subarray(at + 8, at + 8 + size)]);
    at += 12 + size;
  }
  return found;
}

/** Pixels from an IDAT chunk whose rows have filter type 2. */
function unfiltered(data: Buffer): number[] {
  const raw = inflateSync(data);
  const row = WIDTH * 4;
  const out: number[] = [];
  for (let y = 0; y < HEIGHT; y++) {
    expect(raw[y * (row + 1)]).toBe(2);
    for (let x = 0; x < row; x++) {
      out.push(((raw[y * (row + 1) + 1 + x] as number) + (y ? (out[(y - 1) * row + x] as number) : 0)) & 255);
    }
  }
  return out;
}

describe('encodePng', () => {
  it('keeps every pixel', async () => {
    const found = chunks(await encodePng(rgba, WIDTH, HEIGHT));
    expect([...found.keys()]).toEqual(['IHDR', 'iTXt', 'IDAT', 'IEND']);
    const header = found.get('IHDR')?.[0] as Buffer;
    expect([header.readUInt32BE(0), header.readUInt32BE(4), ...header.subarray(8)]).toEqual([
      WIDTH,
      HEIGHT,
      8,
      6,
      0,
      0,
      0,
    ]);
    expect(unfiltered(found.get('IDAT')?.[0] as Buffer)).toEqual([...rgba]);
  });

  it('says that a model made the picture, and how', async () => {
    const texts = chunks(await encodePng(rgba, WIDTH, HEIGHT, 'ein Käfer 🐞\nSteps: 1')).get(
      'iTXt',
    ) as Buffer[];
    expect(texts.map((text) => text.toString().split('\0')[0])).toEqual(['parameters', 'XML:com.adobe.xmp']);
    expect(texts[0]?.toString()).toMatch(/^parameters\0{5}ein Käfer 🐞\nSteps: 1$/);
    expect(texts[1]?.toString()).toContain('digitalsourcetype/trainedAlgorithmicMedia');
  });
});

it('crc32 is that of the specification', () => {
  expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
});

it('settingsText is what A1111 reads', () => {
  const request = { prompt: 'a fox, 3d style', seed: '7', steps: 1, morph: { to: 'a "cat"', t: 0.5 } };
  const { prompt, morph } = request;
  const picture = { request, prompt, to: morph.to, width: 128, height: 128 } as Picture;
  expect(settingsText(picture, 'sticker-128')).toMatch(
    /^a fox, 3d style\nSteps: 1, Sampler: DDIM, CFG scale: 0, Seed: 7, Size: 128x128, Model: sticker-128, Morph: 0.5 to "a \\"cat\\"", Version: addkit \d+\.\d+\.\d+$/,
  );
});

it('settingsText says what was typed, and what it was completed to, as the Python runtime writes them', () => {
  const request = { prompt: 'a "fox"', seed: '7', steps: 1 };
  const picture = { request, prompt: 'a "fox", large', width: 128, height: 128 } as Picture;
  expect(settingsText(picture, 'world', true)).toMatch(
    /^a "fox", large\nSteps: 1, .*, Model: world, Typed prompt: "a \\"fox\\"", Version: addkit \S+$/,
  );
  const plain = { ...picture, request: { ...request, plain: true }, prompt: request.prompt };
  expect(settingsText(plain, 'world', true)).toMatch(
    /^a "fox"\n.*, Model: world, Variation: none, Version: /,
  );
  expect(settingsText(plain, 'sticker-128')).toMatch(/, Model: sticker-128, Version: /); // it has no table
});
