import { Icon, type IconName } from './icons';

interface Props {
  icon: IconName;
  /** Its name for a screen reader, and the tooltip. */
  label: string;
  testId: string;
  onClick(): void;
  class?: string;
  /** A word under the icon. */
  caption?: string;
  disabled?: boolean;
  pressed?: boolean;
}

export function IconButton({ icon, label, testId, onClick, caption, disabled, pressed, ...rest }: Props) {
  return (
    <button
      type="button"
      class={`icon-button ${rest.class ?? ''}`}
      aria-label={label}
      title={label}
      data-testid={testId}
      disabled={disabled === true}
      onClick={onClick}
      {...(pressed !== undefined && { 'aria-pressed': pressed })}
    >
      <Icon name={icon} />
      {caption && <span class="caption">{caption}</span>}
    </button>
  );
}
