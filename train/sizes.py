"""How large a U-Net is: parameters, multiply-adds of one evaluation, bytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runtime.errors import UserError
from train.opening.second_text import text_rows, told

FP16_BYTES = 2


def count_parameters(network: nn.Module) -> int:
    """Number of parameters of a network, LoRA adapters included."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_adapters(network: nn.Module) -> int:
    """Number of LoRA parameters of a network; 0 without any."""
    return sum(parameter.numel() for name, parameter in network.named_parameters() if ".lora_" in name)


def latent_side(unet: UNet2DConditionModel) -> int:
    """The side of the square latents that a U-Net is made for. Raises UserError for others."""
    size = unet.config.sample_size
    sides = {size} if isinstance(size, int) else set(size or ())
    if len(sides) != 1:
        raise UserError(
            f"the U-Net's sample_size is {size}, and only square pictures are trained and evaluated: set it to one "
            "side in unet/config.json, the weights fit any size"
        )
    return int(sides.pop())


def text_widths(unet: UNet2DConditionModel) -> set[int]:
    """The widths of the text states that a U-Net's levels read; one where they agree."""
    width = unet.config.cross_attention_dim
    return {width} if isinstance(width, int) else set(width)


@torch.no_grad()
def multiply_adds(unet: UNet2DConditionModel) -> int:
    """Multiply-adds of one evaluation for one picture, counted by torch's own operator counter.

    Runs a copy of the configuration on the meta device, where no number is computed, so a large network costs no
    more than a small one. LoRA adapters are left out: they are merged before a student is used.
    """
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    text_width = max(text_widths(unet))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        bare = told(UNet2DConditionModel.from_config(unet.config))
        noise = torch.zeros(1, unet.config.in_channels, height, width)
        bare(noise, torch.tensor([999]), torch.zeros(1, text_rows(unet), text_width))
    return int(counter.get_total_flops() // 2)


def describe_sizes(networks: Mapping[str, UNet2DConditionModel]) -> str:
    """One line per network, with sizes and their ratio to the first network's: what a run prints before it starts.

    Parameters and megabytes are without LoRA adapters, whose trainable parameters are given at the end of the line.
    """
    adapters = {name: count_adapters(unet) for name, unet in networks.items()}
    rows = {name: (count_parameters(unet) - adapters[name], multiply_adds(unet)) for name, unet in networks.items()}
    first, whole = next(iter(rows.items()))
    lines = []
    for name, (parameters, macs) in rows.items():
        line = (
            f"{name:<{max(map(len, rows))}}  {human(parameters)} parameters  {human(macs)} multiply-adds  "
            f"{parameters * FP16_BYTES / 1e6:.1f} MB in fp16"
        )
        if name != first:
            line += f"  ({parameters / whole[0]:.2f} and {macs / whole[1]:.2f} of the {first}'s)"
        if adapters[name]:
            line += f"  + {human(adapters[name])} trainable LoRA parameters"
        lines.append(line)
    return "\n".join(lines)


def human(count: float) -> str:
    """A count with three or four digits and its SI letter: 865.9 M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.2f} {letter}"
    return f"{count:.0f}"
