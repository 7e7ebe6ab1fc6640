"""Draws portraits as SVG: DiceBear's generator in Node, from pinned packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from train.registry import fetch
from train.sticker.packages import PACKAGES
from train.world.portraits import PORTRAIT_STYLES

SCRIPT = Path(__file__).with_name("avatars.mjs")


def draw_avatars(jobs: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """The SVG texts of (DiceBear style, options). Raises UserError where Node is missing or fails."""
    if not jobs:
        return []
    lines = "".join(json.dumps({"style": style, "options": options}) + "\n" for style, options in jobs)
    with _modules() as folder:
        command = ["node", str(folder / SCRIPT.name)]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    drawn = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(drawn) != len(jobs):
        reason = next((line for line in done.stderr.splitlines() if "Error" in line), f"exit code {done.returncode}")
        raise UserError(f"the avatars could not be drawn: node says {reason.strip()[:200]!r}; Node.js 18 or later?")
    return drawn


@contextmanager
def _modules() -> Iterator[Path]:
    """A folder in which Node finds the script and its packages."""
    if shutil.which("node") is None:
        raise UserError("node is not on the PATH: install Node.js 18 or later and run this again")
    with tempfile.TemporaryDirectory(prefix="addkit-") as scratch:
        folder = Path(scratch)
        modules = folder / "node_modules" / "@dicebear"
        modules.mkdir(parents=True)
        for name in ("core", *(style.package for style in PORTRAIT_STYLES.values())):
            shutil.copytree(fetch(PACKAGES[f"@dicebear/{name}"]) / "package", modules / name)
        shutil.copy(SCRIPT, folder)
        yield folder
