/** Prompt -> what the text encoders give, kept for the prompts used last: runtime/prompt_states.py. */

import type { TextEncoder } from './conditioning';
import { lerp } from './lerp';
import type { Graphs } from './pipeline';
import type { Tokenizer } from './tokenizer';

/** A prompt as the U-Net takes it. */
export interface Text {
  /** f32[tokens, width], of several encoders side by side. */
  states: Float32Array;
  /** f32[width], where the U-Net takes it. */
  pooled?: Float32Array;
}

/** A prompt's text and the words at its end that the encoders have no room for. */
export interface Encoded {
  text: Text;
  droppedWords: string[];
}

const KEPT = 64;

/** Tokenizers, their encoders, and what they gave for the prompts used last. */
export class Texts {
  private readonly kept = new Map<string, Text>();

  /** `tokenizers`: one for each of `encoders`. */
  constructor(
    private readonly encoders: readonly TextEncoder[],
    private readonly tokenizers: readonly Tokenizer[],
    private readonly graphs: Graphs,
    private readonly maxTokens: number,
  ) {}

  /** Whether the encoders read the whole of a prompt. */
  fits(prompt: string): boolean {
    return this.tokenizers.every((one) => !one.encode(prompt, this.maxTokens).droppedWords.length);
  }

  /** `checkpoint` is awaited before every encoder and may throw to stop. */
  async encode(prompt: string, checkpoint: () => Promise<void>): Promise<Encoded> {
    const encodings = this.tokenizers.map((tokenizer) => tokenizer.encode(prompt, this.maxTokens));
    const droppedWords = encodings[0]?.droppedWords ?? [];
    const key = encodings.map(({ ids }) => ids.join(' ')).join('|');
    const known = this.kept.get(key);
    if (known) return { text: known, droppedWords };
    const states: Float32Array[] = [];
    let pooled: Float32Array | undefined;
    for (const [i, encoder] of this.encoders.entries()) {
      const data = encodings[i]?.ids as BigInt64Array;
      await checkpoint();
      const graph = this.graphs[encoder.component];
      const given = await graph?.({ input_ids: { data, shape: [1, this.maxTokens] } });
      const [rows, row] = [given].flat() as Float32Array[];
      states.push(rows as Float32Array);
      if (encoder.pooled !== null) pooled = row;
    }
    const text = { states: joined(states, this.maxTokens), ...(pooled && { pooled }) };
    if (this.kept.size >= KEPT) this.kept.delete(this.kept.keys().next().value as string);
    this.kept.set(key, text);
    return { text, droppedWords };
  }
}

/** States [rows, width] of several encoders side by side. */
function joined(parts: readonly Float32Array[], rows: number): Float32Array {
  if (parts.length === 1) return parts[0] as Float32Array;
  const widths = parts.map((part) => part.length / rows);
  const width = widths.reduce((a, b) => a + b);
  const made = new Float32Array(rows * width);
  let start = 0;
  for (const [i, part] of parts.entries()) {
    const own = widths[i] as number;
    for (let row = 0; row < rows; row++)
      made.set(part.subarray(row * own, (row + 1) * own), row * width + start);
    start += own;
  }
  return made;
}

/** From `a` (t = 0) to `b` (t = 1) in a straight line. */
export function mixed(a: Text, b: Text, t: number): Text {
  const states = lerp(a.states, b.states, t);
  return a.pooled && b.pooled ? { states, pooled: lerp(a.pooled, b.pooled, t) } : { states };
}

/** No text at all, in the same shapes. */
export function zeros({ states, pooled }: Text): Text {
  const none = new Float32Array(states.length);
  return pooled ? { states: none, pooled: new Float32Array(pooled.length) } : { states: none };
}
