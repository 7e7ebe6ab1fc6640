"""What every exported file says about itself: the model, the program that wrote it, the checkpoint, recipe, parity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.checks.gates import MOST_STEPS
from export.source import Source
from export.tokens import tokens_of
from runtime.manifest import step_entry
from runtime.tokenizer.conditioning import SD
from runtime.tokenizer.vocabulary import MAX_TOKENS
from train.opening.call import CALL
from train.opening.loras import LORAS

PREFIX = "addkit."  # prefix of each key in a file's metadata
WEIGHTS = ("*.safetensors", "*.bin", "config.json", "scheduler_config.json")


def model_facts(
    source: Source, precision: str, recipe: Mapping[str, Any] | None = None, steps: int = MOST_STEPS
) -> dict[str, Any]:
    """What a client must know to run the files, and where the files come from.

    recipe: how the weights were compressed, in the exporter's own words; empty when they were not. steps: the most
    that the model can be asked for.
    """
    return model_manifest(source, precision, steps) | {
        "producer": producer(),
        "checkpoint_sha256": checkpoint_sha256(source.folder),
        "recipe": dict(recipe or {}),
    }


def model_manifest(source: Source, precision: str, steps: int = MOST_STEPS) -> dict[str, Any]:
    """The part of `model_facts` that a bundle's manifest has as separate fields."""
    conditioning = {} if source.conditioning == SD else {"conditioning": source.conditioning.to_dict()}
    return {
        "format_version": 1,
        **{name: tokens_of(getattr(source.pipe, name)).to_dict() for name in source.kind.encoders.values()},
        **conditioning,
        "name": source.name,
        "precision": precision,
        "image_size": list(source.image_size),
        "latent_shape": list(source.latent_shape),
        **({"sizes": [list(size) for size in source.sizes]} if source.sizes else {}),
        "prediction_type": source.prediction_type,
        "scaling_factor": source.scaling_factor,
        "max_tokens": MAX_TOKENS,
        "steps": {str(n): [step_entry(s) for s in table] for n, table in source.tables.items() if n <= steps},
    }


def as_metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts as metadata entries: texts as they are, anything else as JSON."""
    return {
        PREFIX + key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
    }


def producer() -> str:
    """The program that writes the files, with its version."""
    return f"addkit {version('addkit')}"


@cache
def checkpoint_sha256(folder: Path) -> str:
    """A single hash over the names and contents of a checkpoint's weights and configurations."""
    total = hashlib.sha256()
    patterns = [*(f"*/{pattern}" for pattern in WEIGHTS), "*.safetensors", LORAS, CALL]
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def size_mb(folder: Path) -> float:
    """Megabytes (10^6 bytes) of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
