import type { CapacitorConfig } from '@capacitor/cli';

/**
 * The web app as an app of its own. No `server` section: the page comes from the app's package, at `capacitor://localhost`
 * on iOS and `https://localhost` on Android. Capacitor 8 has no setting for response headers, so the page is not
 * cross-origin isolated there and ONNX Runtime Web uses one thread: docs/mobile.md.
 */
const config: CapacitorConfig = {
  appId: 'dev.addkit.stickers',
  appName: 'ADDKit Stickers',
  webDir: 'www',
  backgroundColor: '#0E5A4C', // of the splash screen, until the page draws
};

export default config;
