"""The bundle: one folder of ONNX models in diffusers' layout, and manifest.json with its facts and hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import BundleError
from runtime.files import write_json
from runtime.manifest import MANIFEST, FileFacts, Manifest
from runtime.onnx_guard.component import check_component
from runtime.shipped import shipped_folder, shipped_names
from runtime.untrusted import check_place, open_inside, read_inside, read_json, shown

__all__ = [
    "Bundle",
    "FileFacts",
    "Manifest",
    "describe_files",
    "open_bundle",
    "resolve_bundle",
    "write_manifest",
]

T = TypeVar("T")
DEFAULT = "sticker-128"
LARGE = 256_000_000  # bytes; a larger file is not read unless a model's graph is in order and needs it
MOST_MANIFEST = 4_000_000  # bytes; the shipped one has 8,056
_REMEDY = "copy or install the bundle again"


@dataclass(frozen=True, repr=False)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    folder: Path
    manifest: Manifest
    sha256: str = field(default="", compare=False)  # of the manifest.json that was read: it holds all files' hashes

    def __repr__(self) -> str:
        height, width = self.manifest.image_size
        return f"<Bundle {self.manifest.name}, {self.manifest.precision}, {width}x{height}, in {self.folder}>"

    def model(self, component: str) -> Path:
        """Path of a component's model.onnx, inspected, so that ONNX Runtime may read it.

        Raises BundleError when the manifest does not list it, or as `check_component` does.
        """
        name = f"{component}/model.onnx"
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.manifest.name} has no {name}: it cannot do what was asked")
        check_component(self.folder, component, self.manifest)
        return self.folder / name

    def fingerprint(self, component: str) -> str:
        """What identifies a component's files: their listed hashes, and when they were last changed."""
        names = sorted(name for name in self.manifest.files if name.startswith(f"{component}/"))
        changed = [(self.folder / name).stat().st_mtime_ns for name in names if (self.folder / name).is_file()]
        hashes = [self.manifest.files[name].sha256 for name in names]
        return " ".join([component, *hashes, *map(str, changed)])

    def _check_needed(self, name: str) -> None:
        component = name.partition("/")[0]
        if name not in check_component(self.folder, component, self.manifest):
            raise BundleError(f"{self.folder / name} is larger than {LARGE / 1e6:.0f} MB and not part of a model")

    def check_places(self) -> None:
        """Checks that the listed paths are files inside the folder; BundleError names the first that is not."""
        for name, facts in self.manifest.files.items():
            if os.path.lexists(self.folder / name):
                _told(self.folder, name, facts, check_place)

    def verify(self) -> None:
        """Reads every file and compares sizes and hashes; BundleError names the first file that differs.

        All sizes are compared before any file is read, so that a wrong size is found without hashing.
        """
        for name, facts in self.manifest.files.items():
            if _told(self.folder, name, facts, check_place).st_size != facts.bytes:
                check_file(self.folder, name, facts)
            if facts.bytes > LARGE:
                self._check_needed(name)
        for name, facts in self.manifest.files.items():
            check_file(self.folder, name, facts)


def resolve_bundle(name_or_path: str | Path | None = None) -> Path:
    """The folder of a bundle: None is the default, a bare name a shipped one, anything else a path.

    Raises BundleError when there is no such folder.
    """
    name = str(DEFAULT if name_or_path is None else name_or_path)
    if name in shipped_names():
        return shipped_folder(name)
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise BundleError(f"{name} is a file; a bundle is a folder with a {MANIFEST}")
    known = ", ".join(shipped_names()) or "none"
    raise BundleError(f"there is no bundle {name}: give a folder, or a shipped one ({known})")


def open_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Reads a folder's manifest and, unless `verify` is off, verifies every file; raises BundleError."""
    folder = Path(path)
    try:
        text = read_inside(folder, MANIFEST, MOST_MANIFEST)
        data = read_json(text)
    except FileNotFoundError as error:
        what = f"{folder} is not a bundle: {MANIFEST} is missing"
        raise BundleError(f"{what}; give a folder that python -m export.onnx wrote") from error
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets nested too deeply
        raise BundleError(f"cannot read {folder / MANIFEST}: {shown(error, 200)}") from error
    try:
        bundle = Bundle(folder, Manifest.from_dict(data), hashlib.sha256(text).hexdigest())
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    bundle.check_places()
    if verify:
        bundle.verify()
    return bundle


def check_file(folder: Path, name: str, facts: FileFacts) -> None:
    """Compares one file with its facts; BundleError with the expected and the found hash."""
    size = _told(folder, name, facts, check_place).st_size
    what = "truncated" if size < facts.bytes else "altered"
    if size > facts.bytes:  # not read: it may have any size
        raise BundleError(f"{folder / name} is {what}: {_listed(facts)}, found {size} bytes; {_REMEDY}")
    found = _told(folder, name, facts, _hashed)
    if found != facts:
        seen = f"found {found.sha256} ({found.bytes} bytes)"
        raise BundleError(f"{folder / name} is {what}: {_listed(facts)}, {seen}; {_REMEDY}")


def _told(folder: Path, name: str, facts: FileFacts, call: Callable[[Path, str], T]) -> T:
    """Returns what the call returns; raises BundleError instead of its OSError."""
    try:
        return call(folder, name)
    except FileNotFoundError as error:
        raise BundleError(f"{folder / name} is missing: {_listed(facts)}, found no file; {_REMEDY}") from error
    except OSError as error:
        raise BundleError(f"cannot read {folder / name}: {error.strerror}; {_listed(facts)}") from error


def _listed(facts: FileFacts) -> str:
    return f"expected sha256 {facts.sha256} ({facts.bytes} bytes)"


def _hashed(folder: Path, name: str) -> FileFacts:
    """The sha256 and size of a file; raises as `open_inside`."""
    with open_inside(folder, name) as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileFacts(digest.hexdigest(), file.tell())


def describe_files(folder: str | Path) -> dict[str, dict[str, Any]]:
    """A manifest's `files`: path -> {"sha256", "bytes"} of every file but manifest.json and hidden ones."""
    root = Path(folder)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    seen = [name for name in names if name != MANIFEST and "/." not in f"/{name}"]
    return {name: asdict(_hashed(root, name)) for name in seen}


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes manifest.json whole; OutputError when it cannot be written."""
    write_json(Path(folder) / MANIFEST, manifest.to_dict())
