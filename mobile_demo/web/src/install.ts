/** Registers the service worker, which keeps the app for offline use and isolates the page (threads need that). */

const TRIED = 'addkit-isolation-tried';
const PATIENCE = 15_000; // ms for the service worker to take its files
const ANSWERS = 5000; // ms for a service worker to wake up and answer

/**
 * Resolves when the page may start the engine. Instead, the page is loaded again through the service worker, once, on a
 * first visit to a server that does not isolate the page itself, and where a newer version of the app takes over.
 */
export async function installed(): Promise<void> {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return;
  try {
    const registration = await navigator.serviceWorker.register('./sw.js', { type: 'classic' });
    const { waiting } = registration;
    if (waiting && (await takesOver(waiting)) && (await activated(waiting))) await reloaded();
    registration.active?.postMessage('mend');
    // Where it worked, it may be tried again: the site's data may be cleared while the page stays.
    if (globalThis.crossOriginIsolated) sessionStorage.removeItem(TRIED);
    if (globalThis.crossOriginIsolated || !isSecureContext || sessionStorage.getItem(TRIED)) return;
    sessionStorage.setItem(TRIED, '1');
    const worker = registration.active ?? registration.waiting ?? registration.installing;
    if (worker && (await activated(worker))) await reloaded();
  } catch {
    // Refused (private window, embedded view): the app works, it is only not kept.
  }
}

/** Never resolves: the page goes away. */
function reloaded(): Promise<never> {
  location.reload();
  return new Promise(() => {});
}

/** Whether a newer version, which waits for the pages of the one before it to go, takes over now (sw.ts). */
async function takesOver(waiting: ServiceWorker): Promise<boolean> {
  const { port1, port2 } = new MessageChannel();
  const answer = new Promise<boolean>((resolve) => {
    port1.onmessage = ({ data }) => resolve(data === true);
  });
  waiting.postMessage('take over', [port2]);
  return Promise.race([answer, after(ANSWERS)]);
}

/** false, `ms` from now. */
function after(ms: number): Promise<false> {
  return new Promise((resolve) => setTimeout(resolve, ms, false));
}

/** Whether the worker came to be active in time. */
async function activated(worker: ServiceWorker): Promise<boolean> {
  const active = new Promise<boolean>((resolve) => {
    const look = () =>
      (worker.state === 'activated' || worker.state === 'redundant') && resolve(worker.state === 'activated');
    worker.addEventListener('statechange', look);
    look();
  });
  return Promise.race([active, after(PATIENCE)]);
}
