"""What the golden file of variation holds: tables, prompts and seeds."""

from __future__ import annotations

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
                "words": ["fox", "hot dog seller", "dog"],
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
