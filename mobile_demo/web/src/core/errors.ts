/** A bundle that cannot be used; the message is one line that says why. */
export class BundleError extends Error {
  override name = 'BundleError';
}
