/** CLIP's byte-pair encoding, with the same ids as transformers' CLIPTokenizerFast, from vocab.json and merges.txt. */

import { Splitter, type Tokens } from './added';
import { BundleError } from './errors';
import { type TokenizerFiles, tokensOfFiles } from './tokenizer-files';

const START = '<|startoftext|>';
const END = '<|endoftext|>';
const END_OF_WORD = '</w>';

const NO_MERGE = Number.POSITIVE_INFINITY; // as a rank

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
  /** i64[maxTokens]: start mark, tokens, end mark, then padding. */
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
  private readonly padId: number;
  private readonly raw: Splitter;
  private readonly clean: Splitter;

  /** @throws BundleError when the files are not in CLIP's form. */
  constructor(
    private readonly ids: Map<string, number>,
    merges: string,
    tokens?: Tokens,
  ) {
    const [start, end] = [ids.get(START), ids.get(END)];
    if (start === undefined || end === undefined) {
      throw new BundleError(`vocab.json is not a CLIP vocabulary: it lacks ${START} or ${END}`);
    }
    [this.start, this.end] = [start, end];
    this.ranks = ranksOf(merges);
    const { padId, added } = tokens ?? clipTokens(start, end);
    this.padId = padId;
    this.raw = new Splitter(added.filter((token) => !token.normalized));
    this.clean = new Splitter(
      added.filter((token) => token.normalized),
      normalized,
    );
  }

  /**
   * From the text of vocab.json and of merges.txt. `tokens`: as the manifest holds them, or the files that say it in older
   * bundles; CLIP's own without.
   */
  static parse(vocab: string, merges: string, tokens?: Tokens | TokenizerFiles): Tokenizer {
    const parsed: unknown = parseJson(vocab);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
      throw new BundleError('vocab.json holds no JSON object');
    }
    const entries = Object.entries(parsed);
    const wrong = entries.find(([, id]) => !Number.isInteger(id) || id < 0);
    if (wrong) throw new BundleError(`vocab.json: ${JSON.stringify(wrong[0])} has no whole number as its id`);
    const ids = new Map<string, number>(entries);
    const told =
      tokens && 'padId' in tokens ? tokens : tokens && tokensOfFiles(tokens, (token) => ids.get(token));
    return new Tokenizer(ids, merges, told);
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
    let kept = words.length;
    for (const [word, found] of this.read(text)) {
      tokens.push(...found);
      if (tokens.length > room) {
        kept = word;
        break;
      }
    }
    const ids = new BigInt64Array(maxTokens).fill(BigInt(this.padId));
    [this.start, ...tokens.slice(0, room), this.end].forEach((id, i) => {
      ids[i] = BigInt(id);
    });
    return { ids, droppedWords: words.slice(kept) };
  }

  /** [number of the word, ids] of added tokens and of what lies between them; a word may come in parts. */
  private *read(text: string): Generator<[number, number[]]> {
    let number = -1; // of the word that was begun last
    let within = false; // whether the text before ends in it
    for (const { text: part, token } of this.raw.split(text)) {
      const pieces = spacedWords(part);
      const numbers = pieces.map(([spaced, word]) => {
        if (word && (spaced || !within)) number += 1;
        within = word !== '';
        return number;
      });
      if (token) yield [numbers[0] as number, [token.id]];
      else yield* this.readPlain(pieces, numbers);
    }
  }

  /** The same for text without raw tokens: its words are cleaned, then added tokens are looked for across them. */
  private *readPlain(pieces: SpacedWord[], numbers: number[]): Generator<[number, number[]]> {
    const clean = pieces.map(([spaced, word]) => (spaced ? ' ' : '') + cleaned(word));
    let end = 0;
    const ends = clean.map((word) => (end += word.length));
    let at = 0;
    const wordAt = (place: number) => {
      while ((ends[at] as number) <= place) at += 1;
      return numbers[at] as number;
    };
    for (const { start, text, token } of this.clean.split(clean.join(''))) {
      if (token) yield [wordAt(start), [token.id]];
      else for (const word of text.matchAll(/[^ ]+/g)) yield [wordAt(start + word.index), this.word(word[0])];
    }
  }

  /** Ids of a cleaned word. Cached: while someone types, all words but the last stay the same. */
  private word(word: string): number[] {
    const known = this.words.get(word);
    if (known) return known;
    const ids = (word.match(PIECES) ?? []).flatMap((piece) => this.piece(piece));
    if (this.words.size >= 1000) this.words.clear();
    this.words.set(word, ids);
    return ids;
  }

  private piece(piece: string): number[] {
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

function cleaned(word: string): string {
  return Array.from(composed(word), (character) => character.toLowerCase()).join('');
}

/** A text as the reference normalizes it: NFC, runs of white space as one space, lower case. */
function normalized(text: string): string {
  return spacedWords(text)
    .map(([spaced, word]) => (spaced ? ' ' : '') + cleaned(word))
    .join('');
}

/** [whether white space goes before it, word]; the last is empty where the text ends in white space. */
type SpacedWord = [boolean, string];

function spacedWords(text: string): SpacedWord[] {
  const found = text.split(SPACES).map((word, i): SpacedWord => [i > 0, word]);
  return found[0]?.[1] === '' ? found.slice(1) : found;
}

function clipTokens(start: number, end: number): Tokens {
  const mark = { single_word: false, normalized: true, special: true };
  const added = [
    { id: start, content: START, ...mark },
    { id: end, content: END, ...mark },
  ];
  return { padId: end, added };
}

function isWellFormed(text: string): boolean {
  return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}
