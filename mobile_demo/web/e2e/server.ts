/** A plain static server, with faults on demand: a browser sees what any host would send. */

import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';

const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.webmanifest': 'application/manifest+json',
};

/** What happens to a request instead of a plain answer. */
export type Fault = 'corrupt' | 'missing' | 'drop' | { delay: number };

export interface Options {
  /** Folder that answers below /models/ in place of the build's own. */
  models?: string;
  /** Sends COOP and COEP itself, as `python -m runtime.demo` does; plain hosting does not. */
  isolated?: boolean;
}

export interface Server {
  url: string;
  /** Paths that were asked for, in order. */
  requests: string[];
  /** Bytes of the bodies that were answered, by path. */
  sent: Map<string, number>;
  /** Chosen for every request; undefined answers it plainly. */
  fault: (path: string) => Fault | undefined;
  close(): Promise<void>;
}

/** Serves `root` on a free port of localhost. */
export async function serve(root: string, options: Options = {}): Promise<Server> {
  const server: Server = {
    url: '',
    requests: [],
    sent: new Map(),
    fault: () => undefined,
    close: async () => {},
  };
  const http = createServer((request, response) => void answer(request, response, root, options, server));
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  server.url = `http://localhost:${(http.address() as AddressInfo).port}/`;
  server.close = async () => {
    http.closeAllConnections();
    await new Promise((resolve) => http.close(resolve));
  };
  return server;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  root: string,
  options: Options,
  server: Server,
): Promise<void> {
  const path = new URL(request.url ?? '/', 'http://localhost').pathname;
  server.requests.push(path);
  const fault = server.fault(path);
  const file = place(path, root, options.models);
  if (fault === 'drop') return void request.destroy();
  if (typeof fault === 'object') await new Promise((resolve) => setTimeout(resolve, fault.delay));
  if (fault === 'missing' || !existsSync(file) || !statSync(file).isFile()) {
    response.writeHead(404).end();
    return;
  }
  server.sent.set(path, (server.sent.get(path) ?? 0) + statSync(file).size);
  response.writeHead(200, {
    'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream',
    'Content-Length': statSync(file).size,
    ...(options.isolated && {
      'Cross-Origin-Opener-Policy': 'same-origin',
      'Cross-Origin-Embedder-Policy': 'require-corp',
    }),
  });
  if (fault === 'corrupt') response.end(flipped(readFileSync(file)));
  else createReadStream(file).pipe(response);
}

function place(path: string, root: string, models?: string): string {
  const inModels = /^\/models\/(.*)$/.exec(path);
  if (models && inModels) return join(models, inModels[1] as string);
  return join(root, path.endsWith('/') ? `${path}index.html` : path);
}

/** The same bytes with one bit changed in the middle. */
function flipped(bytes: Buffer): Buffer {
  const at = bytes.length >> 1;
  bytes[at] = (bytes[at] as number) ^ 1;
  return bytes;
}
