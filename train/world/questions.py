"""The prompts that figures are measured with: what a person may type, of three depths."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from runtime.errors import UserError
from train.evaluate.distributions.source import Asked
from train.world import looks
from train.world.captions import caption
from train.world.sampling import Sampler
from train.world.scenes import Scene, choose
from train.world.ways import Ways

SHARES = {"coarse": 0.2, "thing": 0.4, "properties": 0.4}
KINDS = {"thing": 0.6, "portrait": 0.2, "pair": 0.1, "count": 0.1}  # of the prompts that are not coarse
MOST = 3  # words that a prompt with properties says
UNSAID = {looks.NATURAL, "plain light", "no outline", "upright", "no beard", "no glasses", "no earrings"}
TRIES = 10_000


def _questions(source: Sampler, count: int, seed: int) -> list[Asked]:
    rng = np.random.default_rng([seed, 11])
    coarse = round(count * SHARES["coarse"])
    thing = round(count * SHARES["thing"])
    return [
        *_general(source, coarse, rng),
        *_captions(source, thing, rng, stated=False),
        *_captions(source, count - coarse - thing, rng, stated=True),
    ]


def _general(source: Sampler, count: int, rng: np.random.Generator) -> list[Asked]:
    words = [word for word, kind in source.world.table.kinds.items() if kind.rank == "coarse"]
    if len(words) < count:
        raise UserError(f"the data have {len(words)} general words, and {count} prompts of them were asked for")
    return [source.asked(words[index]) for index in sorted(rng.permutation(len(words))[:count])]


def _captions(source: Sampler, count: int, rng: np.random.Generator, stated: bool) -> list[Asked]:
    """Captions of random scenes that say one to MOST of their words, or none."""
    found: dict[str, Asked] = {}
    for _ in range(TRIES):
        if len(found) == count:
            return list(found.values())
        scene = _scene(source, rng)
        text = _text(source, scene, rng) if stated else scene.base
        request = source.reader.read(text)
        if request is None or (request.subjects, request.number) != (scene.subjects, scene.number):
            continue
        if stated and not (request.words and request.words.items() <= scene.words.items()):
            continue
        with suppress(UserError):  # too few portraits of it
            found.setdefault(text, source.asked(text))
    raise UserError(f"the data have {len(found)} prompts of a kind of which {count} were asked for; they are too small")


def _scene(source: Sampler, rng: np.random.Generator) -> Scene:
    kind = choose(KINDS, rng)
    return next(scene for scene in iter(lambda: source.painter.scene(rng), None) if scene.kind == kind)


def _text(source: Sampler, scene: Scene, rng: np.random.Generator) -> str:
    """A caption that says one to MOST of the scene's words; of a pair also how it is arranged."""
    names = [name for name, word in scene.words.items() if word not in UNSAID]
    chosen = set(rng.permutation(names)[: int(rng.integers(1, MOST + 1))]) | {"arrangement"}
    words = {name: word for name, word in scene.words.items() if name in chosen}
    return caption(replace(scene, words=words), source.world, rng, Ways(general=0, partial=0.4))


class WorldSource(Sampler):
    """A world's pictures and the prompts that figures are measured with."""

    def questions(self, count: int, seed: int) -> list[Asked]:
        """`count` different prompts, the same for the same seed.

        General words are drawn with equal chances. Raises UserError where the world is too small for so many.
        """
        return _questions(self, count, seed)
