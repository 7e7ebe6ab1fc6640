/** Several stickers as the apps take them: WhatsApp's contents.json and its limits, which Telegram's are wider than. */

export const PACK = { least: 3, most: 30 };
/** Side of the icon in WhatsApp's tray, and the bytes that it may have. */
export const TRAY = { side: 96, bytes: 50_000 };
/** Bytes that WhatsApp takes: of a sticker, of one that moves. */
export const STICKER_BYTES = 100_000;
export const MOVING_BYTES = 500_000;

/** Why so many stickers make no pack; undefined where they do. */
export function packProblem(count: number): string | undefined {
  if (count < PACK.least)
    return `A pack needs at least ${PACK.least} stickers: choose ${PACK.least - count} more.`;
  if (count > PACK.most) return `A pack holds at most ${PACK.most} stickers: take ${count - PACK.most} out.`;
  return undefined;
}

export interface PackFacts {
  /** A folder's name, and what an app knows the pack by. */
  identifier: string;
  name: string;
  /** The stickers' file names. */
  files: readonly string[];
}

/**
 * contents.json of WhatsApp's sample apps, for Android; for iOS the same list is sticker_packs.wasticker.
 * Every sticker must have an emoji to be found by: it is one for all, and may be changed by hand.
 */
export function packContents({ identifier, name, files }: PackFacts): string {
  const pack = {
    identifier,
    name: [...name].slice(0, 128).join(''),
    publisher: 'ADDKit',
    tray_image_file: 'tray.png',
    image_data_version: '1',
    avoid_cache: false,
    publisher_email: '',
    publisher_website: '',
    privacy_policy_website: '',
    license_agreement_website: '',
    stickers: files.map((file) => ({ image_file: file, emojis: ['🎨'] })),
  };
  const links = { android_play_store_link: '', ios_app_store_link: '' };
  return `${JSON.stringify({ ...links, sticker_packs: [pack] }, null, 2)}\n`;
}

export function packReadme({ identifier, name, files }: PackFacts): string {
  return `${name}: ${files.length} stickers

WhatsApp, Android: copy contents.json and the folder ${identifier} into app/src/main/assets of WhatsApp's sample app.
WhatsApp, iPhone: copy sticker_packs.wasticker and the files of the folder ${identifier} into its sample app.
Telegram: send /newpack to @Stickers, then each .webp file of the folder as a file, each with an emoji.
`;
}
