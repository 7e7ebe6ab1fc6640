"""The networks, tokenizers and schedulers that scripts/zoo.py puts together: true structure, narrow widths.

Every number that decides which code runs (blocks, layers per block, heads, activations, padding, noise levels) is the
real model's; only widths, text layers and the picture's size are smaller. Weights are random from a fixed seed, except
the last convolution of the U-Net, which is fitted so that a step removes noise, as it does in a trained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from train.clip_vocab import write_tokenizer_files

MERGES = Path(__file__).parent.parent / "runtime" / "bundles" / "sticker-128" / "tokenizer" / "merges.txt"
LATENTS = 8  # side of the latents; a picture has eight times as many pixels
WIDTHS = (32, 64, 96, 96)  # of SD 1.x, whose 320, 640, 1280, 1280 have eight heads each
WIDE = (64, 64, 128, 128)  # of SD 2.x and SDXL, whose heads have 64 channels each
TEXT = 64  # width of a text encoder: one head of 64 channels, as many as each real head has
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
END, EXCLAMATION = "<|endoftext|>", "!"  # the two pads: OpenAI's CLIP, and OpenCLIP (id 0)


@cache
def merges() -> tuple[str, ...]:
    """CLIP's 48,894 merges, best first."""
    return tuple(line for line in MERGES.read_text(encoding="utf-8").splitlines() if line and line[0:9] != "#version:")


def tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer of 49,408 tokens, its files written to `folder`."""
    write_tokenizer_files(folder, merges())
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad)


def text_config(width: int = TEXT, layers: int = 2, activation: str = "quick_gelu", **more: Any) -> CLIPTextConfig:
    """OpenAI's CLIP-L as SD 1.x has it; SD 2.x and SDXL's second encoder (OpenCLIP) have the plain "gelu".

    The ids are those of the published files (0, 2, 1): with eos 2, transformers pools at the highest id.
    """
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": 49408}
    heads = {"num_attention_heads": width // 64, "max_position_embeddings": 77}
    return CLIPTextConfig(**sizes, **ids, **heads, hidden_act=activation, **{"projection_dim": width, **more})


def text_encoder(config: CLIPTextConfig) -> CLIPTextModel:
    """A random text encoder, its tokens as far apart as in a trained one."""
    return livelier(CLIPTextModel(config))


def projecting_encoder(config: CLIPTextConfig) -> CLIPTextModelWithProjection:
    """SDXL's second text encoder."""
    return livelier(CLIPTextModelWithProjection(config))


@torch.no_grad()
def livelier(encoder: Any) -> Any:
    """transformers starts embeddings at 0.02: each layer would hardly see them."""
    for name, weight in encoder.named_parameters():
        if "embedding" in name:
            weight.mul_(20)
    return encoder


def unet(**config: Any) -> UNet2DConditionModel:
    """A random U-Net in which the text matters; every argument is diffusers' own."""
    made = UNet2DConditionModel(**{"sample_size": LATENTS, "in_channels": 4, "out_channels": 4, **config})
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "attn2.to_q" in name or "attn2.to_out.0.weight" in name:
                weight.mul_(4)  # attention that chooses, and is heard
    return made


def sd_unet(**config: Any) -> UNet2DConditionModel:
    """The U-Net of SD 1.x, some of its arguments replaced."""
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    base = {"block_out_channels": WIDTHS, "down_block_types": down, "up_block_types": up}
    return unet(**{**base, "attention_head_dim": 8, "cross_attention_dim": TEXT, "layers_per_block": 2, **config})


def sdxl_unet(**config: Any) -> UNet2DConditionModel:
    """The U-Net of SDXL: three levels, depths 1, 2, 10, and two more inputs (pooled text, time ids)."""
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    base = {"block_out_channels": WIDE[1:], "down_block_types": down, "up_block_types": up, "layers_per_block": 2}
    attention = {
        "attention_head_dim": (1, 2, 2),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
    }
    ids = {"addition_embed_type": "text_time", "addition_time_embed_dim": 32}
    widths = {"cross_attention_dim": 3 * TEXT, "projection_class_embeddings_input_dim": 2 * TEXT + 6 * 32}
    return unet(**{**base, **attention, **ids, **widths, **config})


def kl(**config: Any) -> AutoencoderKL:
    """The autoencoder of SD: four levels, 128 to 512 channels."""
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512}
    return AutoencoderKL(**{**levels, **sizes, "scaling_factor": 0.18215, **config})


def taesd() -> AutoencoderTiny:
    """TAESD (madebyollin/taesd, MIT): 64 channels, blocks 1 3 3 3 and 3 3 3 1, scaling factor 1."""
    return AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4, scaling_factor=1.0
    )


@torch.no_grad()
def fit_unet(model: UNet2DConditionModel, prediction_type: str, conditions: dict[str, Any]) -> None:
    """Solve for the last convolution by least squares, over noisy pictures at four noise levels.

    conditions: the U-Net's arguments besides sample and timestep, for one row. Random weights alone would leave a
    picture fifteen times too strong, since epsilon's error at t = 999 is divided by alpha = 0.068.
    """
    scheduler = DDPMScheduler(**NOISE, prediction_type=prediction_type)
    model.eval()
    features, targets = [], []
    hook = model.conv_out.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    for t in (999, 999, 749, 499, 249):
        clean = nn.functional.interpolate(torch.randn(24, 4, 2, 2), (LATENTS, LATENTS), mode="bilinear")
        noise, times = torch.randn(24, 4, LATENTS, LATENTS), torch.full((24,), t)
        model(scheduler.add_noise(clean, noise, times), t, **spread(conditions, 24))
        velocity = scheduler.get_velocity(clean, noise, times)
        targets.append(noise if prediction_type == "epsilon" else velocity)
    hook.remove()
    rows = nn.functional.unfold(torch.cat(features), 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    wanted = torch.cat(targets).flatten(2).transpose(1, 2).flatten(0, 1).double()
    ridge = rows.T @ rows + 1e-3 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(ridge, rows.T @ wanted)
    model.conv_out.weight.copy_(solved.T.reshape(model.conv_out.weight.shape))
    model.conv_out.bias.zero_()


def spread(conditions: Any, rows: int) -> Any:
    """Random conditions of `rows` rows, in the shape of those for one."""
    if isinstance(conditions, dict):
        return {key: spread(value, rows) for key, value in conditions.items()}
    return torch.randn(rows, *conditions.shape[1:])


@torch.no_grad()
def fit_vae(vae: Any, latents: torch.Tensor) -> None:
    """Rescale the decoder's last convolution so that the pictures of `latents` f32[B,4,h,w] fill [-1, 1]."""
    tiny = isinstance(vae, AutoencoderTiny)  # whose decode() returns 2 x - 1
    last, axes = vae.decoder.layers[-1] if tiny else vae.decoder.conv_out, (0, 2, 3)
    last.bias.zero_()
    picture = vae.decode(latents / vae.config.scaling_factor).sample
    last.weight.div_(2 * (picture - picture.mean(axes, keepdim=True)).std(axes).reshape(3, 1, 1, 1))
    last.bias.sub_(vae.decode(latents / vae.config.scaling_factor).sample.mean(axes) / (2 if tiny else 1))


def lora_modules(model: nn.Module, ends: Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers and convolutions whose name ends with one of `ends`."""
    kinds = (nn.Linear, nn.Conv2d)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds) and name.endswith(tuple(ends))}
