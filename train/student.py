"""Compact students by block removal: a smaller U-Net that keeps the teacher's own weights (BK-SDM, 2305.15798)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from runtime.errors import UserError
from train.sizes import count_parameters, multiply_adds

__all__ = ["INITS", "STUDENTS", "build_student", "count_parameters", "multiply_adds", "prune"]

STUDENTS = ("full", "base", "small", "tiny", "no_hires_attention", "custom")
INITS = ("pruned", "pretrained", "random")  # the first two mean the same: kept weights
# Entries of a U-Net's configuration that may be lists with one element per stage, outermost stage first or last.
OUTERMOST_FIRST = (
    "down_block_types",
    "block_out_channels",
    "layers_per_block",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "only_cross_attention",
)
OUTERMOST_LAST = ("up_block_types", "reverse_transformer_layers_per_block")
# A residual block's weights that read its input, and the axis of its channels.
INPUT_AXES = {"norm1.weight": 0, "norm1.bias": 0, "conv1.weight": 1, "conv_shortcut.weight": 1}


def build_student(
    teacher: UNet2DConditionModel,
    name: str,
    init: str = "pruned",
    layers: Sequence[int] = (),
    mid_block: bool = True,
    attention: Sequence[bool] = (),
) -> UNet2DConditionModel:
    """A student of any diffusers U-Net, in float32 on the teacher's device, its weights copies of the teacher's.

    name: "full" keeps all; "base" one block per down stage and the first and last of an up stage; "small" is base
    without the middle block; "tiny" is small without the innermost stage (BK-SDM, section 3.1);
    "no_hires_attention" is full without attention at the highest resolution; "custom" takes `layers` (blocks per
    stage; empty keeps all), `mid_block` and `attention` as `prune` does, which the other names ignore.
    init: "pruned" or "pretrained" keeps weights, "random" draws fresh ones for the same architecture.
    Raises UserError for an unknown name or init, and for a student that this teacher cannot have.
    """
    if name not in STUDENTS:
        raise UserError(f"student={name}: unknown; choose one of {', '.join(STUDENTS)}")
    if init not in INITS:
        raise UserError(f"init={init}: unknown; choose one of {', '.join(INITS)}")
    all_blocks = blocks_of(teacher)
    one_each = (1,) * len(all_blocks)
    if name == "custom":
        student = prune(teacher, layers or all_blocks, mid_block, attention=attention)
    elif name == "no_hires_attention":
        student = prune(teacher, all_blocks, attention=without_first_attention(teacher))
    elif name == "tiny":
        if len(one_each) == 1:
            raise UserError("student=tiny: the teacher has a single stage, nothing would be left; use student=small")
        student = prune(teacher, one_each[:-1], mid_block=False, removed_stages=1)
    else:
        student = prune(teacher, all_blocks if name == "full" else one_each, mid_block=name != "small")
    return UNet2DConditionModel.from_config(student.config).to(student.device) if init == "random" else student


def blocks_of(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Residual blocks of each down stage, outermost first."""
    return tuple(len(stage.resnets) for stage in unet.down_blocks)


def without_first_attention(teacher: UNet2DConditionModel) -> tuple[bool, ...]:
    """`attention` of a student whose first stage has none. Raises UserError when the teacher's has none already."""
    if getattr(teacher.down_blocks[0], "attentions", None) is None:
        raise UserError(
            "student=no_hires_attention: the teacher has no attention at its highest resolution, nothing to remove; "
            "use student=full, or student=custom with attention= for another stage"
        )
    return (False, *(True,) * (len(teacher.down_blocks) - 1))


def kept_positions(teacher_count: int, student_count: int) -> list[int]:
    """Which of a stage's blocks stay: the first ones and the last one.

    The last block of an up stage reads the skip connection of the stage above, so it can never go; the same rule
    serves the down stages, where the first block is the one that changes the width.
    """
    if student_count >= teacher_count:
        return list(range(teacher_count))
    return [*range(student_count - 1), teacher_count - 1] if student_count > 1 else [0]


def student_config(
    teacher: UNet2DConditionModel, layers: Sequence[int], mid_block: bool, attention: Sequence[bool]
) -> dict[str, object]:
    """The teacher's configuration with `layers[i]` blocks in stage i, attention only where `attention[i]`.

    Every entry with one element per stage loses those of the innermost stages for which `layers` has none.
    """
    config = {key: value for key, value in teacher.config.items() if not key.startswith("_")}
    removed = len(teacher.down_blocks) - len(layers)
    for keys, part in ((OUTERMOST_FIRST, slice(len(layers))), (OUTERMOST_LAST, slice(removed, None))):
        for key in keys:
            if isinstance(config.get(key), (list, tuple)):
                config[key] = list(config[key])[part]
    if attention:
        config["down_block_types"] = plain_where_not(attention, config["down_block_types"], "DownBlock2D")
        config["up_block_types"] = plain_where_not([*reversed(attention)], config["up_block_types"], "UpBlock2D")
    config["layers_per_block"] = list(layers)
    if not mid_block:
        config["mid_block_type"] = None
    return config


