"""The output folder of an interpolation: it appears whole, under its name, or not at all."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from runtime.errors import OutputError
from runtime.files import whole_folder, write_json

REPORT, VIDEO, ANIMATION = "interpolation.json", "video.mp4", "animation"
_OURS = re.compile(r"frame-\d{4}\.png|video\.mp4|animation\.(webp|png)|interpolation\.json")


def frame_name(i: int) -> str:
    """frame-0000.png and so on."""
    return f"frame-{i:04d}.png"


def check_folder(out: str | Path, overwrite: bool) -> None:
    """OutputError unless a folder can be put at `out`: with `overwrite` also where one of ours is, and only that."""
    path, here = _real(out), _real(".")
    if path == here or path in here.parents:  # replacing it would leave programs in a folder that is gone
        raise OutputError(f"cannot write {out or '--out'}: it is the current folder; give the name of one in it")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no folder {path.parent}; make it or choose another --out")
    if not path.exists():
        return
    if not path.is_dir():
        raise OutputError(f"cannot write {out}: it is a file; choose another --out")
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise _cannot(out, error) from error
    others = [name for name in names if not _OURS.fullmatch(name)]
    if others and overwrite:
        raise OutputError(f"{out} holds {others[0]}, which no interpolation wrote: choose another --out")
    if names and not overwrite:
        raise OutputError(f"{out} is not empty ({names[0]}): choose another --out, or --overwrite")


def new_folder(out: str | Path, overwrite: bool) -> AbstractContextManager[Path]:
    """A folder to fill, which takes the place of `out` when the block ends well, and is removed when it does not."""
    return whole_folder(out, check=lambda: check_folder(out, overwrite))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """How the pictures were made, without anything that differs from run to run."""
    write_json(folder / REPORT, report)


def _real(out: str | Path) -> Path:
    return Path(os.path.realpath(out))


def _cannot(out: str | Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {out}: {error.strerror or error}; choose another --out")
