"""How Core ML packages are made; nothing heavy is imported here, so that commands start at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from export.checks.gates import THRESHOLDS_DB
from export.coreml import palettize
from runtime.errors import UserError
from runtime.manifest import COMPONENTS
from runtime.tokenizer.conditioning import SECOND

TARGETS = ("iOS16", "iOS17", "iOS18")
COMPUTE_UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
ATTENTIONS = ("ORIGINAL", "SPLIT_EINSUM", "SPLIT_EINSUM_V2")
ENCODER_NBITS = 8  # at least: a bad encoder would show in no picture from text
OTHER_NBITS = 8  # of the other modules when the U-Net is W8A8
W8A8: dict[str, Any] = {
    "weights": "int8, symmetric, one scale an output channel",
    "activations": "int8, symmetric, one scale a tensor: what convolutions and linear layers take and give",
    "fp16": ["first and last convolution", "time embedding", "attention scores", "norms", "sums"],
}


@dataclass(frozen=True)
class Options:
    """The options of the command line that decide what is written."""

    quantize_nbits: int | None = None
    quantize_activations: bool = False
    attention_implementation: str = "ORIGINAL"
    min_deployment_target: str = "iOS16"
    compute_unit: str = "ALL"
    chunk_unet: bool = False
    bundle_resources_for_swift_cli: bool = False
    min_psnr_db: float | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises UserError when options contradict each other."""
        if self.quantize_activations and self.quantize_nbits:
            raise UserError("--quantize-activations brings its own 8-bit weights: leave out --quantize-nbits")
        if self.quantize_activations and self.min_deployment_target == "iOS16":
            raise UserError("--quantize-activations needs --min-deployment-target iOS17 or iOS18")

    @property
    def precision(self) -> str:
        """fp16, the bits of a palettized weight, or w8a8."""
        if self.quantize_activations:
            return "w8a8"
        return f"palettized-{self.quantize_nbits}bit" if self.quantize_nbits else "fp16"

    @property
    def threshold_db(self) -> float:
        """Least PSNR of a picture."""
        return THRESHOLDS_DB[self.precision] if self.min_psnr_db is None else self.min_psnr_db

    @property
    def copies(self) -> dict[str, int]:
        """How often each part is written."""
        times = 2 if self.bundle_resources_for_swift_cli else 1
        return {name: times * (2 if name == "unet" and self.chunk_unet else 1) for name in (*COMPONENTS, SECOND)}

    def nbits(self, part: str) -> int | None:
        """Bits of a part's palettized weights; None where it has none."""
        if self.quantize_activations:
            return None if part == "unet" else OTHER_NBITS
        if part == "vae_encoder" and self.quantize_nbits:
            return max(self.quantize_nbits, ENCODER_NBITS)
        return self.quantize_nbits

    def recipe(self, part: str) -> dict[str, Any]:
        """How a part's weights and activations were compressed."""
        nbits = self.nbits(part)
        if nbits:
            return palettize.recipe(nbits, self.min_deployment_target)
        return W8A8 if self.quantize_activations else {"weights": "fp16"}
