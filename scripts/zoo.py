"""Small models with the structure of the real ones, in the forms in which people have them, for tests.

    python -m scripts.zoo --list
    python -m scripts.zoo sd-turbo sdxl-turbo --out DIR

Every model is built by diffusers' classes and written by `save_pretrained`; widths are narrow, everything else is the
real repository's. Nothing here holds anybody's weights: they are random, from a fixed seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from runtime.command import Parser, command_parser, run_command
from runtime.errors import UserError
from scripts.zoo_files import ATTENTION, hub_cache, lora_file, single_file
from scripts.zoo_parts import (
    END,
    EXCLAMATION,
    LATENTS,
    NOISE,
    TEXT,
    WIDE,
    fit_unet,
    fit_vae,
    kl,
    projecting_encoder,
    sd_unet,
    sdxl_unet,
    taesd,
    text_config,
    text_encoder,
    tokenizer,
)

# What SD 1.x's and 2.x's scheduler_config.json hold beside the noise levels.
PNDM = {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}


def scheduler(name: str, **config: Any) -> Any:
    """diffusers' scheduler of that name with Stable Diffusion's noise levels."""
    made = getattr(diffusers, name)(**NOISE, **config)
    if name == "PNDMScheduler":
        made.register_to_config(clip_sample=False)  # no argument of its own, but in every published file
    return made


def one_step(scheduler: Any) -> Any:
    """The scheduler with which any of these models draws from pure noise in one step: PNDM would start at t = 1."""
    if isinstance(scheduler, diffusers.LCMScheduler):
        return scheduler
    return diffusers.DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False)


def sd(folder: Path, parts: dict[str, Any], pad: str, kind: Any = StableDiffusionPipeline) -> Any:
    """A pipeline of SD's shape, fitted and written to `folder`."""
    pipe = kind(
        **parts,
        tokenizer=tokenizer(folder / "tokenizer", pad),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    states = torch.randn(1, 77, pipe.unet.config.cross_attention_dim)
    return finish(pipe, folder, {"encoder_hidden_states": states})


def sdxl(folder: Path, parts: dict[str, Any]) -> Any:
    """A pipeline of SDXL's shape: two encoders and tokenizers with different pads; fitted and written to `folder`."""
    pipe = StableDiffusionXLPipeline(
        **parts,
        text_encoder=text_encoder(text_config(projection_dim=TEXT)),
        text_encoder_2=projecting_encoder(text_config(2 * TEXT, 3, "gelu")),
        tokenizer=tokenizer(folder / "tokenizer", END),
        tokenizer_2=tokenizer(folder / "tokenizer_2", EXCLAMATION),
        add_watermarker=False,
    )
    added = {"text_embeds": torch.randn(1, 2 * TEXT), "time_ids": torch.randn(1, 6)}
    states = torch.randn(1, 77, pipe.unet.config.cross_attention_dim)
    return finish(pipe, folder, {"encoder_hidden_states": states, "added_cond_kwargs": added})


def finish(pipe: Any, folder: Path, conditions: dict[str, Any]) -> Any:
    """Fit a pipeline, so that its pictures use the whole range, and write it."""
    if pipe.unet.config.time_cond_proj_dim:
        conditions["timestep_cond"] = torch.randn(1, pipe.unet.config.time_cond_proj_dim)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval()
    fit_unet(pipe.unet, pipe.scheduler.config.prediction_type, conditions)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 4, LATENTS, LATENTS)
    options = {"num_inference_steps": 1, "guidance_scale": 0.0, "latents": noise, "output_type": "latent"}
    own, pipe.scheduler = pipe.scheduler, one_step(pipe.scheduler)
    fit_vae(pipe.vae, pipe(["a red fox", "a map", "rain", "two old ships"], **options).images)
    pipe.scheduler = own
    pipe.save_pretrained(folder)
    return pipe


