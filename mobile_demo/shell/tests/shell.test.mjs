import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import vm from 'node:vm';

const SOURCE = await readFile(new URL('../src/shell.js', import.meta.url), 'utf8');

/** shell.js in a page of its own: a WebView whose plugins record what they are asked, and answer from `answers`. */
function page({ isNative = true, answers = {} } = {}) {
  const asked = [];
  class Navigator {}
  Object.defineProperty(Navigator.prototype, 'serviceWorker', { value: {}, configurable: true });
  class HTMLAnchorElement {
    clicked = 0;
    click() {
      this.clicked += 1;
    }
  }
  class FileReader {
    async readAsDataURL(file) {
      const bytes = Buffer.from(await file.arrayBuffer());
      this.result = `data:${file.type};base64,${bytes.toString('base64')}`;
      this.onload();
    }
  }
  const nativePromise = async (plugin, method, options) => {
    // What crosses to the native side is JSON.
    asked.push([plugin, method, JSON.parse(JSON.stringify(options))]);
    return answers[plugin]?.(options);
  };
  const scope = {
    Navigator, HTMLAnchorElement, FileReader, File, Blob, DOMException, console,
    navigator: new Navigator(),
    fetch: async () => new Response(new Blob(['png'], { type: 'image/png' })),
    Capacitor: { isNativePlatform: () => isNative, nativePromise },
  };
  vm.runInNewContext(SOURCE, scope);
  return { ...scope, asked };
}

const written = { Filesystem: ({ path }) => ({ uri: `file:///cache/${path}` }) };
const fox = () => new File(['fox'], 'fox.png', { type: 'image/png' });

test('a browser is left alone', () => {
  const { navigator, HTMLAnchorElement } = page({ isNative: false });
  assert.ok('serviceWorker' in navigator && !('share' in navigator));
  const link = Object.assign(new HTMLAnchorElement(), { download: 'a.png', href: 'blob:1' });
  link.click();
  assert.equal(link.clicked, 1);
});

test('there is no service worker in a WebView', () => assert.ok(!('serviceWorker' in page().navigator)));

test('a file is shared from the cache folder', async () => {
  const { navigator, asked } = page({ answers: written });
  assert.equal(navigator.canShare({ files: [fox()] }), true);
  assert.equal(navigator.canShare({}), false);
  await navigator.share({ files: [fox()], title: 'a red fox' });
  assert.deepEqual(asked, [
    ['Filesystem', 'writeFile', { path: 'fox.png', data: btoa('fox'), directory: 'CACHE' }],
    ['Share', 'share', { title: 'a red fox', files: ['file:///cache/fox.png'] }],
  ]);
});

test('a closed sheet is an AbortError, as in browsers; a fault is itself', async () => {
  const failing = (message) =>
    page({ answers: { ...written, Share: () => Promise.reject(new Error(message)) } }).navigator;
  await assert.rejects(failing('Share canceled').share({ files: [fox()] }), { name: 'AbortError' });
  await assert.rejects(failing('no room').share({ files: [fox()] }), { message: 'no room' });
});

test('a download of a blob opens the share sheet, other links stay links', async () => {
  const { HTMLAnchorElement, asked } = page({ answers: written });
  const link = Object.assign(new HTMLAnchorElement(), { download: 'fox.png', href: 'blob:1' });
  link.click();
  while (asked.length < 2) await new Promise(setImmediate);
  assert.equal(link.clicked, 0);
  assert.deepEqual(asked[0], ['Filesystem', 'writeFile', { path: 'fox.png', data: btoa('png'), directory: 'CACHE' }]);
  assert.deepEqual(asked[1][2].files, ['file:///cache/fox.png']);
  const plain = Object.assign(new HTMLAnchorElement(), { download: '', href: 'https://example.org/' });
  plain.click();
  assert.equal(plain.clicked, 1);
});
