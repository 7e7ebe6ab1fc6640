"""How OpenVINO models are made; nothing heavy is imported here, so that commands start at once."""

from __future__ import annotations

from dataclasses import dataclass

from export.checks.gates import THRESHOLDS_DB

STORED = {
    "fp32": "f32",
    "fp16": "f16",
    "int8": "u8 with an f16 scale and a u8 zero point an output channel; the rest f16 or f32",
}


@dataclass(frozen=True)
class Options:
    """How the models are made; min_psnr_db: None means the precision's default."""

    precision: str = "fp32"
    min_psnr_db: float | None = None
    overwrite: bool = False

    @property
    def threshold_db(self) -> float:
        return THRESHOLDS_DB[self.precision] if self.min_psnr_db is None else self.min_psnr_db
