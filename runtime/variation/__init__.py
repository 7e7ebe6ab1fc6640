"""What a prompt leaves open, drawn by the seed: "a fox" becomes "a fox, facing left, large, on white".

A picture is made in two draws: words for the properties that the prompt does not name, from their frequencies in the
data that the model learned from, and then the noise. The table of kinds, properties and words is a bundle's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from runtime.variation.draws import draw

VERSION = 1
RANKS = ("thing", "coarse", "join")
_OTHER = re.compile(r"[^a-z0-9]+")
_PAUSE = re.compile(r"[,.;:!?()]+")


@dataclass(frozen=True)
class Property:
    """One thing that a prompt may leave open."""

    words: Mapping[str, float]  # word -> frequency; what is appended
    names: frozenset[str] = frozenset()  # phrases that settle it as well, plain as `plain` makes them

    def settled_by(self, prompt: str) -> bool:
        """Whether a plain prompt names it."""
        return any(f" {phrase} " in prompt for phrase in self._phrases)

    @cached_property
    def _phrases(self) -> frozenset[str]:
        return self.names | {plain(word).strip() for word in self.words}


@dataclass(frozen=True)
class Kind:
    """Subjects that share open properties.

    rank: "thing"; "coarse", a general word whose property THING is a thing's name; or "join", whose words stand
    between two subjects ("and", "on top of").
    """

    words: Sequence[str]  # the subjects
    properties: Mapping[str, Property]
    requires: Sequence[str] = ()  # all of these are in the prompt as well
    rank: str = "thing"


THING = "thing"  # the property of a coarse kind


@dataclass(frozen=True)
class Variation:
    """Kinds by name, and the order in which properties are drawn.

    ends: words after which a prompt says no more of its subject: "a woman with a hat" is of a woman.
    """

    kinds: Mapping[str, Kind]
    order: Sequence[str]
    ends: Sequence[str] = ()
    separator: str = ", "

    def complete(self, prompt: str, seed: int, chosen: Mapping[str, str] | None = None) -> str:
        """The prompt with a word for each property that it leaves open; equal for equal seeds.

        seed: 0 to 2**64 - 1. chosen: property -> word, instead of a drawn one. Raises ValueError when a chosen
        property or word is none that this prompt leaves open.
        """
        return self.separator.join([prompt, *self.drawn(prompt, seed, chosen).values()])

    def drawn(self, prompt: str, seed: int, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
        """property -> word of what `complete` appends. Raises as `complete` does."""
        left, words = dict(chosen or {}), dict[str, str]()
        said, kinds = plain(prompt), self._kinds_of(prompt)
        for name in self.order:
            found = next(
                (kind.properties[name] for kind in kinds if name in kind.properties and _fits(kind, said)), None
            )
            if found is None or found.settled_by(said):
                continue
            word = left.pop(name, None)
            if word is None:
                word = draw(found.words, seed, name)
            elif word not in found.words:
                raise ValueError(f"variation {name}={word!r}: choose one of {', '.join(found.words)}")
            words[name] = word
            said += plain(word)[1:]
            if name == THING:
                kinds = self._kinds_with(plain(word).strip())
        if left:
            name = next(iter(left))
            known = f"the prompt settles it, or has no {name}" if name in self.order else f"there is no {name}"
            raise ValueError(f"variation {name}={left[name]!r}: {known}; properties are {', '.join(self.order)}")
        return words

    def subject(self, prompt: str) -> str | None:
        """The phrase that says what the prompt is of, plain; None where no kind has it.

        In the first part of the prompt, up to a pause or one of `ends`: a word that joins two subjects, else the last
        thing, else a general word, unless a thing of its kind is named later. Where that part names nothing: the first
        thing of the whole prompt.
        """
        parts = [self._phrases(part) for part in _PAUSE.split(prompt) if plain(part).strip()]
        everywhere = [phrase for part in parts for phrase in part if phrase in self._names]
        head = list(takewhile(lambda phrase: phrase in self._names, parts[0])) if parts else []
        if "join" in map(self._rank, head[1:-1]):
            return next(phrase for phrase in head[1:] if self._rank(phrase) == "join")
        of = {rank: [phrase for phrase in head if self._rank(phrase) == rank] for rank in ("thing", "coarse")}
        rest = [phrase for phrase in everywhere if self._rank(phrase) != "join"]
        named = next((phrases[-1] for phrases in of.values() if phrases), rest[0] if rest else None)
        if named is None or self._rank(named) == "thing":
            return named
        things = {plain(word).strip() for kind in self._kinds_with(named) for word in kind.properties[THING].words}
        return next((phrase for phrase in everywhere if phrase in things), named)

    def _kinds_of(self, prompt: str) -> list[Kind]:
        subject = self.subject(prompt)
        return [] if subject is None else self._kinds_with(subject)

    def _kinds_with(self, phrase: str) -> list[Kind]:
        """The kinds of a subject, those that require most first."""
        return sorted((self.kinds[name] for name in self._names.get(phrase, ())), key=lambda kind: -len(kind.requires))

    def _rank(self, phrase: str) -> str:
        return min((self.kinds[name].rank for name in self._names[phrase]), key=RANKS.index)

    def _phrases(self, text: str) -> list[str]:
        """The subjects and ends in a text, in their order; a longer one hides those within it."""
        words, found = plain(text).split(), list[str]()
        at = 0
        while at < len(words):
            spans = (words[at : at + length] for length in range(min(self._longest, len(words) - at), 0, -1))
            phrase = next((span for span in spans if " ".join(span) in self._known), None)
            found += [" ".join(phrase)] if phrase else []
            at += len(phrase or words[at : at + 1])
        return found

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Plain subject -> its kinds' names."""
        found: dict[str, list[str]] = {}
        for name, kind in self.kinds.items():
            for word in kind.words:
                found.setdefault(plain(word).strip(), []).append(name)
        return found

    @cached_property
    def _known(self) -> set[str]:
        return {*self._names, *(plain(word).strip() for word in self.ends)}

    @cached_property
    def _longest(self) -> int:
        return max((len(phrase.split()) for phrase in self._known), default=0)

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "version": VERSION,
            "kinds": {name: _kind_to_json(kind) for name, kind in self.kinds.items()},
            "order": list(self.order),
            "ends": list(self.ends),
            "separator": self.separator,
        }

    @classmethod
    def from_json(cls, data: object) -> Variation:
        """The inverse of `to_json`. Raises ValueError that says what is wrong."""
        table = _mapping(data, "the table")
        if table.get("version") != VERSION:
            raise ValueError(f"version {table.get('version')!r} is not known, only {VERSION}")
        kinds = {name: _kind(value, name) for name, value in _mapping(table.get("kinds"), "kinds").items()}
        order, separator = _texts(table.get("order"), "order"), table.get("separator")
        if not isinstance(separator, str) or not separator:
            raise ValueError(f"separator is {separator!r}, not a text")
        unordered = {name for kind in kinds.values() for name in kind.properties} - set(order)
        if unordered:
            raise ValueError(f"order lacks {min(unordered)}")
        return cls(kinds, order, _texts(table.get("ends", []), "ends"), separator)