def sd_turbo(folder: Path) -> Any:
    """stabilityai/sd-turbo (Stability AI Community): SD 2.1's shape, epsilon, Euler with trailing steps, pad "!"."""
    trailing = {"timestep_spacing": "trailing", "prediction_type": "epsilon", "steps_offset": 1}
    parts = {
        "unet": sd_unet(block_out_channels=WIDE, attention_head_dim=(1, 1, 2, 2), use_linear_projection=True),
        "text_encoder": text_encoder(text_config(activation="gelu", layers=3)),  # 23 of OpenCLIP-H's 24 layers
        "vae": kl(sample_size=768),
        "scheduler": scheduler("EulerDiscreteScheduler", **trailing),
    }
    return sd(folder, parts, EXCLAMATION)


def sdxl_turbo(folder: Path) -> Any:
    """stabilityai/sdxl-turbo (Stability AI Community): Euler ancestral with trailing steps, VAE scaled by 0.13025."""
    trailing = {"timestep_spacing": "trailing", "prediction_type": "epsilon", "steps_offset": 1}
    vae = kl(sample_size=1024, scaling_factor=0.13025, force_upcast=True)
    parts = {"unet": sdxl_unet(), "vae": vae, "scheduler": scheduler("EulerAncestralDiscreteScheduler", **trailing)}
    return sdxl(folder, parts)


