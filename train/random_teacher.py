"""`python -m train.random_teacher`: a Stable Diffusion pipeline of random weights, to try a size without its files."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from runtime.bench.machine import memory_mb
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from runtime.files import check_folder, whole_folder
from train.checkpoint import one_step_scheduler
from train.opening.resolve import resolve_checkpoint
from train.progress import progress
from train.sizes import count_parameters, human

EXAMPLES = """examples:
  python -m train.random_teacher tiny --out out/tiny-teacher
  python -m train.random_teacher sd21 --out out/sd21 --prediction-type epsilon
  python -m train.random_teacher sd21 --out out/sd-turbo-shaped --one-step --vae kl"""
PREDICTION_TYPES = ("epsilon", "v_prediction")
VAES = ("tiny", "kl")
SHARD_SIZE = "500MB"
LAST_TIMESTEP = 999
KL_SCALING = 0.18215  # of Stable Diffusion 1 and 2
PROBE_SIDE = 8  # latents of this side measure a network's scales: convolutions have the same scale at any size


@dataclass(frozen=True)
class Shape:
    """Sizes of the three networks; the fields bear the names of diffusers' and transformers' configurations."""

    sample_size: int  # side of the latents; the pictures' is eight times that
    block_out_channels: tuple[int, ...]  # all stages but the innermost have attention
    attention_head_dim: int | tuple[int, ...]  # diffusers' name for the number of heads
    use_linear_projection: bool
    norm_num_groups: int
    hidden_size: int  # of the text encoder
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    projection_dim: int
    vae_channels: int
    vae_blocks: tuple[int, ...]  # of the decoder, innermost first
    kl_channels: tuple[int, ...]  # of the autoencoder that the model was published with
    prediction_type: str  # what the published model of this shape predicts


WIDTHS, TAESD_BLOCKS, KL_WIDTHS = (320, 640, 1280, 1280), (3, 3, 3, 1), (128, 256, 512, 512)
SHAPES = {
    "tiny": Shape(
        8, (16, 32, 32), 4, False, 8, 32, 2, 2, "quick_gelu", 32, 16, (1, 1, 1, 1), (8, 8, 16, 16), "v_prediction"
    ),
    "sd15": Shape(64, WIDTHS, 8, False, 32, 768, 12, 12, "quick_gelu", 768, 64, TAESD_BLOCKS, KL_WIDTHS, "epsilon"),
    "sd21": Shape(
        64, WIDTHS, (5, 10, 20, 20), True, 32, 1024, 23, 16, "gelu", 512, 64, TAESD_BLOCKS, KL_WIDTHS, "v_prediction"
    ),
}


@torch.no_grad()
def random_unet(shape: Shape) -> UNet2DConditionModel:
    """A Stable Diffusion U-Net whose output has unit variance at t = 999, like the v or eps that it stands for."""
    plain = len(shape.block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=shape.sample_size,
        block_out_channels=shape.block_out_channels,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * plain + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * plain,
        attention_head_dim=shape.attention_head_dim,
        cross_attention_dim=shape.hidden_size,
        use_linear_projection=shape.use_linear_projection,
        norm_num_groups=shape.norm_num_groups,
    ).eval()
    noise, text = torch.randn(2, 4, PROBE_SIDE, PROBE_SIDE), torch.randn(2, 77, shape.hidden_size)
    standardise(unet.conv_out, unet(noise, LAST_TIMESTEP, text).sample, std=1.0)
    return unet


@torch.no_grad()
def random_vae(shape: Shape) -> AutoencoderTiny:
    """A tiny autoencoder, eight times down: latents of unit variance, pictures that use the range [-1, 1]."""
    widths = (shape.vae_channels,) * 4
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        latent_channels=4,
        num_encoder_blocks=shape.vae_blocks[::-1],
        num_decoder_blocks=shape.vae_blocks,
        scaling_factor=1.0,
    ).eval()
    patches = torch.rand(4, 3, PROBE_SIDE, PROBE_SIDE).repeat_interleave(8, -1).repeat_interleave(8, -2) * 2 - 1
    standardise(vae.encoder.layers[-1], vae.encode(patches).latents, std=1.0)
    latents = torch.randn(4, 4, PROBE_SIDE, PROBE_SIDE)
    standardise(vae.decoder.layers[-1], (vae.decode(latents).sample + 1) / 2, std=0.25, mean=0.5)  # then 2 x - 1
    return vae


@torch.no_grad()
def random_kl_vae(shape: Shape) -> AutoencoderKL:
    """Stable Diffusion's own autoencoder, eight times down: pictures that use the range [-1, 1]."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=shape.kl_channels,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=min(32, shape.kl_channels[0]),
        sample_size=8 * shape.sample_size,
        scaling_factor=KL_SCALING,
    ).eval()
    latents = torch.randn(4, 4, PROBE_SIDE, PROBE_SIDE) / KL_SCALING
    standardise(vae.decoder.conv_out, vae.decode(latents).sample, std=0.5)
    return vae


