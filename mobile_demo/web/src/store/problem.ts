import type { Problem, ProblemKind } from '../engine/types';

/** A reason why the engine cannot run, for a person to read. */
export class Failure extends Error {
  override name = 'Failure';

  constructor(
    readonly kind: ProblemKind,
    message: string,
  ) {
    super(message);
  }
}

/** The server's answer is not what was asked for: its HTTP status, or what is wrong with the answer. */
export function refused(why: number | string): Failure {
  const what = typeof why === 'number' ? `The server answered ${why}` : why;
  return new Failure(
    'server',
    `${what} instead of the models. Try again later: the download resumes where it stopped.`,
  );
}

const MEMORY = /memory|allocat|out of bounds|bad_alloc/i;

/** Any error as a Problem: what the engine did not foresee keeps its own message. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Failure) return { kind: error.kind, message: error.message };
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof RangeError || MEMORY.test(text)) {
    return {
      kind: 'memory',
      message:
        'This device has too little free memory for the models (about 300 MB). Close other tabs or apps and try again.',
    };
  }
  return { kind: 'internal', message: `The models could not be started: ${text.split('\n')[0]}` };
}