def ssd_1b(folder: Path) -> Any:
    """segmind/SSD-1B (Apache-2.0): SDXL with fewer transformers and a mid block of one resnet."""
    depths = {
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    }
    vae = kl(sample_size=1024, scaling_factor=0.13025, force_upcast=True)
    euler = scheduler("EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1)
    return sdxl(folder, {"unet": sdxl_unet(**depths), "vae": vae, "scheduler": euler})


def sdxs_unet(**config: Any) -> Any:
    """SDXS-512's U-Net: three levels, one layer each, no mid block."""
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    levels = {"down_block_types": down, "up_block_types": up, "block_out_channels": WIDE[1:], "mid_block_type": None}
    return sd_unet(**levels, layers_per_block=1, **config)


def sdxs_512_09(folder: Path) -> Any:
    """IDKiro/sdxs-512-0.9 (openrail++): SD 2.1's text encoder, a tiny autoencoder, DEIS with its default spacing."""
    parts = {
        "unet": sdxs_unet(attention_head_dim=(1, 2, 2), use_linear_projection=True),
        "text_encoder": text_encoder(text_config(activation="gelu", layers=3)),
        "vae": taesd(),
        "scheduler": scheduler("DEISMultistepScheduler"),
    }
    return sd(folder, parts, EXCLAMATION)


def sdxs_512_dreamshaper(folder: Path) -> Any:
    """IDKiro/sdxs-512-dreamshaper (openrail++): the same with SD 1.5's text encoder and eight heads."""
    parts = {
        "unet": sdxs_unet(attention_head_dim=8),
        "text_encoder": text_encoder(text_config()),
        "vae": taesd(),
        "scheduler": scheduler("DEISMultistepScheduler"),
    }
    return sd(folder, parts, END)


def sd15(folder: Path, **config: Any) -> Any:
    """stable-diffusion-v1-5/stable-diffusion-v1-5 (CreativeML OpenRAIL-M), or with another U-Net."""
    parts = {
        "unet": sd_unet(**config),
        "text_encoder": text_encoder(text_config()),
        "vae": kl(),
        "scheduler": scheduler("PNDMScheduler", **PNDM),
    }
    return sd(folder, parts, END)


def lcm_dreamshaper(folder: Path) -> Any:
    """SimianLuo/LCM_Dreamshaper_v7 (MIT): SD 1.5 that takes the guidance scale as a 256-wide embedding."""
    parts = {
        "unet": sd_unet(time_cond_proj_dim=256),
        "text_encoder": text_encoder(text_config()),
        "vae": kl(sample_size=768),
        "scheduler": scheduler("LCMScheduler", original_inference_steps=50),
    }
    return sd(folder, parts, END, diffusers.LatentConsistencyModelPipeline)


def bk_sdm_tiny(folder: Path) -> Any:
    """nota-ai/bk-sdm-tiny (CreativeML OpenRAIL-M): SD 1.4 of three levels, one layer each, no mid block."""
    levels = {
        "block_out_channels": (32, 64, 96),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    }
    return sd15(folder, **levels, layers_per_block=1, mid_block_type=None)


def small_sd(folder: Path) -> Any:
    """segmind/small-sd (CreativeML OpenRAIL-M): BK-SDM-Small's shape, four levels, one layer each, no mid block."""
    return sd15(folder, layers_per_block=1, mid_block_type=None)


def sd15_lcm_lora(folder: Path) -> Any:
    """latent-consistency/lcm-lora-sdv1-5 (openrail++) beside SD 1.5: base/ and lcm-lora.safetensors, kohya's keys."""
    pipe = sd15(folder / "base")
    lora_file(pipe.unet, folder / "lcm-lora.safetensors", "kohya")


def sd15_hyper_sd(folder: Path) -> Any:
    """ByteDance/Hyper-SD's LoRA of SD 1.5 (no licence stated) beside it: base/ and hyper-sd.safetensors."""
    pipe = sd15(folder / "base")
    lora_file(pipe.unet, folder / "hyper-sd.safetensors", "peft", ends=(*ATTENTION, "ff.net.0.proj", "ff.net.2"))


def sd_turbo_file(folder: Path) -> Any:
    """`sd_turbo.safetensors`: the whole model in one file, original layout; the folder it came from beside it."""
    single_file(sd_turbo(folder / "diffusers"), folder / "sd_turbo.safetensors")


def sd15_file(folder: Path) -> Any:
    """`v1-5-pruned-emaonly.safetensors`: the same of SD 1.5."""
    single_file(sd15(folder / "diffusers"), folder / "v1-5-pruned-emaonly.safetensors")


def sdxl_turbo_file(folder: Path) -> Any:
    """`sd_xl_turbo_1.0.safetensors`: the same of SDXL-Turbo."""
    single_file(sdxl_turbo(folder / "diffusers"), folder / "sd_xl_turbo_1.0.safetensors")


def sd_turbo_hub(folder: Path) -> Any:
    """The hub's cache (hub/models--stabilityai--sd-turbo) as `hf download stabilityai/sd-turbo` leaves it."""
    sd_turbo(folder / "diffusers")
    hub_cache(folder / "diffusers", folder / "hub", "stabilityai/sd-turbo")


def taesd_folder(folder: Path) -> Any:
    """madebyollin/taesd (MIT): one config.json and the weights, for `--vae`."""
    vae = taesd().eval()
    fit_vae(vae, torch.randn(4, 4, LATENTS, LATENTS))
    vae.save_pretrained(folder)


MODELS: dict[str, Callable[[Path], Any]] = {
    "sd-turbo": sd_turbo,
    "sdxl-turbo": sdxl_turbo,
    "sdxs-512-0.9": sdxs_512_09,
    "sdxs-512-dreamshaper": sdxs_512_dreamshaper,
    "lcm-dreamshaper": lcm_dreamshaper,
    "sd15": sd15,
    "sd15-lcm-lora": sd15_lcm_lora,
    "sd15-hyper-sd": sd15_hyper_sd,
    "bk-sdm-tiny": bk_sdm_tiny,
    "small-sd": small_sd,
    "ssd-1b": ssd_1b,
    "sd-turbo-file": sd_turbo_file,
    "sd15-file": sd15_file,
    "sdxl-turbo-file": sdxl_turbo_file,
    "sd-turbo-hub": sd_turbo_hub,
    "taesd": taesd_folder,
}


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the model of that name to `folder`, the same for the same seed, and return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MODELS[name](folder)
    return folder


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.zoo", __doc__, "example:\n  python -m scripts.zoo sd-turbo --out zoo", json=False)
    made.add_argument("names", nargs="*", metavar="NAME", help="models to write; see --list")
    made.add_argument("--out", type=Path, help="folder; every model becomes OUT/NAME")
    made.add_argument("--list", action="store_true", help="print the names and what each stands for")
    return made


def work(args: argparse.Namespace) -> int:
    """Write the models, or list them."""
    if args.list:
        for name, make in MODELS.items():
            print(f"{name:22}{(make.__doc__ or '').splitlines()[0]}")
        return 0
    if unknown := [name for name in args.names if name not in MODELS]:
        raise UserError(f"unknown model {unknown[0]}: --list prints the names")
    if not args.names or args.out is None:
        raise UserError("give the names of models and --out DIR, or --list")
    for name in args.names:
        print(build(name, args.out / name))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
