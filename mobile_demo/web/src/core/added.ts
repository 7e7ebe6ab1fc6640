/** The padding and the added tokens of a tokenizer, with the meaning that transformers gives them. */

const MOST = { added: 1000, letters: 200, id: 2_000_000 };
const FLAGS = ['lstrip', 'rstrip', 'single_word', 'normalized', 'special'];
const WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;

/** A token that is found in a text before the text is split into words. */
export interface AddedToken {
  id: number;
  content: string;
  /** Only where no letter, digit or underscore touches it. */
  single_word: boolean;
  /** Found in the text after NFC and lower case, and lowered itself. */
  normalized: boolean;
  special: boolean;
}

/** What a tokenizer has besides vocab.json and merges.txt. */
export interface Tokens {
  padId: number;
  added: AddedToken[];
}

/** Checks and converts {"pad_id", "added": [...]}. @throws Error with what is wrong. */
export function readTokens(value: unknown): Tokens {
  const entry = fields(value, ['pad_id', 'added']);
  if (!Array.isArray(entry.added) || entry.added.length > MOST.added)
    throw new Error(`added must be a list of at most ${MOST.added} tokens`);
  const added = entry.added.map(readToken);
  if (new Set(added.map((token) => token.content)).size !== added.length)
    throw new Error('an added token appears twice');
  return { padId: id(entry.pad_id), added };
}

function readToken(value: unknown): AddedToken {
  const entry = fields(value, ['id', 'content', ...FLAGS]);
  const { content } = entry;
  const letters = typeof content === 'string' ? Array.from(content).length : 0;
  if (!letters || letters > MOST.letters || (content as string).trim() !== content)
    throw new Error(`an added token has 1 to ${MOST.letters} characters and no white space at its ends`);
  if (!FLAGS.every((name) => typeof entry[name] === 'boolean'))
    throw new Error(`${FLAGS.join(', ')} of an added token are true or false`);
  return { ...(entry as unknown as AddedToken), id: id(entry.id) };
}

function fields(value: unknown, names: string[]): Record<string, unknown> {
  const keys = typeof value === 'object' && value !== null ? Object.keys(value) : [];
  if (keys.length !== names.length || !names.every((name) => keys.includes(name)))
    throw new Error(`an object with ${names.join(', ')} is needed`);
  return value as Record<string, unknown>;
}

function id(value: unknown): number {
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > MOST.id)
    throw new Error(`a token's id is a whole number from 0 to ${MOST.id}`);
  return value as number;
}

/** A part of a text: where it starts, and the added token that it is, if it is one. */
export interface Part {
  start: number;
  text: string;
  token?: AddedToken;
}

/** Finds added tokens in a text: at each place the longest, specials first among equals. */
export class Splitter {
  private readonly tokens = new Map<string, AddedToken>();
  private readonly pattern: RegExp | undefined;

  /** `normalize`: what the texts went through, and the tokens must go through too. */
  constructor(added: AddedToken[], normalize: (text: string) => string = String) {
    const ordered = [...added].sort((a, b) => Number(b.special) - Number(a.special));
    for (const token of ordered) {
      const content = normalize(token.content);
      if (!this.tokens.has(content)) this.tokens.set(content, token);
    }
    const contents = [...this.tokens.keys()].sort((a, b) => b.length - a.length);
    const escaped = contents.map((content) => content.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'));
    if (escaped.length) this.pattern = new RegExp(escaped.join('|'), 'gu');
  }

  /** From left to right; the parts make up the text. */
  split(text: string): Part[] {
    const parts: Part[] = [];
    let done = 0;
    for (const match of this.pattern ? text.matchAll(this.pattern) : []) {
      const token = this.tokens.get(match[0]) as AddedToken;
      const [start, end] = [match.index, match.index + match[0].length];
      if (token.single_word && touchesWord(text, start, end)) continue;
      if (done < start) parts.push({ start: done, text: text.slice(done, start) });
      parts.push({ start, text: match[0], token });
      done = end;
    }
    if (done < text.length) parts.push({ start: done, text: text.slice(done) });
    return parts;
  }
}

function touchesWord(text: string, start: number, end: number): boolean {
  const before = Array.from(text.slice(Math.max(0, start - 2), start)).at(-1) ?? '';
  const after = Array.from(text.slice(end, end + 2))[0] ?? '';
  return WORD.test(before) || WORD.test(after);
}
