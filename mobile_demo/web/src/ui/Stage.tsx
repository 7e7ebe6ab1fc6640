import type { Picture } from '../core/types';
import type { Problem } from '../engine/types';
import { EXAMPLES } from '../state/words';
import { usePixels } from './canvas';
import { useStudio } from './context';
import { fraction, PROBLEM_TITLES, progressText } from './format';

/** The picture in its place, and over it whatever is shown while there is none. */
export function Stage() {
  const studio = useStudio();
  const state = studio.state.value;
  const picture = studio.picture.value;
  const failed = state.phase === 'failed';
  const empty = !studio.inputs.prompt.value;
  return (
    <section class="stage" aria-label="Picture" aria-busy={studio.maker.busy.value}>
      <div class={`sheet-of-paper ${picture ? '' : 'cut-line'}`}>
        {picture && <PictureCanvas picture={picture} />}
        {failed && <Failure problem={state.problem} />}
        {!failed && !picture && (empty ? <Examples /> : <Waiting />)}
        {state.phase !== 'ready' && !failed && <Progress />}
        {studio.maker.slow.value && <Slow />}
      </div>
    </section>
  );
}

function PictureCanvas({ picture }: { picture: Picture }) {
  const canvas = usePixels(picture);
  const { request, prompt, to, width, height, backend } = picture;
  const { seed, morph } = request;
  return (
    <canvas
      ref={canvas}
      class="picture"
      width={width}
      height={height}
      role="img"
      aria-label={morph ? `${prompt}, ${Math.round(morph.t * 100)} % on the way to ${to}` : prompt}
      data-testid="picture"
      data-prompt={request.prompt}
      data-shows={prompt}
      data-seed={seed}
      data-backend={backend}
      data-steps={request.steps}
      data-to={morph?.to ?? ''}
      data-t={morph?.t ?? 0}
    />
  );
}

function Examples() {
  const studio = useStudio();
  return (
    <div class="empty" data-testid="empty">
      <h2>What shall it be?</h2>
      <ul class="examples">
        {EXAMPLES.map((example) => (
          <li key={example}>
            <button type="button" class="example" onClick={() => studio.use(example)}>
              {example}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Waiting() {
  const { state, inputs } = useStudio();
  if (!inputs.seedIsValid.value) return <p class="waiting">Waiting for a seed.</p>;
  if (state.value.phase === 'ready') return null;
  return <p class="waiting">Your sticker appears here as soon as the model has arrived.</p>;
}

function Progress() {
  const state = useStudio().state.value;
  const done = fraction(state);
  const text = progressText(state);
  return (
    <div class="progress">
      <div
        class={done === undefined ? 'progress-bar unknown' : 'progress-bar'}
        role="progressbar"
        aria-label={state.phase === 'opening' ? 'Opening the model' : 'Getting the model'}
        aria-valuetext={text}
        data-testid="progress"
        {...(done !== undefined && {
          'aria-valuenow': Math.round(done * 100),
          'aria-valuemin': 0,
          'aria-valuemax': 100,
          style: { '--done': done },
        })}
      />
      <p>{text}</p>
    </div>
  );
}

function Failure({ problem }: { problem: Problem }) {
  const studio = useStudio();
  return (
    <div class="failure" role="alert" data-kind={problem.kind}>
      <h2>{PROBLEM_TITLES[problem.kind]}</h2>
      <p>{problem.message}</p>
      <button type="button" class="button primary" data-testid="retry" onClick={() => studio.restart()}>
        Try again
      </button>
    </div>
  );
}

function Slow() {
  const studio = useStudio();
  return (
    <div class="slow">
      <span class="spinner" aria-hidden="true" />
      <span>Making it</span>
      <button type="button" class="button" data-testid="cancel" onClick={() => studio.cancel()}>
        Cancel
      </button>
    </div>
  );
}
