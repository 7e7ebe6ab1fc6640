import type { Engine } from './engine/types';

declare global {
  interface Window {
    /** The page's engine, for the browser's console and the tests. */
    addkit: Engine;
  }
}
