import { useLayoutEffect } from 'preact/hooks';

/** While the component is there, the way back (a phone's gesture or button) runs `close` and leaves the page alone. */
export function useBack(close: () => void): void {
  useLayoutEffect(() => {
    let gone = false;
    const onBack = () => {
      if (isOfSheet(history.state)) return; // an earlier sheet's entry, which was on its way out
      gone = true;
      close();
    };
    history.pushState({ sheet: true }, '');
    addEventListener('popstate', onBack);
    return () => {
      removeEventListener('popstate', onBack);
      if (!gone) history.back();
    };
  }, []);
}

function isOfSheet(state: unknown): boolean {
  return typeof state === 'object' && state !== null && 'sheet' in state;
}
