import { render } from 'preact';
import { startEngine } from './engine/client';
import type { Engine } from './engine/types';
import { installed } from './install';
import { loadSettings, localShelf, withoutLink } from './state/settings';
import { Studio } from './state/studio';
import { openHistory } from './store/history';
import './styles/tokens.css';
import './styles/base.css';
import './styles/layout.css';
import './styles/stage.css';
import './styles/controls.css';
import './styles/sheets.css';
import { App } from './ui/App';
import { StudioProvider } from './ui/context';
import { pictureBytes } from './ui/output';
import { followKeyboard, followTheme } from './ui/viewport';

/** `?fake` while developing: the page without a model. */
async function engineOfPage(): Promise<Engine> {
  if (import.meta.env.DEV && new URLSearchParams(location.search).has('fake')) {
    const { fakeOfPage } = await import('../tests/fake-engine');
    return fakeOfPage(location.search);
  }
  await installed();
  return startEngine(loadSettings(localShelf()).backend);
}

window.addkit = await engineOfPage();
const studio = new Studio({
  engine: window.addkit,
  shelf: localShelf(),
  search: location.search,
  openHistory,
  encode: pictureBytes,
});
history.replaceState(null, '', withoutLink(location.href));
followTheme(studio.inputs.theme);
followKeyboard();

const root = document.getElementById('app');
if (!root) throw new Error('index.html has no #app');
root.textContent = '';
render(
  <StudioProvider value={studio}>
    <App />
  </StudioProvider>,
  root,
);
