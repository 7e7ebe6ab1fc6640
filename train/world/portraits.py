"""Portraits: six open avatar styles whose parts have names, so that a caption can name any subset of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Options = Mapping[str, Any]  # of DiceBear
Parts = Mapping[str, Options]  # word -> the options that draw it

SKINS = {
    "light skin": "f6d3b8",
    "tan skin": "e5b48a",
    "medium skin": "c68a5a",
    "brown skin": "955f3a",
    "dark skin": "5c3a28",
}
HAIR_COLORS = {
    "black hair": "2c1f1e",
    "brown hair": "754a32",
    "blond hair": "e6c15c",
    "red hair": "c8452a",
    "gray hair": "b9bcc4",
    "pink hair": "ee7fb0",
    "blue hair": "5468e0",
}
CLOTHES = {
    "red clothes": "dc3f4a",
    "orange clothes": "f2913c",
    "yellow clothes": "f2c638",
    "green clothes": "49a65a",
    "blue clothes": "3f6fe0",
    "purple clothes": "7d55c7",
    "pink clothes": "f083ae",
    "white clothes": "f1f1f1",
    "black clothes": "2d2d36",
}
# Hair that is drawn for one gender word alone; all other hair is drawn for each. It is how these captions are made,
# and nothing that is claimed of people.
WOMENS_HAIR = frozenset(
    {
        "long hair",
        "long straight hair",
        "long wavy hair",
        "long curly hair",
        "very long hair",
        "shoulder-length hair",
        "bob",
        "bob with bangs",
        "pigtails",
        "ponytail",
        "curly ponytail",
        "bun",
        "curly bun",
        "hijab",
        "braids",
        "long cornrows",
        "wavy bob",
        "long hair with bangs",
    }
)
MENS_HAIR = frozenset({"bald", "balding", "thin hair", "flat top", "quiff", "fade", "topknot", "slicked-back hair"})
# Words of hair that have no hair color.
COVERED = frozenset({"bald", "beanie", "cap", "hat", "hijab", "turban"})


def _each(option: str, values: Mapping[str, str]) -> Parts:
    return {word: {option: [value]} for word, value in values.items()}


@dataclass(frozen=True)
class PortraitStyle:
    """An avatar style: DiceBear's name, the word for it, and its parts by property."""

    package: str
    word: str
    turns: bool  # drawn facing right, so that its mirror picture faces left
    parts: Mapping[str, Parts]
    base: Options = field(default_factory=dict)

    @property
    def properties(self) -> Sequence[str]:
        """The names of the properties that it has parts for."""
        return list(self.parts)

    def options(self, words: Mapping[str, str]) -> dict[str, Any]:
        """DiceBear's options of a portrait: property -> word. Raises KeyError at a word that it has no part for."""
        found: dict[str, Any] = {"seed": "portrait", **self.base}
        for name, parts in self.parts.items():
            if name in words:
                found |= parts[words[name]]
        return found


def _optional(option: str, none: str, values: Mapping[str, str]) -> Parts:
    """Parts of which there may be none."""
    present = {word: {option: [value], f"{option}Probability": 100} for word, value in values.items()}
    return {none: {f"{option}Probability": 0}, **present}


INK = PortraitStyle(
    "open-peeps",
    "ink style",
    True,
    {
        "hair": _each(
            "head",
            {
                "afro": "afro",
                "bob": "bangs2",
                "bantu knots": "bantuKnots",
                "curly ponytail": "bun2",
                "three buns": "buns",
                "dreadlocks": "dreads1",
                "short dreadlocks": "dreads2",
                "flat top": "flatTopLong",
                "beanie": "hatBeanie",
                "hat": "hatHip",
                "hijab": "hijab",
                "long hair": "long",
                "long hair with bangs": "longBangs",
                "big afro": "longAfro",
                "long curly hair": "longCurly",
                "shoulder-length hair": "medium2",
                "long straight hair": "mediumStraight",
                "bald": "noHair1",
                "quiff": "pomp",
                "short hair": "short1",
                "spiky hair": "short5",
                "turban": "turban",
                "twists": "twists",
            },
        ),
        "hair color": {"black hair": {}},  # its hair is drawn in ink
        "skin": _each("skinColor", SKINS),
        "expression": _each(
            "face",
            {
                "smiling": "smile",
                "grinning": "smileBig",
                "laughing": "smileLOL",
                "calm": "calm",
                "angry": "veryAngry",
                "furious": "rage",
                "worried": "concerned",
                "scared": "fear",
                "amazed": "awe",
                "serious": "serious",
                "in love": "lovingGrin1",
                "sad": "solemn",
            },
        ),
        "beard": _optional("facialHair", "no beard", {"beard": "full2", "goatee": "goatee1", "mustache": "moustache3"}),
        "wearing": _optional(
            "accessories",
            "no glasses",
            {"glasses": "glasses2", "sunglasses": "sunglasses", "eyepatch": "eyepatch"},
        ),
        "clothes": _each("clothingColor", CLOTHES),
    },
    {"maskProbability": 0, "headContrastColor": ["2c1b18"], "facialHairProbability": 0, "accessoriesProbability": 0},
)

