import type { ComponentChildren } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { useStudio } from './context';
import { Icon } from './icons';

interface Props {
  field: 'text' | 'to';
  label: string;
  placeholder: string;
  testId: string;
  /** The id of a line that explains. */
  describedBy?: string;
  focused?: boolean;
  children?: ComponentChildren;
}

/** A prompt of up to three visible lines. Enter makes its picture now. */
export function PromptField({ field, label, placeholder, testId, describedBy, focused, children }: Props) {
  const studio = useStudio();
  const area = useRef<HTMLTextAreaElement>(null);
  const value = studio.inputs[field].value;
  useLayoutEffect(() => fitToText(area.current), [value]);
  useLayoutEffect(() => {
    if (focused) area.current?.focus({ preventScroll: true });
  }, [focused]);
  return (
    <div class="prompt">
      <textarea
        ref={area}
        rows={1}
        dir="auto"
        value={value}
        placeholder={placeholder}
        aria-label={label}
        aria-describedby={describedBy}
        data-testid={testId}
        enterkeyhint="go"
        autocapitalize="none"
        autocomplete="off"
        onInput={(event) => studio.type(field, event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== 'Enter' || event.isComposing) return;
          event.preventDefault();
          studio.makeNow();
          // On a phone the keyboard goes, so that the picture is seen.
          if (matchMedia('(pointer: coarse)').matches) event.currentTarget.blur();
        }}
      />
      {value && (
        <button
          type="button"
          class="clear"
          aria-label={`Clear the ${label.toLowerCase()}`}
          data-testid={`${testId}-clear`}
          onClick={() => {
            studio.type(field, '');
            area.current?.focus();
          }}
        >
          <Icon name="close" />
        </button>
      )}
      {children}
    </div>
  );
}

function fitToText(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight}px`;
}
