"""Pictures composed of the sticker art, so that words compose: colours, counts, two things, things worn, backgrounds.

Which compositions there are is a function of the sources and a seed; no part is of a held-out concept, and no caption
is the name of one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from train.data.shards import Record
from train.data.writer import Drawable
from train.sticker.art import Source
from train.sticker.captions import STYLES, group_of, is_held_out, sticker_record, style_of
from train.sticker.recolour import recolour
from train.sticker.words import COLOURS, NUMBERS, article, is_plural, plural, spoken, with_article, without_colour

# The share of each kind in the compositions, and of each style within them.
KINDS = {"colour": 0.4, "pair": 0.25, "count": 0.15, "worn": 0.12, "background": 0.08}
STYLE_SHARES = {"fluent-3d": 0.4, "fluent-flat": 0.4, "noto": 0.2}
GROUP_SHARES = {"animals-nature": 1.0, "food-drink": 1.0, "travel-places": 0.3, "activities": 0.3, "objects": 0.25}

# Faces seen from the front, and what can be worn: code -> (word, width relative to the face, where it sits).
WEARERS = (
    "1F431",
    "1F436",
    "1F98A",
    "1F43B",
    "1F428",
    "1F438",
    "1F42F",
    "1F437",
    "1F42E",
    "1F430",
    "1F42D",
    "1F439",
    "1F43A",
    "1F435",
    "1F916",
    "1F383",
    "1F47D",
    "1F480",
    "1F600",
    "1F603",
    "1F60A",
    "1F642",
    "1F31E",
)
WORN = {
    "1F3A9": ("top hat", 0.62, "top"),
    "1F451": ("crown", 0.6, "top"),
    "1F393": ("graduation cap", 0.8, "top"),
    "1F452": ("hat", 0.8, "top"),
    "1F380": ("bow", 0.5, "top"),
    "1F576": ("sunglasses", 0.8, "eyes"),
    "1F97D": ("goggles", 0.8, "eyes"),
}
# Where the parts of a picture go: (centre x, centre y, side), relative to the picture.
PLACES = {
    1: ((0.5, 0.5, 0.84),),
    2: ((0.255, 0.5, 0.46), (0.745, 0.5, 0.46)),
    3: ((0.5, 0.27, 0.46), (0.26, 0.73, 0.46), (0.74, 0.73, 0.46)),
    4: ((0.26, 0.26, 0.45), (0.74, 0.26, 0.45), (0.26, 0.74, 0.45), (0.74, 0.74, 0.45)),
}
# Words of labels that name nothing to put beside another thing.
UNFIT = re.compile(
    r"\b(button|symbol|sign|clock|moon|mark|hand|no|japanese|map|globe|person|man|woman|oncoming|suit|calendar|pouring"
    r"|cloud|fog|foggy|behind|thirty|banknote|tray|volume|service|elevator"
    r"|motorway|page|trap|flower)\b|o’clock|\d|[,:“]"
)


@dataclass(frozen=True)
class Composition:
    """A picture of one or two parts that is not drawn yet."""

    record: Record
    kind: str  # a key of KINDS
    parts: tuple[Source, ...]
    detail: str = ""  # the colour, the count or the worn thing's code

    def draw(self, size: int) -> np.ndarray:
        """u8[size, size, 3]. Raises train.data.pictures.BadPicture."""
        return DRAWINGS[self.kind](self, size)


def compositions(sources: Sequence[Source], count: int, seed: int = 0) -> list[Composition]:
    """`count` compositions (fewer where so many different ones cannot be found), sorted by key."""
    rng = np.random.default_rng(seed)
    pool = Pool(sources)
    found: dict[str, Composition] = {}
    for kind, share in KINDS.items():
        wanted = len(found) + round(count * share)
        for _ in range(20 * count):
            if len(found) >= wanted:
                break
            composed = PLANS[kind](pool, rng)
            if composed is not None and not pool.names_held_out(composed.record.captions):
                found.setdefault(composed.record.key, composed)
    return [found[key] for key in sorted(found)]


def sticker_splits(sources: Sequence[Source], composed: Sequence[Composition]) -> dict[str, Sequence[Drawable]]:
    """The data set's splits: the art by concept, and compositions, of training concepts only, on their own."""
    splits: dict[str, Sequence[Drawable]] = {
        "train": [source for source in sources if not is_held_out(source.record.unit)],
        "held_out": [source for source in sources if is_held_out(source.record.unit)],
    }
    return splits | ({"composed": composed} if composed else {})


