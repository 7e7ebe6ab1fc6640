/** Before the tests: the app must be built, and the tiny bundle's models cut. */

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DIST, TINY, WEB } from './browser';

export default function setup(): void {
  if (!existsSync(join(DIST, 'sw.js'))) throw new Error('the app is not built: npm run build');
  const bundle = join(WEB, '../../tests/golden/tiny_bundle');
  execFileSync(process.execPath, [join(WEB, 'scripts/models.mjs'), bundle, TINY], { stdio: 'inherit' });
}
