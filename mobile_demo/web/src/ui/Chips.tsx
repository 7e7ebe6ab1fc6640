import type { OpenWord } from '../core/types';
import { useStudio } from './context';
import { IconButton } from './IconButton';

/** The words that the seed chose: each can be kept for other seeds, changed or left out. */
export function Chips() {
  const made = useStudio().picture.value;
  if (!made?.open.length) return null;
  return (
    <ul class="chips" aria-label="Words that the seed chose" data-testid="chips">
      {made.open.map((one) => (
        <li key={one.property}>
          <Chip {...one} />
        </li>
      ))}
    </ul>
  );
}

const LEFT_OUT = '';

function Chip({ property, word, options }: OpenWord) {
  const studio = useStudio();
  const locked = Object.hasOwn(studio.inputs.words.value, property);
  return (
    <span class={`chip ${locked ? 'chip-locked' : ''}`} data-testid={`chip-${property}`}>
      <IconButton
        icon={locked ? 'lock' : 'unlock'}
        label={`Keep ${property}: ${word ?? 'left out'}`}
        testId={`chip-lock-${property}`}
        pressed={locked}
        onClick={() => studio.wish(property, locked ? undefined : word)}
      />
      <select
        aria-label={property}
        data-testid={`chip-word-${property}`}
        value={word ?? LEFT_OUT}
        onChange={({ currentTarget: { value } }) => studio.wish(property, value === LEFT_OUT ? null : value)}
      >
        {options.map((option) => (
          <option key={option} value={option}>
            {option}
          </option>
        ))}
        <option value={LEFT_OUT}>no {property}</option>
      </select>
    </span>
  );
}
