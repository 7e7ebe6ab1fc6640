import { VitePWA } from 'vite-plugin-pwa';
import { defineConfig } from 'vitest/config';

const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

const icon = (file: string, size: number, purpose = 'any') => ({
  src: `icons/${file}`,
  sizes: `${size}x${size}`,
  type: 'image/png',
  purpose,
});

export default defineConfig({
  base: './', // the app may be served from any folder of a static server
  // ONNX Runtime without its WebAssembly inside: that is sent in pieces, see scripts/models.mjs.
  resolve: { conditions: ['onnxruntime-web-use-extern-wasm', 'module', 'browser', 'development|production'] },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    outDir: process.env.ADDKIT_DIST ?? 'dist',
    emptyOutDir: true,
  },
  worker: { format: 'es' },
  server: { headers: ISOLATION },
  preview: { headers: ISOLATION },
  plugins: [
    VitePWA({
      strategies: 'injectManifest',
      srcDir: 'src',
      filename: 'sw.ts',
      injectRegister: null, // src/install.ts does it
      injectManifest: {
        globPatterns: ['**/*.{html,js,mjs,css,webmanifest}', 'icons/*.{png,svg}', 'models/index.json'],
        rollupFormat: 'iife',
      },
      manifest: {
        name: 'ADDKit Stickers',
        short_name: 'Stickers',
        description: 'Makes stickers from words, on the phone itself, without a server.',
        id: './',
        start_url: './',
        display: 'standalone',
        orientation: 'any',
        background_color: '#e6eeea',
        theme_color: '#e6eeea',
        categories: ['graphics', 'entertainment'],
        icons: [
          icon('icon-192.png', 192),
          icon('icon-512.png', 512),
          icon('maskable-512.png', 512, 'maskable'),
        ],
      },
    }),
  ],
  test: { include: ['tests/**/*.test.{ts,tsx}'] },
});
