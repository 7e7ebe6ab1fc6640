"""The bundles that come with the package: folders beside this file, or, out of a zip file, copies in the cache."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from runtime.cache import cache_folder
from runtime.errors import BundleError
from runtime.manifest import MANIFEST
from runtime.ort.graph_cache import folder_beside, settle


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
    """A copy of a bundle in a zip file, in the cache folder, or in a temporary one that goes with the process."""
    entry = _root() / name
    version = hashlib.sha256((entry / MANIFEST).read_bytes()).hexdigest()[:16]
    keep = cache_folder()
    target = None if keep is None else keep / "bundles" / f"{name}-{version}"
    if target is not None and target.is_dir():
        return target
    try:
        partial = _room(target)
        _copy(entry, partial)
        if target is None:
            return partial
        settle(partial, target)
        return target
    except OSError as error:
        why = f"bundle {name} cannot be unpacked: {error}; set ADDKIT_CACHE to a folder with room"
        raise BundleError(why) from error


def _room(target: Path | None) -> Path:
    """A new folder, beside the target where there is one."""
    if target is not None:
        return folder_beside(target)
    folder = Path(tempfile.mkdtemp(prefix="addkit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _copy(source: Traversable, target: Path) -> None:
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir()
            _copy(entry, target / entry.name)
        else:
            with entry.open("rb") as given, open(target / entry.name, "wb") as taken:
                shutil.copyfileobj(given, taken, 1 << 20)
                taken.flush()
                os.fsync(taken.fileno())
