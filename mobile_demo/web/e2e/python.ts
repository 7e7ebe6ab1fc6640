/** The Python runtime in a process of its own, which makes pictures on request and is idle otherwise. */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { WEB } from './browser';

const ROOT = join(WEB, '../..');
const PROGRAM = `
import json, statistics, sys, time
import runtime
pipe = runtime.load(provider="cpu")
def draw(prompt, seed):
    start = time.perf_counter()
    pipe(prompt, seed=seed, output_type="np")
    return (time.perf_counter() - start) * 1000
for line in sys.stdin:
    count, turn = int(line), time.monotonic_ns()
    fresh = [draw(f"a red fox {turn} {i}", i) for i in range(count)]
    known = [draw("a red fox", i) for i in range(count)]
    print(json.dumps({"fresh": statistics.median(fresh), "known": statistics.median(known)}), flush=True)
`;

export class PythonRuntime {
  private constructor(
    private readonly process: ChildProcess,
    private readonly lines: Interface,
  ) {}

  /** Started and warmed up; undefined where there is no Python with the runtime. */
  static async start(): Promise<PythonRuntime | undefined> {
    const python = process.env.PYTHON ?? join(ROOT, '.venv/bin/python');
    if (!existsSync(python)) return undefined;
    const child = spawn(python, ['-c', PROGRAM], { cwd: ROOT, stdio: ['pipe', 'pipe', 'inherit'] });
    const started = new PythonRuntime(child, createInterface({ input: child.stdout }));
    await started.turn(10);
    return started;
  }

  /** Milliseconds per picture, of new prompts and of a known one. */
  async turn(count: number): Promise<{ fresh: number; known: number }> {
    const answer = new Promise<string>((resolve, reject) => {
      this.lines.once('line', resolve);
      this.process.once('exit', () => reject(new Error('the Python runtime ended: see above')));
    });
    this.process.stdin?.write(`${count}\n`);
    return JSON.parse(await answer);
  }

  stop(): void {
    this.process.removeAllListeners('exit');
    this.process.kill();
  }
}