def plain_where_not(attention: Sequence[bool], names: Sequence[str], plain: str) -> list[str]:
    return [name if attends else plain for name, attends in zip(names, attention, strict=True)]


def prune(
    teacher: UNet2DConditionModel,
    layers: Sequence[int],
    mid_block: bool = True,
    share: bool = False,
    attention: Sequence[bool] = (),
    removed_stages: int = 0,
) -> UNet2DConditionModel:
    """A student U-Net of fewer blocks whose every weight is the teacher's.

    layers: blocks of each remaining stage, outermost first. removed_stages: how many innermost stages go; where the
    first remaining up stage then reads fewer channels from below, the weights of the others are cut off.
    attention: one entry per remaining stage, False removes its attention blocks; empty keeps them all.
    With `share` the student's modules are the teacher's own objects, so that training one trains the other;
    without, they are float32 copies. Raises UserError when the teacher has no such student.
    """
    blocks = blocks_of(teacher)[: len(teacher.down_blocks) - removed_stages]
    if len(layers) != len(blocks) or any(not 1 <= ours <= theirs for ours, theirs in zip(layers, blocks, strict=True)):
        given = ",".join(map(str, layers))
        raise UserError(f"layers={given}: must have {len(blocks)} entries, each from 1 to the teacher's {blocks}")
    if attention and len(attention) != len(blocks):
        raise UserError(f"attention={','.join(map(str, attention))}: must have {len(blocks)} entries, one per stage")
    with torch.device("meta"):  # every weight comes from the teacher: drawing random ones first would waste time
        student = UNet2DConditionModel.from_config(student_config(teacher, layers, mid_block, attention))
    cut = kept_inputs(student, teacher)
    if cut is not None and (share or student.mid_block is not None):
        raise UserError("removed_stages: stages of different widths need share=False and mid_block=False")
    narrowed = student.up_blocks[0].resnets[0]
    for owner, name, source in matching_modules(student, teacher):
        target = owner.get_submodule(name)
        if share:
            owner._modules[name] = source
        else:
            copy_weights(target, source, cut if target is narrowed else None)
    return student


def with_attention(unet: UNet2DConditionModel, stages: Sequence[int]) -> UNet2DConditionModel:
    """A float32 copy that attends to the text in those stages too (0 is the outermost), and computes the same at first.

    The added blocks' last projections are zero, so that they are learned from nothing. Raises UserError for a stage
    that is not there or attends already.
    """
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    for stage in stages:
        if not 0 <= stage < len(down) or down[stage] != "DownBlock2D":
            plain = [index for index, kind in enumerate(down) if kind == "DownBlock2D"]
            raise UserError(f"attention in stage {stage}: choose from the stages without: {plain}")
        down[stage], up[-1 - stage] = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    made = UNet2DConditionModel.from_config({**config, "down_block_types": down, "up_block_types": up})
    missing = set(made.load_state_dict(unet.state_dict(), strict=False).missing_keys)
    for name, value in made.named_parameters():
        if name in missing and ".proj_out." in name:
            nn.init.zeros_(value)
    return made.to(unet.device)


def kept_inputs(student: UNet2DConditionModel, teacher: UNet2DConditionModel) -> Tensor | None:
    """Input channels i64[C] of the teacher's up block that the student's first one keeps; None where they agree.

    An up block reads [hidden, skip] channels. Without the innermost stages the hidden ones come from a narrower
    stage: the first of them stay, as many as there are, and all of the skip connection's.
    """
    stages = len(student.down_blocks)
    removed = len(teacher.down_blocks) - stages
    if not removed:
        return None
    hidden, wider = teacher.config.block_out_channels[stages - 1 : stages + 1]
    if hidden > wider:
        raise UserError(
            f"student: the teacher's inner stage is narrower ({wider}) than the one above it ({hidden}), "
            "which cannot do without it; use base or small"
        )
    channels = teacher.up_blocks[removed].resnets[0].in_channels
    return None if hidden == wider else torch.cat([torch.arange(hidden), torch.arange(wider, channels)])


def copy_weights(target: nn.Module, source: nn.Module, cut: Tensor | None = None) -> None:
    """Give a module float32 copies of another's weights; of a residual block's input only the channels `cut`."""
    state = {name: value.to(torch.float32, copy=True) for name, value in source.state_dict().items()}
    if cut is not None:
        for name, axis in INPUT_AXES.items():
            state[name] = state[name].index_select(axis, cut.to(state[name].device))
    target.load_state_dict(state, assign=True)


def matching_modules(
    student: UNet2DConditionModel, teacher: UNet2DConditionModel
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield (student's owner module, child name, teacher's module) for every module whose weights fit."""
    for name, _ in list(student.named_children()):
        if name not in ("down_blocks", "up_blocks"):
            yield student, name, getattr(teacher, name)
    removed = len(teacher.down_blocks) - len(student.down_blocks)
    stages = [*zip(student.down_blocks, teacher.down_blocks, strict=False)]
    stages += [*zip(student.up_blocks, teacher.up_blocks[removed:], strict=True)]
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
