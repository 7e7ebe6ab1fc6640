"""Captions of a scene: a subject, and some of its words, as people say them or as the runtime completes a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from train.sticker.words import NUMBERS, article, is_plural, plural, with_article
from train.world import looks
from train.world.scenes import CALLED, Scene, World, called
from train.world.ways import WAYS, Ways

NATURAL_SHARE = 0.35  # of the words that can be said before or after the subject, those that are

BEFORE = ("size", "colors", "expression", "gender")  # "a small red fox"
AFTER = ("hair", "hair color", "wearing", "beard", "clothes", "facing", "background", "skin", "garment")
UNSAID = {looks.NATURAL, "medium size", "no beard", "no glasses", "no earrings"}  # only as completing words


def caption(scene: Scene, world: World, rng: np.random.Generator, ways: Ways = WAYS) -> str:
    """A random caption of the scene."""
    draw = rng.random()
    if draw < ways.general:
        return _general(scene, world, rng)
    words = dict(scene.words)
    if draw > 1 - ways.partial:
        keep = rng.random()
        words = {name: word for name, word in words.items() if rng.random() < keep}
    natural = {name for name in (*BEFORE, *AFTER) if name in words and rng.random() < NATURAL_SHARE}
    said = _natural(scene, world, {name: words[name] for name in words if name in natural}, rng)
    rest = [word for name, word in words.items() if name not in said.names]
    return ", ".join([said.text, *rest])


class _Said:
    """A subject in words, and the names of the properties that it says."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text, self.names = text, set(names)


def _natural(scene: Scene, world: World, words: Mapping[str, str], rng: np.random.Generator) -> _Said:
    if scene.kind == "pair":
        return _pair(scene, words, rng)
    names: list[str] = []
    before, after = [], []
    for name in BEFORE:
        if name in words and words[name] not in UNSAID and not (name == "gender" and words[name] == "person"):
            before.append(_said(name, words[name], rng))
            names.append(name)
    for name in AFTER:
        phrase = _after(name, words[name], rng) if name in words and words[name] not in UNSAID else ""
        if phrase:
            after.append(phrase)
            names.append(name)
    noun = _noun(scene, world, rng)
    if scene.kind == "count":
        text = " ".join([NUMBERS[scene.number], *before, plural(noun)])
    elif before:
        text = " ".join([*before, noun])
        text = text if is_plural(noun) or rng.random() < 0.3 else f"{article(text)} {text}"
    else:
        text = noun if rng.random() < 0.3 else called(noun)
    if rng.random() < 0.1 and scene.kind == "thing":
        text = f"a sticker of {text}"
    return _Said(" ".join([text, *after]), names)


def _noun(scene: Scene, world: World, rng: np.random.Generator) -> str:
    """A name of the subject, mostly the usual one."""
    if scene.kind == "portrait":
        return CALLED[scene.subjects[0]][0 if rng.random() < 0.7 else int(rng.integers(len(CALLED[scene.subjects[0]])))]
    names = world.by_name[scene.subjects[0]].names
    return names[0] if scene.kind == "count" or rng.random() < 0.75 else names[int(rng.integers(len(names)))]


def _pair(scene: Scene, words: Mapping[str, str], rng: np.random.Generator) -> _Said:
    one, other = (name if rng.random() < 0.3 else called(name) for name in scene.subjects)
    arrangement = scene.words["arrangement"]
    if rng.random() < 0.4:  # the arrangement is in the words between them
        between = looks.SAID["arrangement"][arrangement]
        return _Said(f"{one} {between[int(rng.integers(len(between)))]} {other}", ["arrangement"])
    return _Said(f"{one} and {other}", [])


def _said(name: str, word: str, rng: np.random.Generator) -> str:
    """The word, or another one that is said for it and stands before a noun."""
    others = [phrase for phrase in looks.SAID.get(name, {}).get(word, ()) if " " not in phrase]
    choices = [word, *others] if name != "expression" else [word]
    return choices[int(rng.integers(len(choices)))]


def _after(name: str, word: str, rng: np.random.Generator) -> str:
    """The word with what joins it to a noun: "with long hair", "on a red background"; "" where it has none."""
    if name == "background":
        choices = [word, *(phrase for phrase in looks.SAID[name].get(word, ()) if phrase.startswith("on "))]
        return choices[int(rng.integers(len(choices)))]
    if name == "facing":
        choices = [word, *looks.SAID[name].get(word, ())]
        return choices[int(rng.integers(len(choices)))]
    if name == "clothes":
        return f"in {word}"
    if name in ("wearing", "garment"):
        plural_word = word.endswith(("glasses", "ears"))
        thing = word if plural_word or word == "crew neck" else with_article(word)
        return f"wearing {thing}" if rng.random() < 0.5 else f"with {thing}"
    if name == "beard":
        return f"with {'stubble' if word == 'stubble' else with_article(word)}"
    return (
        f"with {word}" if word.endswith(("hair", "skin", "dreadlocks", "braids", "pigtails", "knots", "twists")) else ""
    )


def _general(scene: Scene, world: World, rng: np.random.Generator) -> str:
    """A caption without the subject's own name: "an animal, fox, 3d style, ...", "an animal", "3d style", ""."""
    words = list(scene.words.values())
    draw = rng.random()
    if scene.kind == "thing" and world.by_name[scene.subjects[0]].coarse and draw < 0.75:
        thing = world.by_name[scene.subjects[0]]
        word = thing.coarse[int(rng.integers(len(thing.coarse)))]
        base = word if rng.random() < 0.3 else called(word)
        if draw < 0.3:  # as the runtime completes it
            return ", ".join([base, thing.name, *words])
        return base if draw < 0.45 else ", ".join([base, *(w for w in words if rng.random() < 0.5)])
    if draw < 0.85:
        return scene.style if rng.random() < 0.5 else ", ".join(w for w in words if rng.random() < 0.4)
    return ""
