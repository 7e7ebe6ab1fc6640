/** The parts of a table of variation, read as strictly as the Python runtime reads them (runtime/variation/table.py). */

import { isPrintable, PAUSE, phrase } from './plain';

export type Rank = 'thing' | 'coarse' | 'join';
export const RANKS: readonly Rank[] = ['thing', 'coarse', 'join'];
/** The property of a coarse kind. */
export const THING = 'thing';
export const MOST = { kinds: 2000, properties: 100, texts: 100_000, letters: 100 };

/** The first of some words, and the one after the last. */
export type Place = readonly [start: number, end: number];

/** Where phrases of so many words stand among the words of a prompt. */
export function places(
  said: readonly string[],
  phrases: { has(text: string): boolean },
  lengths: Iterable<number>,
): Place[] {
  return [...lengths].flatMap((length) =>
    said
      .map((_, start): Place => [start, start + length])
      .filter(([start, end]) => end <= said.length && phrases.has(said.slice(start, end).join(' '))),
  );
}

/** How many words phrases have. */
export const lengths = (phrases: Iterable<string>): ReadonlySet<number> =>
  new Set([...phrases].map((one) => one.split(' ').length));

/** One thing that a prompt may leave open. */
export class Property {
  readonly #phrases: ReadonlySet<string>;
  readonly #lengths: ReadonlySet<number>;

  /** words: word -> frequency; what is appended. names: phrases that settle it as well. */
  constructor(
    readonly words: ReadonlyMap<string, number>,
    names: readonly string[],
  ) {
    this.#phrases = new Set([...names, ...words.keys()].map(phrase));
    this.#lengths = lengths(this.#phrases);
  }

  get size(): number {
    return this.#phrases.size;
  }

