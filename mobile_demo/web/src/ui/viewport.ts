import { effect, type ReadonlySignal, signal } from '@preact/signals';
import type { Theme } from '../state/settings';

/**
 * Keeps the page as high as what is seen of it. Browsers that heed interactive-widget do so by themselves; Safari lays
 * its keyboard over the page and reports it to the visual viewport alone.
 */
export function followKeyboard(): void {
  const viewport = window.visualViewport;
  if (!viewport) return;
  const follow = () => {
    // A page zoomed by two fingers keeps its height.
    if (viewport.scale > 1.01) return;
    document.documentElement.style.setProperty('--seen-height', `${viewport.height}px`);
    if (viewport.offsetTop > 0) scrollTo(0, 0);
  };
  viewport.addEventListener('resize', follow);
  follow();
}

/** Whether the page has two columns (layout.css). */
export const isWide = matching('(min-width: 900px) and (min-height: 541px)');

function matching(query: string): ReadonlySignal<boolean> {
  const list = matchMedia(query);
  const matches = signal(list.matches);
  list.addEventListener('change', (event) => {
    matches.value = event.matches;
  });
  return matches;
}

/** Sets the chosen colours, and the browser's own bar with them. */
export function followTheme(theme: ReadonlySignal<Theme>): void {
  effect(() => {
    const root = document.documentElement;
    if (theme.value === 'auto') delete root.dataset.theme;
    else root.dataset.theme = theme.value;
    for (const meta of document.querySelectorAll<HTMLMetaElement>('meta[name="theme-color"]')) {
      const own = meta.media.includes('dark') ? 'dark' : 'light';
      meta.content = THEME_COLORS[theme.value === 'auto' ? own : theme.value];
    }
  });
}

/** --mat of tokens.css. */
const THEME_COLORS = { light: '#e6eeea', dark: '#0e1916' };