PAPER = PortraitStyle(
    "personas",
    "paper style",
    False,
    {
        "hair": _each(
            "hair",
            {
                "long hair": "long",
                "very long hair": "extraLong",
                "side-shaved hair": "sideShave",
                "short hair": "shortCombover",
                "curly top": "curlyHighTop",
                "bob": "bobCut",
                "bob with bangs": "bobBangs",
                "big curly hair": "curly",
                "pigtails": "pigtails",
                "curly bun": "curlyBun",
                "bun": "straightBun",
                "buzz cut": "buzzcut",
                "bald": "bald",
                "balding": "balding",
                "cap": "cap",
                "beanie": "beanie",
                "topknot": "bunUndercut",
                "fade": "fade",
                "mohawk": "mohawk",
            },
        ),
        "hair color": _each("hairColor", HAIR_COLORS),
        "skin": _each("skinColor", SKINS),
        "expression": _each(
            "mouth",
            {
                "smiling": "smile",
                "grinning": "bigSmile",
                "sad": "frown",
                "surprised": "surprise",
                "smirking": "smirk",
            },
        ),
        "beard": _optional(
            "facialHair",
            "no beard",
            {"beard": "beardMustache", "mustache": "walrus", "goatee": "goatee", "stubble": "shadow"},
        ),
        "wearing": _each("eyes", {"no glasses": "open", "glasses": "glasses", "sunglasses": "sunglasses"}),
        "clothes": _each("clothingColor", CLOTHES),
    },
    {"nose": ["mediumRound"], "body": ["rounded"], "facialHairProbability": 0},
)

GRIN = PortraitStyle(
    "big-smile",
    "cheeky style",
    True,
    {
        "hair": _each(
            "hair",
            {
                "short hair": "shortHair",
                "mohawk": "mohawk",
                "wavy bob": "wavyBob",
                "bowl cut": "bowlCutHair",
                "big curly hair": "curlyBob",
                "long straight hair": "straightHair",
                "braids": "braids",
                "buzz cut": "shavedHead",
                "bun": "bunHair",
                "curly bun": "froBun",
                "bob with bangs": "bangs",
                "side-shaved hair": "halfShavedHead",
                "curly hair": "curlyShortHair",
            },
        ),
        "hair color": _each("hairColor", HAIR_COLORS),
        "skin": _each("skinColor", SKINS),
        "expression": {
            "smiling": {"eyes": ["normal"], "mouth": ["kawaii"]},
            "grinning": {"eyes": ["normal"], "mouth": ["teethSmile"]},
            "laughing": {"eyes": ["cheery"], "mouth": ["openedSmile"]},
            "sad": {"eyes": ["sad"], "mouth": ["openSad"]},
            "angry": {"eyes": ["angry"], "mouth": ["unimpressed"]},
            "sleepy": {"eyes": ["sleepy"], "mouth": ["unimpressed"]},
            "winking": {"eyes": ["winking"], "mouth": ["openedSmile"]},
            "amazed": {"eyes": ["starstruck"], "mouth": ["openedSmile"]},
            "serious": {"eyes": ["normal"], "mouth": ["unimpressed"]},
        },
        "wearing": _optional(
            "accessories",
            "no glasses",
            {
                "glasses": "glasses",
                "sunglasses": "sunglasses",
                "sleep mask": "sleepMask",
                "cat ears": "catEars",
                "clown nose": "clownNose",
                "face mask": "faceMask",
            },
        ),
    },
)

