"""The world as data that figures are measured against: pictures of a prompt, as many as are asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from runtime.command import tell
from runtime.errors import UserError
from train.evaluate.distributions.source import Asked, Drawn, Words
from train.progress import progress
from train.sticker.words import NUMBERS
from train.world import looks
from train.world.drawing import draw
from train.world.prepare import check_table
from train.world.reading import Reader, Request
from train.world.scenes import Scene
from train.world.sprites import SIDE, Portrait
from train.world.stream import Painter

FEWEST = 8  # portraits of a prompt
TRIES = 64  # completions of a prompt until one can be drawn


class Sampler:
    """A prepared folder's pictures of `side` pixels. Raises UserError where it is no world of this version."""

    def __init__(self, folder: Path, side: int = SIDE) -> None:
        self.painter = Painter(folder, side)
        self.world, self.side = self.painter.world, side
        self.table = self.world.table
        if told := check_table(folder, self.world):
            tell(told)
        self.reader = Reader(self.world)

    def asked(self, prompt: str) -> Asked:
        """What a prompt says. Raises UserError where the world has nothing of what it is of."""
        request = self.reader.read(prompt)
        if request is None:
            raise UserError(
                f"prompt {prompt!r}: the data have nothing that it names; see things.json for what they have"
            )
        if request.kind == "portrait":
            self._portraits(request, prompt)
        stated = {name: frozenset([word]) for name, word in request.words.items()} | self._subject(request)
        depth = "coarse" if request.kind == "coarse" else "properties" if request.words else "thing"
        return Asked(prompt, depth, stated)

    def sample(self, asked: Asked, seeds: Sequence[int], trained: bool = False) -> Drawn:
        """A picture per seed; trained: of none that is held out."""
        request = self.reader.read(asked.prompt)
        if request is None:
            raise UserError(f"prompt {asked.prompt!r}: the data have nothing that it names")
        draws = [self._draw(request, asked.prompt, seed, trained) for seed in seeds]
        return self._drawn([scene for scene, _ in draws], [text for _, text in draws], request.kind == "coarse")

    def training(self, count: int, seed: int) -> Drawn:
        """Pictures and captions of the stream's kind."""
        rng = np.random.default_rng([seed, 7])
        scenes = [self.painter.scene(rng) for _ in range(count)]
        captions = [self.painter.told(scene, number) for number, scene in enumerate(scenes)]
        return self._drawn(scenes, captions, title="drawing training pictures")

    def held_out(self, count: int, seed: int) -> Drawn:
        """Each with all of its words."""
        rng = np.random.default_rng([seed, 8])
        scenes = [self.painter.scene(rng, held_out=True) for _ in range(count)]
        return self._drawn(scenes, [scene.prompt for scene in scenes], title="drawing held-out pictures")

    def words(self, scene: Scene, general: bool = False) -> Words:
        """Its properties, with "group", "number" and "thing" where it has them. general: without "thing"."""
        found = dict(scene.words)
        if scene.kind == "portrait":
            return found | {"group": "portrait"}
        if scene.kind == "pair":
            return found
        name = scene.subjects[0]
        found |= {"group": self.world.by_name[name].subgroup, "number": NUMBERS.get(scene.number, "one")}
        return found if general else found | {"thing": name}

    def _subject(self, request: Request) -> dict[str, frozenset[str]]:
        """What a request's subject says of a picture."""
        if request.kind == "coarse":
            word = request.subjects[0]
            return {"group": frozenset(thing.subgroup for thing in self.world.things if word in thing.coarse)}
        if request.kind == "portrait":
            return {"group": frozenset(["portrait"])}
        if request.kind == "pair":
            return {}
        said = {"thing": frozenset(request.subjects)}
        return said | ({"number": frozenset([NUMBERS[request.number]])} if request.kind == "count" else {})

    def _drawn(self, scenes: Sequence[Scene], prompts: Sequence[str], general: bool = False, title: str = "") -> Drawn:
        """The scenes' pictures and words; with a title, a bar is shown meanwhile."""
        pictures = []
        with progress(title, len(scenes), enabled=bool(title)) as advance:
            for scene in scenes:
                pictures.append(np.asarray(draw(scene, self.world, self.painter.sprites, self.side)))
                advance(1)
        shown = [(scene.kind, scene.subjects, scene.number, tuple(scene.words.items())) for scene in scenes]
        return Drawn(np.stack(pictures), [self.words(scene, general) for scene in scenes], prompts, shown)

    def _draw(self, request: Request, prompt: str, seed: int, trained: bool) -> tuple[Scene, str]:
        """A scene of the prompt and the prompt that says all of it."""
        rng = np.random.default_rng([seed, 9])
        for _ in range(TRIES):
            found = self._portrait(request, prompt, rng) if request.kind == "portrait" else self._other(prompt, rng)
            if found and self._drawable(found[0]) and not (trained and self.world.is_held_out(found[0])):
                return found
        raise UserError(f"prompt {prompt!r}: the data have no picture in which all that it says can be seen")

    def _other(self, prompt: str, rng: np.random.Generator) -> tuple[Scene, str] | None:
        text = self.world.table.complete(prompt, int(rng.integers(2**63)))
        scene = self.reader.scene(text)
        return (scene, text) if scene else None

    def _portrait(self, request: Request, prompt: str, rng: np.random.Generator) -> tuple[Scene, str]:
        """One of the portraits that are drawn, with random words for what its picture is varied by."""
        fitting = self._portraits(request, prompt)
        parts = fitting[int(rng.integers(len(fitting)))].words
        text = ", ".join([prompt, *(word for name, word in parts.items() if name not in request.words)])
        words = {**parts, **request.words, **self.world.table.drawn(text, int(rng.integers(2**63)))}
        ordered = {name: words[name] for name in looks.ORDER if name in words}
        added = [word for name, word in ordered.items() if name not in request.words]
        return Scene("portrait", request.subjects, ordered), ", ".join([prompt, *added])

    def _portraits(self, request: Request, prompt: str) -> list[Portrait]:
        parts = {name: word for name, word in request.words.items() if name in self._parts}
        fitting = [
            one
            for one in self._by_subject[request.subjects[0]]
            if all(one.words.get(name) == word for name, word in parts.items())
        ]
        if len(fitting) < FEWEST:
            raise UserError(
                f"prompt {prompt!r}: the data have {len(fitting)} portraits of it, and {FEWEST} are needed; "
                f"ask for less, or prepare more with --portraits"
            )
        return fitting

    @cached_property
    def _by_subject(self) -> Mapping[str, list[Portrait]]:
        found: dict[str, list[Portrait]] = defaultdict(list)
        for portrait in self.painter.portraits:
            found[portrait.subject].append(portrait)
        return found

    @cached_property
    def _parts(self) -> set[str]:
        """The properties that portraits are drawn from."""
        return {name for portrait in self.painter.portraits for name in portrait.words}

    def _drawable(self, scene: Scene) -> bool:
        """Whether there is art for it: "an animal, comic style" is of animals that the comic style has."""
        if not {"style", "background", "outline"} <= scene.words.keys():
            return False
        if scene.kind == "portrait":
            return True
        things = [self.world.by_name[name] for name in scene.subjects]
        if scene.kind != "thing":
            return all((scene.style, "", "") in thing.keys for thing in things)
        look = scene.style, scene.words.get("gender", ""), scene.words.get("skin", "")
        return look in things[0].keys
