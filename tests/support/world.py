"""A world of seven things whose art is two squares, and its prepared folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from train.world.art import SHARES
from train.world.prepare import VERSION
from train.world.scenes import BROAD, Scene, World
from train.world.sprites import Portrait, encoded, write_sprites
from train.world.things import TONES, YELLOW, Thing


def thing(name: str, subgroup: str, styles: tuple[str, ...] = BROAD, people: bool = False) -> Thing:
    genders, skins = (("person", "man", "woman"), (YELLOW, *TONES.values())) if people else (("",), ("",))
    looks_of = [(style, gender, skin) for style in styles for gender in genders for skin in skins]
    return Thing(name, name, subgroup, 1.0, {look: "_".join([name, *look]).replace(" ", "-") for look in looks_of})


def small_world() -> World:
    """Animals, a car, food and a person."""
    return World(
        [
            thing("fox", "animal-mammal", (*BROAD, "comic style")),
            thing("goose", "animal-bird"),
            thing("car", "transport-ground"),
            thing("pizza", "food-prepared"),
            thing("red apple", "food-fruit", tuple(SHARES)),
            thing("grapes", "food-fruit"),
            thing("doctor", "person-role", people=True),
        ]
    )


class Squares:
    """Art whose left half is red and whose right half is blue; portraits likewise."""

    def art(self, key: str) -> Image.Image:
        picture = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
        picture.paste((0, 0, 255, 255), (20, 0, 40, 40))
        return picture

    def portrait(self, scene: Scene) -> Image.Image:
        return self.art("")


def prepared(world: World, folder: Path, portraits: int = 6) -> Path:
    """The folder, filled as `train.data world` fills one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    faces = {(face := Portrait.of(world.scene("portrait", ("man",), rng))).key: face for _ in range(portraits)}
    art = sorted({key for one in world.things for key in one.keys.values()})
    data = encoded(Squares().art(""))
    write_sprites(folder / "art-00000.tar", [(key, data) for key in art])
    write_sprites(folder / "portraits-00000.tar", [(key, data) for key in faces])
    said = [
        dataclasses.asdict(one) | {"keys": [[*look, key] for look, key in one.keys.items()]} for one in world.things
    ]
    (folder / "things.json").write_text(json.dumps(said))
    (folder / "portraits.json").write_text(json.dumps([dataclasses.asdict(face) for face in faces.values()]))
    (folder / "variation.json").write_text(json.dumps(world.table.to_json()))
    (folder / "dataset.json").write_text(json.dumps({"set": "world", "version": VERSION}))
    return folder
