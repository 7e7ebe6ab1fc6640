"""Seven sets of emoji art: which drawing belongs to which code point. Each set is a style with a word of its own."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from runtime.decoding import BadPicture
from runtime.errors import UserError
from train.data.pictures import decode_rgba, draw_svg, icon_svg, visible_box
from train.registry import fetch
from train.sticker.captions import Emoji, normalize_code
from train.sticker.packages import PACKAGES

# Style word -> package. The first four draw nearly everything.
SETS = {
    "3d style": "@lobehub/fluent-emoji-3d",
    "flat style": "@iconify-json/fluent-emoji-flat",
    "cartoon style": "@iconify-json/noto",
    "glossy style": "@iconify-json/fluent-emoji",
    "blob style": "@iconify-json/noto-v1",
    "retro style": "@iconify-json/fxemoji",
    "comic style": "@iconify-json/streamline-emojis",
}
SHARES = {
    "3d style": 0.24,
    "flat style": 0.2,
    "cartoon style": 0.16,
    "glossy style": 0.14,
    "blob style": 0.1,
    "retro style": 0.06,
    "comic style": 0.1,
}


@dataclass(frozen=True)
class Drawing:
    """A picture of a code point that is not drawn yet."""

    style: str  # a key of SETS
    code: str
    path: Path | None  # raster file, or
    svg: str | None  # SVG text

    @property
    def key(self) -> str:
        """Its name among all drawings."""
        return f"{self.style.partition(' ')[0]}_{self.code}"

    def cutout(self, size: int) -> Image.Image:
        """RGBA without its transparent border, its longer side `size` pixels. Raises BadPicture."""
        if self.svg is not None:
            picture = draw_svg(self.svg, size)
        else:
            assert self.path is not None
            picture = decode_rgba(self.path.read_bytes())
        box = visible_box(picture)
        if box is None:
            raise BadPicture("it is empty")
        picture = picture.crop(box)
        if self.svg is not None and max(picture.size) < 0.9 * size:  # it had a wide border: draw it larger
            larger = draw_svg(self.svg, min(1024, round(size * size / max(picture.size))))
            picture = larger.crop(visible_box(larger))
        scale = size / max(picture.size)
        sides = [max(1, round(side * scale)) for side in picture.size]
        return picture.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)


def drawings(table: Mapping[str, Emoji]) -> list[Drawing]:
    """One drawing for each code point of each set, sorted by key. Fetches the packages where needed."""
    codes = _codes(table)
    found: dict[str, Drawing] = {}
    for style, package in SETS.items():
        root = fetch(PACKAGES[package]) / "package"
        for name, path, svg in _files(root):
            code = codes(name)
            if code in table:
                drawing = Drawing(style, code, path, svg)
                found.setdefault(drawing.key, drawing)
    return [found[key] for key in sorted(found)]


class _codes:
    """Finds the code point that a set's name stands for: a code, a CLDR label, or a Unicode name."""

    def __init__(self, table: Mapping[str, Emoji]) -> None:
        self.by_name: dict[str, str] = {}
        for package in ("@iconify-json/fluent-emoji-flat", "@iconify-json/noto"):
            path = fetch(PACKAGES[package]) / "package" / "chars.json"
            for code, name in json.loads(path.read_text()).items():
                self.by_name.setdefault(_joined(name), normalize_code(code))
        for code, emoji in table.items():
            self.by_name[_joined(emoji.names[0])] = code
        for code, emoji in table.items():
            for name in emoji.names[1:]:
                self.by_name.setdefault(_joined(name), code)
            if "-" not in code:
                self.by_name.setdefault(_joined(unicodedata.name(chr(int(code, 16)), code)), code)

    def __call__(self, name: str) -> str:
        if re.fullmatch(r"[0-9a-f]{2,5}(-[0-9a-f]{2,5})*", name):
            return normalize_code(name)
        first = re.sub(r"-1$", "", name)  # of several drawings the first one
        return self.by_name.get(_joined(name)) or self.by_name.get(_joined(first), "")


def _joined(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _files(root: Path) -> Iterator[tuple[str, Path | None, str | None]]:
    """(name, raster file, SVG text) of a package's drawings."""
    listed = root / "icons.json"
    if not listed.is_file():
        paths = sorted((root / "assets").glob("*.webp"))
        if not paths:
            raise UserError(f"{root}: neither icons.json nor assets there; delete that folder, it is fetched again")
        yield from ((path.stem.lower(), path, None) for path in paths)
        return
    icons = json.loads(listed.read_text())
    for name, icon in icons["icons"].items():
        yield name, None, icon_svg(icons, icon)
