import { computed, signal } from '@preact/signals';
import type { Backend, GenerateRequest, StyleName } from '../core/types';
import type { HistoryEntry } from '../store/history';
import { parseSeed } from './seed';
import type { Format, Settings, Theme } from './settings';
import { fullPrompt } from './words';

/** What a person has set, and the request that follows from it. */
export class Inputs {
  readonly text = signal('');
  readonly style = signal<StyleName>('3d');
  /** As typed: it may not be a valid seed. */
  readonly seed = signal('');
  readonly locked = signal(false);
  readonly steps = signal(1);
  /** Prompts are drawn as typed: nothing is added to them. */
  readonly plain = signal(false);
  /** Of what the seed chooses, that which was chosen by hand: property -> word, or null to leave it out. */
  readonly words = signal<Readonly<Record<string, string | null>>>({});
  readonly morphing = signal(false);
  readonly to = signal('');
  /** Where the morph stands: a whole number of percent. */
  readonly t = signal(50);
  readonly format = signal<Format>('png');
  /** Of stickers, in pixels of 512. */
  readonly outline = signal(0);
  readonly theme = signal<Theme>('auto');
  readonly backend = signal<Backend | 'auto'>('auto');

  readonly prompt = computed(() => fullPrompt(this.text.value, this.style.value));
  readonly seedIsValid = computed(() => parseSeed(this.seed.value) !== undefined);
  /** The second prompt; '' where there is no morph. */
  readonly morphTo = computed(() => (this.morphing.value ? fullPrompt(this.to.value, this.style.value) : ''));
  /** undefined where there is nothing to make: no prompt, or no seed. */
  readonly request = computed((): GenerateRequest | undefined => {
    const seed = parseSeed(this.seed.value);
    if (!this.prompt.value || seed === undefined) return undefined;
    const request = {
      prompt: this.prompt.value,
      seed,
      steps: this.steps.value,
      ...(this.plain.value && { plain: true }),
      ...(!this.plain.value && Object.keys(this.words.value).length && { words: this.words.value }),
    };
    const to = this.morphTo.value;
    return to ? { ...request, morph: { to, t: this.t.value / 100 } } : request;
  });

  constructor(settings: Settings) {
    this.text.value = settings.text;
    this.style.value = settings.style;
    this.seed.value = settings.seed;
    this.locked.value = settings.locked;
    this.steps.value = settings.steps;
    this.plain.value = settings.plain;
    this.words.value = settings.words;
    this.to.value = settings.to;
    this.format.value = settings.format;
    this.outline.value = settings.outline;
    this.theme.value = settings.theme;
    this.backend.value = settings.backend;
  }

  get settings(): Settings {
    return {
      text: this.text.value,
      style: this.style.value,
      seed: this.seed.value,
      locked: this.locked.value,
      steps: this.steps.value,
      plain: this.plain.value,
      words: this.words.value,
      to: this.to.value,
      format: this.format.value,
      outline: this.outline.value,
      theme: this.theme.value,
      backend: this.backend.value,
    };
  }

  /** Sets everything that made an earlier picture. */
  restore({ text, style, to, request }: HistoryEntry): void {
    this.text.value = text;
    this.style.value = style;
    this.seed.value = request.seed;
    this.steps.value = request.steps;
    this.plain.value = request.plain === true;
    this.words.value = request.words ?? {};
    this.morphing.value = request.morph !== undefined;
    if (!request.morph) return;
    this.to.value = to;
    this.t.value = Math.round(request.morph.t * 100);
  }
}
