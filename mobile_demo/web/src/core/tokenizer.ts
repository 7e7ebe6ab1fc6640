/** CLIP's byte-pair encoding, with the same ids as transformers' CLIPTokenizerFast, from vocab.json and merges.txt. */

import { BundleError } from './errors';

const START = '<|startoftext|>';
const END = '<|endoftext|>';
const END_OF_WORD = '</w>';

const NO_MERGE = Number.POSITIVE_INFINITY; // as a rank

const MARKS = /(<\|startoftext\|>|<\|endoftext\|>)/u;
// Unicode's White_Space, spelled out: JavaScript's \s counts U+FEFF as well, and CLIP keeps that.
const SPACES = /[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{L}\p{N}]+/gu;
// The reference composes by Unicode 9: to it, marks of later versions are letters, over which no accent moves.
const LATER_MARKS = new RegExp(
  '([\\u07fd\\u0898-\\u089f\\u08ca-\\u08d3\\u09fe\\u0c3c\\u0d3b\\u0d3c\\u0eba\\u1715\\u1abf-\\u1ace\\u1df6-\\u1dfa' +
    '\\ua82c\\u{10d24}-\\u{10d27}\\u{10eab}\\u{10eac}\\u{10efd}-\\u{10eff}\\u{10f46}-\\u{10f50}' +
    '\\u{10f82}-\\u{10f85}\\u{11070}\\u{1133b}\\u{1145e}\\u{11839}\\u{1183a}\\u{11930}\\u{11938}\\u{1193d}' +
    '\\u{1193e}\\u{11943}\\u{119e0}\\u{11a34}\\u{11a47}\\u{11a99}\\u{11d42}\\u{11d44}\\u{11d45}\\u{11d97}' +
    '\\u{11f41}\\u{11f42}\\u{16ff0}\\u{16ff1}\\u{1e08f}\\u{1e130}-\\u{1e136}\\u{1e2ae}\\u{1e2ec}-\\u{1e2ef}' +
    '\\u{1e4ec}-\\u{1e4ef}])',
  'u',
);

/** A prompt as the text encoder reads it. */
export interface Encoding {
  /** i64[maxTokens]: start mark, tokens, end mark, then end marks as padding. */
  ids: BigInt64Array;
  /** The prompt's words that did not fit, wholly or in part, as they were typed. */
  droppedWords: string[];
}

/** CLIP's tokenizer: NFC, lower case, words, then byte pairs by rank. */
export class Tokenizer {
  private readonly start: number;
  private readonly end: number;
  private readonly ranks: Map<string, number>;
  private readonly letters = alphabet();
  private readonly words = new Map<string, number[]>();

  /** @throws BundleError when the files are not in CLIP's form. */
  constructor(
    private readonly ids: Map<string, number>,
    merges: string,
  ) {
    const [start, end] = [ids.get(START), ids.get(END)];
    if (start === undefined || end === undefined) {
      throw new BundleError(`vocab.json is not a CLIP vocabulary: it lacks ${START} or ${END}`);
    }
    [this.start, this.end] = [start, end];
    this.ranks = ranksOf(merges);
  }

  /** From the text of vocab.json and of merges.txt. */
  static parse(vocab: string, merges: string): Tokenizer {
    const parsed: unknown = parseJson(vocab);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
      throw new BundleError('vocab.json holds no JSON object');
    }
    const entries = Object.entries(parsed);
    const wrong = entries.find(([, id]) => !Number.isInteger(id) || id < 0);
    if (wrong) throw new BundleError(`vocab.json: ${JSON.stringify(wrong[0])} has no whole number as its id`);
    return new Tokenizer(new Map(entries), merges);
  }

  /**
   * `maxTokens` ids; what does not fit is dropped from the end and named.
   * @throws RangeError when the text holds lone surrogates.
   */
  encode(text: string, maxTokens = 77): Encoding {
    if (!isWellFormed(text))
      throw new RangeError('the prompt is not valid text: it holds half of a character');
    const room = maxTokens - 2;
    const words = text.split(SPACES).filter(Boolean);
    const tokens: number[] = [];
    let kept = 0;
    for (const word of words) {
      tokens.push(...this.word(word));
      if (tokens.length > room) break;
      kept += 1;
    }
    const ids = new BigInt64Array(maxTokens).fill(BigInt(this.end));
    [this.start, ...tokens.slice(0, room)].forEach((id, i) => {
      ids[i] = BigInt(id);
    });
    return { ids, droppedWords: words.slice(kept) };
  }

  /** Ids of a piece of text without white space. Cached: while someone types, all words but the last stay the same. */
  private word(word: string): number[] {
    const known = this.words.get(word);
    if (known) return known;
    const clean = Array.from(composed(word), (character) => character.toLowerCase()).join('');
    const ids = pieces(clean).flatMap((piece) => this.piece(piece));
    if (this.words.size >= 1000) this.words.clear();
    this.words.set(word, ids);
    return ids;
  }

  private piece(piece: string): number[] {
    if (piece === START) return [this.start];
    if (piece === END) return [this.end];
    const letters = Array.from(new TextEncoder().encode(piece), (byte) => this.letters[byte] as string);
    letters[letters.length - 1] += END_OF_WORD;
    return this.merge(letters).map((token) => this.ids.get(token) ?? this.end);
  }

  /**
   * Joins the best-ranked neighbours, leftmost first, until no merge applies. Only the ranks beside a join are looked
   * up again: a language that writes no spaces makes one word of a whole page.
   */
  private merge(parts: string[]): string[] {
    const rank = (i: number) =>
      i + 1 < parts.length ? (this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? NO_MERGE) : NO_MERGE;
    const ranks = parts.map((_, i) => rank(i));
    for (;;) {
      const best = lowest(ranks);
      if (ranks[best] === NO_MERGE) return parts;
      parts.splice(best, 2, `${parts[best]}${parts[best + 1]}`);
      ranks.splice(best, 1);
      ranks[best] = rank(best);
      if (best > 0) ranks[best - 1] = rank(best - 1);
    }
  }
}

/** Index of the lowest number, the first of equals. */
function lowest(numbers: readonly number[]): number {
  let best = 0;
  for (let i = 1; i < numbers.length; i++) if ((numbers[i] as number) < (numbers[best] as number)) best = i;
  return best;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new BundleError(`vocab.json cannot be read: ${(error as Error).message}`);
  }
}

/** Ranks of "left right" lines, best first; a repeated line has its last rank. */
function ranksOf(merges: string): Map<string, number> {
  const lines = merges.split(/\r?\n/u).filter((line) => line && !line.startsWith('#version'));
  return new Map(lines.map((line, rank) => [line, rank]));
}

/** Each byte's printable stand-in (Radford et al. 2019): Latin-1 where that prints, else from U+0100. */
function alphabet(): string[] {
  const prints = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(prints(byte) ? byte : next++));
}

/** NFC as the reference does it, see LATER_MARKS. */
function composed(word: string): string {
  return word
    .split(LATER_MARKS)
    .map((part) => part.normalize('NFC'))
    .join('');
}

/** Literal marks, contractions, runs of letters, single digits, runs of anything else. */
function pieces(word: string): string[] {
  return word.split(MARKS).flatMap((part) => (MARKS.test(part) ? [part] : (part.match(PIECES) ?? [])));
}

function isWellFormed(text: string): boolean {
  return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}
