/** SHA-256 of what was received, in hexadecimal digits. */

import { sha256 } from '@noble/hashes/sha2.js';

/** The browser's own where it offers it: over plain http from another machine it does not. */
export async function digest(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
    : sha256(bytes);
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
