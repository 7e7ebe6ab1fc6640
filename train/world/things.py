"""The things of the world: names, what they are called in general, and which drawings show them in which style."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from train.sticker.captions import Emoji
from train.sticker.words import COLOUR_WORDS, SPOKEN
from train.world.art import SETS, Drawing
from train.world.facing import LEFT_OUT

# Emoji modifiers of skin tone, and the words of a portrait's skin; without a modifier skin is yellow.
TONES = {
    "1F3FB": "light skin",
    "1F3FC": "tan skin",
    "1F3FD": "medium skin",
    "1F3FE": "brown skin",
    "1F3FF": "dark skin",
}
YELLOW = "yellow skin"
GENDERS = ("person", "man", "woman")
PORTRAYED = GENDERS  # these words alone are portraits
CALLED = {"health worker": "doctor", "cook": "chef", "technologist": "programmer", "factory worker": "welder"}

# Subgroup of emojibase -> what its things are called in general; the first one is also drawn from.
COARSE: dict[str, tuple[str, ...]] = {
    "face-smiling": ("smiley", "emoji"),
    "face-affection": ("smiley", "emoji"),
    "face-tongue": ("smiley", "emoji"),
    "face-hand": ("smiley", "emoji"),
    "face-neutral-skeptical": ("smiley", "emoji"),
    "face-sleepy": ("smiley", "emoji"),
    "face-unwell": ("smiley", "emoji"),
    "face-hat": ("smiley", "emoji"),
    "face-glasses": ("smiley", "emoji"),
    "face-concerned": ("smiley", "emoji"),
    "face-negative": ("smiley", "emoji"),
    "face-costume": ("creature",),
    "cat-face": ("cat emoji",),
    "heart": ("heart",),
    "hand-fingers-open": ("hand",),
    "hand-fingers-partial": ("hand",),
    "hand-single-finger": ("hand",),
    "hand-fingers-closed": ("hand",),
    "hands": ("hands",),
    "body-parts": ("body part",),
    "person-role": ("worker",),
    "person-fantasy": ("fantasy character",),
    "person-sport": ("athlete",),
    "animal-mammal": ("animal", "mammal"),
    "animal-bird": ("animal", "bird"),
    "animal-amphibian": ("animal", "amphibian"),
    "animal-reptile": ("animal", "reptile"),
    "animal-marine": ("animal", "sea animal"),
    "animal-bug": ("animal", "insect"),
    "plant-flower": ("plant", "flower"),
    "plant-other": ("plant",),
    "food-fruit": ("food", "fruit"),
    "food-vegetable": ("food", "vegetable"),
    "food-prepared": ("food", "meal"),
    "food-asian": ("food", "meal"),
    "food-sweet": ("food", "dessert"),
    "drink": ("drink",),
    "place-geographic": ("place", "landscape"),
    "place-building": ("place", "building"),
    "place-religious": ("place", "building"),
    "transport-ground": ("vehicle",),
    "transport-water": ("vehicle",),
    "transport-air": ("vehicle",),
    "sky-weather": ("weather",),
    "sport": ("sports gear",),
    "game": ("toy",),
    "clothing": ("clothing",),
    "musical-instrument": ("musical instrument",),
    "tool": ("tool",),
    "household": ("household item",),
    "computer": ("device",),
    "phone": ("device",),
}
# Of the roles of people those that are no job.
NO_WORKERS = frozenset(
    {"person with crown", "prince", "princess", "person wearing turban", "person with skullcap", "person in tuxedo"}
    | {
        "woman with headscarf",
        "person with veil",
        "pregnant person",
        "pregnant man",
        "pregnant woman",
        "breast-feeding",
        "person feeding baby",
    }
)
# How often a thing of a group is drawn, relative to others; 0: never.
GROUP_WEIGHTS = {
    "animals-nature": 1.0,
    "food-drink": 1.0,
    "smileys-emotion": 0.8,
    "travel-places": 0.5,
    "activities": 0.5,
    "objects": 0.4,
    "people-body": 0.35,
    "symbols": 0.05,
    "flags": 0.03,
}
SUBGROUP_WEIGHTS = {
    "keycap": 0.0,
    "alphanum": 0.0,
    "av-symbol": 0.0,
    "time": 0.1,
    "family": 0.0,
    "person-symbol": 0.0,
    "sky-weather": 0.3,
    "heart": 0.6,
    "currency": 0.0,
    "gender": 0.0,
    "skin-tone": 0.0,
    "hair-style": 0.0,
    "transport-sign": 0.0,
    "warning": 0.1,
    "geometric": 0.1,
    "subdivision-flag": 0.0,
    "country-flag": 0.02,
}


@dataclass(frozen=True)
class Thing:
    """A thing with its drawings."""

    name: str  # as captions call it: "fox", "firefighter"
    label: str  # CLDR's name, where it is another one: "automobile"
    subgroup: str
    weight: float
    keys: Mapping[tuple[str, str, str], str] = field(
        repr=False
    )  # (style, gender, skin) -> drawing; "" where it has none
    others: tuple[str, ...] = ()  # further names in use

    @property
    def styles(self) -> tuple[str, ...]:
        """In the order of SETS."""
        have = {style for style, _, _ in self.keys}
        return tuple(style for style in SETS if style in have)

    @property
    def genders(self) -> tuple[str, ...]:
        """In the order of GENDERS; () where it has no gender."""
        have = {gender for _, gender, _ in self.keys}
        return tuple(gender for gender in GENDERS if gender in have)

    @property
    def skins(self) -> tuple[str, ...]:
        """The words of its skins, yellow first; () where it has none."""
        have = {skin for _, _, skin in self.keys}
        return tuple(skin for skin in (YELLOW, *TONES.values()) if skin in have)

    @property
    def coarse(self) -> tuple[str, ...]:
        """What it is called in general: ("animal", "bird")."""
        return (
            () if self.name in NO_WORKERS or self.name.partition(" ")[0] in PORTRAYED else COARSE.get(self.subgroup, ())
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, the usual one first."""
        return tuple(dict.fromkeys((self.name, self.label, *self.others)))


