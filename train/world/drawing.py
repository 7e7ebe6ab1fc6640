"""Draws a scene: equal scenes give equal pictures, whatever the size."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from train.sticker.recolour import recolour
from train.world import looks
from train.world.facing import FACING_RIGHT
from train.world.portraits import PORTRAIT_STYLES
from train.world.scenes import Scene, World
from train.world.things import Thing

GROUND_COLORS = {
    "red": (226, 87, 87),
    "orange": (246, 166, 91),
    "yellow": (250, 217, 104),
    "green": (130, 200, 130),
    "blue": (112, 168, 236),
    "purple": (172, 138, 220),
    "pink": (249, 180, 206),
    "gray": (178, 182, 190),
    "black": (45, 45, 54),
}
SIDES = {"small": 0.5, "medium size": 0.7, "large": 0.9}  # the longer side, relative to the picture
DEGREES = {"upright": 0, "tilted left": 18, "tilted right": -18}
LIGHT = {"warm light": (1.0, 0.86, 0.62), "cool light": (0.72, 0.86, 1.0), "dim light": (0.6, 0.6, 0.64)}
OUTLINE = 0.03  # width relative to the picture
RIM = (190, 190, 196, 255)
# Where the parts of a picture go: (center x, center y, side), relative to the picture.
PLACES = {
    "side by side": ((0.26, 0.5, 0.46), (0.74, 0.5, 0.46)),
    "one above the other": ((0.5, 0.26, 0.46), (0.5, 0.74, 0.46)),
}
MANY = {
    2: PLACES["side by side"],
    3: ((0.5, 0.27, 0.45), (0.26, 0.73, 0.45), (0.74, 0.73, 0.45)),
    4: ((0.27, 0.27, 0.43), (0.73, 0.27, 0.43), (0.27, 0.73, 0.43), (0.73, 0.73, 0.43)),
}
Place = tuple[float, float, float]


class Sprites(Protocol):
    """Cut-out drawings by key."""

    def art(self, key: str) -> Image.Image:
        """RGBA, without a border."""

    def portrait(self, scene: Scene) -> Image.Image:
        """RGBA, square."""


def draw(scene: Scene, world: World, sprites: Sprites, size: int) -> Image.Image:
    """RGB of size x size: the cut-out on its background."""
    canvas = background(scene.words["background"], size).copy()
    canvas.paste(picture := cutout(scene, world, sprites, size), (0, 0), picture)
    return canvas


def cutout(scene: Scene, world: World, sprites: Sprites, size: int) -> Image.Image:
    """RGBA of size x size: the scene without its background."""
    layer = Image.new("RGBA", (size, size))
    for part, place in DRAW[scene.kind](scene, world, sprites, size):
        _place(layer, part, place)
    layer = _lit(layer, scene.words.get("light", ""))
    return _outlined(layer, OUTLINE * size) if scene.words["outline"] == "sticker outline" else layer


def art_key(thing: Thing, words: dict[str, str] | None = None, style: str = "") -> str:
    """The drawing of a thing with these words."""
    said = words or {}
    return thing.keys[style or said["style"], said.get("gender", ""), said.get("skin", "")]


def _draw_thing(scene: Scene, world: World, sprites: Sprites, size: int) -> list[tuple[Image.Image, Place]]:
    words = dict(scene.words)
    key = art_key(world.by_name[scene.subjects[0]], words)
    part = _painted(sprites.art(key), words)
    facing = words.get("facing")
    if facing and (facing == "facing right") != (key in FACING_RIGHT):
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    degrees = DEGREES[words.get("tilt", "upright")]  # "magnifying glass tilted left" has no tilt of its own
    if degrees:
        part = part.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        part = part.crop(part.getchannel("A").getbbox())
    return [(part, (0.5, 0.5, SIDES[words.get("size", "large")]))]


def _draw_portrait(scene: Scene, world: World, sprites: Sprites, size: int) -> list[tuple[Image.Image, Place]]:
    part = sprites.portrait(scene)
    if scene.words.get("facing") == "facing left" and PORTRAIT_STYLES[scene.style].turns:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [(part, (0.5, 0.5, 1.0))]


def _draw_pair(scene: Scene, world: World, sprites: Sprites, size: int) -> list[tuple[Image.Image, Place]]:
    things = [world.by_name[name] for name in scene.subjects]
    parts = [sprites.art(art_key(thing, style=scene.style)) for thing in things]
    return list(zip(parts, PLACES[scene.words["arrangement"]], strict=True))


def _draw_count(scene: Scene, world: World, sprites: Sprites, size: int) -> list[tuple[Image.Image, Place]]:
    thing = world.by_name[scene.subjects[0]]
    part = _painted(sprites.art(art_key(thing, style=scene.style)), dict(scene.words))
    return [(part, place) for place in MANY[scene.number]]


DRAW: dict[str, Callable[[Scene, World, Sprites, int], list[tuple[Image.Image, Place]]]] = {
    "thing": _draw_thing,
    "portrait": _draw_portrait,
    "pair": _draw_pair,
    "count": _draw_count,
}


def _painted(part: Image.Image, words: dict[str, str]) -> Image.Image:
    color = words.get("colors", looks.NATURAL)
    return part if color == looks.NATURAL else recolour(part, color)


def _place(layer: Image.Image, part: Image.Image, place: Place) -> None:
    x, y, side = place
    size = layer.width
    scale = side * size / max(part.size)
    width, height = (max(1, round(length * scale)) for length in part.size)
    part = part.resize((width, height), Image.Resampling.LANCZOS)
    layer.alpha_composite(part, (max(0, round(x * size - width / 2)), max(0, round(y * size - height / 2))))


def _lit(layer: Image.Image, light: str) -> Image.Image:
    if light not in LIGHT:
        return layer
    bands = [
        band.point(lambda value, factor=factor: round(value * factor))
        for band, factor in zip(layer.split(), LIGHT[light], strict=False)
    ]
    return Image.merge("RGBA", (*bands, layer.getchannel("A")))


def _outlined(layer: Image.Image, width: float) -> Image.Image:
    """With a white edge, and a thin gray rim by which it is seen on white."""
    alpha = layer.getchannel("A")
    edge, rim = _grown(alpha, width), _grown(alpha, width + max(1.0, width / 4))
    under = Image.new("RGBA", layer.size, RIM)
    under.putalpha(rim)
    white = Image.new("RGBA", layer.size, "white")
    white.putalpha(edge)
    under.alpha_composite(white)
    under.alpha_composite(layer)
    return under


def _grown(alpha: Image.Image, width: float) -> Image.Image:
    """The shape grown by `width` pixels: what a blurred disc touches."""
    grown = alpha.filter(ImageFilter.GaussianBlur(width * 0.8))
    return ImageChops.lighter(alpha, grown.point(lambda value: min(255, max(0, (value - 12) * 12))))


@lru_cache(maxsize=256)
def background(word: str, size: int) -> Image.Image:
    """RGB of size x size: "on white", "on red", "on red dots"."""
    color, _, pattern = word.removeprefix("on ").partition(" ")
    if color == "white":
        return Image.new("RGB", (size, size), "white")
    paint = GROUND_COLORS[color]
    if not pattern:
        return Image.new("RGB", (size, size), paint)
    fine = 4 * size
    y, x = np.mgrid[:fine, :fine] / fine * 8  # eight periods
    if pattern == "dots":
        marked = np.hypot(x % 1 - 0.5, (y + 0.5 * (np.floor(x) % 2)) % 1 - 0.5) < 0.27
    elif pattern == "stripes":
        marked = (x + y) % 2 < 1
    else:
        marked = (np.floor(x) + np.floor(y)) % 2 < 1
    ground = np.where(marked[..., None], np.array(paint), 255).astype(np.uint8)
    return Image.fromarray(ground).resize((size, size), Image.Resampling.BOX)
