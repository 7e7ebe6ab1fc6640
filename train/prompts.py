"""Prompts of a model's own field: read from a file, sampled from captions, kept beside a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.errors import UserError
from runtime.reading import read_lines

PROMPTS = "prompts.txt"  # beside model_index.json: what a checkpoint is asked for, one prompt per line
KEPT = 36  # written there by the trainers; enough to compare exports and to calibrate them


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a UTF-8 text file, one per line; empty lines do not count. Raises UserError without any."""
    try:
        lines = read_lines(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a text file with one prompt on each line") from error
    except ValueError as error:
        raise UserError(f"{error}; give a text file with one prompt on each line") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise UserError(f"{path}: no prompts in it; write one on each line")
    return prompts


def sample_prompts(captions: Iterable[str], count: int = KEPT, seed: int = 0) -> list[str]:
    """`count` different captions (fewer where there are fewer), the same ones for the same seed."""
    found = sorted({" ".join(caption.split()) for caption in captions} - {""})
    return random.Random(seed).sample(found, min(count, len(found)))


def prompts_text(prompts: Sequence[str]) -> str:
    """What a prompts file holds."""
    return "".join(f"{' '.join(prompt.split())}\n" for prompt in prompts)


def repeated(prompts: Sequence[str], count: int) -> list[str]:
    """The first `count` prompts, repeated from the first where there are fewer."""
    return [prompts[index % len(prompts)] for index in range(count)]