def _fits(kind: Kind, said: str) -> bool:
    return all(plain(word) in said for word in kind.requires)


def plain(text: str) -> str:
    """' a red fox ' of 'A red fox!': lower-case letters and digits of ASCII, words apart by one space."""
    return f" {_OTHER.sub(' ', _lower(text)).strip()} " if text else " "


def _lower(text: str) -> str:
    """ASCII alone: other letters have other lower cases in other languages' libraries."""
    return "".join(chr(ord(letter) + 32) if "A" <= letter <= "Z" else letter for letter in text)


def _kind_to_json(kind: Kind) -> dict[str, Any]:
    properties = {
        name: {"words": dict(found.words), "names": sorted(found.names)} for name, found in kind.properties.items()
    }
    said: dict[str, Any] = {"words": list(kind.words), "properties": properties}
    if kind.requires:
        said["requires"] = list(kind.requires)
    if kind.rank != "thing":
        said["rank"] = kind.rank
    return said


def _kind(value: object, name: str) -> Kind:
    said = _mapping(value, f"kind {name}")
    found = _mapping(said.get("properties"), f"properties of {name}")
    properties = {key: _property(words, f"{key} of {name}") for key, words in found.items()}
    rank = said.get("rank", "thing")
    if rank not in RANKS:
        raise ValueError(f"rank of {name} is {rank!r}, none of {', '.join(RANKS)}")
    requires = _texts(said.get("requires", []), f"requires of {name}")
    if rank == "coarse" and THING not in properties:
        raise ValueError(f"kind {name} is coarse and has no property {THING}")
    return Kind(_texts(said.get("words"), f"words of {name}"), properties, requires, rank)


def _property(value: object, where: str) -> Property:
    said = _mapping(value, where)
    words = _mapping(said.get("words"), f"words of {where}")
    for word, frequency in words.items():
        good = isinstance(frequency, int | float) and not isinstance(frequency, bool) and math.isfinite(frequency)
        if not good or frequency < 0 or not plain(word).strip():
            raise ValueError(f"{where}: frequency of {word!r} is {frequency!r}, not a number of at least 0")
    if not sum(words.values()) > 0:
        raise ValueError(f"{where} has no word of a frequency above 0")
    names = _texts(said.get("names", []), f"names of {where}")
    return Property(words, frozenset(plain(phrase).strip() for phrase in names))


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {type(value).__name__}, not an object")
    return value


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{what} is no list of texts")
    return value