class Pool:
    """The sources that may be parts, by style and by weight."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.by_key = {source.record.key: source for source in sources if not is_held_out(source.record.unit)}
        held_out = [source.record for source in sources if is_held_out(source.record.unit)]
        self.held_out = {_plain(caption, record) for record in held_out for caption in record.captions}
        self.fit: dict[str, list[Source]] = {style: [] for style in STYLE_SHARES}
        for source in self.by_key.values():
            if _is_thing(source.record):
                self.fit[style_of(source.record)].append(source)
        self.chances = {style: _chances(members) for style, members in self.fit.items()}

    def style(self, rng: np.random.Generator) -> str:
        """A random style that has sources, weighted by its share."""
        styles = [style for style in STYLE_SHARES if self.fit[style]]
        shares = np.array([STYLE_SHARES[style] for style in styles])
        return styles[rng.choice(len(styles), p=shares / shares.sum())] if styles else ""

    def thing(self, style: str, rng: np.random.Generator) -> Source:
        return self.fit[style][rng.choice(len(self.fit[style]), p=self.chances[style])]

    def names_held_out(self, captions: Sequence[str]) -> bool:
        """Whether a caption without its style is a name of a held-out concept: 'blue heart', say."""
        return any(re.sub(r",.*|^(a|an) ", "", caption) in self.held_out for caption in captions)


def _plain(caption: str, record: Record) -> str:
    return caption.removesuffix(f", {STYLES.get(style_of(record), style_of(record))}")


def _is_thing(record: Record) -> bool:
    return (
        record.weight > 0
        and group_of(record) in GROUP_SHARES
        and not UNFIT.search(noun_of(record))
        and (len(noun_of(record).split()) <= 3)
    )


def _chances(members: Sequence[Source]) -> np.ndarray:
    shares = np.array([GROUP_SHARES[group_of(source.record)] for source in members])
    return shares / shares.sum() if len(shares) else shares


def noun_of(record: Record) -> str:
    """'cat face' of the record whose plainest caption is 'cat face, flat style'."""
    return _plain(record.captions[0], record)


def _compose(kind: str, parts: tuple[Source, ...], detail: str, phrases: Sequence[str]) -> Composition:
    """phrases: the plainest first, without the style; the second, or the only one, is also used without it."""
    first = parts[0].record
    style = style_of(first)
    captions = (*dict.fromkeys(f"{phrase}, {STYLES[style]}" for phrase in phrases), phrases[:2][-1])
    facts = "+".join([kind, *(part.record.key for part in parts), detail])
    key = f"{kind}_{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    concept = "+".join(part.record.unit for part in parts)
    return Composition(sticker_record(key, captions, style, concept, kind), kind, parts, detail)


def plan_colour(pool: Pool, rng: np.random.Generator) -> Composition | None:
    style = pool.style(rng)
    part, colour = pool.thing(style, rng), _any_colour(rng)
    noun = without_colour(noun_of(part.record))
    if not noun:
        return None
    shortly = f"{colour} {spoken(noun)}"
    phrases = (f"{colour} {noun}", shortly if is_plural(noun) else f"{article(colour)} {shortly}", shortly)
    return _compose("colour", (part,), colour, phrases)


def plan_pair(pool: Pool, rng: np.random.Generator) -> Composition | None:
    style = pool.style(rng)
    left, right = pool.thing(style, rng), pool.thing(style, rng)
    one, other = spoken(noun_of(left.record)), spoken(noun_of(right.record))
    if one == other:
        return None
    a_one, an_other = with_article(one), with_article(other)
    phrases = (f"{one} and {other}", f"{a_one} and {an_other}", f"{a_one} next to {an_other}")
    return _compose("pair", (left, right), "", phrases)


def plan_count(pool: Pool, rng: np.random.Generator) -> Composition | None:
    style = pool.style(rng)
    part, count = pool.thing(style, rng), int(rng.integers(2, 5))
    noun = noun_of(part.record)
    if is_plural(noun):
        return None  # already many: grapes, chopsticks
    phrases = (f"{NUMBERS[count]} {plural(noun)}", f"{NUMBERS[count]} {plural(spoken(noun))}")
    return _compose("count", (part,), str(count), phrases)


def plan_worn(pool: Pool, rng: np.random.Generator) -> Composition | None:
    style = pool.style(rng)
    code = list(WORN)[rng.integers(len(WORN))]
    wearer, worn = (pool.by_key.get(f"{style}_{part}") for part in (WEARERS[rng.integers(len(WEARERS))], code))
    if wearer is None or worn is None:
        return None
    noun, word = noun_of(wearer.record), WORN[code][0]
    thing = word if word.endswith("glasses") or word == "goggles" else f"{article(word)} {word}"
    someone = with_article(spoken(noun))
    phrases = (f"{noun} wearing {thing}", f"{someone} wearing {thing}", f"{someone} with {thing}")
    return _compose("worn", (wearer, worn), code, phrases)


def plan_background(pool: Pool, rng: np.random.Generator) -> Composition | None:
    style = pool.style(rng)
    part, colour = pool.thing(style, rng), _any_colour(rng)
    noun = noun_of(part.record)
    behind = f"on {article(colour)} {colour} background"
    return _compose("background", (part,), colour, (f"{noun} {behind}", f"{with_article(spoken(noun))} {behind}"))


def _any_colour(rng: np.random.Generator) -> str:
    return list(COLOURS)[rng.integers(len(COLOURS))]


def draw_colour(composed: Composition, size: int) -> np.ndarray:
    return _on_canvas(size, [(recolour(_whole(composed.parts[0], size), composed.detail), (0.5, 0.5, 1.0))])


def draw_pair(composed: Composition, size: int) -> np.ndarray:
    return _on_canvas(size, [(part.cutout(size), place) for part, place in zip(composed.parts, PLACES[2], strict=True)])


def draw_count(composed: Composition, size: int) -> np.ndarray:
    cutout = composed.parts[0].cutout(size)
    return _on_canvas(size, [(cutout, place) for place in PLACES[int(composed.detail)]])


def draw_background(composed: Composition, size: int) -> np.ndarray:
    hue, saturation, value = COLOURS[composed.detail]
    hsv = tuple(round(part) for part in (hue / 360 * 255, 0.8 * saturation * 255, value * 255))
    cutout = composed.parts[0].cutout(size)
    return _on_canvas(size, [(cutout, PLACES[1][0])], Image.new("HSV", (1, 1), hsv).convert("RGB").getpixel((0, 0)))


def draw_worn(composed: Composition, size: int) -> np.ndarray:
    """The face at the bottom or in the centre, with what it wears on it."""
    face, worn = (part.cutout(size) for part in composed.parts)
    _, width, where = WORN[composed.detail]
    side = 0.7 if where == "top" else 0.94
    scale = side / max(face.size)
    face_width, face_height = face.width * scale, face.height * scale
    centre_y = 0.98 - face_height / 2 if where == "top" else 0.5
    worn_width = width * face_width
    worn_height = worn_width * worn.height / worn.width
    if where == "top":
        worn_y = max(worn_height / 2, centre_y - face_height / 2 + 0.2 * face_height - worn_height / 2)
    else:
        worn_y = centre_y - 0.06 * face_height
    return _on_canvas(size, [(face, (0.5, centre_y, side)), (worn, (0.5, worn_y, max(worn_width, worn_height)))])


def _whole(source: Source, size: int) -> Image.Image:
    """The cutout on a transparent square as large as the plain picture shows it."""
    square = Image.new("RGBA", (size, size))
    cutout = source.cutout(size)
    square.alpha_composite(cutout, ((size - cutout.width) // 2, (size - cutout.height) // 2))
    return square


def _on_canvas(
    size: int, parts: Sequence[tuple[Image.Image, tuple[float, float, float]]], background: object = "white"
) -> np.ndarray:
    """u8[size, size, 3] of RGBA parts at (centre x, centre y, longer side), relative to the picture."""
    canvas = Image.new("RGBA", (size, size), background)  # type: ignore[arg-type]
    for part, (x, y, side) in parts:
        scale = side * size / max(part.size)
        width, height = (max(1, round(length * scale)) for length in part.size)
        layer = Image.new("RGBA", (size, size))
        layer.paste(
            part.resize((width, height), Image.Resampling.LANCZOS),
            (round(x * size - width / 2), round(y * size - height / 2)),
        )
        canvas.alpha_composite(layer)
    return np.asarray(canvas.convert("RGB"))


PLANS: dict[str, Callable[[Pool, np.random.Generator], Composition | None]] = {
    "colour": plan_colour,
    "pair": plan_pair,
    "count": plan_count,
    "worn": plan_worn,
    "background": plan_background,
}
DRAWINGS: dict[str, Callable[[Composition, int], np.ndarray]] = {
    "colour": draw_colour,
    "pair": draw_pair,
    "count": draw_count,
    "worn": draw_worn,
    "background": draw_background,
}
