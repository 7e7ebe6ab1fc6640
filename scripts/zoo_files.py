"""The other forms in which people bring a model: LoRA files, one file in the original layout, the hub's cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from scripts.zoo_parts import lora_modules

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# As in latent-consistency/lcm-lora-sdv1-5 (openrail++): attention, feed-forward, projections and resnets.
LCM_TARGETS = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut")
LCM_TARGETS = (*LCM_TARGETS, "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")  # type: ignore[assignment]


def lora_file(model: nn.Module, path: Path, layout: str, rank: int = 4, ends: tuple[str, ...] = LCM_TARGETS) -> Path:
    """A random LoRA of a U-Net, strong enough to be seen, in the "kohya", "peft" or "diffusers" layout of keys.

    kohya: `lora_unet_down_blocks_0_..._to_q.lora_down.weight` with `.alpha`, as LCM-LoRA and Hyper-SD are published;
    peft: `unet.down_blocks.0....to_q.lora_A.weight`, as diffusers' `save_lora_weights` writes it; diffusers: the same
    with `lora.down`, as it wrote before it used PEFT.
    """
    ends_of = {"peft": ("lora_A", "lora_B"), "diffusers": ("lora.down", "lora.up")}
    tensors: dict[str, torch.Tensor] = {}
    for name, module in lora_modules(model, ends).items():
        down, up = factors(module, rank)
        if layout == "kohya":
            key = "lora_unet_" + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
        else:
            first, second = ends_of[layout]
            tensors |= {f"unet.{name}.{first}.weight": down, f"unet.{name}.{second}.weight": up}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def factors(module: nn.Module, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two factors of one layer's change, about a tenth of its weights in size."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    size = 0.1 * float(weight.detach().std())
    if weight.ndim == 4:
        inside = weight[0].numel()
        down = torch.randn(rank, *weight.shape[1:]) / inside**0.5
        return down, torch.randn(weight.shape[0], rank, 1, 1) * size * (inside / rank) ** 0.5
    down = torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5
    return down, torch.randn(weight.shape[0], rank) * size * (weight.shape[1] / rank) ** 0.5


def single_file(pipe: Any, path: Path) -> Path:
    """A pipeline of SD 1.x, SD 2.x or SDXL as one file in the layout of the original (LDM) code."""
    tensors = dict(unet_ldm(pipe.unet)) | dict(vae_ldm(pipe.vae))
    if hasattr(pipe, "text_encoder_2"):
        tensors |= plain_clip(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipe.text_encoder.config.hidden_act == "gelu":
        tensors |= open_clip(pipe.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= plain_clip(pipe.text_encoder, "cond_stage_model.transformer.")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
UNET_ENDS = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
)


def unet_ldm(unet: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The U-Net's weights under LDM's numbered blocks: an entry per layer, and the down-sampling has its own."""
    layers, levels = unet.config.layers_per_block, len(unet.config.block_out_channels)
    for name, tensor in unet.state_dict().items():
        new = dict_prefix(name, UNET_ENDS)
        if new is None:
            head, _, rest = name.partition(".")
            kind, number, tail = "", 0, rest
            if head == "mid_block":
                kind, index, tail = parted(rest)
                place = f"middle_block.{2 * index if kind == 'resnets' else 1}."
            else:
                level, _, rest = rest.partition(".")
                kind, index, tail = parted(rest)
                if head == "down_blocks":
                    number = 1 + int(level) * (layers + 1) + (layers if kind == "downsamplers" else index)
                    inside = {"resnets": "0.", "attentions": "1.", "downsamplers": "0."}[kind]
                    place = f"input_blocks.{number}.{inside}"
                else:
                    number = int(level) * (layers + 1) + (layers if kind == "upsamplers" else index)
                    crossed = bool(getattr(unet.up_blocks[int(level)], "has_cross_attention", False))
                    inside = {"resnets": "0.", "attentions": "1.", "upsamplers": f"{1 + crossed}."}[kind]
                    place = f"output_blocks.{number}.{inside}"
            assert number < 3 * (layers + 1) * levels
            tail = (dict_prefix(tail, RESNET) or tail) if kind == "resnets" else tail
            new = place + (tail.replace("conv.", "op.") if kind == "downsamplers" else tail)
        yield f"model.diffusion_model.{new}", tensor


def dict_prefix(name: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    """The name with its beginning replaced by the pair that fits, None where none does."""
    return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), None)


def parted(name: str) -> tuple[str, int, str]:
    """("resnets", 1, "conv1.weight") of "resnets.1.conv1.weight"."""
    kind, index, tail = name.split(".", 2)
    return kind, int(index), tail


VAE_ATTENTION = (
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
)


def vae_ldm(vae: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The autoencoder's weights under LDM's names; its decoder counts the levels from the other end."""
    last = len(vae.config.block_out_channels) - 1
    for name, tensor in vae.state_dict().items():
        shaped, new = tensor, name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0." in new:
            side, _, tail = new.partition(".mid_block.attentions.0.")
            new = f"{side}.mid.attn_1.{dict_prefix(tail, VAE_ATTENTION)}"
            if new.endswith(("q.weight", "k.weight", "v.weight", "proj_out.weight")):
                shaped = tensor[:, :, None, None]
        new = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", new)
        yield f"first_stage_model.{new}", shaped


def plain_clip(encoder: Any, prefix: str) -> dict[str, torch.Tensor]:
    """OpenAI's CLIP keeps transformers' names."""
    return {prefix + name: tensor for name, tensor in encoder.state_dict().items()}


CLIP = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def open_clip(encoder: Any, prefix: str) -> dict[str, torch.Tensor]:
    """OpenCLIP's names: query, key and value in one matrix, and a last layer that SD 2.x leaves out.

    `sd_turbo.safetensors` holds that 24th layer; diffusers ignores it by its number, so it is not written here.
    """
    state, tensors = encoder.state_dict(), {}
    projection = state.pop("text_projection.weight", None)
    width = encoder.config.hidden_size
    tensors[f"{prefix}text_projection"] = torch.eye(width) if projection is None else projection.T
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    for name, tensor in state.items():
        if name in plain:
            tensors[prefix + plain[name]] = tensor
        elif match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)", name):
            layer, tail = f"{prefix}transformer.resblocks.{match[1]}.", match[2]
            if "q_proj" in tail:
                three = torch.cat([state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
                tensors[f"{layer}attn.in_proj_{tail.rpartition('.')[2]}"] = three
            elif "k_proj" not in tail and "v_proj" not in tail:
                tensors[layer + next(tail.replace(old, new) for old, new in CLIP if tail.startswith(old))] = tensor
    return tensors


def hub_cache(folder: Path, cache: Path, repository: str) -> Path:
    """A pipeline folder as the hub's cache holds it: files are links to blobs named by their hash; its snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    revision = hashlib.sha1("".join(digests.values()).encode()).hexdigest()
    snapshot = home / "snapshots" / revision
    for path, digest in digests.items():
        blob, link = home / "blobs" / digest, snapshot / path.relative_to(folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link.symlink_to(Path(*[".."] * len(link.relative_to(home).parent.parts), "blobs", digest))
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(revision)
    return snapshot
