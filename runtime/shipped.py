"""The bundles that come with the package: folders beside this file, or, out of a zip file, copies in the cache."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from runtime.cache import cache_folder
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
    """A copy of a bundle in a zip file, in the cache folder, or in a temporary one that goes with the process."""
    entry = _root() / name
    version = hashlib.sha256((entry / MANIFEST).read_bytes()).hexdigest()[:16]
    keep = cache_folder()
    try:
        if keep is None:
            return _copied(entry, _passing_folder())
        target = keep / "bundles" / f"{name}-{version}"
        if not target.is_dir():
            with kept_folder(target) as partial:
                _copied(entry, partial)
        return target
    except (OSError, OutputError) as error:
        why = f"bundle {name} cannot be unpacked: {error}; set ADDKIT_CACHE to a folder with room"
        raise BundleError(why) from error


def _passing_folder() -> Path:
    """A new folder that goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="addkit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _copied(source: Traversable, target: Path) -> Path:
    """`target`, filled with a copy of `source`."""
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir()
            _copied(entry, target / entry.name)
        else:
            with entry.open("rb") as given, open(target / entry.name, "wb") as taken:
                shutil.copyfileobj(given, taken, 1 << 20)
    return target
