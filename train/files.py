"""Folders and training states that are written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.errors import UserError


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        sync_tree(partial)
        retired = target.with_name(f".{target.name}.old-{os.getpid()}")
        if target.exists():
            target.rename(retired)
        partial.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """fsync every file of a folder, so that the rename that follows never shows half of it.

    Files get the permissions that the folder's own maker would give them: safetensors writes some for the owner alone.
    """
    readable = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(readable)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


@contextmanager
def only_process(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Hold the folder for the block. Raises UserError when another process holds it; does nothing unless wanted."""
    if not wanted:
        yield
        return
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another process is training in {folder}; wait for it, or choose another run_dir"
            raise UserError(message) from error
        yield


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that takes its place when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


class Stateful(Protocol):
    """A module, or whatever else hands out its tensors and takes them back."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> Any: ...


class TrainingState:
    """Modules and optimizers in one folder: safetensors and JSON, no pickle, replaced atomically."""

    def __init__(
        self, folder: Path, modules: Mapping[str, Stateful], optimizers: dict[str, torch.optim.Optimizer]
    ) -> None:
        self.folder = folder
        self.modules = modules
        self.optimizers = optimizers

    def load(self) -> tuple[int, list[dict[str, Any]]]:
        """(step, rows) of the saved state, loaded into the modules and optimizers; (0, []) when there is none."""
        if not (self.folder / "state.json").is_file():
            return 0, []
        facts = json.loads((self.folder / "state.json").read_text())
        for name, module in self.modules.items():
            module.load_state_dict(load_file(self.folder / f"{name}.safetensors"))
        for name, optimizer in self.optimizers.items():
            moments = load_file(self.folder / f"{name}.safetensors")
            optimizer.load_state_dict(unflatten_optimizer(moments, facts[name]))
        return int(facts["step"]), list(facts["rows"])

    def save(self, step: int, rows: list[dict[str, Any]]) -> None:
        facts: dict[str, Any] = {"step": step, "rows": rows}
        with replace_folder(self.folder) as folder:
            for name, module in self.modules.items():
                tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
                save_file(tensors, folder / f"{name}.safetensors")
            for name, optimizer in self.optimizers.items():
                moments, facts[name] = flatten_optimizer(optimizer)
                save_file(moments, folder / f"{name}.safetensors")
            (folder / "state.json").write_text(json.dumps(facts))


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as (tensors by "index.name", JSON-ready parameter groups)."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, entry in state["state"].items()
        for name, value in entry.items()
    }
    return tensors, state["param_groups"]


def unflatten_optimizer(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}
