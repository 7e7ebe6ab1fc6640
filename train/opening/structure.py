"""The configurations of a single file's networks, read from the names and shapes of its tensors (LDM's layout)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS
from train.opening.models import SD1, SD2, SDXL

Shapes = Mapping[str, tuple[int, ...]]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_L, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP_L, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
HEAD = 64  # channels of a head, but in the U-Nets of SD 1.x, which have eight heads of any width
LEFT_OUT = 23  # the last of OpenCLIP-H's layers, which Stable Diffusion 2.x does not use and diffusers does not read


def structure_of(shapes: Shapes) -> str | None:
    """SD1, SD2 or SDXL by a file's tensors; None for anything else."""
    if not any(name.startswith(UNET + "input_blocks.") for name in shapes):
        return None
    if any(name.startswith(XL_OPEN_CLIP) for name in shapes):
        return SDXL
    if any(name.startswith(OPEN_CLIP) for name in shapes):
        return SD2
    return SD1 if any(name.startswith(CLIP_L + "text_model.") for name in shapes) else None


def unet_config(shapes: Shapes, structure: str, latents: int) -> dict[str, Any]:
    """config.json of the U-Net. latents: their side. Raises UserError for blocks that differ within a level."""
    names = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    levels = down_levels(names)
    layers, widths = {len(level) for level in levels}, [level[0][0] for level in levels]
    depths = [{depth for _, depth in level} for level in levels]
    if len(layers) != 1 or any(len(depth) != 1 for depth in depths):
        raise UserError("its U-Net has blocks of different depth within a level: give its own model by --config FOLDER")
    each = [depth.pop() for depth in depths]
    block = next(shape for name, shape in sorted(names.items()) if name.endswith("attn2.to_k.weight"))
    linear = any(len(shape) == 2 for name, shape in names.items() if name.endswith("1.proj_in.weight"))
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": latents,
        "in_channels": names["input_blocks.0.0.weight"][1],
        "out_channels": names["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in each],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(each)],
        "cross_attention_dim": block[1],
        "attention_head_dim": 8 if structure == SD1 else [width // HEAD for width in widths],
        "use_linear_projection": linear,
    }
    if not any(name.startswith("middle_block.") for name in names):
        config["mid_block_type"] = None
    if max(each) > 1:
        config["transformer_layers_per_block"] = [depth or 1 for depth in each]
    return config | (sdxl_inputs(shapes) if structure == SDXL else {})


def down_levels(names: Shapes) -> list[list[tuple[int, int]]]:
    """(width, transformer layers) of every layer on the way down, level by level; a level ends with a downsampling."""
    count = len({name.split(".")[1] for name in names if name.startswith("input_blocks.")})
    levels: list[list[tuple[int, int]]] = [[]]
    for i in range(1, count):
        if f"input_blocks.{i}.0.op.weight" in names:
            levels.append([])
            continue
        pattern = re.compile(rf"input_blocks\.{i}\.1\.transformer_blocks\.(\d+)\.norm1\.weight")
        depth = sum(1 for name in names if pattern.fullmatch(name))
        levels[-1].append((names[f"input_blocks.{i}.0.out_layers.3.weight"][0], depth))
    return levels


def sdxl_inputs(shapes: Shapes) -> dict[str, Any]:
    """What SDXL's U-Net takes besides the text: pooled states, and six numbers of a width that is left over."""
    width = shapes[UNET + "label_emb.0.0.weight"][1]
    pooled = shapes[XL_OPEN_CLIP + "text_projection"][1]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - pooled) // 6,
        "projection_class_embeddings_input_dim": width,
    }


def vae_config(shapes: Shapes, structure: str, side: int) -> dict[str, Any]:
    """config.json of the autoencoder. side: of the picture, in pixels."""
    pattern = re.compile(re.escape(VAE) + r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    found = {(int(m[1]), int(m[2])): shape for name, shape in shapes.items() if (m := pattern.fullmatch(name))}
    levels = 1 + max(level for level, _ in found)
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [found[level, 0][0] for level in range(levels)],
        "layers_per_block": 1 + max(layer for _, layer in found),
        "latent_channels": shapes[VAE + "decoder.conv_in.weight"][1],
        "sample_size": side,
        "scaling_factor": 0.13025 if structure == SDXL else 0.18215,
        "force_upcast": structure == SDXL,
    }


def text_configs(shapes: Shapes, structure: str) -> dict[str, dict[str, Any]]:
    """config.json of each text encoder, by its folder."""
    if structure == SD1:
        return {"text_encoder": clip_config(shapes, CLIP_L + "text_model.")}
    if structure == SD2:
        return {"text_encoder": open_clip_config(shapes, OPEN_CLIP, "CLIPTextModel")}
    second = open_clip_config(shapes, XL_OPEN_CLIP, "CLIPTextModelWithProjection")
    return {"text_encoder": clip_config(shapes, XL_CLIP_L + "text_model."), "text_encoder_2": second}


def clip_config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """OpenAI's CLIP."""
    layers = numbered(shapes, prefix + "encoder.layers.")
    table = shapes[prefix + "embeddings.token_embedding.weight"]
    wide = shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0]
    return text_config(table, layers, wide, "quick_gelu", "CLIPTextModel")


def open_clip_config(shapes: Shapes, prefix: str, architecture: str) -> dict[str, Any]:
    """OpenCLIP; Stable Diffusion 2.x leaves its last layer out."""
    layers = numbered(shapes, prefix + "transformer.resblocks.")
    layers -= prefix == OPEN_CLIP and layers == LEFT_OUT + 1
    wide = shapes[prefix + "transformer.resblocks.0.mlp.c_fc.weight"][0]
    made = text_config(shapes[prefix + "token_embedding.weight"], layers, wide, "gelu", architecture)
    return made | {"projection_dim": shapes.get(prefix + "text_projection", (0, made["hidden_size"]))[1]}


def text_config(table: tuple[int, ...], layers: int, wide: int, activation: str, architecture: str) -> dict[str, Any]:
    """The ids are those of the published files: with eos 2, transformers pools at the highest id."""
    return {
        "architectures": [architecture],
        "model_type": "clip_text_model",
        "vocab_size": table[0],
        "hidden_size": table[1],
        "projection_dim": table[1],
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": table[1] // HEAD,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": activation,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def numbered(shapes: Shapes, prefix: str) -> int:
    """How many different numbers follow a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})
