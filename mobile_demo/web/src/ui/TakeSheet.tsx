import { useSignal } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import type { Rgba } from '../core/sticker';
import { FORMATS, type Format, OUTLINES } from '../state/settings';
import { useStudio } from './context';
import { encodesWebp } from './encode';
import { kilobytes } from './format';
import { IconButton } from './IconButton';
import { canCopy, canShare, copy, type Made, made, save, share } from './output';
import { Segmented } from './Segmented';
import { Sheet } from './Sheet';

const LABELS: Record<Format, [label: string, spoken: string]> = {
  png: ['Sticker', 'Sticker, PNG'],
  webp: ['WhatsApp', 'Sticker for WhatsApp, WebP of at most 100 kB'],
  picture: ['Picture', 'Picture with its background, PNG'],
  morph: ['Moving', 'The morph as a moving sticker, WebP'],
};
const OUTLINE_OPTIONS = OUTLINES.map((value, i) => ({
  value,
  label: ['None', 'Thin', 'Wide'][i] as string,
}));

/** What leaves the app: its format and size are seen before it goes. */
export function TakeSheet({ onClose }: { onClose(): void }) {
  const studio = useStudio();
  const { format, outline } = studio.inputs;
  const picture = studio.picture.value;
  const file = useSignal<Made | undefined>(undefined);
  const problem = useSignal('');
  const webp = useSignal(true);
  const offered = FORMATS.filter(
    (one) =>
      (webp.value || one === 'png' || one === 'picture') && (one !== 'morph' || picture?.request.morph),
  );
  const chosen = offered.includes(format.value) ? format.value : 'png';
  useEffect(() => {
    void encodesWebp().then((able) => {
      webp.value = able;
    });
  }, [webp]);
  useEffect(() => {
    let wanted = true;
    file.value = undefined;
    problem.value = '';
    if (picture)
      // The sheet is drawn first: a sticker takes a moment.
      setTimeout(() => {
        made(studio, picture, chosen, outline.value).then(
          (one) => {
            if (wanted) file.value = one;
          },
          (error: Error) => {
            if (wanted) problem.value = error.message;
          },
        );
      }, 30);
    return () => {
      wanted = false;
    };
  }, [studio, picture, chosen, outline.value, file, problem]);
  return (
    <Sheet title="Take it along" name="take" onClose={onClose}>
      <Preview shown={file.value?.shown} />
      <p class="take-facts" role="status" data-testid="take-facts">
        {problem.value || (file.value ? facts(file.value) : 'Making it')}
      </p>
      <Segmented
        title="As"
        titled
        name="format"
        options={offered.map((value) => ({ value, label: LABELS[value][0], spoken: LABELS[value][1] }))}
        value={chosen}
        onChoose={(value) => {
          format.value = value;
        }}
      />
      {!webp.value && (
        <p class="note">This browser makes no WebP, which WhatsApp and moving stickers need: Chrome does.</p>
      )}
      {chosen !== 'picture' && (
        <Segmented
          title="Outline"
          titled
          name="outline"
          options={OUTLINE_OPTIONS}
          value={outline.value}
          onChoose={(value) => {
            outline.value = value;
          }}
        />
      )}
      <div class="take-actions">
        {canShare(file.value?.blob.type) && (
          <Action icon="share" label="Share" file={file.value} run={(one) => void share(studio, one)} />
        )}
        <Action icon="save" label="Save" file={file.value} run={(one) => save(studio, one)} />
        {canCopy() && chosen !== 'morph' && (
          <Action icon="sticker" label="Copy" file={file.value} run={(one) => void copy(studio, one)} />
        )}
      </div>
      <p class="note">Stickers for a pack are chosen in the history.</p>
    </Sheet>
  );
}

function facts({ blob, shown }: Made): string {
  const kind = blob.type === 'image/webp' ? 'WebP' : 'PNG';
  const clear = shown.rgba[3] === 255 ? 'with its background' : 'transparent';
  return `${kind}, ${shown.width} × ${shown.height}, ${clear}, ${kilobytes(blob.size)}`;
}

interface ActionProps {
  icon: 'share' | 'save' | 'sticker';
  label: string;
  file: Made | undefined;
  run(file: Made): void;
}

function Action({ icon, label, file, run }: ActionProps) {
  return (
    <IconButton
      icon={icon}
      caption={label}
      label={label}
      testId={label.toLowerCase()}
      disabled={!file}
      onClick={() => file && run(file)}
    />
  );
}

function Preview({ shown }: { shown: Rgba | undefined }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    if (!shown) return;
    const pixels = new ImageData(shown.rgba, shown.width, shown.height);
    canvas.current?.getContext('2d')?.putImageData(pixels, 0, 0);
  }, [shown]);
  return (
    <div class="preview">
      {shown && <canvas ref={canvas} width={shown.width} height={shown.height} data-testid="preview" />}
    </div>
  );
}
