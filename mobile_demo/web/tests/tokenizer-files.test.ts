import { expect, it, test } from 'vitest';
import { BundleError } from '../src/core/errors';
import { Tokenizer } from '../src/core/tokenizer';
import { tokensOfFiles } from '../src/core/tokenizer-files';
import { bytes } from './golden';

const FOLDER = 'tests/golden/tiny_bundle/tokenizer';
const read = (name: string) => bytes(`${FOLDER}/${name}`).toString();
const [vocab, merges] = [read('vocab.json'), read('merges.txt')];
const pads = (map: object | undefined, config: object = {}) => {
  const files = { config: JSON.stringify(config), map: map && JSON.stringify(map) };
  const { ids } = Tokenizer.parse(vocab, merges, files).encode('a fox');
  return Number(ids.at(-1));
};
const END = JSON.parse(vocab)['<|endoftext|>'];

test("a bundle of Stable Diffusion 2 whose manifest says nothing is padded as transformers' files say", () => {
  expect(pads({ pad_token: '!' })).toBe(0);
  expect(pads({ pad_token: { content: '!', lstrip: false } })).toBe(0);
  expect(pads(undefined, { pad_token: '!' })).toBe(0);
  expect([pads(undefined), pads({}), pads({ pad_token: null })]).toEqual([END, END, END]);
});

test("the tiny bundle's own files say what its ids always were", () => {
  const files = { config: read('tokenizer_config.json'), map: read('special_tokens_map.json') };
  const [told, plain] = [Tokenizer.parse(vocab, merges, files), Tokenizer.parse(vocab, merges)];
  expect([...told.encode('a red fox').ids]).toEqual([...plain.encode('a red fox').ids]);
});

test('added tokens of the configuration are found in a text, and its pad token counts before the map', () => {
  const token = { content: '<frog-toy>', special: false };
  const config = { added_tokens_decoder: { 914: token, 0: { content: '!', special: true } }, pad_token: '!' };
  const tokens = tokensOfFiles({ config: JSON.stringify(config), map: '{"pad_token": "$"}' }, () => 1);
  expect(tokens.padId).toBe(0);
  const files = { config: JSON.stringify(config), map: undefined };
  expect([...Tokenizer.parse(vocab, merges, files).encode('a <frog-toy>').ids].map(Number)).toContain(914);
});

it.each([
  ['[]', /no JSON object/],
  ['{"pad_token": 3}', /must be a text/],
  ['{"pad_token": "<nowhere>"}', /not in vocab.json/],
])('%s is refused in one line', (map, why) => {
  const parse = () => Tokenizer.parse(vocab, merges, { config: undefined, map });
  expect(parse).toThrow(why);
  expect(parse).toThrow(BundleError);
});
