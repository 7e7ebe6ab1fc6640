import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { BACKENDS, THEMES, type Theme } from '../state/settings';
import { useStudio } from './context';
import { megabytes, runsOn, statusText } from './format';
import { Segmented } from './Segmented';
import { Sheet } from './Sheet';

const STEPS = [1, 2, 3, 4].map((value) => ({
  value,
  label: String(value),
  spoken: value === 1 ? '1 step' : `${value} steps`,
}));
const ENGINE_LABELS = { auto: 'Auto', webgpu: 'WebGPU', wasm: 'WASM' };
const ENGINES = BACKENDS.map((value) => ({ value, label: ENGINE_LABELS[value] }));
const THEME_LABELS: Record<Theme, string> = { auto: 'Auto', light: 'Light', dark: 'Dark' };
const THEME_OPTIONS = THEMES.map((value) => ({ value, label: THEME_LABELS[value] }));

export function MoreSheet({ onClose }: { onClose(): void }) {
  const studio = useStudio();
  const { theme, backend } = studio.inputs;
  return (
    <Sheet title="More" name="more" onClose={onClose}>
      <Steps />
      {studio.ready.value?.varies && <AsTyped />}
      <Segmented
        title="Runs on"
        titled
        name="engine"
        options={ENGINES}
        value={backend.value}
        onChoose={(value) => studio.runOn(value)}
      />
      <p class="note">Auto takes WebGPU where the device has it.</p>
      <Segmented
        title="Colours"
        titled
        name="theme"
        options={THEME_OPTIONS}
        value={theme.value}
        onChoose={(value) => {
          theme.value = value;
        }}
      />
      <Facts />
      <About />
    </Sheet>
  );
}

/** Those that the model's manifest has; where that is one alone, there is nothing to choose. */
function Steps() {
  const studio = useStudio();
  const has = studio.ready.value?.steps ?? [1];
  const options = STEPS.filter(({ value }) => has.includes(value));
  if (options.length < 2) return null;
  return (
    <>
      <Segmented
        title="Steps"
        titled
        name="steps"
        options={options}
        value={studio.inputs.steps.value}
        onChoose={(value) => studio.choose({ steps: value })}
      />
      <p class="note">One step is what the model was made for. More steps take longer and change details.</p>
    </>
  );
}

/** Shown where the model completes prompts. */
function AsTyped() {
  const studio = useStudio();
  const on = studio.inputs.plain.value;
  return (
    <>
      <div class="row">
        <button
          type="button"
          role="switch"
          class="switch"
          aria-checked={on}
          aria-describedby="plain-note"
          data-testid="plain"
          onClick={() => studio.choose({ plain: !on })}
        >
          <span>As typed</span>
        </button>
      </div>
      <p class="note" id="plain-note">
        Otherwise the seed adds words for what a prompt leaves open: its style, size or background.
      </p>
    </>
  );
}

function Facts() {
  const { state, ready } = useStudio();
  const storage = useSignal('');
  useEffect(() => {
    void navigator.storage?.estimate().then(({ usage = 0 }) => {
      storage.value = megabytes(usage);
    });
  }, [storage]);
  return (
    <dl class="facts">
      <dt>Now</dt>
      <dd data-testid="runs-on">
        {state.value.phase === 'ready' ? runsOn(state.value) : statusText(state.value)}
      </dd>
      <dt>Model</dt>
      <dd>{ready.value?.bundle ?? 'not open yet'}</dd>
      <dt>Storage used</dt>
      <dd>{storage.value || 'unknown'}</dd>
    </dl>
  );
}

function About() {
  return (
    <section class="about">
      <h3>About</h3>
      <p>
        ADDKit turns words into stickers on this device. What you type and what it makes stay here: nothing is
        sent anywhere.
      </p>
      <details>
        <summary>Licences</summary>
        <ul>
          <li>ADDKit and its model: Apache-2.0</li>
          <li>Trained on Fluent Emoji by Microsoft (MIT) and Noto Emoji by Google (Apache-2.0)</li>
          <li>Captions from emojibase-data and emojilib (MIT)</li>
          <li>ONNX Runtime Web (MIT), Preact and Preact Signals (MIT), idb (ISC)</li>
        </ul>
      </details>
    </section>
  );
}