def standardise(last: nn.Conv2d, output: Tensor, std: float, mean: float = 0.0) -> None:
    """Rescale the last convolution, which returned `output` [B, C, h, w], to this mean and deviation per channel."""
    assert last.bias is not None
    scale = std / output.std(dim=(0, 2, 3))
    last.weight.mul_(scale.view(-1, 1, 1, 1))
    last.bias.copy_(mean - (output.mean(dim=(0, 2, 3)) - last.bias) * scale)


def random_text_encoder(shape: Shape, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder by transformers' own initialisation."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            intermediate_size=4 * shape.hidden_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            hidden_act=shape.hidden_act,
            projection_dim=shape.projection_dim,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def stable_diffusion_scheduler(prediction_type: str) -> DDIMScheduler:
    """Stable Diffusion's own schedule and sampler settings."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def make_random_teacher(
    folder: Path,
    shape: str,
    seed: int = 0,
    prediction_type: str | None = None,
    one_step: bool = False,
    vae: str = "tiny",
) -> Path:
    """Write a StableDiffusionPipeline folder of random float16 weights, whole or not at all, and return it.

    shape: one of SHAPES. prediction_type: None is that of the published model of this shape. The same seed gives the
    same weights. one_step: with the scheduler of a one-step student, to try an exporter. vae: tiny, as TAESD, or kl,
    as Stable Diffusion's own. The networks are made, saved and dropped one by one: "sd21" peaks at about 5 GB of
    memory. Raises UserError for an unknown shape, autoencoder or prediction type, and when the folder holds something
    else.
    """
    check_request(folder, shape, prediction_type, vae)
    sizes = SHAPES[shape]
    source = resolve_checkpoint("sticker-128") / "tokenizer"  # CLIP's whole vocabulary
    tokenizer = CLIPTokenizer.from_pretrained(source)
    scheduler = stable_diffusion_scheduler(prediction_type or sizes.prediction_type)
    scheduler = one_step_scheduler(scheduler) if one_step else scheduler
    makers: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: random_unet(sizes),
        "vae": lambda: random_kl_vae(sizes) if vae == "kl" else random_vae(sizes),
        "text_encoder": lambda: random_text_encoder(sizes, tokenizer),
    }
    with whole_folder(folder) as partial, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = save_parts(makers, partial)
        shutil.copytree(source, partial / "tokenizer")
        scheduler.save_pretrained(partial / "scheduler")
        StableDiffusionPipeline(
            **parts,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_config(partial)
    return folder


def check_request(folder: Path, shape: str, prediction_type: str | None, vae: str) -> None:
    """Raise UserError for an unknown shape, autoencoder or prediction type, and for a folder with something else."""
    if shape not in SHAPES:
        raise UserError(f"{shape}: unknown shape; choose one of {', '.join(SHAPES)}")
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise UserError(f"{prediction_type}: unknown prediction type; choose one of {', '.join(PREDICTION_TYPES)}")
    if vae not in VAES:
        raise UserError(f"{vae}: unknown autoencoder; choose one of {', '.join(VAES)}")
    if folder.exists() and not (folder / "model_index.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something other than a pipeline; name a new folder")


def save_parts(makers: dict[str, Callable[[], nn.Module]], folder: Path) -> dict[str, nn.Module]:
    """Make and save the networks one by one; returns their shells, without weights, for the pipeline's index."""
    shells = {}
    with progress("random networks", len(makers)) as advance:
        for name, make in makers.items():
            network: Any = make().to(torch.float16)
            network.save_pretrained(folder / name, max_shard_size=SHARD_SIZE)
            shells[name] = network.to("meta")
            advance(1)
    return shells


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.random_teacher", __doc__, EXAMPLES)
    made.add_argument("shape", choices=SHAPES, help="tiny: for tests; sd15, sd21: the published models' sizes")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="the pipeline folder to write")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--prediction-type", choices=PREDICTION_TYPES, help="default: the published model's")
    made.add_argument("--one-step", action="store_true", help="with a one-step student's scheduler")
    made.add_argument("--vae", choices=VAES, default="tiny", help="as TAESD (default), or as Stable Diffusion's own")
    return made


def work(args: argparse.Namespace) -> None:
    """Write the pipeline folder and print its sizes."""
    check_folder(args.out)
    started = time.monotonic()
    make_random_teacher(args.out, args.shape, args.seed, args.prediction_type, args.one_step, args.vae)
    config = UNet2DConditionModel.load_config(args.out / "unet")
    with torch.device("meta"):
        parameters = count_parameters(UNet2DConditionModel.from_config(config))
    figures = {
        "path": str(args.out),
        "unet_parameters": parameters,
        "seconds": round(time.monotonic() - started, 1),
        "bytes": sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()),
        "peak_rss_mb": round(memory_mb()),
    }
    print_result(
        json.dumps(figures)
        if args.json
        else f"{args.out}: U-Net of {human(parameters)} parameters, {figures['bytes'] / 1e6:.0f} MB in all, "
        f"{figures['seconds']} s, peak memory {figures['peak_rss_mb']} MB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
