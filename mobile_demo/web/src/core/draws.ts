/** Draws that are the same for the same seed and name, in every language (runtime/variation/draws.py). */

type Four = [bigint, bigint, bigint, bigint];
const LOW = 0xffffffffn;

/** A word with its frequency: the same for the same seed and name. */
export function draw(words: ReadonlyMap<string, number>, seed: bigint, name: string): string {
  let total = 0;
  for (const frequency of words.values()) total += frequency;
  const wanted = uniform(seed, name) * total;
  let reached = 0;
  let last = '';
  for (const [word, frequency] of words) {
    reached += frequency;
    if (wanted < reached) return word;
    if (frequency > 0) last = word;
  }
  return last;
}

/** A number in [0, 1): 53 bits of Philox 4x32-10, whose key is the seed and whose counter the name's FNV-1a hash. */
export function uniform(seed: bigint, name: string): number {
  const hashed = fnv1a(new TextEncoder().encode(name));
  const key = BigInt.asUintN(64, seed);
  const [first, second] = philox([hashed & LOW, hashed >> 32n, 0n, 0n], [key & LOW, key >> 32n]);
  return Number(((first << 32n) | second) >> 11n) * 2 ** -53;
}

/** Philox 4x32-10: four random 32-bit words. */
export function philox(counter: Four, key: [bigint, bigint]): Four {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [one, other] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [(other >> 32n) ^ c1 ^ k0, other & LOW, (one >> 32n) ^ c3 ^ k1, one & LOW];
    [k0, k1] = [(k0 + 0x9e3779b9n) & LOW, (k1 + 0xbb67ae85n) & LOW];
  }
  return [c0, c1, c2, c3];
}

/** The 64-bit FNV-1a hash. */
export function fnv1a(data: Uint8Array): bigint {
  let hashed = 0xcbf29ce484222325n;
  for (const byte of data) hashed = ((hashed ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return hashed;
}
