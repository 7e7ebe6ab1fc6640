"""How close an export is to the PyTorch model: modules, whole pictures, and the gate that refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.source import Floats, Ids, Source
from runtime import schedule
from train.errors import UserError

MODULES = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
# The worst one-step picture must be at least this close to PyTorch's, in dB of PSNR.
THRESHOLDS_DB = {
    "fp32": 50.0, "fp16": 35.0, "int8": 30.0, "int8-weights": 30.0, "int4-weights": 20.0, "w8a8": 28.0,
    "palettized-8bit": 28.0, "palettized-6bit": 20.0, "palettized-4bit": 12.0,
}
CAP_DB = 150.0  # what equal arrays get: infinity has no JSON
CASES = (
    ("a red fox, 3d style", 0),
    ("pepperoni pizza", 1),
    ("a smiling cat with heart eyes, flat style", 2),
    ("rocket", 3),
)
LARGE_CASES = 1  # of them for a model whose pictures take long; its four steps are not compared

# No text-to-image picture shows a broken encoder, so it has a threshold of its own, in dB of PSNR.
MIN_ENCODER_DB = 25.0


@dataclass(frozen=True)
class Network:
    """A model as functions of numpy arrays, whatever runs it; names, shapes and ranges as in `export.graphs`.

    vae_encoder is None where the export has none; prediction_type where the U-Net gives another than the
    checkpoint's. one_step: its U-Net knows the first timestep of one step only.
    """

    text_encoder: Callable[[Ids], Floats]
    unet: Callable[[Floats, float, Floats], Floats]
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
    four_steps_db: float | None = None
    threshold_db: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

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


def at_least(measured: Measure, psnr: float) -> Measure:
    """The measure, failed when it is below `psnr` dB."""
    if measured.status != "passed" or measured.psnr_db is None or measured.psnr_db >= psnr:
        return measured
    return Measure(measured.max_abs, measured.psnr_db, "failed", f"{measured.psnr_db:.1f} dB, below {psnr:g} dB")


def not_run(why: str) -> Measure:
    """A comparison that this machine cannot make."""
    return Measure(None, None, "not run", why)


def torch_network(source: Source) -> Network:
    """The checkpoint itself, untouched, as the reference."""
    pipe = source.pipe

    @torch.no_grad()
    def decode(latents: Floats) -> Floats:
        return pipe.vae.decode(torch.from_numpy(latents), return_dict=False)[0].numpy()  # type: ignore

    @torch.no_grad()
    def encode(picture: Floats) -> Floats:
        encoded = pipe.vae.encode(torch.from_numpy(picture), return_dict=False)[0]
        return (encoded if isinstance(encoded, torch.Tensor) else encoded.mode()).numpy()

    @torch.no_grad()
    def predict(sample: Floats, timestep: float, states: Floats) -> Floats:
        parts = torch.from_numpy(sample), torch.tensor(timestep), torch.from_numpy(states)
        return pipe.unet(*parts, return_dict=False)[0].numpy()  # type: ignore

    return Network(
        text_encoder=torch.no_grad()(lambda ids: pipe.text_encoder(torch.from_numpy(ids))[0].numpy()),
        unet=predict,
        vae_decoder=decode,
        vae_encoder=encode,
    )


def pictures(network: Network, source: Source, ids: Ids, noise: Floats, steps: int = 1) -> Floats:
    """Pictures f32[N,3,H,W] in [0,1] from token ids and initial latents, by deterministic DDIM."""
    states = network.text_encoder(ids)
    latents = noise
    kind = network.prediction_type or source.prediction_type
    for (timestep, *now), (_, *then) in pairwise([*source.steps(steps), (0, *schedule.CLEAN)]):
        output = network.unet(latents, float(timestep), states)
        latents = schedule.ddim_step(latents, output, kind, (now[0], now[1]), (then[0], then[1]))
        latents = latents.astype(np.float32)
    decoded = network.vae_decoder(latents / np.float32(source.scaling_factor))
    return np.clip(decoded / 2 + 0.5, 0, 1).astype(np.float32)


def to_pixels(found: Floats) -> npt.NDArray[np.uint8]:
    """Pictures f32[N,3,H,W] in [0,1] as u8[N,H,W,3], rounded as the runtime rounds."""
    return np.asarray(np.floor(found.transpose(0, 2, 3, 1) * 255 + 0.5), np.uint8)


class Reference:
    """The PyTorch model's outputs on the fixed cases, computed once for any number of comparisons."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.network = torch_network(source)
        cases = CASES[:LARGE_CASES] if source.large else CASES
        self.ids = source.encode([prompt for prompt, _ in cases])
        self.noise = source.noise([seed for _, seed in cases])
        self.states = self.network.text_encoder(self.ids)
        self.timestep, self.alpha, self.sigma = source.steps(1)[0]
        self.prediction = self.network.unet(self.noise, float(self.timestep), self.states)
        level = (self.alpha, self.sigma)
        clean = schedule.ddim_step(self.noise, self.prediction, source.prediction_type, level)
        self.latents = (clean / source.scaling_factor).astype(np.float32)
        self.decoded = self.network.vae_decoder(self.latents)
        self.pictures = np.clip(self.decoded / 2 + 0.5, 0, 1)
        self.four = None if source.large else pictures(self.network, source, self.ids, self.noise, steps=4)

    def compare(self, network: Network, min_psnr_db: float) -> Parity:
        """Every module on the reference's own inputs, then the whole picture against `min_psnr_db`."""
        each = self.pictures_db(network)
        status, why = ("passed", "") if min(each) >= min_psnr_db else ("failed", f"below {min_psnr_db:g} dB")
        worst = Measure(None, min(each), status, why)
        return Parity(worst, self.modules(network), each, self.four_steps_db(network), min_psnr_db)

    def four_steps_db(self, network: Network) -> float | None:
        """PSNR of all cases' pictures in four steps; None where the network or the machine is not up to them."""
        if self.four is None or network.one_step:
            return None
        return psnr_db(self.four, pictures(network, self.source, self.ids, self.noise, steps=4), peak=1.0)

    def pictures_db(self, network: Network) -> list[float]:
        """PSNR of each case's one-step picture."""
        found = pictures(network, self.source, self.ids, self.noise)
        return [psnr_db(a, b, peak=1.0) for a, b in zip(self.pictures, found, strict=True)]

    def pixels(self, network: Network) -> npt.NDArray[np.uint8]:
        """Each case's one-step picture, u8[N,H,W,3]."""
        return to_pixels(pictures(network, self.source, self.ids, self.noise))

    def modules(self, network: Network) -> dict[str, Measure]:
        """Each module alone; a U-Net that gives epsilon for v is compared by the v that follows from it."""
        unet = network.unet(self.noise, float(self.timestep), self.states)
        if network.prediction_type == "epsilon" and self.source.prediction_type == "v_prediction":
            unet = ((unet - self.sigma * self.noise) / self.alpha).astype(np.float32)
        found = {
            "text_encoder": measure(self.states, network.text_encoder(self.ids)),
            "unet": measure(self.prediction, unet),
            "vae_decoder": measure(self.decoded, network.vae_decoder(self.latents)),
        }
        if network.vae_encoder is not None and self.network.vae_encoder is not None:
            expected = self.network.vae_encoder(self.decoded)
            found["vae_encoder"] = at_least(measure(expected, network.vae_encoder(self.decoded)), MIN_ENCODER_DB)
        return found


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
