"""A small checkpoint of SDXL's structure: scripts/zoo.py's with two levels and one transformer block each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline

from scripts.zoo_parts import END, EXCLAMATION, NOISE, TEXT, kl, projecting_encoder, sdxl_unet, text_config
from scripts.zoo_parts import text_encoder as encoder_of
from scripts.zoo_parts import tokenizer as tokenizer_of

LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (1, 1),
}
TRAILING = {"timestep_spacing": "trailing", "prediction_type": "epsilon", "steps_offset": 1}


@cache
def small_parts() -> dict[str, Any]:
    """The networks and the scheduler, the same in every process; do not change them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = sdxl_unet(**LEVELS).eval()
        vae = kl(sample_size=64, block_out_channels=(16, 16, 32, 32), norm_num_groups=8, layers_per_block=1)
        vae.register_to_config(scaling_factor=0.13025, force_upcast=True)
        first = encoder_of(text_config(projection_dim=TEXT))
        second = projecting_encoder(text_config(2 * TEXT, 3, "gelu", projection_dim=2 * TEXT))
        with torch.no_grad():
            unet.conv_out.weight.mul_(4)
            vae.decoder.conv_out.weight.mul_(4)
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**NOISE, **TRAILING)
    parts = {"unet": unet, "vae": vae.eval(), "text_encoder": first.eval(), "text_encoder_2": second.eval()}
    return parts | {"scheduler": scheduler}


def small_sdxl(folder: Path, **changed: Any) -> Path:
    """Write the checkpoint to `folder` and return it. changed: other parts of the pipeline."""
    tokenizers = {
        "tokenizer": tokenizer_of(folder / "tokenizer", END),
        "tokenizer_2": tokenizer_of(folder / "tokenizer_2", EXCLAMATION),
    }
    pipe = StableDiffusionXLPipeline(**(small_parts() | tokenizers | changed), add_watermarker=False)
    pipe.save_pretrained(folder)
    return folder