  /** Where its phrases stand among the words of a prompt. */
  places(said: readonly string[]): Place[] {
    return places(said, this.#phrases, this.#lengths);
  }

  /** The word that is meant: the word itself, or the only one with it inside, as "left" is in "facing left". */
  word(asked: string): string | undefined {
    if (this.words.has(asked)) return asked;
    const part = phrase(asked);
    const inside = [...this.words.keys()].filter((word) => part && ` ${phrase(word)} `.includes(` ${part} `));
    return inside.length === 1 ? inside[0] : undefined;
  }

  /** Whether a plain phrase is in one of the words. */
  says(part: string): boolean {
    return [...this.words.keys()].some((word) => ` ${phrase(word)} `.includes(` ${part} `));
  }
}

/** Subjects that share open properties. */
export interface Kind {
  words: readonly string[];
  properties: ReadonlyMap<string, Property>;
  /** All of these are in the prompt as well. */
  requires: readonly string[];
  /** 'coarse': a general word, whose property THING is a thing's name; 'join': words between two subjects. */
  rank: Rank;
}

/** The kinds of a table. @throws Error that says what is wrong. */
export function readKinds(value: unknown): Map<string, Kind> {
  const entries = Object.entries(ordered(fields(value, 'kinds'), 'kinds'));
  if (entries.length > MOST.kinds) throw new Error(`${entries.length} kinds are too many`);
  const kinds = new Map(entries.map(([name, kind]) => [name, readKind(kind, name)]));
  let count = 0;
  for (const { words, properties } of kinds.values()) {
    count += words.length;
    for (const property of properties.values()) count += property.size;
  }
  if (count > MOST.texts) throw new Error(`${count} words are too many`);
  return kinds;
}

function readKind(value: unknown, name: string): Kind {
  const said = fields(value, `kind ${name}`, ['words', 'properties'], ['requires', 'rank']);
  const entries = Object.entries(fields(said.properties, `properties of ${name}`));
  const properties = new Map(entries.map(([key, one]) => [key, readProperty(one, `${key} of ${name}`)]));
  const rank = RANKS.find((one) => one === (said.rank ?? 'thing'));
  if (!rank) throw new Error(`rank of ${name} is none of ${RANKS.join(', ')}`);
  if (rank === 'coarse' && !properties.has(THING))
    throw new Error(`kind ${name} is coarse and has no property ${THING}`);
  const requires = texts(said.requires ?? [], `requires of ${name}`);
  return { words: phrases(said.words, `words of ${name}`), properties, requires, rank };
}

function readProperty(value: unknown, where: string): Property {
  const said = fields(value, where, ['words'], ['names']);
  const words = Object.entries(ordered(fields(said.words, `words of ${where}`), `words of ${where}`));
  let total = 0;
  for (const [word, frequency] of words) {
    if (typeof frequency !== 'number' || !(frequency >= 0 && frequency <= 1e6))
      throw new Error(`${where}: the frequency of ${word} is no number of at least 0`);
    total += frequency;
  }
  texts(
    words.map(([word]) => word),
    `words of ${where}`,
  );
  if (!(total > 0)) throw new Error(`${where} has no word of a frequency above 0`);
  return new Property(new Map(words as [string, number][]), texts(said.names ?? [], `names of ${where}`));
}

type Fields = Record<string, unknown>;

/** A JSON object, where keys are given with those alone. */
export function fields(value: unknown, what: string, needed: string[] = [], allowed: string[] = []): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is not an object`);
  const missing = needed.find((key) => !Object.hasOwn(value, key));
  if (missing) throw new Error(`${what} has no ${missing}`);
  const unknown = Object.keys(value).find((key) => needed.length && ![...needed, ...allowed].includes(key));
  if (unknown !== undefined) throw new Error(`${what} has an unknown field`);
  return value as Fields;
}

/** Refuses keys of digits alone, which JavaScript sorts: the order of words decides which is drawn. */
function ordered(found: Fields, what: string): Fields {
  if (Object.keys(found).some((key) => /^[0-9]+$/.test(key)))
    throw new Error(`${what} has a number alone, which has no place in the order`);
  return found;
}

/** A list of short texts with letters or digits in them. */
export function texts(value: unknown, what: string): string[] {
  if (!Array.isArray(value) || !value.every((text) => typeof text === 'string' && text))
    throw new Error(`${what} is no list of texts`);
  for (const text of value as string[]) {
    if ([...text].length > MOST.letters || !isPrintable(text) || !phrase(text))
      throw new Error(`${what} has one that is no text of at most ${MOST.letters} letters`);
  }
  return value as string[];
}

/** As `texts`, without pauses, over which no phrase of a prompt goes. */
export function phrases(value: unknown, what: string): string[] {
  const found = texts(value, what);
  if (found.some((text) => PAUSE.test(text))) throw new Error(`${what} has one with a pause in it`);
  return found;
}

/**
 * That a completed prompt is complete: what decides comes before what it decides. @throws Error
 *
 * Every general word's things are subjects; no kind waits for a word that only it, or one that waits for it, has; a
 * property whose word a kind requires comes before that kind's own.
 */
export function checkKinds(kinds: ReadonlyMap<string, Kind>, order: readonly string[]): void {
  const bySubject = new Map<string, string[]>();
  for (const [name, kind] of kinds) {
    for (const word of kind.words.map(phrase)) bySubject.set(word, [...(bySubject.get(word) ?? []), name]);
  }
  for (const [name, kind] of kinds) {
    const things = kind.rank === 'coarse' ? [...(kind.properties.get(THING)?.words.keys() ?? [])] : [];
    if (things.some((word) => !bySubject.has(phrase(word))))
      throw new Error(`${THING} of ${name} has one that is no word of a kind`);
  }
  const wanted = new Map<string, Wanted[]>();
  for (const [name, kind] of kinds)
    if (kind.requires.length) wanted.set(name, wantedOf(kind, kinds, bySubject));
  checkReached(kinds, wanted);
  for (const [name, each] of wanted) checkOrder(kinds.get(name) as Kind, each, order);
}

/** A phrase that a kind requires, and which kinds of the same subjects have it as a word of which property. */
interface Wanted {
  phrase: string;
  having: [kind: string, property: string][];
}

function wantedOf(
  kind: Kind,
  kinds: ReadonlyMap<string, Kind>,
  bySubject: ReadonlyMap<string, string[]>,
): Wanted[] {
  const beside = [...new Set(kind.words.flatMap((word) => bySubject.get(phrase(word)) ?? []))];
  return kind.requires.map(phrase).map((required) => ({
    phrase: required,
    having: beside.flatMap((other) =>
      [...(kinds.get(other)?.properties ?? [])]
        .filter(([, property]) => property.says(required))
        .map(([key]): [string, string] => [other, key]),
    ),
  }));
}

function checkReached(kinds: ReadonlyMap<string, Kind>, wanted: ReadonlyMap<string, Wanted[]>): void {
  const reached = new Set([...kinds.keys()].filter((name) => !wanted.has(name)));
  const sayable = ({ having }: Wanted) => !having.length || having.some(([kind]) => reached.has(kind));
  for (let before = -1; before < reached.size; ) {
    before = reached.size;
    for (const [name, each] of wanted) if (each.every(sayable)) reached.add(name);
  }
  const cyclic = [...kinds.keys()].filter((name) => !reached.has(name));
  if (cyclic.length) throw new Error(`requires is cyclic: ${cyclic.slice(0, 3).join(' and ')}`);
}

function checkOrder(kind: Kind, wanted: Wanted[], order: readonly string[]): void {
  for (const { phrase: required, having } of wanted) {
    const open = [...kind.properties].filter(([, property]) => !property.places(required.split(' ')).length);
    for (const [, key] of having) {
      const late = open.find(([own]) => order.indexOf(own) <= order.indexOf(key));
      if (late) throw new Error(`order: ${late[0]} must come after ${key}`);
    }
  }
}
