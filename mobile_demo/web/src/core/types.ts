/** What a picture is made from and what it is then: plain data, so that it crosses to a Web Worker as it is. */

/** Where the networks run. */
export type Backend = 'webgpu' | 'wasm';

/** The stages of one picture, as the Python runtime names them. */
export interface Times {
  text_encoder: number;
  unet: number;
  vae_decoder: number;
  total: number;
}

/** One picture to make. */
export interface GenerateRequest {
  prompt: string;
  /** A whole number from -2**63 to 2**64 - 1 in decimal digits: more than a `number` holds. */
  seed: string;
  /** Calls of the U-Net, 1 to 4. */
  steps: number;
  /** A second prompt to mix with: text states go from `prompt` (t = 0) to `to` (t = 1) in a straight line. */
  morph?: { to: string; t: number };
  /** The prompts are drawn as they are typed, although the model's table could complete them. */
  plain?: boolean;
  /** property -> the word that it shall have instead of a drawn one; null: nothing is said of it. */
  words?: Readonly<Record<string, string | null>>;
  /** 512 pixels with transparency, where the bundle has the decoder for it; else as without. */
  large?: boolean;
  /** Classifier-free guidance away from a second prompt, as in diffusers; one-step models need none. */
  guidance?: { scale: number; negativePrompt: string };
}

/** A property that the prompt leaves open, and the word that it got. */
export interface OpenWord {
  property: string;
  /** null: it was left out by hand. */
  word: string | null;
  /** The words that it may have. */
  options: string[];
}

/** One picture that was made. */
export interface Picture {
  request: GenerateRequest;
  /** What it shows: the request's prompt, completed by the seed. */
  prompt: string;
  /** The second prompt of a morph, completed likewise. */
  to?: string;
  /** What the prompt left open, in the order of its words; none without a table. */
  open: OpenWord[];
  width: number;
  height: number;
  /** RGBA, 8 bits, row by row, opaque unless it is large: `width * height * 4` bytes, as ImageData takes them. */
  rgba: Uint8ClampedArray<ArrayBuffer>;
  /** Milliseconds. */
  ms: Times;
  backend: Backend;
  /** The words at the prompt's end that the text encoder has no room for. */
  droppedWords: string[];
}

/** The looks that the model was trained on; 'none' leaves the choice to it. */
export type StyleName = '3d' | 'flat' | 'cartoon' | 'none';
