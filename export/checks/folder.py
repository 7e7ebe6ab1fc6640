"""Whether the exporters understand a checkpoint's folder, judged by its JSON files: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.checks.parts import added_faults, size_faults, vae_faults, vocabulary_faults, width_faults
from runtime import schedule
from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS
from train.families import KINDS, SD, SDXL, Kind, family_of, kind_of, refusal
from train.folders import read_json

# Each was traced and its graph compared with PyTorch; diffusers' other blocks do not run in its UNet2DConditionModel.
BLOCKS = (
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "AttnDownBlock2D",
    "SimpleCrossAttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "AttnUpBlock2D",
    "SimpleCrossAttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UNetMidBlock2DSimpleCrossAttn",
    "UNetMidBlock2D",
)
CLIPPING = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")  # where nothing says no
# Settings with which a scheduler's step is no sum of latents, output and noise, by the classes that heed them.
NOT_LINEAR = {
    "clip_sample": (*CLIPPING, "LCMScheduler", "HeunDiscreteScheduler"),
    "thresholding": (
        *(*CLIPPING, "LCMScheduler", "TCDScheduler", "UniPCMultistepScheduler", "SASolverScheduler"),
        *("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    ),
}
# Pipelines of diffusers that set clip_sample to false in whatever scheduler they are given.
UNCLIPPED = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
Config = Mapping[str, Any]


def hint(path: Path) -> str:
    """What `path`, which holds no pipeline, seems to be, and what to give instead; "" where that is unclear."""
    if path.name == "model_index.json":
        return f"{path} is a file: give its folder, {path.parent}"
    if path.is_file():
        return ""  # what it is was told already
    if (path / "pipeline" / "model_index.json").is_file():
        return f"{path} is a training run: give {path / 'pipeline'}"
    for snapshot in sorted(path.glob("snapshots/*/model_index.json")):
        return f"{path} is a folder of the Hugging Face cache: give {snapshot.parent}"
    if (path.parent / "model_index.json").is_file() and path.is_dir():
        return f"{path} is one part of a pipeline: give {path.parent}"
    if (path / "config.json").is_file() and read_json(path / "config.json").get("_class_name") == SD.classes["unet"][0]:
        return f"{path} is a U-Net alone: give the pipeline with the other parts by --base"
    if any(path.glob("*lora*.safetensors")):
        return f"{path} holds LoRA weights alone: give their base model as CHECKPOINT, and the file by --lora"
    if is_export(path):
        return f"{path} is an export: give the checkpoint that it was made from"
    return ""


def is_export(folder: Path) -> bool:
    """Whether a folder holds exported networks rather than the weights that they were made from."""
    exported = any(any(folder.glob(name)) for name in ("*/model.onnx", "*/openvino_model.xml", "*.mlpackage"))
    return exported and not any(folder.glob("unet/diffusion_pytorch_model*"))


def check_folder(folder: Path) -> None:
    """Raise UserError, one line, for a pipeline that would not export, or not correctly."""
    index = read_json(folder / "model_index.json")
    if "vae_decoder" in index or is_export(folder):
        raise UserError(f"{folder} is an export already: give the checkpoint that it was made from")
    refuse(folder, pipeline_faults(index))
    kind = kind_of(index) or SD
    configs = {part: read_json(folder / part / "config.json") for part in kind.networks}
    texts = [configs[part] for part in kind.encoders]
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    refuse(folder, unet_faults(configs["unet"], kind))
    refuse(folder, size_faults(configs["unet"]))
    for text in texts:
        refuse(folder, text_faults(text))
    refuse(folder, width_faults(texts, configs["unet"]))
    if kind.second_text:
        refuse(folder, added_faults(texts[-1], configs["unet"], configs["vae"]))
    refuse(folder, vae_faults(configs["vae"], configs["unet"]))
    for text, tokenizer in zip(texts, kind.encoders.values(), strict=True):
        refuse(folder, vocabulary_faults(text, folder / tokenizer))
    unclipped = index.get("_class_name") in UNCLIPPED
    refuse(folder, scheduler_faults(scheduler | {"clip_sample": False} if unclipped else scheduler))


def refuse(folder: Path, faults: Iterator[str]) -> None:
    """Raise UserError with the first fault, if there is one."""
    try:
        fault = next(faults, None)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UserError(f"{folder}: a configuration is not of the form that diffusers writes: {error}") from error
    if fault is not None:
        raise UserError(f"{folder}: {fault}")


def pipeline_faults(index: Config) -> Iterator[str]:
    """Why model_index.json rules out an export."""
    name, kind = str(index.get("_class_name")), kind_of(index)
    family = family_of(index)
    if family and family.name != SDXL.name:
        yield refusal(index, family, KINDS)
    if "controlnet" in index or "ControlNet" in name:
        yield f"a {name} takes a control picture, which the exported U-Net has no input for: export its base model"
    if kind is None:
        known_pipelines = " and ".join(f"{one.pipeline}s" for one in KINDS)
        yield f"a {name} is not exported, only {known_pipelines} are (CLIP text encoders, U-Net, autoencoder)"
        return
    if kind == SD and family:
        yield f"model_index.json names a {name} and a second text encoder, which is SDXL's: a {SDXL.pipeline} has two"
    for part, known in kind.classes.items():
        found = (index.get(part) or [None, None])[1]
        if found not in known:
            yield f"its {part} is a {found}, and only {' or '.join(known)} is exported"


def unet_faults(unet: Config, kind: Kind = SD) -> Iterator[str]:
    """Why the U-Net's configuration rules out an export: inputs that the graphs do not have, unknown blocks."""
    taken, given = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if taken != given:
        yield (
            f"the U-Net takes {taken} channels and gives {given}: inpainting and other models that are given a "
            "picture are not exported"
        )
    if (unet.get("addition_embed_type") == "text_time") != kind.second_text:
        takes = "needs no" if kind.second_text else "is SDXL's: it needs a"
        yield (
            f"the U-Net {takes} second text encoder's pooled text (addition_embed_type is "
            f"{unet.get('addition_embed_type')!r}), and model_index.json names a {kind.pipeline}"
        )
    if unet.get("class_embed_type") is not None or unet.get("num_class_embeds") is not None:
        yield "the U-Net takes class labels (class_embed_type), which the exported graph has no input for"
    for key, known in (
        ("addition_embed_type", (None, "text", "text_time")),
        ("encoder_hid_dim_type", (None, "text_proj")),
        ("attention_type", (None, "default")),
    ):
        if unet.get(key) not in known:
            yield f"the U-Net's {key} is {unet[key]!r}, which takes more than a text: such a model is not exported"
    blocks = [*unet.get("down_block_types", ()), *unet.get("up_block_types", ()), unet.get("mid_block_type")]
    for block in blocks:
        if block is not None and block not in BLOCKS:
            yield f"the U-Net has a {block}, which no exported graph was compared with: such a model is not exported"


