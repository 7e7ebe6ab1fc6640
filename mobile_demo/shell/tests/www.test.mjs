import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { adapted, makeWww } from '../scripts/www.mjs';

const PAGE = `<!doctype html>
<html>
  <head>
    <title>app</title>
    <link rel="manifest" href="./manifest.webmanifest">
    <script type="module" src="./assets/app.js"></script>
  </head>
</html>`;

test('the shell comes before the app, and the manifest goes', () => {
  const page = adapted(PAGE);
  assert.ok(page.indexOf('shell.js') > 0 && page.indexOf('shell.js') < page.indexOf('assets/app.js'));
  assert.ok(!page.includes('manifest'));
  assert.throws(() => adapted('<html></html>'), /no <head>/);
});

test('www holds the build and the shell, and nothing of an earlier build', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'addkit-shell-'));
  const [from, to] = [path.join(folder, 'dist'), path.join(folder, 'www')];
  try {
    await assert.rejects(makeWww(from, to), /npm run build/);
    await mkdir(path.join(from, 'assets'), { recursive: true });
    for (const name of ['assets/app.js', 'sw.js', 'manifest.webmanifest']) await writeFile(path.join(from, name), name);
    await writeFile(path.join(from, 'index.html'), PAGE);
    await mkdir(to);
    await writeFile(path.join(to, 'old.js'), '');
    await makeWww(from, to);
    assert.equal(await readFile(path.join(to, 'assets/app.js'), 'utf8'), 'assets/app.js');
    assert.equal(await readFile(path.join(to, 'index.html'), 'utf8'), adapted(PAGE));
    assert.ok(existsSync(path.join(to, 'shell.js')));
    for (const name of ['sw.js', 'manifest.webmanifest', 'old.js']) assert.ok(!existsSync(path.join(to, name)), name);
  } finally {
    await rm(folder, { recursive: true });
  }
});
