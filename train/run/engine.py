"""Where a run computes: one process or many, through Hugging Face accelerate (CPU, one GPU, DDP, FSDP)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from runtime.errors import UserError
from train.config import RunSettings
from train.diffusion import autocast, computes_in_bf16

FSDP_ASKED = "ACCELERATE_USE_FSDP"  # what `accelerate launch --use_fsdp` sets
Settings = TypeVar("Settings", bound=RunSettings)
SHARDED_BLOCKS = ("ResnetBlock2D", "Transformer2DModel")


def choose_device(name: str) -> str:
    """cpu or cuda. name: one of them, or auto: the GPU where there is one. Raises UserError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no CUDA GPU on this machine; use auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(name: str, device: str) -> str:
    """bf16 or fp32. name: one of them, or auto: bf16 where the device has instructions for it.

    device: cpu or cuda.
    """
    if name != "auto":
        return name
    return "bf16" if computes_in_bf16(device) else "fp32"


def settled(settings: Settings) -> Settings:
    """Settings whose precision is the one that this machine will compute in, as config.json records it."""
    return replace(settings, precision=choose_precision(settings.precision, choose_device(settings.device)))


class Engine:
    """One process's view of the run, whatever it trains: device, precision, processes, micro-batches.

    The same settings give the same updates for any number of processes and any micro-batch of which the discriminator
    sees a multiple of eight pictures.
    """

    def __init__(self, settings: RunSettings) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        # accelerate's sharding loads weights in one process only; teacher and autoencoder are whole in every process.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        # Buffers stay apart: a broadcast into them between two passes would break the second one's backward.
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        self.bf16 = choose_precision(settings.precision, choose_device(settings.device)) == "bf16"
        # A process may hold one run after another, of another precision or on another device.
        AcceleratorState._reset_state(reset_partial_state=not _in_a_group())
        self.accelerator = Accelerator(
            mixed_precision="bf16" if self.bf16 else "no",
            kwargs_handlers=[ddp],
            cpu=choose_device(settings.device) == "cpu",
        )
        self.sharded = self.accelerator.num_processes > 1 and os.environ.get(FSDP_ASKED, "false").lower() == "true"
        self.device: torch.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.micro_batch = self._micro_batch(settings)
        self.parts = settings.batch // (self.micro_batch * self.world)  # micro-batches accumulated to one update

    def _micro_batch(self, settings: RunSettings) -> int:
        size = settings.micro_batch or settings.batch // self.world
        if size == 0 or settings.batch % (size * self.world):
            raise UserError(
                f"batch={settings.batch} cannot be dealt to {self.world} processes in micro-batches of {size or 1}; "
                f"make it a multiple of {max(1, size) * self.world}"
            )
        return size

    def micro_rows(self) -> Iterator[slice]:
        """For each of this process's micro-batches, its rows of the whole batch."""
        for part in range(self.parts):
            start = (part * self.world + self.rank) * self.micro_batch
            yield slice(start, start + self.micro_batch)

    def prepare(
        self, network: nn.Module, make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ) -> tuple[nn.Module, Any]:
        """The network wrapped for this kind of run (its gradients are averaged over processes), and its optimizer.

        FSDP shards every residual and attention block and then the rest, by torch's own `fully_shard`, which works on
        the CPU as well, where accelerate's does not.
        """
        if self.sharded:
            for module in network.modules():
                if type(module).__name__ in SHARDED_BLOCKS:
                    fully_shard(module, reshard_after_forward=True)
            fully_shard(network, reshard_after_forward=True)
        optimizer = make_optimizer([p for p in network.parameters() if p.requires_grad])
        if self.sharded:
            return network, optimizer
        return self.accelerator.prepare(network, optimizer)

    def unwrap(self, network: nn.Module) -> Any:
        return self.accelerator.unwrap_model(network)

    def autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.bf16)

    def autocast_features(self) -> AbstractContextManager[None]:
        """For what the discriminator compares, real and fake alike.

        Single precision on the CPU: the backward pass of a depthwise convolution is slower in bf16 there.
        """
        return self.autocast() if self.device.type != "cpu" else nullcontext()

    def accumulating(self, network: Any, last: bool) -> AbstractContextManager[Any]:
        """Backward passes inside do not exchange gradients, except the last micro-batch's."""
        if self.sharded:
            network.set_requires_gradient_sync(last)
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(network)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip_gradients(self, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
        """Scale gradients, sharded ones too, so that their common norm is at most `limit`; the norm before, f32[]."""
        return whole(nn.utils.clip_grad_norm_(parameters, limit)).detach().float()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over processes of gradients that no wrapper takes care of: one message for all of them."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.world == 1 or not gradients:
            return
        flat = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over processes of each value; the processes hold the same keys."""
        if self.world == 1 or not values:
            return values
        tensor = torch.tensor(list(values.values()), device=self.device, dtype=torch.float64)
        return dict(zip(values, self.accelerator.reduce(tensor, reduction="mean").tolist(), strict=True))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main process's tensor, in every process."""
        if self.world == 1:
            return tensor
        shared: Tensor = broadcast(tensor.to(self.device).contiguous())
        return shared

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        if self.world == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), reduction="sum") > 0)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def gather(self, thing: Any) -> list[Any]:
        """Every process's object, in order of rank."""
        if self.world == 1:
            return [thing]
        from accelerate.utils import gather_object

        return list(gather_object([thing]))

    def close(self) -> None:
        self.accelerator.end_training()
        if _in_a_group():
            torch.distributed.destroy_process_group()


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one process would hold it; every process must ask for a sharded one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a target that may be sharded."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)


def seed_step(seed: int, step: int) -> None:
    """Make whatever draws from torch's own generator within a step, such as dropout, a function of (seed, step)."""
    torch.manual_seed((seed * 1_000_003 + step) % 2**63)
