"""Write `train/demo_world`: pictures of the world of stickers, few enough for git, that `make demo` trains on.

`python -m scripts.make_demo_world data/world` draws 24 things, large, upright and on white, in two styles and
several colors, and writes the table of variation that says just this much.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.command import Parser, command_parser, run_command
from runtime.errors import UserError
from runtime.files import write_json
from runtime.variation import Kind, Property, Variation
from train.data.pictures import encode_png
from train.data.shards import UNIT, Record, write_shard
from train.sticker.words import with_article
from train.world.looks import ENDS, NATURAL, PAINTS
from train.world.prepare import licences
from train.world.scenes import Scene
from train.world.stream import Painter

ANIMALS = ("fox", "cat", "dog", "rabbit", "octopus", "penguin", "frog", "tiger face", "panda", "owl")
FOOD = ("pizza", "strawberry", "birthday cake", "mushroom", "avocado", "donut", "hamburger", "ice cream")
OTHERS = ("car", "rocket", "sunflower", "cactus", "robot", "star")
STYLES = ("3d style", "flat style")
COLORS = 3  # of a thing in a style, beside its natural ones
NATURAL_SHARE = 0.3
FIXED = {
    "size": "large",
    "tilt": "upright",
    "outline": "no outline",
    "light": "plain light",
    "background": "on white",
}
SIDE = 128
TARGET = Path(__file__).resolve().parent.parent / "train" / "demo_world"
EXAMPLES = """examples:
  python -m scripts.make_demo_world data/world"""


def table() -> Variation:
    """What a prompt of the demo leaves open."""
    style = Property({word: 1 / len(STYLES) for word in STYLES})
    colors = Property({NATURAL: NATURAL_SHARE, **dict.fromkeys(PAINTS, round((1 - NATURAL_SHARE) / len(PAINTS), 4))})
    kinds = {"things": Kind([*ANIMALS, *FOOD, *OTHERS], {"style": style, "colors": colors})}
    for word, names in (("animal", ANIMALS), ("food", FOOD)):
        things = Property({name: round(1 / len(names), 4) for name in names})
        kinds[word] = Kind([word], {"thing": things}, rank="coarse")
    return Variation(kinds, ["thing", "style", "colors"], ENDS)


def records(painter: Painter) -> list[tuple[Record, bytes]]:
    """The pictures with their captions, weighted as the table draws them: NATURAL_SHARE of them in natural colors."""
    rng, found = np.random.default_rng(0), list[tuple[Record, bytes]]()
    for name in (*ANIMALS, *FOOD, *OTHERS):
        for style in STYLES:
            chosen = rng.choice(PAINTS, COLORS, replace=False)
            for color in (NATURAL, *map(str, chosen)):
                scene = painter.world.scene("thing", (name,), rng)
                words = dict(scene.words) | FIXED | {"style": style, "colors": color}
                if "facing" in words:
                    words["facing"] = "facing left"
                found.append(_record(painter, replace(scene, words=words), color))
    return found


def _record(painter: Painter, scene: Scene, color: str) -> tuple[Record, bytes]:
    name, style = scene.subjects[0], scene.style
    said = f"{with_article(name)}, {style}, {color}"
    shorter = f"{with_article(name)}, {style}" if color == NATURAL else f"{with_article(f'{color} {name}')}, {style}"
    weight = NATURAL_SHARE if color == NATURAL else (1 - NATURAL_SHARE) / COLORS
    key = "-".join((name, style.split(maxsplit=1)[0], color.split(maxsplit=1)[0])).replace(" ", "_")
    return Record(key, (said, shorter), weight, {UNIT: name}), encode_png(painter.pictures([scene])[0])


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.make_demo_world", __doc__, EXAMPLES, json=False)
    made.add_argument("data", type=Path, help="folder made by train.data world")
    return made


def work(args: argparse.Namespace) -> None:
    """Write the folder. Raises UserError where the world lacks one of the things."""
    painter = Painter(args.data, SIDE)
    if lacking := {*ANIMALS, *FOOD, *OTHERS} - painter.world.by_name.keys():
        raise UserError(f"{args.data} has no {min(lacking)}: make it with `python -m train.data world --out DIR`")
    TARGET.mkdir(parents=True, exist_ok=True)
    count = write_shard(TARGET / "train-00000.tar", records(painter))
    used = {name: licence for name, licence in licences().items() if "fluent-emoji" in name}
    write_json(TARGET / "dataset.json", {"pictures": {"train": count}, "size": SIDE, "licences": used})
    write_json(TARGET / "variation.json", table().to_json())
    print(f"{TARGET.name}: {count} pictures, {sum(path.stat().st_size for path in TARGET.iterdir())} bytes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
