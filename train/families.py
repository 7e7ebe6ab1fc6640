"""Which family of models a pipeline belongs to, by its model_index.json; nothing is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SDXL = "SDXL"


@dataclass(frozen=True)
class Family:
    """Models that are not Stable Diffusion 1 or 2: their name, and programs that take them."""

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
        return Family(SDXL, "optimum-onnx (ORTStableDiffusionXLPipeline), OpenVINO GenAI and Apple's converter")
    return None


def refusal(index: Mapping[str, Any], family: Family) -> str:
    """Why a pipeline of another family is not taken, and what takes it."""
    return (
        f"a {index.get('_class_name')} is not exported or distilled: it belongs to the family {family.name}, and only "
        f"the structure of Stable Diffusion 1 and 2 is known here; {family.takers} can run it"
    )
