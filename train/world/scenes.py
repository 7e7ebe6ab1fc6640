"""The world's scenes: which there are, how often, and the table of what a prompt leaves open.

A scene is a subject and a word for each property that its kind has; scenes are made as the runtime completes a prompt,
so the frequencies of the data and of the table are the same thing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from runtime.variation import Kind, Property, Variation, plain
from runtime.variation.text import PAUSE
from train.data.writer import is_held_out as falls_out
from train.sticker.words import COLOUR_WORDS, NUMBERS, is_plural, plural, with_article
from train.world import looks
from train.world.art import SHARES
from train.world.facing import TURNING
from train.world.portraits import COVERED, MENS_HAIR, PORTRAIT_STYLES, WOMENS_HAIR, PortraitStyle
from train.world.things import COARSE, Thing

KINDS = {"thing": 0.46, "portrait": 0.2, "pair": 0.24, "count": 0.1}  # shares of the scenes
BROAD = ("3d style", "flat style", "cartoon style", "glossy style")  # styles that have nearly everything
PORTRAYED = {"person": 0.3, "man": 0.35, "woman": 0.35}
CALLED = {
    "person": ("person", "people", "portrait", "avatar"),
    "man": ("man", "guy", "boy"),
    "woman": ("woman", "lady", "girl"),
}
PAIRED = frozenset(
    subgroup
    for subgroup in COARSE
    if subgroup.startswith(("animal", "plant", "food", "transport"))
    or subgroup in ("drink", "sport", "game", "clothing", "musical-instrument", "tool", "household", "face-costume")
)
UNFIT = re.compile(r"\b(face|oncoming|sign|light|suit|station|stop|track|motorway|paw|prints|flower playing)\b|\d")
SHORT_BEARD = 0.6  # of men's and of nobody's-gender portraits: without
THINGS_IN_ING = frozenset(("wing", "ring", "dumpling", "seedling", "building", "painting", "string", "earring"))
UNCOUNTED = frozenset(  # things without an article
    (
        "american football",
        "bacon",
        "badminton",
        "bread",
        "broccoli",
        "butter",
        "candy",
        "clothing",
        "corn",
        "dango",
        "field hockey",
        "fire",
        "fog",
        "garlic",
        "ice",
        "ice hockey",
        "lacrosse",
        "luggage",
        "money with wings",
        "oden",
        "performing arts",
        "ping pong",
        "popcorn",
        "rugby football",
        "sake",
        "salt",
        "soap",
        "spaghetti",
        "sushi",
        "tennis",
        "water closet",
        "yarn",
    )
)
HELD_OUT = {"style": 0.04, "color": 0.1, "pair": 0.1, "portrait": 0.05}  # shares of combinations


@dataclass(frozen=True)
class Scene:
    """What a picture shows: all of it, so that equal scenes are equal pictures."""

    kind: str  # a key of KINDS
    subjects: tuple[str, ...]  # things' names; "person", "man" or "woman" of a portrait
    words: Mapping[str, str] = field(hash=False)  # property -> word, in the order of looks.ORDER
    number: int = 1  # how many of a count

    @property
    def style(self) -> str:
        """The style's word."""
        return self.words["style"]

    @property
    def base(self) -> str:
        """The subject as a prompt says it, all properties open: "a fox", "a fox and a pizza", "two foxes"."""
        if self.kind == "count":
            return f"{NUMBERS[self.number]} {plural(self.subjects[0])}"
        return " and ".join(map(called, self.subjects))

    @property
    def prompt(self) -> str:
        """The subject with all of its words, as the runtime completes it."""
        return ", ".join((self.base, *self.words.values()))


