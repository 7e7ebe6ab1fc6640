"""Names, keywords and groups of every emoji code point, and the caption phrasings made of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from train.data.shards import UNIT, Record
from train.data.writer import is_held_out as falls_out
from train.sticker.words import spoken, with_article

HELD_OUT = 0.1  # of the concepts
STYLES = {"fluent-3d": "3d style", "fluent-flat": "flat style", "noto": "cartoon style"}

# How often a picture is drawn, relative to others. The model is small and its training short: most of it goes to
# animals, food, faces and common things in the two Fluent styles, which share their drawings. Flags, signs and
# people are many and look much alike.
GROUP_WEIGHTS = {
    "flags": 0.05,
    "symbols": 0.08,
    "component": 0.05,
    "people-body": 0.08,
    "objects": 0.3,
    "activities": 0.5,
    "travel-places": 0.5,
    "smileys-emotion": 0.6,
}
STYLE_WEIGHTS = {"noto": 0.2}

# Concepts of the contact sheet that README shows; they stay in the training split, and README says so.
SHEET_CONCEPTS = {
    "1F98A",
    "1F355",
    "2764",
    "1F697",
    "1F3E0",
    "1F600",
    "1F431",
    "1F33B",
    "1F3B8",
    "1F680",
    "1F419",
    "1F34F",
    "1F916",
    "26C4",
    "2603",
    "1F382",
    "1F42F",
    "1F405",
}

_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_GENDERED = {"1F468": "1F9D1", "1F469": "1F9D1"}
_GENDER_SIGNS = {"2640", "2642"}


@dataclass(frozen=True)
class Emoji:
    """What is known about one code point sequence, apart from pictures."""

    code: str  # upper-case hex code points without FE0F, joined by "-"
    names: tuple[str, ...]  # the CLDR label first, then other names in use
    keywords: tuple[str, ...]
    group: str  # emojibase group key, for example "animals-nature"
    concept: str  # code with skin tone and gender taken out: the unit of the train / held-out split
    has_skin_tone: bool
    subgroup: str = ""  # emojibase subgroup key, for example "animal-mammal"


def normalize_code(code: str) -> str:
    """'1f469-fe0f-200d' -> '1F469-200D': upper case, no variation selectors."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def concept_of(code: str) -> str:
    """The code with skin tones and genders taken out: variants of one idea share a concept."""
    parts = [part for part in code.split("-") if part not in _SKIN_TONES]
    if len(parts) > 1:
        parts = [_GENDERED.get(part, part) for part in parts]
        parts = [part for part in parts if part not in _GENDER_SIGNS]
    while parts and parts[-1] == "200D":
        parts.pop()
    return "-".join(parts)


def is_held_out(concept: str) -> bool:
    """Whether a concept is in the held-out split: a tenth of them, those of the contact sheet never."""
    return concept not in SHEET_CONCEPTS and falls_out(concept, HELD_OUT)


def sticker_record(
    key: str, captions: tuple[str, ...], style: str, concept: str, group: str, weight: float = 1.0
) -> Record:
    """The record of a sticker; style: a key of STYLES, group: as in Emoji, or what kind of composition it is."""
    return Record(key, captions, weight, {"style": style, UNIT: concept, "group": group})


def style_of(record: Record) -> str:
    """A key of STYLES."""
    return str(record.facts.get("style", ""))


def group_of(record: Record) -> str:
    """The group of a single emoji, the kind of composition of several."""
    return str(record.facts.get("group", ""))


def load_emoji(emojibase: Path, emojilib: Path) -> dict[str, Emoji]:
    """Join emojibase-data (labels, tags, groups, skin tones) with emojilib (keywords), by code point.

    emojibase, emojilib: folders of the unpacked npm packages. Returns {normalized code: Emoji}.
    """
    root = emojibase / "package"
    meta = json.loads((root / "meta/groups.json").read_text())
    groups, subgroups = meta["groups"], meta["subgroups"]
    shortcodes = json.loads((root / "en/shortcodes/emojibase.json").read_text())
    keywords = json.loads((emojilib / "package/dist/emoji-en-US.json").read_text())
    table: dict[str, Emoji] = {}
    for entry in json.loads((root / "en/data.json").read_text()):
        group = groups.get(str(entry.get("group", 2)), "component")
        extra = keywords.get(entry["emoji"], [])
        words = tuple(dict.fromkeys(_readable([*entry.get("tags", []), *extra[1:]])))
        for variant in [entry, *entry.get("skins", [])]:
            code = normalize_code(variant["hexcode"])
            table[code] = Emoji(
                code=code,
                names=_names(variant["label"], shortcodes.get(variant["hexcode"]), extra[:1]),
                keywords=words,
                group=group,
                concept=concept_of(code),
                has_skin_tone=bool(_SKIN_TONES.intersection(code.split("-"))),
                subgroup=subgroups.get(str(entry.get("subgroup")), ""),
            )
    return table


def phrasings(emoji: Emoji, style: str) -> list[str]:
    """Caption phrasings of one picture, the plainest first; all name the subject, all but the last two the style.

    style: a value of STYLES, for example "3d style". Without it a caption belongs to the same thing in every style.
    """
    label = emoji.names[0]
    captions = [f"{name}, {style}" for name in emoji.names]
    captions += [f"{with_article(name)}, {style}" for name in dict.fromkeys([label, spoken(label)])]
    captions += [f"{style} {label} sticker", f"a sticker of {with_article(spoken(label))}, {style}"]
    if emoji.keywords:
        captions.append(f"{label}, {' '.join(emoji.keywords[:3])}, {style}")
    captions += [label, with_article(spoken(label))]
    return list(dict.fromkeys(captions))


def _names(label: str, shortcodes: str | list[str] | None, extra: list[str]) -> tuple[str, ...]:
    codes = [shortcodes] if isinstance(shortcodes, str) else list(shortcodes or [])
    names = [re.sub(r"\s+", " ", label.lower().replace(":", ",")).strip()]
    # Short codes such as "snowman2" or "tone1" are names for machines: left out.
    names += [name for name in _readable(codes + extra) if not re.search(r"\d", name)]
    return tuple(dict.fromkeys(names))[:4]


def _readable(words: list[str]) -> list[str]:
    plain = [word.replace("_", " ").strip().lower() for word in words]
    return [word for word in plain if re.fullmatch(r"[a-z][a-z' -]{1,30}", word)]
