/** What a U-Net is told beside latents and timestep, read as strictly as in Python (runtime/tokenizer/conditioning.py). */

/** One text encoder; names of ports are optimum's. */
export interface TextEncoder {
  component: 'text_encoder' | 'text_encoder_2';
  /** The folder of its tokenizer, and the manifest's field with padding and added tokens. */
  tokenizer: 'tokenizer' | 'tokenizer_2';
  /** The output with the states that the U-Net attends to. */
  states: string;
  /** The output with the text as one row, where the U-Net takes it as text_embeds. */
  pooled: string | null;
}

/** How a U-Net is conditioned: the states of several encoders are joined along their width. */
export interface Conditioning {
  textEncoders: readonly TextEncoder[];
  /** The U-Net takes original height and width, crop (0, 0), height and width of the picture. */
  timeIds: boolean;
  /** Under guidance; else the empty prompt's states. */
  zerosWithoutNegativePrompt: boolean;
}

const FIRST = { component: 'text_encoder', tokenizer: 'tokenizer' } as const;
const SECOND = { component: 'text_encoder_2', tokenizer: 'tokenizer_2' } as const;
const POOLED = 'text_embeds';

/** Stable Diffusion 1 and 2. */
export const SD: Conditioning = {
  textEncoders: [{ ...FIRST, states: 'last_hidden_state', pooled: null }],
  timeIds: false,
  zerosWithoutNegativePrompt: false,
};

/** Checks and converts the JSON form. @throws Error with what is wrong. */
export function readConditioning(value: unknown): Conditioning {
  const entry = fields(value, ['text_encoders', 'time_ids', 'zeros_without_negative_prompt']);
  if (!Array.isArray(entry.text_encoders)) throw new Error('text_encoders must be a list');
  const textEncoders = entry.text_encoders.map(readEncoder);
  const names = String(textEncoders.map(({ component }) => component));
  if (names !== FIRST.component && names !== String([FIRST.component, SECOND.component])) {
    const both = `${FIRST.component} and ${SECOND.component}`;
    throw new Error(`text_encoders are ${both}, in this order, or the first alone`);
  }
  const { time_ids: timeIds, zeros_without_negative_prompt: zeros } = entry;
  if (typeof timeIds !== 'boolean' || typeof zeros !== 'boolean')
    throw new Error('time_ids and zeros_without_negative_prompt are true or false');
  if (timeIds !== (textEncoders.filter(({ pooled }) => pooled !== null).length === 1)) {
    throw new Error(
      'a U-Net that takes time_ids takes the pooled text of one encoder, and another takes none',
    );
  }
  return { textEncoders, timeIds, zerosWithoutNegativePrompt: zeros };
}

function readEncoder(value: unknown): TextEncoder {
  const { component, tokenizer, states, pooled } = fields(value, [
    'component',
    'tokenizer',
    'states',
    'pooled',
  ]);
  const known = [FIRST, SECOND].find((one) => one.component === component && one.tokenizer === tokenizer);
  if (!known)
    throw new Error("a text encoder's component and tokenizer are known names that belong together");
  if (typeof states !== 'string' || !/^(last_hidden_state|hidden_states\.[0-9]{1,3})$/.test(states))
    throw new Error("a text encoder's states are last_hidden_state or hidden_states.N");
  if (pooled !== null && pooled !== POOLED)
    throw new Error(`a text encoder's pooled output is ${POOLED}, or null`);
  return { ...known, states, pooled: pooled as string | null };
}

function fields(value: unknown, names: string[]): Record<string, unknown> {
  const keys = typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.keys(value) : [];
  if (keys.length !== names.length || !names.every((name) => keys.includes(name)))
    throw new Error(`an object with ${names.join(', ')} is needed`);
  return value as Record<string, unknown>;
}
