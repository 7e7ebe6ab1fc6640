"""How an ONNX bundle is made; nothing heavy is imported here, so that commands start at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.checks.gates import MOST_RATIO, MOST_STEPS, THRESHOLDS_DB

FUSED = "fused.onnx"  # one graph for the whole pipeline


@dataclass(frozen=True)
class Options:
    """How a bundle is made; None means the precision's default."""

    precision: str = "fp32"
    fold_timestep: bool = False  # the U-Net of the one-step timestep only
    fused: bool = False  # also one graph for the whole pipeline
    min_psnr_db: float | None = None  # of the worst picture
    budget_db: float | None = None  # error that compressed weights may cause in the mean picture
    max_fd_ratio: float = MOST_RATIO  # ratio of the bundle's FD-Lite0 to the checkpoint's
    data: Path | None = None  # real pictures for FD-Lite0
    overwrite: bool = False

    @property
    def threshold_db(self) -> float:
        return THRESHOLDS_DB[self.precision] if self.min_psnr_db is None else self.min_psnr_db

    @property
    def steps(self) -> int:
        """The most steps that the bundle can be asked for."""
        return 1 if self.fold_timestep else MOST_STEPS
