import { createContext } from 'preact';
import { useContext } from 'preact/hooks';
import type { Studio } from '../state/studio';

const StudioContext = createContext<Studio | undefined>(undefined);
export const StudioProvider = StudioContext.Provider;

export function useStudio(): Studio {
  const studio = useContext(StudioContext);
  if (!studio) throw new Error('a component stands outside of StudioProvider');
  return studio;
}
