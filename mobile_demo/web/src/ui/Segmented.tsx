export interface Option<T extends string | number> {
  value: T;
  label: string;
  /** What a screen reader says, where the label alone is too short. */
  spoken?: string;
}

interface Props<T extends string | number> {
  /** The group's name, read aloud, and shown where `titled`. */
  title: string;
  titled?: boolean;
  /** Radio name and the beginning of the options' test ids: 'style' gives 'style-3d'. */
  name: string;
  options: readonly Option<T>[];
  value: T;
  onChoose(value: T): void;
}

/** One choice of a few, side by side: radio buttons, so arrow keys walk through them. */
export function Segmented<T extends string | number>(props: Props<T>) {
  const { title, titled = false, name, options, value, onChoose } = props;
  return (
    <fieldset class="segmented" data-testid={name}>
      <legend class={titled ? 'segmented-title' : 'hidden'}>{title}</legend>
      <div class="segmented-options">
        {options.map((option) => (
          <label key={option.value} class="segment" data-testid={`${name}-${option.value}`}>
            <input
              type="radio"
              name={name}
              value={option.value}
              checked={option.value === value}
              onChange={() => onChoose(option.value)}
              {...(option.spoken && { 'aria-label': option.spoken })}
            />
            <span>{option.label}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
