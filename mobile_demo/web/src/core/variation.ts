/**
 * What a prompt leaves open, drawn by the seed: "a fox" becomes "a fox, facing left, large, on white". As the Python
 * runtime does it (runtime/variation): the same table, prompt and seed give the same words.
 */

import { draw } from './draws';
import { isForeign, isPrintable, PAUSE, phrase, plain, withoutEnd } from './plain';
import type { OpenWord } from './types';
import {
  checkKinds,
  fields,
  type Kind,
  lengths,
  MOST,
  type Place,
  type Property,
  phrases,
  places,
  RANKS,
  readKinds,
  THING,
  texts,
} from './variation-table';

/** property -> a word; null: nothing is said of it. */
export type Wishes = Readonly<Record<string, string | null>>;

const VERSION = 1;

/** Kinds of subjects, and the order in which their properties are drawn. */
export class Variation {
  /** Plain subject -> its kinds, those that require most first. */
  readonly #subjects = new Map<string, Kind[]>();
  readonly #known: ReadonlySet<string>;
  readonly #longest: number;
  readonly #lengths: ReadonlySet<number>;

  private constructor(
    kinds: ReadonlyMap<string, Kind>,
    readonly order: readonly string[],
    ends: readonly string[],
    readonly separator: string,
  ) {
    for (const kind of kinds.values()) {
      for (const word of kind.words.map(phrase))
        this.#subjects.set(word, [...(this.#subjects.get(word) ?? []), kind]);
    }
    for (const found of this.#subjects.values()) found.sort((a, b) => b.requires.length - a.requires.length);
    this.#known = new Set([...this.#subjects.keys(), ...ends.map(phrase)]);
    this.#lengths = lengths(this.#subjects.keys());
    this.#longest = [...this.#known].reduce((most, one) => Math.max(most, one.split(' ').length), 0);
  }

  /** A manifest's table. @throws Error that says what is wrong. */
  static parse(value: unknown): Variation {
    const table = fields(value, 'the table', ['version', 'kinds', 'order', 'separator'], ['ends']);
    if (table.version !== VERSION) throw new Error(`its version is not known, only ${VERSION}`);
    const [kinds, order] = [readKinds(table.kinds), texts(table.order, 'order')];
    if (new Set(order).size !== order.length || order.length > MOST.properties)
      throw new Error(`order has a property twice, or more than ${MOST.properties}`);
    const { separator } = table;
    if (typeof separator !== 'string' || [...separator].length > MOST.letters || phrase(separator))
      throw new Error('separator is not a pause');
    if (!PAUSE.test(separator) || !isPrintable(separator)) throw new Error('separator is not a pause');
    for (const kind of kinds.values()) {
      const unordered = [...kind.properties.keys()].find((name) => !order.includes(name));
      if (unordered !== undefined) throw new Error(`order lacks ${unordered}`);
    }
    checkKinds(kinds, order);
    return new Variation(kinds, order, phrases(table.ends ?? [], 'ends'), separator);
  }

  /**
   * The prompt with a word for each property that it leaves open; equal for equal seeds.
   *
   * chosen: property -> word, instead of a drawn one. fits: whether a text is short enough; words for which there is no
   * room are left out.
   * @throws RangeError when a chosen property or word is none that this prompt leaves open, or has no room.
   */
  complete(
    prompt: string,
    seed: bigint,
    chosen: Readonly<Record<string, string>> = {},
    fits: (text: string) => boolean = () => true,
  ): string {
    const drawn = [...this.drawn(prompt, seed, chosen)];
    const words = drawn.map(([, word]) => word);
    let count = fits(prompt) ? words.length : 0;
    const text = () => [withoutEnd(prompt), ...words.slice(0, count)].join(this.separator);
    while (count && !fits(text())) count -= 1;
    const lost = drawn.slice(count).find(([name]) => Object.hasOwn(chosen, name));
    if (lost) throw new RangeError(`variation ${lost[0]}: the prompt is too long for it`);
    return count ? text() : prompt;
  }

  /** property -> word of what `complete` appends where it fits. @throws RangeError as `complete` does. */
  drawn(prompt: string, seed: bigint, chosen: Readonly<Record<string, string>> = {}): Map<string, string> {
    const [words, unused] = this.#draw(prompt, seed, chosen, refuse);
    if (unused !== undefined) throw new RangeError(`variation ${unused}: the prompt does not leave it open`);
    return new Map(words.flatMap(({ property, word }) => (word === null ? [] : [[property, word]])));
  }

  /**
   * As `complete`, for wishes that were made for another prompt: what this one cannot have is drawn, or has no place.
   * Says what it left open too.
   */
  completeFor(
    prompt: string,
    seed: bigint,
    wishes: Wishes,
    fits: (text: string) => boolean = () => true,
  ): { prompt: string; open: OpenWord[] } {
    let [open] = this.#draw(prompt, seed, wishes, (words, name) => draw(words, seed, name));
    if (!fits(prompt)) return { prompt, open: [] };
    for (;;) {
      const words = open.flatMap(({ word }) => word ?? []);
      const text = words.length ? [withoutEnd(prompt), ...words].join(this.separator) : prompt;
      if (fits(text)) return { prompt: text, open };
      open = open.slice(0, -1);
    }
  }

  /** Things to surprise somebody with: every subject that stands for one. */
  things(): string[] {
    return [...this.#subjects.keys()].filter((one) => this.#rank(one) === 'thing');
  }

  /** What is open, and a property that was wished for and is not. instead: gives a word for a wish that is none. */
  #draw(
    prompt: string,
    seed: bigint,
    wishes: Wishes,
    instead: (words: ReadonlyMap<string, number>, name: string) => string,
  ): [open: OpenWord[], unused: string | undefined] {
    const [left, open] = [new Map(Object.entries(wishes)), [] as OpenWord[]];
    let [said, subject] = [plain(prompt), isForeign(prompt) ? undefined : this.subject(prompt)];
    const pauses = pausesOf(prompt);
    for (const name of this.order) {
      const kinds = (subject !== undefined && this.#subjects.get(subject)) || [];
      const property = kinds
        .find((kind) => kind.properties.has(name) && fitsIn(kind, said))
        ?.properties.get(name);
      if (subject === undefined || !property || this.#settled(name, property, subject, said, pauses))
        continue;
      const asked = left.get(name);
      left.delete(name);
      const options = [...property.words].flatMap(([word, frequency]) => (frequency > 0 ? word : []));
      if (asked === null) {
        open.push({ property: name, word: null, options });
        continue;
      }
      const word =
        asked === undefined
          ? draw(property.words, seed, name)
          : (property.word(asked) ?? instead(property.words, name));
      open.push({ property: name, word, options });
      const before = countWords(said);
      pauses.push(before, ...pausesOf(word).map((place) => before + place));
      said += plain(word).slice(1);
      if (name === THING) subject = phrase(word);
    }
    const [unused] = left.keys();
    return [open, unused];
  }

  /**
   * The phrase that says what the prompt is of, plain; undefined where no kind has it.
   *
   * In the first part of the prompt, up to a pause or an end: a word that joins two subjects, else the last thing, else
   * a general word, unless a thing of its kind is named later. Where that part names nothing: the first thing of all.
   */
  subject(prompt: string): string | undefined {
    const parts = prompt
      .split(PAUSE)
      .filter((part) => phrase(part))
      .map((part) => this.#phrases(part));
    const everywhere = parts.flat().filter((one) => this.#subjects.has(one));
    const first = parts[0] ?? [];
    const end = first.findIndex((one) => !this.#subjects.has(one));
    const head = end < 0 ? first : first.slice(0, end);
    if (head.slice(1, -1).some((one) => this.#rank(one) === 'join'))
      return head.slice(1).find((one) => this.#rank(one) === 'join');
    const last = (rank: string) => head.filter((one) => this.#rank(one) === rank).at(-1);
    const named = last('thing') ?? last('coarse') ?? everywhere.find((one) => this.#rank(one) !== 'join');
    if (named === undefined || this.#rank(named) === 'thing') return named;
    const things = new Set(
      (this.#subjects.get(named) ?? []).flatMap((kind) =>
        [...(kind.properties.get(THING)?.words.keys() ?? [])].map(phrase),
      ),
    );
    return everywhere.find((one) => things.has(one)) ?? named;
  }

  /**
   * Whether words of a prompt name a property, other than inside a longer phrase or as its subject's name: "a fox on
   * blue" has a background, and "a blue whale" a name, and neither says a color of the animal. A longer phrase goes over
   * no pause: "winking, face mask" is no winking face.
   */
  #settled(
    name: string,
    property: Property,
    subject: string,
    prompt: string,
    pauses: readonly number[],
  ): boolean {
    const said = prompt.trim().split(' ');
    const own = property.places(said);
    if (!own.length) return false;
    const others = (this.#subjects.get(subject) ?? []).flatMap((kind) =>
      [...kind.properties].flatMap(([key, other]) => (key === name ? [] : other.places(said))),
    );
    const longer = [...others, ...places(said, this.#subjects, this.#lengths)].filter(
      ([start, end]) => !pauses.some((pause) => start < pause && pause < end),
    );
    const free = own.filter((place) => longer.every((other) => isApart(place, other)));
    if (name === THING) return free.length > 0; // a general word that is also a thing's name is that thing
    return free.some(([start, end]) => !this.#isOf(subject, said.slice(start, end).join(' ')));
  }

  /** Whether a phrase is the subject, or one of those that are joined. */
  #isOf(subject: string, phrase: string): boolean {
    if (this.#rank(subject) !== 'join') return phrase === subject;
    return this.#subjects.has(phrase) && this.#rank(phrase) !== 'join';
  }

  #rank(subject: string): string {
    const ranks = (this.#subjects.get(subject) ?? []).map((kind) => RANKS.indexOf(kind.rank));
    return RANKS[Math.min(...ranks)] as string;
  }

  /** The subjects and ends in a text, in their order; a longer one hides those within it. */
  #phrases(text: string): string[] {
    const words = phrase(text).split(' ');
    const found: string[] = [];
    for (let at = 0; at < words.length; ) {
      let length = Math.min(this.#longest, words.length - at);
      while (length && !this.#known.has(words.slice(at, at + length).join(' '))) length -= 1;
      if (length) found.push(words.slice(at, at + length).join(' '));
      at += length || 1;
    }
    return found;
  }
}

function refuse(words: ReadonlyMap<string, number>, name: string): never {
  throw new RangeError(`variation ${name}: choose one of ${[...words.keys()].join(', ')}`);
}

const countWords = (text: string): number => phrase(text).split(' ').filter(Boolean).length;

/** Before which of its words a text pauses, one after the last too. */
function pausesOf(text: string): number[] {
  let count = 0;
  return text.split(PAUSE).map((part) => {
    count += countWords(part);
    return count;
  });
}

/** Whether a place is no part of another, or all of it. */
const isApart = (place: Place, other: Place): boolean =>
  place[0] < other[0] || other[1] < place[1] || (place[0] === other[0] && place[1] === other[1]);

/** Whether a plain prompt has all that a kind requires. */
function fitsIn({ requires }: Kind, said: string): boolean {
  return requires.every((word) => said.includes(` ${phrase(word)} `));
}
