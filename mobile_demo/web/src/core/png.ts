/**
 * A picture and how it was made -> the bytes of a PNG file.
 *
 * As the Python runtime's files (runtime/image_files.py): the `parameters` text of A1111's web UI, and an XMP packet with
 * IPTC's digital source type, which says that a model made the picture.
 */

import { version } from '../version';
import { concatenated } from './bytes';
import type { Picture } from './types';

const SOURCE_TYPE = 'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia';
export const XMP = `<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="${SOURCE_TYPE}" xmp:CreatorTool="ADDKit"/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>`;
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const RGBA = 6;

/** The `parameters` text of one of our pictures. model: the bundle's name. varies: it has a table of variation. */
export function settingsText(
  picture: Pick<Picture, 'request' | 'prompt' | 'to' | 'width' | 'height'>,
  model: string,
  varies = false,
): string {
  const { prompt: typed, morph, seed, steps, plain, words } = picture.request;
  const leftOut = Object.values(words ?? {}).includes(null); // typed by hand, the prompt would get it again
  const { prompt, to } = picture;
  const settings: Record<string, string | number> = {
    Steps: steps,
    Sampler: 'DDIM',
    'CFG scale': 0,
    Seed: seed,
  };
  settings.Size = `${picture.width}x${picture.height}`;
  settings.Model = model;
  if (morph) settings.Morph = `${morph.t} to ${JSON.stringify(to)}`;
  if (prompt !== typed) settings['Typed prompt'] = JSON.stringify(typed);
  if ((plain || leftOut) && varies) settings.Variation = 'none';
  settings.Version = `addkit ${version}`;
  return `${prompt}\n${Object.entries(settings)
    .map(([name, value]) => `${name}: ${value}`)
    .join(', ')}`;
}

/** A PNG file of 8-bit RGBA, `width * height * 4` bytes, with the mark and, where given, the `parameters` text. */
export async function encodePng(
  rgba: Uint8ClampedArray,
  width: number,
  height: number,
  parameters = '',
): Promise<Uint8Array<ArrayBuffer>> {
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, RGBA, 0, 0, 0], 8);
  const chunks = [chunk('IHDR', header)];
  if (parameters) chunks.push(chunk('iTXt', international('parameters', parameters)));
  chunks.push(chunk('iTXt', international('XML:com.adobe.xmp', XMP)));
  chunks.push(chunk('IDAT', await deflate(filtered(rgba, width, height))), chunk('IEND', new Uint8Array()));
  return concatenated([Uint8Array.from(SIGNATURE), ...chunks]);
}

/** Each row as its difference from the row above (filter type 2): flat areas become zeros. */
function filtered(rgba: Uint8ClampedArray, width: number, height: number): Uint8Array<ArrayBuffer> {
  const row = width * 4;
  const out = new Uint8Array((row + 1) * height);
  for (let y = 0; y < height; y++) {
    out[y * (row + 1)] = 2;
    for (let x = 0; x < row; x++) {
      const above = y ? (rgba[(y - 1) * row + x] as number) : 0;
      out[y * (row + 1) + 1 + x] = (rgba[y * row + x] as number) - above;
    }
  }
  return out;
}

/** zlib's format, which the browser calls "deflate". */
async function deflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** An iTXt chunk's data: keyword, uncompressed, no language, no translated keyword, UTF-8 text. */
function international(keyword: string, text: string): Uint8Array<ArrayBuffer> {
  const encode = (part: string) => new TextEncoder().encode(part);
  return concatenated([encode(keyword), new Uint8Array(5), encode(text)]);
}

/** Length, type, data, CRC of type and data. */
function chunk(type: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(new TextEncoder().encode(type), 4);
  out.set(data, 8);
  view.setUint32(data.length + 8, crc32(out.subarray(4, data.length + 8)));
  return out;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c;
});

/** Source: PNG (ISO/IEC 15948), annex D. */
export function crc32(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = (TABLE[(c ^ byte) & 0xff] as number) ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}
