import type { Backend, StyleName } from '../core/types';
import { parseSeed } from './seed';
import { isStyleName } from './words';

export type Theme = 'auto' | 'light' | 'dark';
export const THEMES: readonly Theme[] = ['auto', 'light', 'dark'];
export const BACKENDS: readonly (Backend | 'auto')[] = ['auto', 'webgpu', 'wasm'];
export const MOST_STEPS = 4;
/** As what a picture leaves the app: a sticker as PNG or WebP, the picture with its background, a morph that moves. */
export const FORMATS = ['png', 'webp', 'picture', 'morph'] as const;
export type Format = (typeof FORMATS)[number];
/** Widths of a sticker's white edge, in pixels of 512. */
export const OUTLINES: readonly number[] = [0, 10, 20];

/** What a reload restores. */
export interface Settings {
  text: string;
  style: StyleName;
  seed: string;
  locked: boolean;
  steps: number;
  /** Prompts are drawn as typed. */
  plain: boolean;
  /** Words chosen by hand: property -> word, or null to leave it out. */
  words: Readonly<Record<string, string | null>>;
  /** The second prompt of a morph. */
  to: string;
  theme: Theme;
  format: Format;
  outline: number;
  backend: Backend | 'auto';
}

const KEY = 'addkit.settings';
const MOST_TEXT = 2000; // UTF-16 units
const DEFAULTS: Settings = {
  text: '',
  style: '3d',
  seed: '7',
  locked: false,
  steps: 1,
  plain: false,
  words: {},
  to: '',
  theme: 'auto',
  format: 'png',
  outline: 10,
  backend: 'auto',
};

/** Where settings are kept: localStorage, or nothing where the browser refuses it. */
export type Shelf = Pick<Storage, 'getItem' | 'setItem'> | undefined;

/** The page's localStorage; reading the property throws where storage is blocked. */
export function localShelf(): Shelf {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}

/** What was kept, with defaults for whatever is missing or makes no sense. */
export function loadSettings(shelf: Shelf): Settings {
  const kept = parsed(shelf);
  const text = (value: unknown) => (typeof value === 'string' ? cut(value) : '');
  return {
    text: text(kept.text),
    style: isStyleName(kept.style) ? kept.style : DEFAULTS.style,
    seed: (typeof kept.seed === 'string' && parseSeed(kept.seed)) || DEFAULTS.seed,
    locked: kept.locked === true,
    steps: isSteps(kept.steps) ? kept.steps : DEFAULTS.steps,
    plain: kept.plain === true,
    words: wordsOf(kept.words),
    to: text(kept.to),
    theme: THEMES.find((theme) => theme === kept.theme) ?? DEFAULTS.theme,
    format: FORMATS.find((format) => format === kept.format) ?? DEFAULTS.format,
    outline: OUTLINES.find((outline) => outline === kept.outline) ?? DEFAULTS.outline,
    backend: BACKENDS.find((backend) => backend === kept.backend) ?? DEFAULTS.backend,
  };
}

/**
 * What a link asks for, over what was kept: ?prompt=a%20fox&seed=7&style=flat. The seed is then the link's, and the words
 * are drawn afresh.
 */
export function linked(search: string, settings: Settings): Settings {
  const asked = new URLSearchParams(search);
  const [prompt, seed, style] = [asked.get('prompt'), asked.get('seed'), asked.get('style')];
  const valid = seed === null ? undefined : parseSeed(seed);
  return {
    ...settings,
    ...(prompt !== null && { text: cut(prompt), words: {} }),
    ...(valid !== undefined && { seed: valid }),
    ...(isStyleName(style) && { style }),
  };
}

/** The address without what a link asked for: a reload shows what was typed since. */
export function withoutLink(href: string): string {
  const url = new URL(href);
  for (const name of ['prompt', 'seed', 'style']) url.searchParams.delete(name);
  return url.href;
}

export function saveSettings(shelf: Shelf, settings: Settings): void {
  try {
    shelf?.setItem(KEY, JSON.stringify(settings));
  } catch {
    // No room or not allowed: the app works the same, a reload begins afresh.
  }
}

/** No half of a character at the end: the tokenizer refuses it. */
function cut(text: string): string {
  return text.slice(0, MOST_TEXT).replace(/[\ud800-\udbff]$/, '');
}

function wordsOf(value: unknown): Settings['words'] {
  if (typeof value !== 'object' || value === null) return {};
  const entries = Object.entries(value).filter(([, word]) => word === null || typeof word === 'string');
  return Object.fromEntries(entries.slice(0, 100)) as Settings['words'];
}

function isSteps(value: unknown): value is number {
  return Number.isInteger(value) && Number(value) >= 1 && Number(value) <= MOST_STEPS;
}

function parsed(shelf: Shelf): Partial<Record<keyof Settings, unknown>> {
  try {
    const value: unknown = JSON.parse(shelf?.getItem(KEY) ?? '{}');
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}