@dataclass(frozen=True)
class World:
    """Scenes of things and portraits."""

    things: Sequence[Thing]

    @cached_property
    def by_name(self) -> dict[str, Thing]:
        """The name of each thing, and the thing."""
        return {thing.name: thing for thing in self.things}

    @cached_property
    def table(self) -> Variation:
        """What a prompt leaves open, with the frequencies of these scenes."""
        kinds = {**_thing_kinds(self.things), **_portrait_kinds(), **_several_kinds(self), **_coarse_kinds(self.things)}
        return Variation(kinds, looks.ORDER, looks.ENDS)

    @cached_property
    def paired(self) -> list[Thing]:
        """The things that pairs and counts are made of: drawn in each of the broad styles."""
        return [
            thing
            for thing in self.things
            if set(BROAD) <= set(thing.styles)
            and thing.subgroup in PAIRED
            and not UNFIT.search(thing.name)
            and can_be_asked_for(thing.name)
        ]

    def any_thing(self, rng: np.random.Generator) -> Scene:
        """A random scene that is no portrait."""
        while True:
            kind = choose({name: share for name, share in KINDS.items() if name != "portrait"}, rng)
            if kind == "thing":
                return self.scene(kind, (self._thing(self.things, self._weights, rng).name,), rng)
            one = self._thing(self.paired, self._paired_weights, rng).name
            other = self._thing(self.paired, self._paired_weights, rng).name
            if kind == "pair" and one != other:
                return self.scene(kind, (one, other), rng)
            if kind == "count" and not is_plural(one):
                return self.scene(kind, (one,), rng, int(rng.integers(2, 5)))

    def portrait(self, subject: str, parts: Mapping[str, str], rng: np.random.Generator) -> Scene:
        """A portrait of these parts with random words for what its picture is varied by."""
        base = Scene("portrait", (subject,), {}).base
        words = {**parts, **self.table.drawn(", ".join([base, *parts.values()]), int(rng.integers(2**63)))}
        return Scene("portrait", (subject,), {name: words[name] for name in looks.ORDER if name in words})

    def scene(self, kind: str, subjects: tuple[str, ...], rng: np.random.Generator, number: int = 1) -> Scene:
        """A scene of a subject with random words for all its properties."""
        bare = Scene(kind, subjects, {}, number)
        words = self.table.drawn(bare.base, int(rng.integers(2**63)))
        return Scene(kind, subjects, words, number)

    def _thing(self, members: Sequence[Thing], weights: np.ndarray, rng: np.random.Generator) -> Thing:
        return members[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]

    @cached_property
    def _weights(self) -> np.ndarray:
        return np.cumsum([thing.weight * can_be_asked_for(thing.name) for thing in self.things])

    @cached_property
    def _paired_weights(self) -> np.ndarray:
        return np.cumsum([thing.weight for thing in self.paired])

    def is_held_out(self, scene: Scene) -> bool:
        """Whether the scene shows a combination that no training picture shows; its parts all occur in training."""
        if scene.kind == "portrait":
            parts = [scene.words.get(name, "") for name in ("style", "hair", "hair color", "expression")]
            return _falls("portrait", parts)
        if scene.kind == "pair":
            return _falls("pair", sorted(scene.subjects))
        name = scene.subjects[0]
        color = scene.words.get("colors", looks.NATURAL)
        several = name in self.by_name and len(self.by_name[name].styles) > 2
        return (several and _falls("style", [name, scene.style])) or (
            color != looks.NATURAL and _falls("color", [name, color])
        )


def can_be_asked_for(name: str) -> bool:
    """Whether a prompt with the name can be read: the pause in "mrs. claus" ends what it says of its subject."""
    return not PAUSE.search(name)


def called(name: str) -> str:
    """'a fox', 'an owl', 'grapes', 'lacrosse': a thing's name as one says it."""
    last = name.rpartition(" ")[2]
    doing = last.endswith("ing") and last not in THINGS_IN_ING  # "a woman surfing" is said without, too
    return name if last in UNCOUNTED or name in UNCOUNTED or doing or name.startswith("flexed") else with_article(name)


