import { describe, expect, it, test } from 'vitest';
import { draw, fnv1a, philox, uniform } from '../src/core/draws';
import { plain } from '../src/core/plain';
import { Tokenizer } from '../src/core/tokenizer';
import { Variation } from '../src/core/variation';
import { bytes, golden } from './golden';

interface Case {
  table: string;
  prompt: string;
  seed: string;
  chosen?: Record<string, string>;
  completed?: string;
}

describe('variation', () => {
  const data = golden('variation.json', 'tables', 'cases', 'limited');
  const tables = new Map(
    Object.entries(data.tables).map(([name, table]) => [name, Variation.parse(table)] as const),
  );
  const of = (name: string) => tables.get(name) as Variation;

  it('is what Python draws, case by case', () => {
    expect(data.tolerance).toBe('exact');
    let ran = 0;
    for (const { table, prompt, seed, chosen, completed } of data.cases as Case[]) {
      const complete = () => of(table).complete(prompt, BigInt(seed), chosen);
      ran += 1;
      if (completed === undefined) {
        expect(complete, prompt).toThrow(RangeError);
        continue;
      }
      expect(complete(), `${prompt}, seed ${seed}`).toBe(completed);
      expect(of(table).complete(completed, BigInt(seed))).toBe(completed);
    }
    const { tokenizer: folder, max_tokens: most, table, cases } = data.limited;
    const [vocab, merges] = ['vocab.json', 'merges.txt'].map((name) => bytes(`${folder}/${name}`).toString());
    const tokenizer = Tokenizer.parse(vocab as string, merges as string);
    const fits = (text: string) => !tokenizer.encode(text, most).droppedWords.length;
    for (const { prompt, seed, completed } of cases) {
      expect(of(table).complete(prompt, BigInt(seed), {}, fits), prompt).toBe(completed);
      ran += 1;
    }
    expect(ran).toBe(data.count);
    expect(ran).toBeGreaterThan(300);
  }, 60_000); // the tokenizer's merges take seconds to read on a busy machine

  it('takes wishes of another prompt as far as they go', () => {
    const world = of('small');
    const made = (prompt: string, wishes: Record<string, string | null>) =>
      world.completeFor(prompt, 5n, wishes);
    for (const { table, prompt, seed, chosen, completed } of data.cases as Case[]) {
      if (completed === undefined) continue;
      expect(of(table).completeFor(prompt, BigInt(seed), chosen ?? {}).prompt, prompt).toBe(completed);
    }
    const free = made('a fox', {});
    expect(free.open.map(({ word }) => word)).toEqual([...world.drawn('a fox', 5n).values()]);
    const without = made('a fox', { size: null, facing: 'right' });
    expect(without.prompt).not.toMatch(/small|large/);
    expect(without.prompt).toContain('facing right');
    expect(without.open.find(({ property }) => property === 'size')?.word).toBeNull();
    expect(made('a fox', { mood: 'sad', size: 'none of these' })).toEqual(free);
    expect(made('nothing of its table', { size: null })).toEqual({
      prompt: 'nothing of its table',
      open: [],
    });
  });

  it('has no room for a chosen word in a prompt that is full', () => {
    const complete = () => of('small').complete('a fox', 1n, { size: 'large' }, (text) => text.length < 9);
    expect(complete).toThrow(/too long/);
  });
});

test('philox and FNV-1a give their published answers', () => {
  const ones = 0xffffffffn;
  expect(philox([0n, 0n, 0n, 0n], [0n, 0n])).toEqual([0x6627e8d5n, 0xe169c58dn, 0xbc57ac4cn, 0x9b00dbd8n]);
  expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([
    0x408f276dn,
    0x41c83b0en,
    0xa20bc7c6n,
    0x6d5451fdn,
  ]);
  expect(fnv1a(new Uint8Array())).toBe(0xcbf29ce484222325n);
  expect(fnv1a(new TextEncoder().encode('foobar'))).toBe(0x85944171f73967e8n);
  expect(uniform(-1n, 'style')).toBe(uniform(2n ** 64n - 1n, 'style'));
});

test('words come with their frequencies', () => {
  const counts = new Map<string, number>();
  const words = new Map([
    ['a', 0.7],
    ['b', 0.3],
    ['never', 0],
  ]);
  for (let seed = 0n; seed < 3000n; seed++) {
    const word = draw(words, seed, 'x');
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  expect(counts.has('never')).toBe(false);
  expect(Math.abs((counts.get('a') ?? 0) / 3000 - 0.7)).toBeLessThan(0.03);
});

test('plain text is the same in every language', () => {
  expect(plain('A Big,  red FOX!')).toBe(' a big red fox ');
  expect(plain('\u0130stanbul GAR\u00c7ON')).toBe(' stanbul gar\u00e7on ');
  expect(plain('')).toBe(' ');
});
