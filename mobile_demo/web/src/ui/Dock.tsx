import { SEED_PROBLEM } from '../state/seed';
import { STYLES } from '../state/words';
import { useStudio } from './context';
import { IconButton } from './IconButton';
import { Icon } from './icons';
import { Morph } from './Morph';
import { PromptField } from './PromptField';
import { Segmented } from './Segmented';
import type { SheetName } from './Sheet';
import { isWide } from './viewport';

const STYLE_OPTIONS = STYLES.map(({ name, label, words }) => ({
  value: name,
  label,
  spoken: words || 'No style',
}));

/** Everything that is set by hand. */
export function Dock({ onOpen }: { onOpen(sheet: SheetName): void }) {
  const studio = useStudio();
  const { inputs } = studio;
  const settings = [
    <Segmented
      key="style"
      title="Style"
      name="style"
      options={STYLE_OPTIONS}
      value={inputs.style.value}
      onChoose={(style) => studio.choose({ style })}
    />,
    <div key="row" class="row">
      <Seed />
      <MorphSwitch />
      <IconButton icon="history" label="History" testId="history-open" onClick={() => onOpen('history')} />
    </div>,
  ];
  const words = [
    <Hints key="hints" />,
    <Shown key="shown" />,
    <Words key="words" />,
    inputs.morphing.value && <Morph key="morph" />,
  ];
  // The prompt is nearest to the thumb on a phone, and comes first where there is room: seen and walked in one order.
  return (
    <section class="dock" aria-label="Controls">
      {isWide.value ? [...words, ...settings] : [...settings, ...words]}
    </section>
  );
}

function Words() {
  const studio = useStudio();
  const locked = studio.inputs.locked.value;
  const empty = !studio.inputs.text.value.trim();
  return (
    <div class="prompt-row">
      <PromptField
        field="text"
        label="Prompt"
        placeholder="Describe a sticker"
        testId="prompt"
        describedBy="hints"
        focused={matchMedia('(pointer: fine)').matches}
      />
      <IconButton
        icon="dice"
        class="another"
        label={anotherLabel(empty, locked)}
        testId="seed-dice"
        disabled={locked && !empty}
        onClick={() => studio.makeAnother()}
      />
    </div>
  );
}

function anotherLabel(empty: boolean, locked: boolean): string {
  if (empty) return 'Surprise me';
  return locked ? 'Make another: the seed is locked' : 'Make another';
}

function Seed() {
  const studio = useStudio();
  const { seed, seedIsValid, locked } = studio.inputs;
  return (
    <div class="seed">
      <label>
        <span class="seed-name">Seed</span>
        <input
          value={seed.value}
          readOnly={locked.value}
          inputMode="numeric"
          autocomplete="off"
          data-testid="seed"
          aria-invalid={!seedIsValid.value}
          aria-describedby="hints"
          onInput={(event) => studio.type('seed', event.currentTarget.value)}
          onKeyDown={(event) => event.key === 'Enter' && studio.makeNow()}
        />
      </label>
      <IconButton
        icon={locked.value ? 'lock' : 'unlock'}
        label="Lock the seed"
        testId="seed-lock"
        pressed={locked.value}
        onClick={() => {
          locked.value = !locked.value;
        }}
      />
    </div>
  );
}

function MorphSwitch() {
  const studio = useStudio();
  const on = studio.inputs.morphing.value;
  return (
    <button
      type="button"
      role="switch"
      class="switch"
      aria-checked={on}
      data-testid="morph-toggle"
      title="Morph between two prompts"
      onClick={() => studio.choose({ morphing: !on })}
    >
      <Icon name="morph" />
      <span>Morph</span>
    </button>
  );
}

/** Both prompts of a morph as the seed completed them; those of one picture are its chips. */
function Shown() {
  const made = useStudio().picture.value;
  if (!made || made.to === undefined || made.prompt === made.request.prompt) return null;
  return (
    <div class="hints">
      <p data-testid="shown">
        Drawn: <q>{made.prompt}</q>
        {' to '}
        <q>{made.to}</q>
      </p>
    </div>
  );
}

/** What is wrong with the seed, and which words had no room. */
function Hints() {
  const { inputs, picture } = useStudio();
  const dropped = picture.value?.droppedWords ?? [];
  return (
    <div id="hints" class="hints" role="status">
      {!inputs.seedIsValid.value && (
        <p class="wrong" data-testid="seed-problem">
          {SEED_PROBLEM}
        </p>
      )}
      {dropped.length > 0 && (
        <p data-testid="dropped-words">
          Too long for the model. Left out: <q>{dropped.join(' ')}</q>
        </p>
      )}
    </div>
  );
}
