/**
 * The service worker: keeps the app itself (the models are kept by store/pieces.ts) and gives every answer the headers
 * of cross-origin isolation, without which there are no threads, so that plain static hosting is enough.
 */

import { cacheNames } from 'workbox-core';
import { addPlugins, cleanupOutdatedCaches, getCacheKeyForURL, precacheAndRoute } from 'workbox-precaching';

declare const self: ServiceWorkerGlobalScope & { __WB_MANIFEST: { url: string; revision: string | null }[] };

const HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

/** The same answer with the headers of isolation. */
function isolated(response: Response): Response {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

addPlugins([{ handlerWillRespond: async ({ response }) => isolated(response) }]);
const files = self.__WB_MANIFEST;
precacheAndRoute(files);
cleanupOutdatedCaches();

self.addEventListener('message', (event) => {
  if (event.data === 'mend') event.waitUntil(mend());
  if (event.data === 'take over') event.waitUntil(takeOver(event.ports[0]));
});

/** Files that are gone, because the browser or a person cleared them, are fetched again: the next start may be offline. */
async function mend(): Promise<void> {
  const cache = await caches.open(cacheNames.precache);
  for (const { url } of files) {
    const key = getCacheKeyForURL(url);
    if (!key || (await cache.match(key))) continue;
    const response = await fetch(url, { cache: 'no-cache' }).catch(() => undefined);
    if (response?.ok) await cache.put(key, response);
  }
}

/**
 * A page that starts asks a newer version that waits behind it (install.ts). It takes over where that page is the only
 * one, and answers whether it does: another page's old version would miss its files.
 */
async function takeOver(answer: MessagePort | undefined): Promise<void> {
  const alone = await onePage();
  if (alone) await self.skipWaiting();
  answer?.postMessage(alone);
}

/** Whether one page is open. One that was reloaded or closed a moment ago may still be listed: it is given a second. */
async function onePage(): Promise<boolean> {
  for (let look = 0; look < 5; look++) {
    const pages = await self.clients.matchAll({ type: 'window', includeUncontrolled: true });
    if (pages.length <= 1) return true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return false;
}
