/** How a prompt is read (runtime/variation/text.py): plain words, pauses, and what is another language's. */

export const PAUSE = /[,.;:!?()]+/;
/** What a prompt ends in, in the place of which the separator comes. */
const TRAILING = /[ \t\r\n,.;:!?]+$/;
const OTHER = /[^a-z0-9\u00df-\u00f6\u00f8-\u00ff]+/g;
/** ASCII and Latin-1 alone: other letters have other lower cases in other languages' libraries. */
const UPPER = /[A-Z\u00c0-\u00d6\u00d8-\u00de]/g;
/** Letters of scripts other than Latin. */
const FOREIGN =
  /[\u0370-\u1dff\u1f00-\u1fff\u2c00-\u2dff\u3005-\ud7ff\uf900-\ufdff\ufe70-\ufefe\uff10-\uffdc\u{10000}-\u{1cfff}\u{20000}-\u{3ffff}]/u;

/** 'a red fox' of 'A red fox!': lower-case letters and digits, words apart by one space. */
export function phrase(text: string): string {
  const lower = text.replace(UPPER, (letter) => String.fromCharCode(letter.charCodeAt(0) + 32));
  return lower.replace(OTHER, ' ').trim();
}

/** The same between two spaces, so that whole words are found in it. */
export function plain(text: string): string {
  return text ? ` ${phrase(text)} ` : ' ';
}

/** The prompt without the pauses and spaces that it ends in. */
export function withoutEnd(prompt: string): string {
  return prompt.replace(TRAILING, '');
}

/** Whether it has letters of a script other than Latin, whose words no table knows. */
export function isForeign(text: string): boolean {
  return FOREIGN.test(text);
}

/** Whether it can be shown on one line. */
export function isPrintable(text: string): boolean {
  return !/[\p{C}\p{Z}]/u.test(text.replaceAll(' ', ''));
}
