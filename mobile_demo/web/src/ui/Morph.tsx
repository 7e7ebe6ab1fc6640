import { useStudio } from './context';
import { IconButton } from './IconButton';
import { PromptField } from './PromptField';

/** The second prompt, and the way between the two. */
export function Morph() {
  const studio = useStudio();
  const { t, morphTo } = studio.inputs;
  const playing = studio.playing.value;
  return (
    <div class="morph">
      <PromptField
        field="to"
        label="Second prompt"
        placeholder="Morph into"
        testId="morph-prompt"
        focused={!studio.inputs.to.peek()}
      />
      <div class="slider-row">
        <IconButton
          icon={playing ? 'pause' : 'play'}
          label={playing ? 'Stop the morph' : 'Play the morph back and forth'}
          testId="morph-play"
          disabled={!morphTo.value}
          onClick={() => (playing ? studio.pause() : studio.play())}
        />
        <input
          type="range"
          min={0}
          max={100}
          step={1}
          value={t.value}
          disabled={!morphTo.value}
          style={{ '--at': t.value / 100 }}
          aria-label="Morph from the first prompt to the second"
          aria-valuetext={`${t.value} %`}
          data-testid="morph-slider"
          onInput={(event) => studio.drag(event.currentTarget.valueAsNumber)}
        />
        <output aria-hidden="true">{t.value} %</output>
      </div>
    </div>
  );
}
