"""The prompts of sheets and cards; `python -m train.sticker.prompts --data FOLDER` checks that no picture has them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from train.data.shards import read_facts, splits_of
from train.sticker.captions import STYLES

EXAMPLES = """examples:
  python -m train.sticker.prompts --data data/stickers
exit code: 0 none is a caption, 1 some are, 2 there is no such data."""
SHEET_SEED = 7
SHEET_PROMPTS = tuple(
    f"{subject}, {style}"
    for subject in (
        "fox face",
        "pizza",
        "red heart",
        "car",
        "house",
        "grinning face",
        "cat face",
        "sunflower",
        "guitar",
        "rocket",
        "octopus",
        "green apple",
        "robot",
        "snowman",
        "birthday cake",
        "tiger",
    )
    for style in ("3d style", "flat style")
)

# What one would ask a sticker model for, one subject each. Chosen by name among what captions call things, before any
# picture of them was seen, and without regard to which concepts are held out. A model card shows all of them, unpicked.
CARD_PROMPTS = (
    # animals
    "a fox",
    "dog face, 3d style",
    "rabbit, flat style",
    "elephant, 3d style",
    "a penguin",
    "owl, flat style",
    "turtle, 3d style",
    "horse, cartoon style",
    "butterfly, flat style",
    "whale, 3d style",
    "duck",
    "frog, flat style",
    "lion, 3d style",
    "panda, cartoon style",
    "snail, flat style",
    # food
    "birthday cake",
    "banana, 3d style",
    "strawberry, flat style",
    "hamburger, 3d style",
    "ice cream, flat style",
    "a watermelon",
    "carrot, 3d style",
    "donut, flat style",
    "cookie",
    "bread, cartoon style",
    "avocado, 3d style",
    "cherries, flat style",
    "an egg",
    "croissant, 3d style",
    # faces
    "smiling face with sunglasses, 3d style",
    "winking face, flat style",
    "crying face",
    "angry face, 3d style",
    "sleeping face, flat style",
    "smiling face with heart-eyes, cartoon style",
    "clown face, 3d style",
    "a ghost",
    "alien, flat style",
    # vehicles
    "bus, 3d style",
    "bicycle, flat style",
    "airplane",
    "sailboat, 3d style",
    "fire engine, flat style",
    "helicopter, cartoon style",
    "a train",
    # plants
    "tulip, 3d style",
    "cactus, flat style",
    "palm tree, 3d style",
    "a rose",
    "maple leaf, flat style",
    # things
    "umbrella, flat style",
    "balloon",
    "camera, 3d style",
    "light bulb, flat style",
    "a book",
    "alarm clock, cartoon style",
    "soccer ball, 3d style",
    "teddy bear, flat style",
    "crown, 3d style",
    # weather
    "rainbow, flat style",
    "snowflake, 3d style",
    "sun, cartoon style",
    "a cloud with rain",
    "crescent moon, flat style",
)

# Names that no picture of the data has, by kind: `require_absent` checks that. Their things are in the data.
COMPOSITION_PROMPTS = {
    "a colour and a thing": (
        "a green dog, 3d style",
        "a purple banana, flat style",
        "a pink elephant, 3d style",
        "a yellow owl, flat style",
        "a red robot, 3d style",
        "a blue octopus, flat style",
        "an orange car, 3d style",
        "a black mushroom, flat style",
    ),
    "two things": (
        "a fox and a pizza, flat style",
        "a dog and a soccer ball, 3d style",
        "a cat and a fish, flat style",
        "an apple and a banana, 3d style",
        "a robot and a sunflower, flat style",
        "a bear and an umbrella, 3d style",
        "a house and a tree, flat style",
        "a snowman and a rocket, 3d style",
    ),
    "a thing worn, and a number of things": (
        "a penguin wearing sunglasses, 3d style",
        "an owl wearing a top hat, flat style",
        "a duck wearing a crown, 3d style",
        "an elephant wearing a bow, flat style",
        "three red apples, flat style",
        "two blue birds, 3d style",
        "five stars, flat style",
        "four purple mushrooms, 3d style",
    ),
}
LEARNED = ("train", "composed")  # the splits that training draws from
STYLE = "|".join(map(re.escape, STYLES.values()))  # a pattern


def compositions() -> tuple[str, ...]:
    """COMPOSITION_PROMPTS of every kind, in their order."""
    return tuple(prompt for prompts in COMPOSITION_PROMPTS.values() for prompt in prompts)


def without_style(text: str) -> str:
    """'fox face, 3d style' -> 'fox face'."""
    return re.sub(rf",? ({STYLE})$", "", text)


def plain(text: str) -> str:
    """What a prompt or caption names, without style and articles: 'A cat and a dog, 3d style' -> 'cat and dog'.

    Two things are in alphabetical order, and 'next to' is 'and'.
    """
    text = re.sub(rf"^({STYLE}) (.+) sticker$", r"\2", text.lower().strip())
    text = without_style(text.removeprefix("a sticker of "))
    words = [word for word in text.replace(" next to ", " and ").split() if word not in ("a", "an", "the")]
    return " and ".join(sorted(" ".join(words).split(" and ")))


def captions(data: Path) -> Iterator[str]:
    """Every caption of every picture that training may draw from; a folder need not have a composed split.

    Raises UserError where there are no shards, or damaged ones.
    """
    for split in splits_of(data, LEARNED):
        for record in read_facts(data, split):
            yield from record.captions


def known(prompts: Iterable[str], data: Path) -> list[str]:
    """Those of the prompts that name the same as some caption of the data, style and articles aside."""
    named = {plain(caption) for caption in captions(data)}
    return [prompt for prompt in prompts if plain(prompt) in named]


def require_absent(data: Path) -> None:
    """Raises UserError when a composition is in the data after all: a sheet of them would show what was learned."""
    if found := known(compositions(), data):
        raise UserError(f"{_listed(found)}: among the captions of {data}; choose other COMPOSITION_PROMPTS")


def _listed(prompts: list[str]) -> str:
    return "; ".join(f"'{prompt}'" for prompt in prompts)


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.sticker.prompts", __doc__, EXAMPLES, json=False)
    made.add_argument("--data", type=Path, default=Path("data/stickers"), help="folder made by train.data")
    return made


def work(args: argparse.Namespace) -> int:
    """Say whether compositions are among the captions; 1 when some are."""
    data = args.data
    prompts = compositions()
    if found := known(prompts, data):
        tell(f"{len(found)} of {len(prompts)} compositions are captions of {data}: {_listed(found)}")
        return 1
    print_result(f"none of {len(prompts)} compositions is a caption of {data}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
