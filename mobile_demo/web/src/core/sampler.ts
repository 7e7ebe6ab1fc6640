/** What a run of steps remembers, and one step of it: runtime/sampler.py. */

import type { Step } from './manifest';
import { randn } from './noise';
import { weightedSum } from './schedule';

/** The U-Net's inputs and outputs of one picture's run, newest first. */
export class Memory {
  private readonly latents: Float32Array[] = [];
  private readonly outputs: Float32Array[] = [];

  constructor(
    private readonly seed: bigint,
    private readonly shape: readonly number[],
  ) {}

  /** The latents after `step` from those before it and the U-Net's output on them. */
  step(step: Step, latents: Float32Array, output: Float32Array): Float32Array {
    this.latents.unshift(latents);
    this.outputs.unshift(output);
    const terms = [...paired(step.latents, this.latents), ...paired(step.outputs, this.outputs)];
    if (step.noise) terms.push([step.noise, randn(this.seed, this.shape, step.draw)]);
    return weightedSum(terms);
  }
}

function paired(weights: readonly number[], arrays: readonly Float32Array[]): [number, Float32Array][] {
  return weights.map((weight, i) => [weight, arrays[i] as Float32Array]);
}
