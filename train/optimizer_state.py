"""An optimizer's state as named tensors, whole even where the weights are sharded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.engine import fill, whole


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """"INDEX.NAME" -> tensor on the CPU, for every entry of every parameter's state. All processes must call it."""
    tensors = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{index}.{name}"] = whole(torch.as_tensor(value)).detach().cpu().clone()
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
