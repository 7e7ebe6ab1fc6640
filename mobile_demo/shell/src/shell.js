/**
 * Gives the web app in a WebView what browsers have built in: sharing and saving files, by Capacitor's plugins.
 * Loaded ahead of the app by scripts/www.mjs; in a browser it does nothing.
 */
(() => {
  const native = globalThis.Capacitor;
  if (!native?.isNativePlatform?.()) return;

  // The app's package is always there: a service worker would only go on showing an earlier version of it.
  delete Navigator.prototype.serviceWorker;

  /** A file's bytes in base64, as the plugins take them. */
  function base64(file) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    });
  }

  /** Opens the system's share sheet, which can save to photos and files too. AbortError when it is closed. */
  async function share({ files = [], title, text, url }) {
    const written = await Promise.all(
      files.map(async (file) =>
        native.nativePromise('Filesystem', 'writeFile', {
          path: file.name,
          data: await base64(file),
          directory: 'CACHE',
        }),
      ),
    );
    const options = { title, text, url, files: written.map(({ uri }) => uri) };
    try {
      await native.nativePromise('Share', 'share', options);
    } catch (error) {
      if (error?.message === 'Share canceled') throw new DOMException(error.message, 'AbortError');
      throw error;
    }
  }

  navigator.canShare = (data) => Boolean(data?.files?.length || data?.text || data?.url);
  navigator.share = share;

  // WebViews do not download blobs: such a link opens the share sheet instead.
  const { click } = HTMLAnchorElement.prototype;
  HTMLAnchorElement.prototype.click = function () {
    if (!this.download || !this.href.startsWith('blob:')) return click.call(this);
    fetch(this.href)
      .then((response) => response.blob())
      .then((blob) => share({ files: [new File([blob], this.download, { type: blob.type })] }))
      .catch((error) => error.name === 'AbortError' || console.error(error));
  };
})();
