"""Checks before an export starts: damaged weights, a model that needs many steps, fp16 overflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from export.source import Source
from runtime.command import tell
from runtime.errors import UserError

LARGEST_HALF = 65504.0  # the largest number of fp16
REMEDY = "export it to ONNX or OpenVINO in fp32 or int8"
# Schedulers of models that are distilled to one or a few steps, whatever their timestep spacing.
FEW_STEPS = ("LCMScheduler", "TCDScheduler")
# Solvers of higher order, which gain nothing in one step. SDXS ships with DEIS, which is therefore not one of them.
MANY_STEPS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def preflight(source: Source, precision: str) -> None:
    """Refuse a checkpoint with damaged weights, and warn on stderr about one that needs many steps.

    precision: the export's; where it includes fp16, weights must fit into it. Raises UserError that names the tensor.
    """
    refuse_weights(source, LARGEST_HALF if in_half(precision) else float("inf"))
    why = many_steps(source)
    if why:
        looks = f"{source.name} looks like a multi-step model ({why})"
        tell(f"warning: one step will look wrong: {looks}; distil it first: python -m train")


def in_half(precision: str) -> bool:
    """Whether an export in that precision computes in fp16, or may do so on some device."""
    return precision in ("fp16", "w8a8") or precision.startswith("palettized")


def refuse_weights(source: Source, most: float) -> None:
    """Raise UserError for weights that are NaN, infinite, or beyond `most` in magnitude."""
    broken: list[str] = []
    large: list[tuple[str, float]] = []
    for name, weight in weights(source):
        low, high = (float(limit) for limit in torch.aminmax(weight))
        if not abs(low) + abs(high) < float("inf"):
            broken.append(f"{name} holds {int((~torch.isfinite(weight)).sum())} NaN or infinite values")
        elif max(-low, high) > most:
            large.append((name, max(-low, high)))
    if broken:
        raise UserError(f"{source.name} is damaged: {broken[0]}{others(broken, 'tensor')}; train or copy it again")
    if large:
        raise UserError(f"{beyond(*large[0])}{others(large, 'tensor')}; {REMEDY}")


def weights(source: Source) -> Iterator[tuple[str, Tensor]]:
    """Each floating-point tensor that an export stores, by "component.path.of.tensor"."""
    for component in source.kind.networks:
        for name, tensor in getattr(source.pipe, component).state_dict().items():
            if tensor.is_floating_point() and tensor.numel():
                yield f"{component}.{name}", tensor


def many_steps(source: Source) -> str:
    """Why a checkpoint seems to need many steps and guidance; "" where it does not."""
    name = type(source.pipe.scheduler).__name__
    (step,) = source.steps(1)
    said = source.facts()["training"]
    if said.get("role") == "teacher":
        return "its training.json says that it is a teacher"
    if said.get("method") or name in FEW_STEPS:
        return ""
    if name in MANY_STEPS:
        return f"its {name} is a solver for many steps"
    if step.sigma < step.alpha:
        return (
            f"the one step of its {name} starts at timestep {step.timestep:g}, where hardly any noise is left to remove"
        )
    return "by its name it is a teacher" if "teacher" in source.name.lower() else ""


def beyond(name: str, reached: float) -> str:
    """What to say about a tensor that fp16 cannot hold."""
    return f"{name} reaches {reached:.3g}, beyond fp16's {LARGEST_HALF:.0f}"


def others(found: list[Any], what: str) -> str:
    """How many more there are than the first."""
    count = len(found) - 1
    return f", and {count} more {what}{'s' if count > 1 else ''}" if count else ""


@dataclass
class Watch:
    """The layers whose inputs or outputs exceeded fp16's range, with the largest magnitude, in order of execution."""

    reached: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, values: Any) -> None:
        """Check one tensor, or each one of a tuple."""
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                low, high = torch.aminmax(value.detach())
                magnitude = max(-float(low), float(high))
                if magnitude > LARGEST_HALF:
                    self.reached[name] = max(magnitude, self.reached.get(name, 0.0))

    def refuse(self) -> None:
        """Raise UserError that names the first layer, unless there is none."""
        if self.reached:
            first = beyond(*next(iter(self.reached.items())))
            raise UserError(f"{first}{others([*self.reached], 'layer')}; {REMEDY}")


def in_half_parts(source: Source) -> list[str]:
    """The networks that an export in half precision computes in it: not an autoencoder that asks for more."""
    return [part for part in source.kind.networks if part != "vae" or not source.upcast]


@contextmanager
def watching(source: Source, precision: str) -> Iterator[Watch]:
    """Watch what the checkpoint's layers compute within the block, where the export's precision includes fp16.

    Checks each layer's input and output once. Inputs reveal sums and products that no layer computes. Raises
    UserError at the end of the block when a layer left fp16's range.
    """
    watch = Watch()
    handles = []
    for component in in_half_parts(source) if in_half(precision) else ():
        for path, module in getattr(source.pipe, component).named_modules():
            if next(module.parameters(recurse=False), None) is not None:  # activations never enlarge a value
                handles.append(module.register_forward_hook(watcher(watch, f"{component}.{path}")))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
    watch.refuse()


def watcher(watch: Watch, name: str) -> Any:
    """A forward hook that notes a module's inputs and output under its name."""

    def look(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        watch.note(f"the input of {name}", given)
        watch.note(name, made)

    return look
