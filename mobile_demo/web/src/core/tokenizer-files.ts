/** Padding and added tokens of a tokenizer's folder, for bundles whose manifest does not hold them (runtime/tokenizer/added.py). */

import { type AddedToken, readTokens, type Tokens } from './added';
import { BundleError } from './errors';

/** The files that transformers writes beside vocab.json and merges.txt, as texts; undefined where there is none. */
export interface TokenizerFiles {
  config: string | undefined;
  map: string | undefined;
}

const [START, END] = ['<|startoftext|>', '<|endoftext|>'];
const PLAIN = { lstrip: false, rstrip: false, single_word: false, normalized: false, special: false };

/** What the files say; CLIP's own where they say nothing. `find`: a token's id in vocab.json. @throws BundleError */
export function tokensOfFiles(files: TokenizerFiles, find: (token: string) => number | undefined): Tokens {
  try {
    const [config, names] = [object(files.config), object(files.map)];
    const listed = Object.entries((config.added_tokens_decoder ?? {}) as Record<string, AddedToken>).map(
      ([id, token]) => ({ ...PLAIN, ...token, id: Number(id) }),
    );
    const pad = content(listed.length ? config.pad_token : (names.pad_token ?? config.pad_token));
    const has = (token: string) => listed.some((one) => one.content === token);
    const marks = [START, END].filter((mark) => !has(mark as string)) as string[];
    const special = { ...PLAIN, special: true };
    const added = [
      ...listed,
      ...marks.map((mark) => ({ ...special, normalized: true, id: known(mark, find), content: mark })),
    ];
    if (!added.some((one) => one.content === pad))
      added.push({ ...special, id: known(pad, find), content: pad });
    const padId = added.find((one) => one.content === pad)?.id;
    return readTokens({ pad_id: padId, added });
  } catch (error) {
    throw new BundleError(`the tokenizer cannot be read: ${(error as Error).message}`);
  }
}

function object(text: string | undefined): Record<string, unknown> {
  const data: unknown = text === undefined ? {} : JSON.parse(text);
  if (typeof data !== 'object' || data === null || Array.isArray(data))
    throw new Error('a file holds no JSON object');
  return data as Record<string, unknown>;
}

/** A special token is written as a text or as an added token. */
function content(pad: unknown): string {
  const text = typeof pad === 'object' && pad !== null ? (pad as { content?: unknown }).content : pad;
  if (text !== undefined && text !== null && typeof text !== 'string')
    throw new Error('pad_token must be a text');
  return text || (END as string);
}

function known(token: string, find: (token: string) => number | undefined): number {
  const id = find(token);
  if (id === undefined) throw new Error(`the pad token ${JSON.stringify(token)} is not in vocab.json`);
  return id;
}
