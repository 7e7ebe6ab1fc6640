"""What the golden file of variation holds: tables, prompts and seeds."""

from __future__ import annotations

import copy
from typing import Any


def table() -> dict[str, Any]:
    """A small table as a manifest holds it, to be read by people."""
    style = {"words": {"3d style": 0.6, "flat style": 0.4}, "names": ["3d"]}
    facing = {"words": {"facing left": 0.5, "facing right": 0.5}, "names": ["looking left", "looking right"]}
    size = {"words": {"small": 0.3, "large": 0.7}, "names": ["tiny", "big"]}
    colors = {"words": {"natural colors": 0.8, "red": 0.1, "blue": 0.1}, "names": []}
    hair = {"words": {"long hair": 0.5, "bald": 0.5}, "names": []}
    hair_color = {"words": {"red hair": 0.5, "black hair": 0.5}, "names": ["bald"]}
    return {
        "version": 1,
        "kinds": {
            "animals": {
                "words": ["fox", "hot dog seller", "dog", "blue dog"],
                "properties": {"style": style, "facing": facing, "size": size, "colors": colors},
            },
            "food": {"words": ["pizza", "hot dog", "glasses"], "properties": {"style": style, "size": size}},
            "woman": {"words": ["woman"], "properties": {"style": {"words": {"ink style": 0.5, "toon style": 0.5}}}},
            "woman, ink": {"words": ["woman"], "requires": ["ink style"], "properties": {"hair": hair}},
            "woman, toon": {
                "words": ["woman"],
                "requires": ["toon style"],
                "properties": {"hair": hair, "hair color": hair_color},
            },
            "pair": {"words": ["and", "next to"], "rank": "join", "properties": {"style": style}},
            "animal": {
                "words": ["animal"],
                "rank": "coarse",
                "properties": {"thing": {"words": {"fox": 0.25, "dog": 0.75}}},
            },
        },
        "order": ["thing", "style", "hair", "hair color", "colors", "facing", "size"],
        "ends": ["with", "on"],
        "separator": ", ",
    }


SEEDS = (0, 1, 7, 12345, 2**63, 2**64 - 1, -1)
PROMPTS = {
    "small": (
        "a fox", "A FOX!", "a fox, ", "a big red fox facing left", "a tiny fox, 3d", "a hot dog", "a hot dog seller",
        "a fox and a pizza", "a fox next to a dog, 3d style", "and a fox", "a woman with glasses",
        "a bald woman, toon style", "a woman, ink style", "3d style, a fox", "an animal",
        "an animal, fox", "something else", "a blue dog", "a big blue dog and a red pizza", "a blue blue dog",
        "a fox, blue, dog", "", "a fox?!",
        "foxes", "赤い fox", "un garçon with a fox", "\U0001f98a fox", "a fox\n", "GARÇON, FOX", "a foxİdog",
    ),
    "world": (
        "a fox", "a big red fox facing left", "an animal", "a bird", "an animal, wolf", "a smiling woman",
        "a woman with red hair, line style", "a man in a hat", "a cat and a dog", "a cat on top of a dog",
        "three foxes", "two cats on a blue background", "a hot dog", "a hand",
        "a dessert, flat style", "pizza",
        "a die cut pizza, tilted left, warm light", "a fox on a red background",
        "a fox on blue", "a red fox on blue dots", "a heart and a fox on blue",
        "a heart", "ein roter Fuchs", "красная лиса",
    ),
}  # fmt: skip
CHOSEN = (
    ("small", "a fox", {"facing": "facing left", "size": "small"}),
    ("small", "a fox", {"facing": "right"}),
    ("small", "an animal", {"thing": "dog"}),
    ("world", "a smiling woman", {"style": "toon style", "skin": "dark"}),
    ("world", "an animal", {"thing": "wolf", "style": "3d"}),
)
REFUSED = (
    ("small", "a fox", {"facing": "up"}),
    ("small", "a fox", {"facing": "facing"}),
    ("small", "a fox", {"wheels": "4"}),
    ("small", "a fox facing left", {"facing": "facing right"}),
    ("small", "赤い fox", {"facing": "facing right"}),
)
# Typed words that leave room for all, some or none of the completing words.
LONG = tuple(" ".join(["a fox,", *["very"] * count]) for count in (0, 40, 55, 58, 61, 64, 67, 70, 72, 73, 80))


def damaged() -> dict[str, tuple[str, Any]]:
    """Tables that are refused, by name, each with what is wrong."""
    tables: dict[str, tuple[str, Any]] = {"list": ("no object", []), "version": ("version 2", table() | {"version": 2})}

    def changed(name: str, why: str, *path: Any) -> None:
        *where, last, value = path
        made = inner = copy.deepcopy(table())
        for step in where:
            inner = inner[step]
        inner[last] = value
        tables[name] = (why, made)

    size = ("kinds", "food", "properties", "size")
    changed("unknown", "an unknown field", "colour", "red")
    changed("kinds", "kinds is a list", "kinds", [])
    changed("order", "a property that order lacks", "order", ["style"])
    changed("order_twice", "a property twice in order", "order", [*table()["order"], "style"])
    changed("separator", "a separator without a pause", "separator", " and ")
    changed("words", "a subject that is a number", "kinds", "food", "words", [1])
    changed("pause", "a subject with a pause", "kinds", "food", "words", ["hot, dog"])
    changed("empty", "a subject without letters", "kinds", "food", "words", ["!"])
    changed("long", "a subject of 101 letters", "kinds", "food", "words", ["x" * 101])
    changed("line", "a line break in a word", *size, "words", {"big\nred": 1})
    changed("rank", "an unknown rank", "kinds", "food", "rank", "high")
    changed("coarse", "a general word without things", "kinds", "food", "rank", "coarse")
    changed("thing", "a thing that is no subject", "kinds", "animal", "properties", "thing", "words", {"unicorn": 1})
    changed("no_words", "a property without words", *size, "words", {})
    changed("digits", "a word of digits alone", *size, "words", {"large": 1, "2": 1})
    changed("zero", "no frequency above 0", *size, "words", {"small": 0})
    changed("negative", "a frequency below 0", *size, "words", {"small": -1})
    changed("text", "a frequency that is a text", *size, "words", {"small": "1"})
    changed("names", "names is a text", *size, "names", "big")
    changed(
        "requires_order", "a required word that is drawn too late", "kinds", "woman, ink", "requires", ["black hair"]
    )
    cyclic = table()
    cyclic["kinds"]["woman, ink"]["requires"], cyclic["kinds"]["woman, toon"]["requires"] = ["black hair"], ["bald"]
    return tables | {"cyclic": ("requires is cyclic", cyclic)}