TOON = PortraitStyle(
    "toon-head",
    "toon style",
    False,
    {
        "hair": {
            "side-parted hair": {"hair": ["sideComed"], "rearHairProbability": 0},
            "undercut": {"hair": ["undercut"], "rearHairProbability": 0},
            "spiky hair": {"hair": ["spiky"], "rearHairProbability": 0},
            "bun": {"hair": ["bun"], "rearHairProbability": 0},
            **{
                word: {"hair": ["sideComed"], "rearHair": [rear], "rearHairProbability": 100}
                for word, rear in {
                    "long straight hair": "longStraight",
                    "long wavy hair": "longWavy",
                    "shoulder-length hair": "shoulderHigh",
                    "bob": "neckHigh",
                }.items()
            },
        },
        "hair color": _each("hairColor", HAIR_COLORS),
        "skin": _each("skinColor", SKINS),
        "expression": {
            "smiling": {"eyes": ["happy"], "mouth": ["smile"], "eyebrows": ["neutral"]},
            "laughing": {"eyes": ["happy"], "mouth": ["laugh"], "eyebrows": ["happy"]},
            "sad": {"eyes": ["wide"], "mouth": ["sad"], "eyebrows": ["sad"]},
            "angry": {"eyes": ["wide"], "mouth": ["angry"], "eyebrows": ["angry"]},
            "surprised": {"eyes": ["wide"], "mouth": ["agape"], "eyebrows": ["raised"]},
            "winking": {"eyes": ["wink"], "mouth": ["smile"], "eyebrows": ["happy"]},
            "calm": {"eyes": ["humble"], "mouth": ["smile"], "eyebrows": ["neutral"]},
        },
        "beard": _optional(
            "beard", "no beard", {"beard": "fullBeard", "long beard": "longBeard", "mustache": "moustacheTwirl"}
        ),
        "clothes": _each("clothesColor", CLOTHES),
        "garment": _each(
            "clothes", {"t-shirt": "tShirt", "turtleneck": "turtleNeck", "jacket": "openJacket", "tank top": "dress"}
        ),
    },
    {"beardProbability": 0},
)

LINE = PortraitStyle(
    "micah",
    "line style",
    True,
    {
        "hair": _each(
            "hair",
            {
                "quiff": "fonze",
                "mohawk": "mrT",
                "thin hair": "dougFunny",
                "bald": "mrClean",
                "side bangs": "dannyPhantom",
                "long hair": "full",
                "turban": "turban",
                "bob": "pixie",
            },
        ),
        "hair color": {word: {"hairColor": [color], "facialHairColor": [color]} for word, color in HAIR_COLORS.items()},
        "skin": _each("baseColor", SKINS),
        "expression": {
            "smiling": {"eyes": ["eyes"], "mouth": ["smile"]},
            "laughing": {"eyes": ["smiling"], "mouth": ["laughing"]},
            "surprised": {"eyes": ["round"], "mouth": ["surprised"]},
            "nervous": {"eyes": ["eyes"], "mouth": ["nervous"]},
            "sad": {"eyes": ["eyes"], "mouth": ["frown"]},
            "kissing": {"eyes": ["smiling"], "mouth": ["pucker"]},
        },
        "beard": _optional("facialHair", "no beard", {"beard": "beard", "stubble": "scruff"}),
        "wearing": _optional("glasses", "no glasses", {"round glasses": "round", "square glasses": "square"}),
        "earrings": _optional("earrings", "no earrings", {"hoop earrings": "hoop"}),
        "clothes": _each("shirtColor", CLOTHES),
        "garment": _each("shirt", {"open collar": "open", "crew neck": "crew", "collared shirt": "collared"}),
    },
    {
        "ears": ["attached"],
        "nose": ["curve"],
        "eyebrows": ["up"],
        "earringColor": ["f4d150"],
        "glassesColor": ["000000"],
        "hairProbability": 100,
        "facialHairProbability": 0,
    },
)

BLOCK = PortraitStyle(
    "miniavs",
    "block style",
    True,
    {
        "hair": _each(
            "hair",
            {
                "balding": "balndess",
                "ponytail": "ponyTail",
                "long hair": "long",
                "curly hair": "curly",
                "slicked-back hair": "stylish",
                "quiff": "elvis",
                "wavy hair": "classic02",
                "short hair": "classic01",
            },
        ),
        "hair color": _each("hairColor", HAIR_COLORS),
        "skin": _each("skinColor", SKINS),
        "expression": {
            "smiling": {"eyes": ["happy"], "mouth": ["default"]},
            "gap-toothed": {"eyes": ["happy"], "mouth": ["missingTooth"]},
        },
        "beard": _optional(
            "mustache",
            "no beard",
            {"goatee": "pencilThinBeard", "mustache": "freddy", "horseshoe mustache": "horshoe"},
        ),
        "wearing": _optional("glasses", "no glasses", {"glasses": "normal"}),
        "clothes": _each("bodyColor", CLOTHES),
    },
    {"head": ["normal"], "body": ["tShirt"], "blushesProbability": 0, "mustacheProbability": 0},
)

PORTRAIT_STYLES = {style.word: style for style in (INK, PAPER, GRIN, TOON, LINE, BLOCK)}
