"""The three sticker sets: which picture belongs to which code point, and how to draw it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.pictures import decode, decode_rgba, draw_svg, icon_svg, rasterize_svg, visible_box
from train.data.shards import Record
from train.registry import fetch
from train.sticker.captions import (
    GROUP_WEIGHTS,
    STYLE_WEIGHTS,
    STYLES,
    Emoji,
    load_emoji,
    normalize_code,
    phrasings,
    sticker_record,
)
from train.sticker.packages import PACKAGES

PACKAGE_OF_STYLE = {
    "fluent-3d": "@lobehub/fluent-emoji-3d",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "noto": "@iconify-json/noto",
}
SKIN_TONE_WEIGHT = 0.0  # five tones of each hand and person are near-duplicates and would be half of the data


@dataclass(frozen=True)
class Source:
    """A picture that is not drawn yet."""

    record: Record
    path: Path | None  # raster file, or
    svg: str | None  # SVG text

    def draw(self, size: int) -> np.ndarray:
        """u8[size, size, 3]. Raises BadPicture."""
        if self.svg is not None:
            return rasterize_svg(self.svg, size)
        assert self.path is not None
        return decode(self.path.read_bytes(), size)

    def cutout(self, size: int) -> Image.Image:
        """RGBA without its transparent border, its longer side at most `size`. Raises BadPicture."""
        if self.svg is not None:
            picture = draw_svg(self.svg, size)
        else:
            assert self.path is not None
            picture = decode_rgba(self.path.read_bytes())
        picture = picture.crop(visible_box(picture))
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
        return picture


def sticker_sources() -> list[Source]:
    """Every captioned picture of the three sets, sorted by key. Fetches the packages where needed."""
    table = load_emoji(fetch(PACKAGES["emojibase-data"]), fetch(PACKAGES["emojilib"]))
    drawings = [
        (style, code, path, svg)
        for style, package in PACKAGE_OF_STYLE.items()
        for code, path, svg in _drawings(fetch(PACKAGES[package]))
        if code in table
    ]
    plain = Counter((style, table[code].concept) for style, code, _, _ in drawings if not table[code].has_skin_tone)
    sources = [
        Source(_record(table[code], style, plain[style, table[code].concept]), path, svg)
        for style, code, path, svg in drawings
    ]
    # Two files may differ by a variation selector alone: one is enough.
    unique = {source.record.key: source for source in sources}
    return [unique[key] for key in sorted(unique)]


def _record(emoji: Emoji, style: str, siblings: int) -> Record:
    weight = GROUP_WEIGHTS.get(emoji.group, 1.0) * STYLE_WEIGHTS.get(style, 1.0) / max(1, siblings) ** 0.5
    return sticker_record(
        key=f"{style}_{emoji.code}",
        captions=tuple(phrasings(emoji, STYLES[style])),
        style=style,
        concept=emoji.concept,
        group=emoji.group,
        weight=round(weight * (SKIN_TONE_WEIGHT if emoji.has_skin_tone else 1.0), 4),
    )


def _drawings(folder: Path) -> Iterator[tuple[str, Path | None, str | None]]:
    root = folder / "package"
    if (root / "icons.json").is_file():
        yield from _iconify(root)
        return
    for path in sorted((root / "assets").glob("*.webp")):
        yield normalize_code(path.stem), path, None


def _iconify(root: Path) -> Iterator[tuple[str, Path | None, str | None]]:
    icons = json.loads((root / "icons.json").read_text())
    for code, name in json.loads((root / "chars.json").read_text()).items():
        icon = icons["icons"].get(name)
        if icon is None:  # an alias: the same drawing under another code
            continue
        yield normalize_code(code), None, icon_svg(icons, icon)