def things(table: Mapping[str, Emoji], drawn: Iterable[Drawing]) -> list[Thing]:
    """Every thing that has a drawing, sorted by name; each name is one thing's."""
    naming = _Naming(table)
    members: dict[str, list[tuple[Drawing, str, str]]] = defaultdict(list)
    for drawing in drawn:
        place = naming.place(drawing.code)
        if place is not None and drawing.key not in LEFT_OUT:
            label, gender, skin = place
            members[label].append((drawing, gender, skin))
    found: dict[str, Thing] = {}
    for label, rows in sorted(members.items()):
        emoji = next(table[row[0].code] for row in rows)
        name = CALLED.get(label) or SPOKEN.get(label, label)
        thing = _thing(label if name in members or name in found else name, label, emoji, rows)
        found |= {one.name: one for one in _by_gender(thing)} if thing is not None else {}
    taken = Counter(name for thing in found.values() for name in thing.names)
    return [_with_own_names(found[name], taken) for name in sorted(found)]


def _with_own_names(thing: Thing, taken: Mapping[str, int]) -> Thing:
    """Without other names that are also another thing's."""
    general = {word for words in COARSE.values() for word in words}
    others = (name for name in thing.others if taken[name] == 1 and name not in general)
    return replace(thing, others=tuple(name for name in others if not COLOUR_WORDS.intersection(name.split())))


def _by_gender(thing: Thing) -> list[Thing]:
    """The thing; of "person bowing" three, since its name says a gender: "man bowing", "woman bowing"."""
    _, _, rest = thing.name.partition("person ")
    if not rest or not thing.genders:
        return [thing]
    return [
        Thing(
            f"{gender} {rest}",
            f"{gender} {rest}",
            thing.subgroup,
            thing.weight / len(thing.genders),
            {(style, "", skin): key for (style, shown, skin), key in thing.keys.items() if shown == gender},
        )
        for gender in thing.genders
    ]


class _Naming:
    """Takes gender and skin out of emoji's labels."""

    def __init__(self, table: Mapping[str, Emoji]) -> None:
        self.table = table
        self.labels = {emoji.names[0] for emoji in table.values()}

    def place(self, code: str) -> tuple[str, str, str] | None:
        """(label without gender and skin, gender, skin) of a code; None where it is no thing of this world."""
        tones = [part for part in code.split("-") if part in TONES]
        bare = "-".join(part for part in code.split("-") if part not in TONES)
        if len(tones) > 1 or bare not in self.table:
            return None
        label = self.table[bare].names[0]
        if not re.fullmatch(r"[a-z0-9' -]+", label) or label in PORTRAYED:
            return None
        first, *rest = bare.split("-")
        toned = any("-".join([first, tone, *rest]) in self.table for tone in TONES)
        skin = TONES[tones[0]] if tones else (YELLOW if toned else "")
        gender = self._gender(label)
        return self._general(label, gender), gender, skin

    def _gender(self, label: str) -> str:
        first, _, rest = label.partition(" ")
        if first in ("man", "woman") and self._both(rest):
            return first
        return "person" if self._both(rest if first == "person" else label) else ""

    def _both(self, rest: str) -> bool:
        return bool(rest) and {f"man {rest}", f"woman {rest}"} <= self.labels

    def _general(self, label: str, gender: str) -> str:
        """'firefighter' of 'woman firefighter', 'person bowing' of 'man bowing'."""
        rest = label.partition(" ")[2]
        if gender in ("man", "woman"):
            return rest if rest in self.labels else f"person {rest}"
        return label


def _thing(name: str, label: str, emoji: Emoji, rows: Sequence[tuple[Drawing, str, str]]) -> Thing | None:
    weight = SUBGROUP_WEIGHTS.get(emoji.subgroup, GROUP_WEIGHTS.get(emoji.group, 0.0))
    if weight <= 0:
        return None
    keys = {(drawing.style, gender, skin): drawing.key for drawing, gender, skin in rows}
    keys = _complete(keys)
    others = tuple(other for other in emoji.names[1:] if other.isascii() and len(other) > 2)
    gendered = any(gender for _, gender, _ in keys)
    return Thing(name, label, emoji.subgroup, weight, keys, () if gendered else others)


def _complete(keys: dict[tuple[str, str, str], str]) -> dict[tuple[str, str, str], str]:
    """The drawings of the styles that show every gender and every skin that most styles show.

    So gender, skin and style of a thing are independent, and each of their combinations has a drawing.
    """
    by_style: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for style, gender, skin in keys:
        by_style[style].add((gender, skin))
    looks = max(by_style.values(), key=lambda each: (sum(each <= other for other in by_style.values()) > 1, len(each)))
    genders, skins = {gender for gender, _ in looks}, {skin for _, skin in looks}
    whole = {(gender, skin) for gender in genders for skin in skins}
    if not any(whole <= each for each in by_style.values()):  # a few drawings miss: the plainest look of each
        plainest = min(looks, key=lambda look: (look[0] != "person", look[1] != YELLOW, look))
        whole = {plainest}
    styles = [style for style, each in by_style.items() if whole <= each]
    one = len(whole) == 1  # a single look has no words
    return {(style, *(("", "") if one else look)): keys[style, *look] for style in styles for look in sorted(whole)}
