"""What a prompt asks of the world: its subject, and the words that it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from runtime.variation import Kind, plain
from runtime.variation.text import PAUSE, longest_phrases
from runtime.variation.text import phrase as phrase_of
from train.sticker.words import NUMBERS, plural
from train.world import looks
from train.world.scenes import CALLED, Scene, World

Phrases = Mapping[str, Sequence[tuple[str, str]]]  # plain phrase -> (property, word) that it may say


@dataclass(frozen=True)
class Request:
    """A prompt as the world understands it."""

    kind: str  # a key of scenes.KINDS, or "coarse"
    subjects: tuple[str, ...]  # things' names, a portrait's subject, or the general word
    words: Mapping[str, str]  # property -> word
    number: int = 1


@dataclass(frozen=True)
class Reader:
    """Reads prompts of one world."""

    world: World

    def read(self, prompt: str) -> Request | None:
        """None where the world has nothing of what the prompt is of."""
        subject = self.world.table.subject(prompt)
        found = None if subject is None else self._subject(subject, prompt)
        if subject is None or found is None:
            return None
        said = plain(prompt)
        kinds = self._kinds[subject]
        fitting = [kind for kind in kinds if kind.fits(said)]
        if not any(kind.requires for kind in fitting):  # no style is named: the parts of a portrait of any style
            fitting = kinds
        return Request(found.kind, found.subjects, self._words(prompt, subject, fitting), found.number)

    def scene(self, prompt: str) -> Scene | None:
        """The scene of a prompt that leaves nothing open; None where it is of nothing, or names no thing."""
        request = self.read(prompt)
        if request is None or request.kind == "coarse":
            return None
        words = {name: request.words[name] for name in looks.ORDER if name in request.words}
        return Scene(request.kind, request.subjects, words, request.number)

    def _subject(self, subject: str, prompt: str) -> Request | None:
        """The request without its words."""
        for gender, names in CALLED.items():
            if subject in names:
                return Request("portrait", (gender,), {})
        if subject in self._counts:
            name, number = self._counts[subject]
            return Request("count", (name,), {}, number)
        if subject in self._things:
            return Request("thing", (self._things[subject],), {})
        kind = self._kinds[subject][0]
        if kind.rank == "coarse":
            return Request("coarse", (subject,), {})
        before, _, after = plain(prompt.partition(",")[0]).partition(f" {subject} ")
        pair = [*self._named(before)[-1:], *self._named(after)[:1]]
        return Request("pair", tuple(pair), {}) if len(pair) == 2 else None

    def _words(self, prompt: str, subject: str, kinds: Sequence[Kind]) -> dict[str, str]:
        """property -> word, the longest phrases first: "on red" says a background and no color."""
        phrases: dict[str, list[tuple[str, str]]] = {subject: []}
        for kind in kinds:
            for name, found in kind.properties.items():
                for word in found.words:
                    for phrase in _phrases(name, word):
                        phrases.setdefault(phrase, []).append((name, word))
        words: dict[str, str] = {}
        known = phrases.keys() | self._things.keys()
        for part in PAUSE.split(prompt):  # "winking, face mask" is no winking face
            for phrase in _longest(plain(part).split(), known):
                for name, word in phrases.get(phrase, ()):
                    words.setdefault(name, word)
        words.pop("thing", None)
        return words

    def _named(self, text: str) -> list[str]:
        return [self._things[phrase] for phrase in _longest(text.split(), self._things.keys())]

    @cached_property
    def _things(self) -> dict[str, str]:
        """Plain name -> the thing's usual one."""
        return {phrase_of(name): thing.name for thing in self.world.things for name in thing.names}

    @cached_property
    def _counts(self) -> dict[str, tuple[str, int]]:
        return {
            phrase_of(f"{word} {plural(thing.name)}"): (thing.name, number)
            for thing in self.world.paired
            for number, word in NUMBERS.items()
        }

    @cached_property
    def _kinds(self) -> dict[str, list[Kind]]:
        """Plain subject -> its kinds."""
        found: dict[str, list[Kind]] = {}
        for kind in self.world.table.kinds.values():
            for word in kind.words:
                found.setdefault(phrase_of(word), []).append(kind)
        return found


def _phrases(name: str, word: str) -> list[str]:
    """All that says a word of a property, plain."""
    said = [word, *looks.SAID.get(name, {}).get(word, ())]
    if name == "style" and word != "flat style":
        said.append(word.removesuffix(" style"))
    return [phrase_of(phrase) for phrase in said]


def _longest(words: Sequence[str], known: Set[str]) -> list[str]:
    return longest_phrases(words, known, max((phrase.count(" ") + 1 for phrase in known), default=0))
