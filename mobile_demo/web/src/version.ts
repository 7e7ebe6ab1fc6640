import { version as packageVersion } from '../package.json';

/** Of the app, as its package.json says. */
export const version: string = packageVersion;
