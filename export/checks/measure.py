"""How close an export is to the PyTorch model: modules, whole pictures, and the gate that refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from export.source import Floats, Ids
from export.text import Text
from runtime.errors import UserError

CAP_DB = 150.0  # what equal arrays get: JSON has no infinity
# A broken encoder shows in no text-to-image picture, so it has a threshold of its own, in dB of PSNR.
MIN_ENCODER_DB = 25.0


@dataclass(frozen=True)
class Network:
    """A model as functions of numpy arrays, whatever runs it; names, shapes and ranges as in `export.graphs`.

    vae_encoder is None where the export has none; prediction_type is set where the U-Net's differs from the
    checkpoint's. one_step: its U-Net only knows the first timestep of a one-step run.
    """

    text_encoder: Callable[[Ids], Text]  # by all of its text encoders
    unet: Callable[[Floats, float, Text], Floats]
    vae_decoder: Callable[[Floats], Floats]
    vae_encoder: Callable[[Floats], Floats] | None = None
    prediction_type: str | None = None
    one_step: bool = False


@dataclass(frozen=True)
class Measure:
    """One comparison: the largest difference, the PSNR, and passed | failed | not run with the reason."""

    max_abs: float | None
    psnr_db: float | None
    status: str = "passed"
    why: str = ""


@dataclass
class Parity:
    """All comparisons of one export. picture: the worst one-step picture; pictures_db: each one's PSNR."""

    picture: Measure
    modules: dict[str, Measure] = field(default_factory=dict)
    pictures_db: list[float] = field(default_factory=list)
    two_steps_db: float | None = None
    four_steps_db: float | None = None
    threshold_db: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def worst_steps(self) -> tuple[int, float] | None:
        """(number of steps, its PSNR) of the worse of two and four; None where neither was drawn."""
        found = {2: self.two_steps_db, 4: self.four_steps_db}
        drawn = [(steps, db) for steps, db in found.items() if db is not None]
        return min(drawn, key=lambda one: one[1], default=None)

    def to_json(self) -> dict[str, Any]:
        """The figures, rounded, for a manifest or a report."""
        figures: dict[str, Any] = _rounded(asdict(self))
        notes: dict[str, Any] = figures.pop("notes")
        return figures | notes


def psnr_db(reference: npt.NDArray[Any], other: npt.NDArray[Any], peak: float | None = None) -> float:
    """Peak signal to noise ratio in dB, at most CAP_DB; -CAP_DB where `other` is not finite.

    peak: the reference's largest magnitude by default; 1.0 for pictures in [0,1].
    """
    a, b = reference.astype(np.float64), other.astype(np.float64)
    if not np.isfinite(b).all():
        return -CAP_DB
    error = float(np.mean((a - b) ** 2))
    top = float(np.abs(a).max()) if peak is None else peak
    if error == 0 or top == 0:
        return CAP_DB if error == 0 else -CAP_DB
    return min(CAP_DB, 10 * math.log10(top**2 / error))


def measure(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> Measure:
    """max_abs and PSNR of a module's output; failed only where it is not finite or not of the same shape."""
    if reference.shape != other.shape:
        return Measure(None, None, "failed", f"shape {other.shape}, not {reference.shape}")
    if not np.isfinite(other).all():
        return Measure(None, None, "failed", "the output holds NaN or infinity")
    difference = np.abs(reference.astype(np.float64) - other.astype(np.float64))
    return Measure(float(difference.max()), psnr_db(reference, other))


def worse(one: Measure, other: Measure) -> Measure:
    """Of two comparisons the one that failed, or has the lower PSNR."""
    return min(one, other, key=lambda measured: (measured.status != "failed", measured.psnr_db or -CAP_DB))


def at_least(measured: Measure, psnr: float) -> Measure:
    """The measurement; it failed when it is below `psnr` dB."""
    if measured.status != "passed" or measured.psnr_db is None or measured.psnr_db >= psnr:
        return measured
    return Measure(measured.max_abs, measured.psnr_db, "failed", f"{measured.psnr_db:.1f} dB, below {psnr:g} dB")


def not_run(why: str) -> Measure:
    """A comparison that this machine cannot run."""
    return Measure(None, None, "not run", why)


def refuse_below(parity: Parity, what: str) -> None:
    """Raise UserError unless every module is sound and the picture is close enough."""
    broken = [f"{name}: {m.why}" for name, m in parity.modules.items() if m.status == "failed"]
    if broken:
        raise UserError(f"{what} is broken, nothing was written: {'; '.join(broken)}")
    if parity.picture.status == "failed":
        found = {name: m.psnr_db for name, m in parity.modules.items()}
        modules = ", ".join(f"{name} {value:.1f}" for name, value in found.items() if value is not None)
        raise UserError(
            f"{what}: a one-step picture is {parity.picture.psnr_db:.1f} dB from PyTorch's, below the "
            f"threshold of {parity.threshold_db:g} dB; nothing was written (modules, dB: {modules}; "
            "--min-psnr-db sets another threshold)"
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1 else round(value, 2)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
