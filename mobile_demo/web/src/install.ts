/** Registers the service worker, which keeps the app for offline use and isolates the page (threads need that). */

const TRIED = 'addkit-isolation-tried';
const PATIENCE = 15_000; // ms for the service worker to take its files

/**
 * Resolves when the page may start the engine. On a first visit to a server that does not isolate the page itself,
 * the page is loaded again through the service worker instead, once.
 */
export async function installed(): Promise<void> {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return;
  try {
    const registration = await navigator.serviceWorker.register('./sw.js', { type: 'classic' });
    if (globalThis.crossOriginIsolated || !isSecureContext || sessionStorage.getItem(TRIED)) return;
    sessionStorage.setItem(TRIED, '1');
    if (await activated(registration)) {
      location.reload();
      await new Promise(() => {}); // until the page goes away
    }
  } catch {
    // Refused (private window, embedded view): the app works, it is only not kept.
  }
}

/** Whether the worker came to be active in time. */
async function activated(registration: ServiceWorkerRegistration): Promise<boolean> {
  const worker = registration.active ?? registration.waiting ?? registration.installing;
  if (!worker) return false;
  const gaveUp = new Promise<boolean>((resolve) => setTimeout(resolve, PATIENCE, false));
  const active = new Promise<boolean>((resolve) => {
    const look = () =>
      (worker.state === 'activated' || worker.state === 'redundant') && resolve(worker.state === 'activated');
    worker.addEventListener('statechange', look);
    look();
  });
  return Promise.race([active, gaveUp]);
}
