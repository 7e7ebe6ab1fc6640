import { expect, test } from 'vitest';
import { parseSeed, randomSeed, seedsAfter } from '../src/state/seed';
import { fileName, fullPrompt } from '../src/state/words';

test.each([
  ['a red fox', '3d', 'a red fox, 3d style'],
  ['  a red fox , ', 'flat', 'a red fox, flat style'],
  ['a red fox', 'cartoon', 'a red fox, cartoon style'],
  ['a red fox', 'none', 'a red fox'],
  ['a red\n fox', 'none', 'a red fox'],
  ['a red fox, Flat style', '3d', 'a red fox, Flat style'],
  ['   ', '3d', ''],
  [',', '3d', ''],
] as const)('%j in %s is %j', (text, style, prompt) => {
  expect(fullPrompt(text, style)).toBe(prompt);
});

test.each([
  ['a red fox', '7', '', 'a-red-fox-7.png'],
  ['A  Fox’s “den”!', '-3', '-sticker', 'a-fox-s-den--3-sticker.png'],
  ['красная лиса 狐', '1', '', 'красная-лиса-狐-1.png'],
  ['../../etc/passwd', '1', '', 'etc-passwd-1.png'],
  ['🦊', '1', '', 'sticker-1.png'],
  ['x'.repeat(200), '1', '', `${'x'.repeat(60)}-1.png`],
])('the file of %j, seed %s%s is %s', (text, seed, suffix, name) => {
  expect(fileName(text, seed, suffix)).toBe(name);
});

test.each([
  ['7', '7'],
  [' +007 ', '7'],
  ['-0', '0'],
  ['−5', '-5'],
  ['-9223372036854775808', '-9223372036854775808'],
  ['-9223372036854775809', undefined],
  ['18446744073709551615', '18446744073709551615'],
  ['18446744073709551616', undefined],
  ['', undefined],
  ['1.5', undefined],
  ['1e3', undefined],
  ['0x10', undefined],
])('the seed %j is %s', (text, seed) => {
  expect(parseSeed(text)).toBe(seed);
});

test('the seed after the highest is 0', () => {
  expect(seedsAfter('18446744073709551614', 3)).toEqual(['18446744073709551615', '0', '1']);
  expect(seedsAfter('-2', 3)).toEqual(['-1', '0', '1']);
});

test('random seeds are below 2**32 and differ', () => {
  const seeds = new Set(Array.from({ length: 20 }, randomSeed));
  expect(seeds.size).toBeGreaterThan(10);
  for (const seed of seeds) expect(BigInt(seed)).toBeLessThan(2n ** 32n);
});
