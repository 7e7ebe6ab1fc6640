"""Compact students by block removal: a smaller U-Net that keeps the teacher's own weights (BK-SDM, 2305.15798)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import UNet2DConditionModel
from torch import nn


def kept_positions(teacher_count: int, student_count: int) -> list[int]:
    """Which of a stage's blocks stay: the first ones and the last one.

    The last block of an up stage reads the skip connection of the stage above, so it can never go; the same rule
    serves the down stages, where the first block is the one that changes the width.
    """
    if student_count >= teacher_count:
        return list(range(teacher_count))
    return [*range(student_count - 1), teacher_count - 1] if student_count > 1 else [0]


def student_config(
    teacher: UNet2DConditionModel, layers: tuple[int, ...], mid_block: bool, attention: tuple[bool, ...]
) -> dict[str, object]:
    """The teacher's configuration with `layers[i]` blocks in stage i, attention only where `attention[i]`."""
    config = dict(teacher.config)
    if attention:
        stages = zip(config["down_block_types"], attention, strict=True)
        kept = [name if attends else "DownBlock2D" for name, attends in stages]
        config["down_block_types"] = kept
        config["up_block_types"] = [name.replace("Down", "Up") for name in reversed(kept)]
    config["layers_per_block"] = list(layers)
    if not mid_block:
        config["mid_block_type"] = None
    return {key: value for key, value in config.items() if not key.startswith("_")}


def prune(
    teacher: UNet2DConditionModel, layers: tuple[int, ...], mid_block: bool = True, share: bool = False,
    attention: tuple[bool, ...] = (),
) -> UNet2DConditionModel:
    """A student U-Net of fewer blocks whose every weight is the teacher's.

    attention: one entry a stage, False takes its attention blocks out; empty keeps them all.
    With `share` the student's modules are the teacher's own objects, so that training one trains the other;
    without, they are copies. Raises ValueError when a stage would have more blocks than the teacher's.
    """
    blocks = [len(stage.resnets) for stage in teacher.down_blocks]
    if len(layers) != len(blocks) or any(not 1 <= ours <= theirs for ours, theirs in zip(layers, blocks, strict=True)):
        raise ValueError(f"layers must have {len(blocks)} entries, each from 1 to the teacher's {tuple(blocks)}")
    if attention and len(attention) != len(blocks):
        raise ValueError(f"attention must have {len(blocks)} entries")
    student = UNet2DConditionModel.from_config(student_config(teacher, layers, mid_block, attention))
    pairs = list(matching_modules(student, teacher))
    for owner, name, source in pairs:
        if share:
            owner._modules[name] = source
        else:
            target = owner._modules[name]
            assert target is not None
            target.load_state_dict(source.state_dict())
    return student


def matching_modules(
    student: UNet2DConditionModel, teacher: UNet2DConditionModel
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield (student's owner module, child name, teacher's module) for every weight-carrying module."""
    for name in ("conv_in", "time_embedding", "add_embedding", "conv_norm_out", "conv_out", "mid_block"):
        if getattr(student, name, None) is not None:
            yield student, name, getattr(teacher, name)
    stages = [*zip(student.down_blocks, teacher.down_blocks, strict=True)]
    stages += [*zip(student.up_blocks, teacher.up_blocks, strict=True)]
    for ours, theirs in stages:
        for kind in ("resnets", "attentions"):
            own = getattr(ours, kind, None)
            if own is None:
                continue
            other = getattr(theirs, kind)
            for index, position in enumerate(kept_positions(len(other), len(own))):
                yield own, str(index), other[position]
        for kind in ("downsamplers", "upsamplers"):
            if getattr(ours, kind, None) is not None:
                yield ours, kind, getattr(theirs, kind)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def multiply_adds(unet: UNet2DConditionModel, tokens: int = 77) -> int:
    """Multiply-adds of one evaluation for one picture, counted by torch's own operator counter."""
    from torch.utils.flop_counter import FlopCounterMode

    side = unet.config.sample_size
    x = torch.zeros(1, unet.config.in_channels, side, side)
    with FlopCounterMode(display=False) as counter:
        unet(x, torch.tensor([999]), torch.zeros(1, tokens, unet.config.cross_attention_dim))
    return int(counter.get_total_flops() // 2)
