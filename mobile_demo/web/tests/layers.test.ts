// The folders of src import downwards only: core <- store, engine <- state <- ui.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const SRC = join(import.meta.dirname, '../src');
/** What a folder may not import from. */
const ABOVE: Record<string, string[]> = {
  core: ['engine', 'store', 'state', 'ui'],
  store: ['state', 'ui'],
  engine: ['state', 'ui'],
  state: ['ui'],
};
const IMPORT = /(?:from|import)\s*\(?\s*(?:\/\*.*?\*\/\s*)?['"](?:\.\.\/)+(\w[\w-]*)\//g;

function folders(text: string): string[] {
  return [...text.matchAll(IMPORT)].map((found) => found[1] ?? '');
}

test('imports of other folders are found in every form', () => {
  const text = `import { a } from '../engine/types';\nconst b = import("../ui/App");\nexport * from '../../state/words';`;
  expect(folders(text)).toEqual(['engine', 'ui', 'state']);
  expect(folders(`import { c } from './noise';\nimport 'idb';`)).toEqual([]);
});

test.each(Object.entries(ABOVE))('%s imports nothing from above', (folder, above) => {
  const files = readdirSync(join(SRC, folder), { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.tsx?$/.test(name),
  );
  expect(files.length).toBeGreaterThan(3);
  const wrong = files.flatMap((name) =>
    folders(readFileSync(join(SRC, folder, name), 'utf8'))
      .filter((imported) => above.includes(imported))
      .map((imported) => `${folder}/${name} imports ${imported}`),
  );
  expect(wrong).toEqual([]);
});