def choose(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """A random name with its share."""
    names = list(shares)
    return names[rng.choice(len(names), p=np.array(list(shares.values())) / sum(shares.values()))]


def _falls(what: str, parts: Sequence[str]) -> bool:
    return falls_out("|".join([what, *parts]), HELD_OUT[what])


# ---- the table --------------------------------------------------------------------------------------------------


def _property(name: str, words: Mapping[str, float]) -> Property:
    """A property with what people say for its words, and what settles it without one of them."""
    said = looks.SAID.get(name, {})
    phrases = [phrase for word in words for phrase in said.get(word, ())]
    return Property(
        dict(words), frozenset(plain(phrase).strip() for phrase in (*phrases, *looks.SETTLING.get(name, ())))
    )


def _shared(*names: str) -> dict[str, Property]:
    frequencies = {
        "size": looks.SIZES,
        "tilt": looks.TILTS,
        "outline": looks.OUTLINES,
        "light": looks.LIGHTS,
        "background": looks.BACKGROUNDS,
        "facing": looks.FACINGS,
        "colors": looks.COLORS,
        "arrangement": looks.ARRANGEMENTS,
    }
    return {name: _property(name, frequencies[name]) for name in names}


def turns(thing: Thing) -> bool:
    """Whether it faces a side."""
    return thing.name in TURNING


def is_painted(thing: Thing) -> bool:
    """Whether it may have another color: not if its name says its color, nor a face's or a person's."""
    named = COLOUR_WORDS.intersection(thing.name.split())
    return not named and not thing.skins and not thing.subgroup.startswith(("face-", "country-", "flag", "geometric"))


def _thing_kinds(things: Sequence[Thing]) -> dict[str, Kind]:
    """Things that have the same open properties are a kind."""
    groups: dict[tuple[object, ...], list[Thing]] = defaultdict(list)
    for thing in filter(lambda one: can_be_asked_for(one.name), things):
        groups[thing.styles, thing.genders, thing.skins, turns(thing), is_painted(thing)].append(thing)
    return {f"things {number}": _kind_of(members) for number, members in enumerate(groups.values(), 1)}


def _kind_of(members: Sequence[Thing]) -> Kind:
    thing = members[0]
    properties = _shared("size", "tilt", "outline", "light", "background")
    properties["style"] = _style({style: SHARES[style] for style in thing.styles})
    if thing.genders:
        properties["gender"] = _property("gender", dict.fromkeys(thing.genders, 1 / len(thing.genders)))
    if thing.skins:
        properties["skin"] = _property("skin", dict.fromkeys(thing.skins, 1 / len(thing.skins)))
    if turns(thing):
        properties |= _shared("facing")
    if is_painted(thing):
        properties |= _shared("colors")
    names = [name for member in members for name in member.names if can_be_asked_for(name)]
    return Kind(names, properties)


def _style(shares: Mapping[str, float]) -> Property:
    total = sum(shares.values())
    words = {style: round(share / total, 4) for style, share in shares.items()}
    names = [style.removesuffix(" style") for style in words if style != "flat style"]
    return Property(words, frozenset((*names, *looks.SETTLING["style"])))


def _portrait_kinds() -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for gender, words in CALLED.items():
        share = 1 / len(PORTRAIT_STYLES)
        style = Property(dict.fromkeys(PORTRAIT_STYLES, round(share, 4)))
        kinds[gender] = Kind(words, {"style": style} | _shared("outline", "background"))
        for portrait in PORTRAIT_STYLES.values():
            parts = {name: _property(name, _part_shares(portrait, name, gender)) for name in portrait.properties}
            if gender == "woman":
                parts.pop("beard", None)
            if "hair color" in parts:
                color = parts["hair color"]
                parts["hair color"] = Property(color.words, color.names | COVERED)
            if portrait.turns:
                parts |= _shared("facing")
            kinds[f"{gender}, {portrait.word}"] = Kind(words, parts, [portrait.word])
    return kinds


def _part_shares(portrait: PortraitStyle, name: str, gender: str) -> dict[str, float]:
    words = list(portrait.parts[name])
    if name == "hair":
        other = {"man": WOMENS_HAIR, "woman": MENS_HAIR}.get(gender, frozenset())
        words = [word for word in words if word not in other]
    if name in ("beard", "wearing", "earrings"):  # the first word says that there is none
        return {words[0]: SHORT_BEARD, **{word: (1 - SHORT_BEARD) / (len(words) - 1) for word in words[1:]}}
    return dict.fromkeys(words, round(1 / len(words), 4))


def _several_kinds(world: World) -> dict[str, Kind]:
    style = _style({style: SHARES[style] for style in BROAD})
    shared = _shared("outline", "light", "background") | {"style": style}
    pair = ["and", "next to", "beside", "left of", "above", "on top of", "over"]
    count = [f"{number} {plural(thing.name)}" for thing in world.paired for number in NUMBERS.values()]
    return {
        "pair": Kind(pair, shared | _shared("arrangement"), (), "join"),
        "count": Kind(count, shared | _shared("colors")),
    }


def _coarse_kinds(things: Sequence[Thing]) -> dict[str, Kind]:
    members: dict[str, dict[str, float]] = defaultdict(dict)
    for thing in things:
        for word in thing.coarse if can_be_asked_for(thing.name) else ():
            members[word][thing.name] = thing.weight
    return {word: Kind([word], {"thing": Property(names)}, (), "coarse") for word, names in members.items()}
