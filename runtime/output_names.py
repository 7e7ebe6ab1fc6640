"""The file names of a run's pictures: `-o` with its {prompt}, {seed} and {i}."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from runtime.generation import Job

DEFAULT = "{prompt}-{seed}.png"
_FIELD = re.compile(r"\{(prompt|seed|i)\}")


def output_paths(output: str | None, jobs: Sequence[Job]) -> list[Path]:
    """One PNG path per job. A folder gets the default names; several pictures for one plain name are numbered.

    Raises ValueError on another kind of file, or when two pictures would get one name.
    """
    pattern = DEFAULT if output is None else output
    if pattern.endswith("/") or os.path.isdir(pattern):
        pattern = str(Path(pattern) / DEFAULT)
    if Path(pattern).suffix.lower() != ".png":
        raise ValueError(f"pictures are PNG files: give -o a name such as fox.png, not {pattern!r}")
    if len(jobs) > 1 and not _FIELD.search(pattern):
        pattern = pattern[:-4] + "-{i}" + pattern[-4:]
    paths = [Path(_filled(pattern, i, job)) for i, job in enumerate(jobs, start=1)]
    for path, count in Counter(paths).items():
        if count > 1:
            raise ValueError(f"several pictures would be written to {path}: put {{i}} or {{seed}} into -o")
    return paths


def _filled(pattern: str, i: int, job: Job) -> str:
    """The pattern with its fields filled in; a part that Windows keeps for a device (con, nul) gets a longer name."""
    values = {"prompt": slug(job.prompt), "seed": str(job.seed), "i": str(i)}
    filled = _FIELD.sub(lambda match: values[match[1]], pattern)
    if "{prompt}" in pattern and PureWindowsPath(Path(filled).name).is_reserved():
        values["prompt"] += "-picture"
    return _FIELD.sub(lambda match: values[match[1]], pattern)


def slug(prompt: str, most: int = 40) -> str:
    """A prompt as a short file name: letters and digits, joined by hyphens."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    return "-".join(words)[:most].strip("-") or "picture"
