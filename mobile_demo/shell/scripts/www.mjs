/** Makes www/, what Capacitor packs: the built web app with src/shell.js ahead of it, without its service worker. */
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const SHELL = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const LEFT_OUT = new Set(['sw.js', 'manifest.webmanifest']);
const TAG = '<script src="./shell.js"></script>';

/** The page with the shell's script as the first of its head, and without the link to the manifest. */
export function adapted(page) {
  if (!page.includes('<head>')) throw new Error('index.html has no <head>, so that shell.js finds no place in it');
  return page.replace(/\s*<link rel="manifest"[^>]*>/g, '').replace('<head>', `<head>\n    ${TAG}`);
}

/** Copies the build `from` to `to`, which is replaced. Throws an Error of one line. */
export async function makeWww(from, to) {
  const page = await readFile(path.join(from, 'index.html'), 'utf8').catch(() => {
    throw new Error(`there is no built web app in ${from}: run \`npm run build\` first`);
  });
  const made = adapted(page);
  await rm(to, { recursive: true, force: true });
  await mkdir(to, { recursive: true });
  await cp(from, to, { recursive: true, filter: (file) => !LEFT_OUT.has(path.relative(from, file)) });
  await cp(path.join(SHELL, 'src', 'shell.js'), path.join(to, 'shell.js'));
  await writeFile(path.join(to, 'index.html'), made);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await makeWww(path.join(SHELL, '..', 'web', 'dist'), path.join(SHELL, 'www'));
  } catch (error) {
    console.error(`error: ${error.message}`);
    process.exitCode = 2;
  }
}
