"""The models that come as single files: what their shapes do not say, and how a file says which of them it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SD1, SD2, SDXL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "SDXL"
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False}
DDIM = {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False}
EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
ANCESTRAL = {"_class_name": "EulerAncestralDiscreteScheduler"}
EPSILON, V = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Model:
    """One published model: its structure, the side of its latents, its scheduler's configuration."""

    structure: str
    latents: int
    about: str
    scheduler: Mapping[str, Any] = field(hash=False)

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """scheduler_config.json."""
        return {**NOISE, "steps_offset": 1, **self.scheduler}


# By the names that --config takes.
MODELS = {
    "sd15": Model(SD1, 64, "epsilon", PNDM | EPSILON),
    "sd-turbo": Model(SD2, 64, "one step, epsilon", EULER | TRAILING | EPSILON),
    "sd21-base": Model(SD2, 64, "512 px, epsilon", PNDM | EPSILON),
    "sd21": Model(SD2, 96, "768 px, v", DDIM | V),
    "sdxl-turbo": Model(SDXL, 64, "one step", ANCESTRAL | TRAILING | EPSILON),
    "sdxl": Model(SDXL, 128, "1024 px", EULER | EPSILON),
}
# What file names and titles say, by structure; the first that is found counts.
SIGNS: dict[str, dict[str, str]] = {
    SD1: {"sd15": ""},
    SD2: {"sd-turbo": "turbo", "sd21-base": r"\b512\b|21 base", "sd21": r"\b768\b|\b768v\b"},
    SDXL: {"sdxl-turbo": "turbo", "sdxl": r"\bxl base\b|\bsdxl base\b|xl 1 0 base"},
}
ARCHITECTURES = {"stable-diffusion-v2-512": "sd21-base", "stable-diffusion-v2-768-v": "sd21"}


def model_of(structure: str, stem: str, metadata: Mapping[str, str]) -> str | None:
    """Which of MODELS a file is; None where neither its name nor its header says so.

    stem: the file's name without the ending. metadata: the header's texts, of which modelspec's title, architecture
    and prediction type count (https://github.com/Stability-AI/ModelSpec).
    """
    words = re.sub(r"[\W_]+", " ", f"{stem} {metadata.get('modelspec.title', '')}".lower())
    if named := [name for name, model in MODELS.items() if model.structure == structure and name in stem.lower()]:
        return max(named, key=len)
    signs = SIGNS[structure]
    found = next((name for name, sign in signs.items() if re.search(sign, words)), None)
    found = found or ARCHITECTURES.get(metadata.get("modelspec.architecture", ""))
    return found if found in signs else None


def predicts_v(metadata: Mapping[str, str], names: Mapping[str, Any]) -> bool:
    """Whether a file says that its U-Net predicts v: in its header, or by the empty tensor that some trainers add."""
    return metadata.get("modelspec.prediction_type", "").lower().startswith("v") or "v_pred" in names


def choices(structure: str) -> str:
    """The models of a structure, as a refusal offers them."""
    return ", ".join(f"{name} ({model.about})" for name, model in MODELS.items() if model.structure == structure)
