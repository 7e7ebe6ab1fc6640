/** Other wishes near to one: what the variations under a picture are made from. */

import type { GenerateRequest, StyleName } from '../core/types';
import { seedsAfter } from './seed';
import { fullPrompt, STYLES } from './words';

/** A wish, and what has to be set for it. */
export interface Alternative {
  request: GenerateRequest;
  text: string;
  style: StyleName;
}

/** Seeds that are tried before the words are changed. */
const SEEDS = 10;
const COLOURS = ['blue', 'green', 'pink', 'yellow', 'purple', 'red', 'black', 'orange'] as const;
const ARTICLE = /^(an?|the|one)\s+/i;
const HAS_COLOUR = new RegExp(`\\b(${COLOURS.join('|')}|white|gr[ae]y|brown)\\b`, 'i');

/**
 * Wishes that are likely to look different, the best first.
 *
 * varies: the model completes prompts, so that another seed is another picture. Where it does not, or where its table does
 * not know the prompt, seeds change next to nothing, and words do it.
 */
export function alternatives(own: Alternative, varies: boolean): Alternative[] {
  const seeds = seedsAfter(own.request.seed, SEEDS).map((seed) => ({
    ...own,
    request: { ...own.request, seed },
  }));
  const words = otherWords(own);
  return varies ? [...seeds, ...words] : [...words, ...seeds];
}

/** Other styles and colours in turn, and both at once. */
function otherWords(own: Alternative): Alternative[] {
  const styles = STYLES.filter(({ name, words }) => words && name !== own.style).map(({ name }) => name);
  const texts = coloured(own.text);
  const found = [...styles].reverse().map((style) => [own.text, style] as const);
  for (const [i, text] of texts.entries()) {
    found.splice(2 * i + 1, 0, [text, own.style] as const);
  }
  found.push(...texts.map((text, i) => [text, styles[i % styles.length] ?? own.style] as const));
  return found
    .map(([text, style]) => ({
      text,
      style,
      request: { ...own.request, prompt: fullPrompt(text, style) },
    }))
    .filter(({ request }) => request.prompt !== own.request.prompt);
}

/** 'a fox' -> 'a blue fox', 'a green fox', ...: none where it has a colour already. */
export function coloured(text: string): string[] {
  if (HAS_COLOUR.test(text)) return [];
  const rest = text.trim().replace(ARTICLE, '');
  const article = ARTICLE.exec(text.trim())?.[1];
  return COLOURS.map((colour) =>
    [article && articleFor(article, colour), colour, rest].filter(Boolean).join(' '),
  );
}

function articleFor(article: string, word: string): string {
  if (!/^an?$/i.test(article)) return article;
  return /^[aeiou]/i.test(word) ? 'an' : 'a';
}

/** 'fox' -> 'a fox', 'owl' -> 'an owl'; what is many or has an article stays. */
export function withArticle(thing: string): string {
  if (ARTICLE.test(`${thing} `) || /[^su]s$/i.test(thing)) return thing;
  return `${articleFor('a', thing)} ${thing}`;
}
