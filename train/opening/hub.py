"""Models in the hub's cache, by their id or by the cache's folder: nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from runtime.errors import UserError

ID = re.compile(r"[\w.-]+/[\w.-]+")
MOST_NAME = 100  # bytes of an export's name: with it the names of its files stay below 255


def hub_cache() -> Path:
    """The hub's cache folder: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def from_hub(name_or_path: str) -> Path | None:
    """The snapshot of a cached model that `name_or_path` names: an id "org/name", or its folder in the cache.

    None when it is neither. Raises UserError, with the command that fetches it, for an id that is not in the cache.
    """
    path = Path(name_or_path)
    if path.name.startswith("models--") and (path / "snapshots").is_dir():
        return snapshot(path)
    if path.exists() or not ID.fullmatch(name_or_path) or path.parent.exists():
        return None
    home = hub_cache() / f"models--{name_or_path.replace('/', '--')}"
    if found := snapshot(home) if home.is_dir() else None:
        return found
    raise UserError(
        f"there is no folder {path}, and the Hugging Face cache {hub_cache()} does not hold that model: "
        f"fetch it by hf download {path}"
    )


def snapshot(home: Path) -> Path | None:
    """The revision that refs/main names, else the only one there is."""
    main = home / "refs" / "main"
    if main.is_file() and (home / "snapshots" / main.read_text().strip()).is_dir():
        return home / "snapshots" / main.read_text().strip()
    revisions = sorted(path for path in (home / "snapshots").glob("*") if path.is_dir())
    return revisions[0] if len(revisions) == 1 else None


def name_of(folder: Path) -> str:
    """What an export of a checkpoint is called: its folder's name, of the hub's cache the model's, cut if too long."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        folder = Path(folder.parent.parent.name.rpartition("--")[2])
    printable = "".join(letter if letter.isprintable() else "_" for letter in folder.name)
    return printable.encode()[:MOST_NAME].decode(errors="ignore").strip() or "checkpoint"
