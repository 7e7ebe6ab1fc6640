"""What a run's checkpoint holds (weights, optimizer moments, position), and which checkpoints are kept."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.errors import OutputError, UserError
from runtime.files import is_partial, remove_partial, whole_folder, write_text
from train.run.engine import fill, whole

log = logging.getLogger(__name__)
Tensors = dict[str, Tensor]


@dataclass
class State:
    """What a checkpoint holds: tensors by file and name, and JSON-ready facts."""

    step: int
    tensors: dict[str, Tensors]
    facts: dict[str, Any]


class Checkpoints:
    """RUN/checkpoints/step-N: safetensors and JSON; the last `keep` and the best one stay."""

    def __init__(self, run_dir: Path, keep: int, go_on: str = "start the run again") -> None:
        """go_on: what to do after a save that failed."""
        self.folder = run_dir / "checkpoints"
        self.keep, self.go_on = keep, go_on

    def save(self, state: State, score: float | None = None) -> None:
        """Write a checkpoint, then remove those that need not be kept. score: lower is better; None: no opinion.

        Raises UserError when the disk is full: nothing half-written is left, and earlier checkpoints are untouched.
        """
        target = self.folder / f"step-{state.step}"
        try:
            with whole_folder(target) as folder:
                hashes = {}
                for name, tensors in state.tensors.items():
                    path = folder / f"{name}.safetensors"
                    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
                    hashes[path.name] = file_hash(path)
                facts = {"step": state.step, "score": score, "sha256": hashes, **state.facts}
                (folder / "state.json").write_text(json.dumps(facts, indent=1) + "\n")
        except (OutputError, OSError, SafetensorError) as error:
            raise UserError(self._why_not_saved(state.step, error.__cause__ or error)) from error
        self._remove_old(state.step)

    def _why_not_saved(self, step: int, error: BaseException) -> str:
        kept = self.steps()
        last = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no earlier checkpoint"
        return f"step {step} could not be saved in {self.folder}: {error}; {last}: free some space, then {self.go_on}"

    def newest(self) -> State | None:
        """The newest checkpoint whose files are all there and match their recorded hashes."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("%s is damaged (%s); going back to the one before", self.folder / f"step-{step}", error)
        return None

    def load(self, step: int) -> State:
        """One checkpoint. Raises ValueError, OSError or SafetensorError when it is damaged."""
        folder = self.folder / f"step-{step}"
        facts = json.loads((folder / "state.json").read_text())
        tensors = {}
        for name, digest in facts["sha256"].items():
            if file_hash(folder / name) != digest:
                raise ValueError(f"{name} is not the file that was written")
            tensors[name.removesuffix(".safetensors")] = load_file(folder / name)
        return State(int(facts["step"]), tensors, facts)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, in order."""
        found = [path.parent.name.removeprefix("step-") for path in self.folder.glob("step-*/state.json")]
        return sorted(int(name) for name in found if name.isdigit())

    def best(self) -> int | None:
        """The step with the lowest score; the newest one where none has a score."""
        scores = {step: score for step in self.steps() if (score := self._score(step)) is not None}
        return min(scores, key=lambda step: (scores[step], -step)) if scores else max(self.steps(), default=None)

    def _score(self, step: int) -> float | None:
        """A checkpoint's score; None when it has none, or one that cannot be read or compared."""
        try:
            score = json.loads((self.folder / f"step-{step}" / "state.json").read_text())["score"]
            return float(score) if math.isfinite(score) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove_remains(self) -> None:
        """Delete what a killed process left half-written. Only for the one process that owns the run."""
        for path in self.folder.glob(".*"):
            if is_partial(path.name):
                remove_partial(path)

    def _remove_old(self, saved: int) -> None:
        """Checkpoints later than the one just saved are damaged or abandoned: they do not count and are removed."""
        for step in self.steps():
            if step > saved:
                shutil.rmtree(self.folder / f"step-{step}")
        best, steps = self.best(), self.steps()
        for step in steps[: -self.keep]:
            if step != best:
                shutil.rmtree(self.folder / f"step-{step}")
        if best is not None:
            write_text(self.folder / "best.json", json.dumps({"step": best}) + "\n")


def file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; every process must ask for a sharded one."""
    return whole(tensor).detach().cpu().clone()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """ "INDEX.NAME" -> tensor on the CPU, for every entry of every parameter's state. All processes must call it."""
    tensors = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{index}.{name}"] = on_cpu(torch.as_tensor(value))
    return tensors


@torch.no_grad()
def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`. Raises KeyError when an index is beyond the optimizer's parameters."""
    parameters = _parameters(optimizer)
    fused = bool(optimizer.param_groups[0].get("fused"))
    optimizer.state.clear()
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        if int(index) >= len(parameters):
            raise KeyError(f"the state of parameter {index}, of which the optimizer has none")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape and value.ndim:
            entry: Any = torch.empty_like(parameter, dtype=value.dtype)
            fill(entry, value)
        else:
            # A fused optimizer counts its steps on the weights' device, the others on the CPU.
            entry = value.to(parameter.device if fused else "cpu", copy=True)
        optimizer.state[parameter][name] = entry


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
