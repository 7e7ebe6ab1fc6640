"""The parts of a table of variation, read strictly from what may be an untrusted bundle."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runtime.variation.text import PAUSE, phrase

RANKS = ("thing", "coarse", "join")
THING = "thing"  # the property of a coarse kind
# Far beyond every table there is: the data set's own has 93 kinds, 21 properties and 15,000 texts.
MOST_KINDS, MOST_PROPERTIES, MOST_TEXTS, MOST_LETTERS = 2000, 100, 100_000, 100


Place = tuple[int, int]  # the first of some words, and the one after the last


def places(said: Sequence[str], phrases: Container[str], lengths: Iterable[int]) -> list[Place]:
    """Where phrases of so many words stand among the words of a prompt."""
    found = [(at, at + length) for at in range(len(said)) for length in lengths if at + length <= len(said)]
    return [(start, end) for start, end in found if " ".join(said[start:end]) in phrases]


def lengths(phrases: Iterable[str]) -> frozenset[int]:
    """How many words they have."""
    return frozenset(len(one.split()) for one in phrases)


@dataclass(frozen=True)
class Property:
    """One thing that a prompt may leave open."""

    words: Mapping[str, float]  # word -> frequency; what is appended
    names: frozenset[str] = frozenset()  # phrases that settle it as well, plain as `plain` makes them

    def places(self, said: Sequence[str]) -> list[Place]:
        """Where its phrases stand among the words of a prompt."""
        return places(said, self._phrases, self._lengths)

    def word(self, asked: str) -> str | None:
        """The word that is meant: the word itself, or the only one with it inside, as "left" is in "facing left"."""
        if asked in self.words:
            return asked
        inside = [word for word in self.words if phrase(asked) and f" {phrase(asked)} " in f" {phrase(word)} "]
        return inside[0] if len(inside) == 1 else None

    def says(self, part: str) -> bool:
        """Whether a plain phrase is in one of the words."""
        return f" {part} " in self._spoken

    @cached_property
    def _lengths(self) -> frozenset[int]:
        return lengths(self._phrases)

    @cached_property
    def _spoken(self) -> str:
        return "".join(f" {phrase(word)} ," for word in self.words)

    @cached_property
    def _phrases(self) -> frozenset[str]:
        return self.names | set(map(phrase, self.words))


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

    def fits(self, said: str) -> bool:
        """Whether a plain prompt has all that is required."""
        return all(f" {phrase(word)} " in said for word in self.requires)

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        properties = {
            name: {"words": dict(found.words), "names": sorted(found.names)} for name, found in self.properties.items()
        }
        said: dict[str, Any] = {"words": list(self.words), "properties": properties}
        if self.requires:
            said["requires"] = list(self.requires)
        if self.rank != "thing":
            said["rank"] = self.rank
        return said


def read_kinds(value: object) -> dict[str, Kind]:
    """The kinds of a table. Raises ValueError that says what is wrong."""
    found = mapping(value, "kinds")
    ordered(found, "kinds")
    if len(found) > MOST_KINDS:
        raise ValueError(f"{len(found)} kinds are too many, {MOST_KINDS} at most are allowed")
    kinds = {name: _kind(one, name) for name, one in found.items()}
    count = sum(len(one.words) + sum(len(part._phrases) for part in one.properties.values()) for one in kinds.values())
    if count > MOST_TEXTS:
        raise ValueError(f"{count} words are too many, {MOST_TEXTS} at most are allowed")
    return kinds


def _kind(value: object, name: str) -> Kind:
    said = mapping(value, f"kind {name}", ("words", "properties"), ("requires", "rank"))
    found = mapping(said["properties"], f"properties of {name}")
    properties = {key: _property(words, f"{key} of {name}") for key, words in found.items()}
    rank = said.get("rank", "thing")
    if rank not in RANKS:
        raise ValueError(f"rank of {name} is {rank!r}, none of {', '.join(RANKS)}")
    if rank == "coarse" and THING not in properties:
        raise ValueError(f"kind {name} is coarse and has no property {THING}")
    subjects = phrases(said["words"], f"words of {name}")
    return Kind(subjects, properties, texts(said.get("requires", []), f"requires of {name}"), rank)


def _property(value: object, where: str) -> Property:
    said = mapping(value, where, ("words",), ("names",))
    words = mapping(said["words"], f"words of {where}")
    ordered(words, f"words of {where}")
    for word, frequency in words.items():
        good = isinstance(frequency, int | float) and not isinstance(frequency, bool)
        if not good or not 0 <= frequency <= 1e6 or not phrase(word):  # NaN is in no range
            raise ValueError(f"{where}: frequency of {word!r} is {frequency!r}, not a number of at least 0")
    texts(list(words), f"words of {where}")
    if not sum(words.values()) > 0:
        raise ValueError(f"{where} has no word of a frequency above 0")
    return Property(words, frozenset(map(phrase, texts(said.get("names", []), f"names of {where}"))))


def ordered(found: Mapping[str, Any], what: str) -> None:
    """Refuses keys of digits alone, which JavaScript sorts: the order of words decides which is drawn."""
    if digits := next((key for key in found if re.fullmatch("[0-9]+", key)), None):
        raise ValueError(f"{what}: {digits!r} is a number alone, and has no place in the order: write it as a word")


def mapping(value: object, what: str, needed: Iterable[str] = (), allowed: Iterable[str] = ()) -> dict[str, Any]:
    """A JSON object, where keys are given with those alone. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {type(value).__name__}, not an object")
    needed = tuple(needed)
    if missing := [key for key in needed if key not in value]:
        raise ValueError(f"{what} has no {missing[0]}")
    if unknown := [key for key in value if needed and key not in (*needed, *allowed)]:
        raise ValueError(f"{what} has an unknown field {unknown[0]}")
    return value


