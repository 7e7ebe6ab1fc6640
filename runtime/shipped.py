"""The bundles that come with the package: folders beside this file, or, out of a zip file, copies in the cache."""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from runtime.cache import working_folder
from runtime.errors import BundleError, OutputError
from runtime.files import kept_folder
from runtime.manifest import MANIFEST


def shipped_names() -> list[str]:
    """The names of the bundles that come with the package."""
    root = _root()
    return sorted(entry.name for entry in root.iterdir() if (entry / MANIFEST).is_file()) if root.is_dir() else []


def shipped_folder(name: str) -> Path:
    """The folder of one of `shipped_names`; BundleError when it has to be unpacked and there is no room."""
    entry = _root() / name
    return entry if isinstance(entry, Path) else _unpacked(name)


def _root() -> Traversable:
    return files("runtime") / "bundles"


@cache
def _unpacked(name: str) -> Path:
    """A copy of a bundle in a zip file, in the cache folder, or in a temporary one that the process removes."""
    entry = _root() / name
    version = hashlib.sha256((entry / MANIFEST).read_bytes()).hexdigest()[:16]
    target = working_folder() / "bundles" / f"{name}-{version}"
    try:
        if not target.is_dir():
            with kept_folder(target) as partial:
                _copy(entry, partial)
        return target
    except (OSError, OutputError) as error:
        why = f"bundle {name} cannot be unpacked: {error}; set ADDKIT_CACHE to a folder with room"
        raise BundleError(why) from error


def _copy(source: Traversable, target: Path) -> None:
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir()
            _copy(entry, target / entry.name)
        else:
            with entry.open("rb") as given, open(target / entry.name, "wb") as taken:
                shutil.copyfileobj(given, taken, 1 << 20)
