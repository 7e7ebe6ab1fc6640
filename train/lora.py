"""LoRA students (Hu et al. 2021, 2106.09685): the U-Net stays frozen, low-rank adapters beside its layers learn.

The adapters are peft's, the files are diffusers': `StableDiffusionPipeline.load_lora_weights(folder)` opens them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from runtime.errors import UserError
from runtime.files import whole_file

ADAPTER = "default"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
# Projections of every attention block, convolutions and timestep layers of every residual block: a U-Net whose
# attention does little still has all of its computation in reach.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")


def add_lora(
    unet: UNet2DConditionModel, rank: int = 16, alpha: int | None = None, targets: Sequence[str] = TARGETS
) -> list[nn.Parameter]:
    """Freeze a U-Net, add adapters in place and return their parameters, the only ones that learn.

    rank: columns of an adapter. alpha: the adapter's output is scaled by alpha / rank; None is rank, no scaling.
    targets: endings of the names of the layers to adapt. The second factor starts at zero, so the output stays what
    it was, bit for bit. Raises UserError for an impossible rank or target, or when there are adapters already.
    """
    if rank < 1:
        raise UserError(f"lora rank {rank}: must be 1 or more")
    if has_lora(unet):
        raise UserError("this U-Net has LoRA adapters already; merge them first (train.lora.merge_lora)")
    names = [name for name, module in unet.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    found = [target for target in targets if any(f".{name}".endswith(f".{target}") for name in names)]
    missing = sorted(set(targets) - set(found) - set(TARGETS))  # a U-Net without attention lacks some of the usual
    if missing or not found:
        raise UserError(
            f"lora targets {', '.join(missing or targets)}: no layer of this U-Net has such a name; "
            f"the usual ones are {', '.join(TARGETS)}"
        )
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=found), ADAPTER)
    return lora_parameters(unet)


def has_lora(unet: UNet2DConditionModel) -> bool:
    return any(isinstance(module, LoraLayer) for module in unet.modules())


def lora_parameters(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """The adapters' parameters, in the order of the network."""
    return [parameter for name, parameter in unet.named_parameters() if ".lora_" in name]


def lora_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The adapters' weights by layer name: "<layer>.lora_A.weight" [rank, in...], "<layer>.lora_B.weight" [out, rank].

    All that a checkpoint of a LoRA student has to hold beside the teacher's name. Empty without adapters.
    """
    return get_peft_model_state_dict(unet, adapter_name=ADAPTER) if has_lora(unet) else {}


def load_lora_state(unet: UNet2DConditionModel, state: Mapping[str, Tensor]) -> None:
    """Put `lora_state` back into a U-Net that has adapters of the same shape. Raises UserError when they differ."""
    shapes = {name: value.shape for name, value in lora_state(unet).items()}
    if shapes != {name: value.shape for name, value in state.items()}:
        raise UserError(
            "the saved LoRA adapters have another rank or other layers than this student's; "
            "use the rank and targets that they were made with"
        )
    set_peft_model_state_dict(unet, dict(state), adapter_name=ADAPTER)


def merge_lora(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A plain copy of a U-Net with the adapters added into its weights; the U-Net itself stays as it is.

    The output is the same within rounding. Without adapters just a copy.
    """
    merged = copy.deepcopy(unet)
    if has_lora(merged):
        merged.fuse_lora()
        merged.unload_lora()
    return merged.requires_grad_(True)


@torch.no_grad()
def save_lora(unet: UNet2DConditionModel, folder: Path) -> Path:
    """Write folder/pytorch_lora_weights.safetensors in diffusers' format, whole or not at all; returns its path.

    alpha / rank is multiplied into the second factor: every loader takes alpha for rank when a file has none.
    Raises UserError when the U-Net has no adapters.
    """
    state = lora_state(unet)
    if not state:
        raise UserError("this U-Net has no LoRA adapters to save; add them first (train.lora.add_lora)")
    scales = {name: module.scaling[ADAPTER] for name, module in unet.named_modules() if isinstance(module, LoraLayer)}
    scaled = {
        key: value * scales[key.split(".lora_")[0]] if ".lora_B" in key else value for key, value in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / WEIGHTS_FILE) as partial:
        layers = {key: value.contiguous().cpu() for key, value in convert_state_dict_to_diffusers(scaled).items()}
        StableDiffusionPipeline.save_lora_weights(partial.parent, unet_lora_layers=layers, weight_name=WEIGHTS_FILE)
    return folder / WEIGHTS_FILE


def load_lora(unet: UNet2DConditionModel, folder: Path) -> list[nn.Parameter]:
    """Add the adapters that `save_lora` or another diffusers trainer wrote; freeze the rest and return theirs to train.

    Raises UserError when the file is missing or does not fit the U-Net.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder}: there is no {WEIGHTS_FILE}; give the folder of a LoRA in diffusers' format")
    if has_lora(unet):
        raise UserError("this U-Net has LoRA adapters already; merge them first (train.lora.merge_lora)")
    unet.requires_grad_(False)
    try:
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            folder, weight_name=WEIGHTS_FILE, local_files_only=True, use_safetensors=True, return_lora_metadata=True
        )
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, adapter_name=ADAPTER, metadata=metadata)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: does not fit this U-Net: {error}") from error
    parameters = lora_parameters(unet)
    if not parameters:
        raise UserError(f"{folder / WEIGHTS_FILE}: holds no adapters for a U-Net")
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters
