"""What a prompt leaves open, drawn by the seed: "a fox" becomes "a fox, facing left, large, on white".

A picture is made in two draws: words for the properties that the prompt does not name, from their frequencies in the
data that the model learned from, and then the noise. The table of kinds, properties and words is a bundle's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Any

from runtime.variation.draws import draw
from runtime.variation.table import (
    MOST_LETTERS,
    MOST_PROPERTIES,
    RANKS,
    THING,
    Kind,
    Place,
    Property,
    check_kinds,
    lengths,
    mapping,
    phrases,
    places,
    read_kinds,
    texts,
)
from runtime.variation.text import PAUSE, TRAILING, is_foreign, longest_phrases, phrase, plain

__all__ = ["Kind", "Property", "Variation", "plain"]

VERSION = 1


@dataclass(frozen=True)
class Variation:
    """Kinds by name, and the order in which properties are drawn.

    ends: words after which a prompt says no more of its subject: "a woman with a hat" is of a woman.
    """

    kinds: Mapping[str, Kind]
    order: Sequence[str]
    ends: Sequence[str] = ()
    separator: str = ", "

    def complete(
        self,
        prompt: str,
        seed: int,
        chosen: Mapping[str, str] | None = None,
        fits: Callable[[str], bool] = lambda text: True,
    ) -> str:
        """The prompt with a word for each property that it leaves open; equal for equal seeds.

        seed: -2**63 to 2**64 - 1. chosen: property -> word, instead of a drawn one. fits: whether a text is short
        enough; words for which there is no room are left out. Raises ValueError when a chosen property or word is none
        that this prompt leaves open, or has no room.
        """
        drawn = self.drawn(prompt, seed, chosen)
        words, start = list(drawn.values()), prompt.rstrip(TRAILING)
        counts = range(len(words), 0, -1) if words and fits(prompt) else ()
        completed = ((count, self.separator.join([start, *words[:count]])) for count in counts)
        count, text = next(((count, text) for count, text in completed if fits(text)), (0, prompt))
        if lost := next((name for name in list(drawn)[count:] if name in (chosen or {})), None):
            raise ValueError(f"variation {lost}={drawn[lost]!r}: the prompt is too long for it")
        return text

    def drawn(self, prompt: str, seed: int, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
        """property -> word of what `complete` appends where it fits. Raises as `complete` does."""
        left, words = dict(chosen or {}), dict[str, str]()
        said, pauses = plain(prompt), _pauses(prompt)
        subject = None if is_foreign(prompt) else self.subject(prompt)
        kinds = [] if subject is None else self._kinds_with(subject)
        for name in self.order:
            found = next((kind.properties[name] for kind in kinds if name in kind.properties and kind.fits(said)), None)
            if subject is None or found is None or self._settled(name, found, kinds, subject, said, pauses):
                continue
            asked = left.pop(name, None)
            word = draw(found.words, seed, name) if asked is None else found.word(asked)
            if word is None:
                raise ValueError(f"variation {name}={asked!r}: choose one of {', '.join(found.words)}")
            words[name] = word
            pauses |= {len(said.split()) + place for place in (0, *_pauses(word))}
            said += plain(word)[1:]
            if name == THING:
                subject = phrase(word)
                kinds = self._kinds_with(subject)
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
        parts = [self._phrases(part) for part in PAUSE.split(prompt) if plain(part).strip()]
        everywhere = [phrase for part in parts for phrase in part if phrase in self._names]
        head = list(takewhile(lambda phrase: phrase in self._names, parts[0])) if parts else []
        if "join" in map(self._rank, head[1:-1]):
            return next(phrase for phrase in head[1:] if self._rank(phrase) == "join")
        of = {rank: [phrase for phrase in head if self._rank(phrase) == rank] for rank in ("thing", "coarse")}
        rest = [phrase for phrase in everywhere if self._rank(phrase) != "join"]
        named = next((phrases[-1] for phrases in of.values() if phrases), rest[0] if rest else None)
        if named is None or self._rank(named) == "thing":
            return named
        things = {phrase(word) for kind in self._kinds_with(named) for word in kind.properties[THING].words}
        return next((phrase for phrase in everywhere if phrase in things), named)

    def _settled(
        self, name: str, found: Property, kinds: Sequence[Kind], subject: str, prompt: str, pauses: Set[int]
    ) -> bool:
        """Whether words of a plain prompt name a property, other than inside a longer phrase or as its subject's name.

        "a fox on blue" has a background, and "a blue whale" a name: neither says a color of the animal. A longer phrase
        goes over no pause: "winking, face mask" is no winking face.
        """
        said = prompt.split()
        own = found.places(said)
        if not own:
            return False
        others = [one for kind in kinds for key, one in kind.properties.items() if key != name]
        longer = [*places(said, self._names, self._lengths), *(place for one in others for place in one.places(said))]
        longer = [place for place in longer if not any(place[0] < pause < place[1] for pause in pauses)]
        free = [place for place in own if all(_is_apart(place, other) for other in longer)]
        if name == THING:  # a general word that is also a thing's name is that thing
            return bool(free)
        return any(not self._is_of(subject, " ".join(said[start:end])) for start, end in free)

    def _is_of(self, subject: str, phrase: str) -> bool:
        """Whether a phrase is the subject, or one of those that are joined."""
        if self._rank(subject) != "join":
            return phrase == subject
        return phrase in self._names and self._rank(phrase) != "join"

    def _kinds_with(self, subject: str) -> list[Kind]:
        """The kinds of a subject, those that require most first."""
        kinds = [self.kinds[name] for name in self._names.get(subject, ())]
        return sorted(kinds, key=lambda kind: -len(kind.requires))

    def _rank(self, subject: str) -> str:
        return min((self.kinds[name].rank for name in self._names[subject]), key=RANKS.index)

    def _phrases(self, text: str) -> list[str]:
        """The subjects and ends in a text, in their order; a longer one hides those within it."""
        return longest_phrases(plain(text).split(), self._known, self._longest)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Plain subject -> its kinds' names."""
        found: dict[str, list[str]] = {}
        for name, kind in self.kinds.items():
            for word in kind.words:
                found.setdefault(phrase(word), []).append(name)
        return found

    @cached_property
    def _lengths(self) -> frozenset[int]:
        return lengths(self._names)

    @cached_property
    def _known(self) -> set[str]:
        return {*self._names, *map(phrase, self.ends)}

    @cached_property
    def _longest(self) -> int:
        return max((len(known.split()) for known in self._known), default=0)

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "version": VERSION,
            "kinds": {name: kind.to_json() for name, kind in self.kinds.items()},
            "order": list(self.order),
            "ends": list(self.ends),
            "separator": self.separator,
        }

    @classmethod
    def from_json(cls, data: object) -> Variation:
        """The inverse of `to_json`. Raises ValueError that says what is wrong."""
        if isinstance(data, Variation):
            return data
        table = mapping(data, "the table", ("version", "kinds", "order", "separator"), ("ends",))
        if table["version"] != VERSION or isinstance(table["version"], bool):
            raise ValueError(f"version {table['version']!r} is not known, only {VERSION}")
        kinds, order, separator = read_kinds(table["kinds"]), texts(table["order"], "order"), table["separator"]
        if len(set(order)) != len(order) or len(order) > MOST_PROPERTIES:
            raise ValueError(f"order has a property twice, or more than {MOST_PROPERTIES}")
        if not isinstance(separator, str) or len(separator) > MOST_LETTERS or phrase(separator):
            raise ValueError(f"separator is {separator!r}, not a pause")
        if not PAUSE.search(separator) or not separator.isprintable():
            raise ValueError(f"separator is {separator!r}, not a pause")
        unordered = {name for kind in kinds.values() for name in kind.properties} - set(order)
        if unordered:
            raise ValueError(f"order lacks {min(unordered)}")
        check_kinds(kinds, order)
        return cls(kinds, order, phrases(table.get("ends", []), "ends"), separator)


def _is_apart(place: Place, other: Place) -> bool:
    """Whether a place is no part of another, or all of it."""
    return place == other or place[0] < other[0] or other[1] < place[1]


def _pauses(text: str) -> set[int]:
    """Before which of its words a text pauses, one after the last too."""
    return set(accumulate(len(plain(part).split()) for part in PAUSE.split(text)))
