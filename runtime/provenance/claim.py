"""What a C2PA manifest of ours says of a picture, as the library takes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from runtime.image_files import SOURCE_TYPE

LABEL = "org.addkit.generation"
START = "start"  # the picture that a generation began with, among the ingredients


@dataclass(frozen=True)
class Facts:
    """How a picture was made."""

    model: str  # the bundle's name
    bundle_sha256: str  # of its manifest.json, which holds the hash of every other file
    prompt: str  # as it was drawn: completed
    tells_prompt: bool = False  # the manifest holds the prompt itself, not only its sha256


def definition(facts: Facts, format: str, start: bool) -> dict[str, Any]:
    """The manifest's definition. format: a key of `runtime.image_files.SUFFIXES`; start: whether one is an ingredient.

    There is no title: a file's name often is its prompt.
    """
    from runtime import __version__

    created: dict[str, Any] = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": {"name": "ADDKit", "version": __version__},
    }
    if start:
        created["parameters"] = {"ingredientIds": [START]}
    made = {"model": facts.model, "bundle_sha256": facts.bundle_sha256, "prompt_sha256": hashed(facts.prompt)}
    made |= {"prompt": facts.prompt} if facts.tells_prompt else {}
    return {
        "claim_generator_info": [{"name": "ADDKit", "version": __version__}],
        "format": mime(format),
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": LABEL, "data": made},
        ],
    }


def hashed(prompt: str) -> str:
    """The sha256 of a prompt in UTF-8, in hexadecimal."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def mime(format: str) -> str:
    """The media type of a key of `runtime.image_files.SUFFIXES`."""
    return f"image/{format}"
