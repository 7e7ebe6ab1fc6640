/** npm run bench: see bench.ts. */

import { argv, exit } from 'node:process';
import { runnerImport } from 'vite';

const { module } = await runnerImport(new URL('./bench.ts', import.meta.url).pathname);
await module.main(argv.slice(2));
exit(0);