def texts(value: object, what: str) -> list[str]:
    """A list of short texts with letters or digits in them. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{what} is no list of texts")
    for text in value:
        if len(text) > MOST_LETTERS or not text.isprintable() or not phrase(text):
            raise ValueError(f"{what}: {text!r} is no text of at most {MOST_LETTERS} letters")
    return value


def phrases(value: object, what: str) -> list[str]:
    """As `texts`, without pauses, over which no phrase of a prompt goes. Raises ValueError."""
    found = texts(value, what)
    if paused := next((text for text in found if PAUSE.search(text)), None):
        raise ValueError(f"{what}: {paused!r} has a pause in it, and no prompt would match")
    return found


def check_kinds(kinds: Mapping[str, Kind], order: Sequence[str]) -> None:
    """That a completed prompt is complete: what decides comes before what it decides. Raises ValueError.

    Every general word's things are subjects; no kind waits for a word that only it, or one that waits for it, has; a
    property whose word a kind requires comes before that kind's own.
    """
    by_subject: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        for word in kind.words:
            by_subject.setdefault(phrase(word), []).append(name)
    for name, kind in kinds.items():
        things = kind.properties[THING].words if kind.rank == "coarse" else ()
        if lost := next((word for word in things if phrase(word) not in by_subject), None):
            raise ValueError(f"{THING} of {name}: {lost!r} is no word of a kind")
    wanted = {name: _wanted(name, kinds, by_subject) for name in kinds if kinds[name].requires}
    _check_reached(kinds, wanted)
    for name, each in wanted.items():
        _check_order(name, kinds[name], each, order)


@dataclass(frozen=True)
class _Wanted:
    """A phrase that a kind requires, and which kinds of the same subjects have it as a word of which property."""

    phrase: str
    having: Sequence[tuple[str, str]]  # (kind, property)


def _wanted(name: str, kinds: Mapping[str, Kind], by_subject: Mapping[str, list[str]]) -> list[_Wanted]:
    beside = sorted({other for word in kinds[name].words for other in by_subject[phrase(word)]})
    found = []
    for required in map(phrase, kinds[name].requires):
        properties = [(other, key, one) for other in beside for key, one in kinds[other].properties.items()]
        inside = [(other, key) for other, key, one in properties if one.says(required)]
        found.append(_Wanted(required, inside))
    return found


def _check_order(name: str, kind: Kind, wanted: Sequence[_Wanted], order: Sequence[str]) -> None:
    place = {key: at for at, key in enumerate(order)}
    for one in wanted:
        open_ones = [key for key, own in kind.properties.items() if not own.places(one.phrase.split())]
        for _, key in one.having:
            if late := next((own for own in open_ones if place[own] <= place[key]), None):
                raise ValueError(f"order: {late} must come after {key}, whose {one.phrase!r} kind {name} requires")


def _check_reached(kinds: Mapping[str, Kind], wanted: Mapping[str, Sequence[_Wanted]]) -> None:
    reached = set(kinds) - set(wanted)

    def sayable(one: _Wanted) -> bool:
        return not one.having or any(kind in reached for kind, _ in one.having)

    while more := {name for name in set(wanted) - reached if all(map(sayable, wanted[name]))}:
        reached |= more
    if cyclic := sorted(set(kinds) - reached):
        raise ValueError(f"requires is cyclic: {' and '.join(cyclic[:3])} can only be reached from each other")
