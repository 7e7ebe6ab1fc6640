import { useSignal } from '@preact/signals';
import { requestKey } from '../state/maker';
import { type Tile, VARIATIONS } from '../state/strip';
import { Chips } from './Chips';
import { usePixels } from './canvas';
import { useStudio } from './context';
import { madeOn, milliseconds, stages } from './format';
import { IconButton } from './IconButton';

/** Facts about the picture, what can be done with it, and its variations. */
export function UnderPicture({ onTake }: { onTake(): void }) {
  const studio = useStudio();
  const picture = studio.picture.value;
  return (
    <div class="under">
      <Chips />
      <div class="under-row">
        <Time />
        <div class="actions" hidden={!picture}>
          <IconButton
            icon="sticker"
            caption="Take"
            label="Take it along: share, save or copy"
            testId="take"
            onClick={onTake}
          />
        </div>
      </div>
      <Variations />
    </div>
  );
}

function Time() {
  const { picture, ready } = useStudio();
  const open = useSignal(false);
  const made = picture.value;
  if (!made) return <span />;
  return (
    <button
      type="button"
      class="time"
      data-testid="time"
      aria-expanded={open.value}
      title="Time of each stage, in milliseconds"
      onClick={() => {
        open.value = !open.value;
      }}
    >
      <strong>{milliseconds(made.ms.total)}</strong>
      <span class="hidden">, </span>
      <span>{open.value ? stages(made) : madeOn(made, ready.value)}</span>
    </button>
  );
}

function Variations() {
  const { strip, picture } = useStudio();
  const tiles = strip.tiles.value;
  const shown = picture.value && requestKey(picture.value.request);
  const fresh = tiles.some((tile) => requestKey(tile.request) === shown);
  return (
    <ul class={`strip ${fresh ? '' : 'stale'}`} aria-label="Variations">
      {tiles.map((tile, i) => (
        <li key={requestKey(tile.request)}>
          <Variation tile={tile} index={i} current={requestKey(tile.request) === shown} />
        </li>
      ))}
      {Array.from({ length: tiles.length && VARIATIONS + 1 - tiles.length }, (_, i) => (
        <li key={`free-${i}`} class="variation free" aria-hidden="true" />
      ))}
    </ul>
  );
}

function Variation({ tile, index, current }: { tile: Tile; index: number; current: boolean }) {
  const studio = useStudio();
  const { picture, request } = tile;
  const canvas = usePixels(picture);
  return (
    <button
      type="button"
      class="variation"
      data-testid={`variation-${index}`}
      data-seed={request.seed}
      aria-label={`${picture.prompt}, seed ${request.seed}`}
      aria-pressed={current}
      onClick={() => studio.showVariation(tile)}
    >
      <canvas ref={canvas} width={picture.width} height={picture.height} />
    </button>
  );
}
