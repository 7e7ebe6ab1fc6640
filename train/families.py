"""Which kind or family of models a pipeline belongs to, by its model_index.json; nothing is imported for it.

Kinds are opened here; pipelines of other families are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
UNET, VAES = ("UNet2DConditionModel",), ("AutoencoderKL", "AutoencoderTiny")


@dataclass(frozen=True, eq=False)  # there is one of each, so that what holds it can be a key of a cache
class Kind:
    """What pipelines of one structure have in common.

    pipeline: diffusers' class for pictures from text. names: the classes in model_index.json that it opens.
    encoders: each text encoder's folder and its tokenizer's. classes: the classes that each part may be of.
    second_text: the U-Net takes pooled text and sizes too, and attends to the last states but one of each encoder.
    """

    name: str
    pipeline: str
    names: tuple[str, ...]
    encoders: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]
    second_text: bool = False

    @property
    def networks(self) -> tuple[str, ...]:
        """The folders with weights, in diffusers' names."""
        return (*self.encoders, "unet", "vae")


SD = Kind(
    "Stable Diffusion 1 and 2",
    "StableDiffusionPipeline",
    ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "LatentConsistencyModelPipeline"),
    {"text_encoder": "tokenizer"},
    {"text_encoder": CLIP, "tokenizer": TOKENIZERS, "unet": UNET, "vae": VAES},
)
SDXL = Kind(
    "SDXL",
    "StableDiffusionXLPipeline",
    ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    {
        "text_encoder": CLIP[:1],
        "text_encoder_2": CLIP[1:],
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
        "unet": UNET,
        "vae": VAES,
    },
    second_text=True,
)
KINDS = (SD, SDXL)


def kind_of(index: Mapping[str, Any]) -> Kind | None:
    """The kind of a pipeline with this model_index.json; None for one that is not opened here."""
    return next((kind for kind in KINDS if index.get("_class_name") in kind.names), None)


@dataclass(frozen=True)
class Family:
    """Models of another structure than Stable Diffusion 1 and 2: their name, and programs that take them."""

    name: str
    takers: str


ANY = "diffusers itself"
# By the beginning of the pipeline's class name; the first that fits counts.
FAMILIES = {
    "StableDiffusion3": Family(
        "Stable Diffusion 3", "optimum-onnx (ORTStableDiffusion3Pipeline), OpenVINO GenAI and stable-diffusion.cpp"
    ),
    "Flux2": Family("FLUX.2", "diffusers itself and stable-diffusion.cpp"),
    "Flux": Family("FLUX", "optimum-onnx (ORTFluxPipeline), OpenVINO GenAI and stable-diffusion.cpp"),
    "Sana": Family("SANA", "diffusers itself and optimum-intel"),
    "PixArt": Family("PixArt", ANY),
    "QwenImage": Family("Qwen-Image", "diffusers itself and stable-diffusion.cpp"),
    "ZImage": Family("Z-Image", "diffusers itself and stable-diffusion.cpp"),
    "Chroma": Family("Chroma", "diffusers itself and stable-diffusion.cpp"),
    "HunyuanDiT": Family("Hunyuan-DiT", ANY),
    "AuraFlow": Family("AuraFlow", ANY),
    "Lumina": Family("Lumina", ANY),
    "Kolors": Family("Kolors", ANY),
}


def family_of(index: Mapping[str, Any]) -> Family | None:
    """The family of a pipeline with this model_index.json; None for Stable Diffusion 1 and 2, and where unclear."""
    name = str(index.get("_class_name"))
    for beginning, family in FAMILIES.items():
        if name.startswith(beginning):
            return family
    if "transformer" in index:
        return Family("diffusion transformers (DiT)", ANY)
    if "XL" in name or "text_encoder_2" in index:
        return Family(SDXL.name, "the exporters and the runtime here, optimum-onnx and OpenVINO GenAI")
    return None


def refusal(index: Mapping[str, Any], family: Family, kinds: Sequence[Kind]) -> str:
    """Why a pipeline of another family than these kinds is not taken, and what takes it."""
    name, known = index.get("_class_name"), " and ".join(kind.name for kind in kinds)
    done = "trained as a teacher" if family.name == SDXL.name else "exported or distilled"
    return (
        f"a {name} is not {done}: it belongs to the family {family.name}, and only the structure of {known} is known "
        f"here; {family.takers} can run it"
    )