def text_faults(text: Config) -> Iterator[str]:
    """Why the text encoder's configuration rules out an export."""
    tokens = text.get("max_position_embeddings", MAX_TOKENS)
    if tokens != MAX_TOKENS:
        yield f"the text encoder must read {MAX_TOKENS} tokens, not {tokens}"


def clipping(name: str, config: Config) -> str | None:
    """The setting with which a scheduler of this class changes single values of the latents; None where it does not."""
    by_default = {"clip_sample": name in CLIPPING}
    found = (key for key, classes in NOT_LINEAR.items() if name in classes and config.get(key, by_default.get(key)))
    return next(found, None)


def scheduler_faults(config: Config) -> Iterator[str]:
    """Why the scheduler's configuration rules out an export."""
    name, kind = config.get("_class_name"), config.get("prediction_type", "epsilon")
    if key := clipping(str(name), config):
        yield (
            f"its {name} changes single values of the latents ({key}), which the steps of an export cannot hold: "
            f"set {key} to false in scheduler/scheduler_config.json if the model allows it"
        )
    if "FlowMatch" in str(name):
        yield f"a {name} makes it a flow model, which is not exported: alpha and sigma must preserve variance"
    if kind not in schedule.PREDICTION_TYPES:
        allowed = " or ".join(schedule.PREDICTION_TYPES)
        yield f"the scheduler's prediction_type is {kind!r}, not {allowed}"
    try:
        alpha, _ = schedule.from_scheduler_config(config)
    except (ValueError, TypeError) as error:
        yield f"the scheduler's noise levels are not understood: {error}"
        return
    if kind == "epsilon" and alpha[-1] < 1e-6:
        yield "with rescale_betas_zero_snr the first step is pure noise, and epsilon tells nothing of the picture there"
