"""The bundle: one folder of ONNX models in diffusers' layout, and manifest.json with its facts and hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import BundleError
from runtime.files import write_whole
from runtime.manifest import MANIFEST, FileFacts, Manifest

__all__ = [
    "Bundle",
    "FileFacts",
    "Manifest",
    "describe_files",
    "open_bundle",
    "resolve_bundle",
    "write_manifest",
]

DEFAULT = "sticker-128"
SHIPPED = Path(__file__).parent / "bundles"
_REMEDY = "copy or install the bundle again"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    def model(self, component: str) -> Path:
        """Path of a component's model.onnx; BundleError when the manifest does not list it."""
        name = f"{component}/model.onnx"
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.manifest.name} has no {name}: it cannot do what was asked")
        return self.folder / name

    def verify(self) -> None:
        """Reads every file and compares sizes and hashes; BundleError names the first file that differs."""
        for name, facts in self.manifest.files.items():
            check_file(self.folder, name, facts)


def resolve_bundle(name_or_path: str | Path | None = None) -> Path:
    """The folder of a bundle: None is the default, a bare name a shipped one, anything else a path.

    Raises BundleError when there is no such folder.
    """
    name = str(DEFAULT if name_or_path is None else name_or_path)
    shipped = SHIPPED / name
    if PurePosixPath(name).name == name and name not in ("", ".", "..") and shipped.is_dir():
        return shipped
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise BundleError(f"{name} is a file; a bundle is a folder with a {MANIFEST}")
    shipped_names = ", ".join(sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))) or "none"
    raise BundleError(f"there is no bundle {name}: give a folder, or a shipped one ({shipped_names})")


def open_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Reads a folder's manifest and, unless told not to, verifies every file; BundleError if not."""
    folder = Path(path)
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"{folder} is no bundle: {MANIFEST} is missing"
        raise BundleError(f"{what}; give a folder that python -m export.onnx wrote") from error
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets in brackets without end
        raise BundleError(f"cannot read {folder / MANIFEST}: {error}") from error
    try:
        bundle = Bundle(folder, Manifest.from_dict(data))
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    if verify:
        bundle.verify()
    return bundle


def check_file(folder: Path, name: str, facts: FileFacts) -> None:
    """Compares one file with its facts; BundleError with the expected and the found hash."""
    path = folder / name
    expected = f"expected sha256 {facts.sha256} ({facts.bytes} bytes)"
    try:
        found = file_facts(path)
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing: {expected}, found no file; {_REMEDY}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}; {expected}") from error
    if found != facts:
        what = "truncated" if found.bytes < facts.bytes else "altered"
        seen = f"found {found.sha256} ({found.bytes} bytes)"
        raise BundleError(f"{path} is {what}: {expected}, {seen}; {_REMEDY}")


def file_facts(path: Path) -> FileFacts:
    """The sha256 and size of a file; OSError when it cannot be read."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileFacts(digest.hexdigest(), file.tell())


def describe_files(folder: str | Path) -> dict[str, dict[str, Any]]:
    """A manifest's `files`: path -> {"sha256", "bytes"} of every file but manifest.json and hidden ones."""
    root = Path(folder)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    seen = [name for name in names if name != MANIFEST and "/." not in f"/{name}"]
    return {name: asdict(file_facts(root / name)) for name in seen}


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes manifest.json whole; OutputError when it cannot be written."""
    text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_whole(Path(folder) / MANIFEST, text.encode("utf-8"))
