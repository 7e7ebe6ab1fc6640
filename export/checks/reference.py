"""PyTorch's outputs on fixed cases: what every export is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from export.checks.measure import MIN_ENCODER_DB, Measure, Network, Parity, at_least, measure, psnr_db
from export.checks.prompts import LARGE_COMPARED
from export.source import Floats, Ids, Source
from runtime import schedule
from runtime.pixels import unit_to_uint8

ARRAYS = ("ids", "noise", "states", "prediction", "latents", "decoded", "pictures")
STEPS = (1, 4)


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


class Reference:
    """The PyTorch model's outputs on the fixed cases, computed once for any number of comparisons."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.network = torch_network(source)
        compared = source.prompts.compared[:LARGE_COMPARED] if source.large else source.prompts.compared
        self.notes: dict[str, Any] = {"prompts": source.prompts.origin}
        self.ids = source.encode(list(compared))
        self.noise = source.noise(list(range(len(compared))))
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
        """Compare every module on the reference's own inputs, then the whole picture against `min_psnr_db`."""
        each = self.pictures_db(network)
        status, why = ("passed", "") if min(each) >= min_psnr_db else ("failed", f"below {min_psnr_db:g} dB")
        worst = Measure(None, min(each), status, why)
        return Parity(worst, self.modules(network), each, self.four_steps_db(network), min_psnr_db, dict(self.notes))

    def four_steps_db(self, network: Network) -> float | None:
        """PSNR of all cases' four-step pictures; None for a one-step network or a model that is too slow here."""
        if self.four is None or network.one_step:
            return None
        return psnr_db(self.four, pictures(network, self.source, self.ids, self.noise, steps=4), peak=1.0)

    def pictures_db(self, network: Network) -> list[float]:
        """PSNR of each case's one-step picture."""
        found = pictures(network, self.source, self.ids, self.noise)
        return [psnr_db(a, b, peak=1.0) for a, b in zip(self.pictures, found, strict=True)]

    def pixels(self, network: Network) -> npt.NDArray[np.uint8]:
        """Each case's one-step picture, u8[N,H,W,3]."""
        return unit_to_uint8(pictures(network, self.source, self.ids, self.noise).transpose(0, 2, 3, 1))

    def modules(self, network: Network) -> dict[str, Measure]:
        """Each module alone; a U-Net that gives epsilon instead of v is compared by the v computed from it."""
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


@dataclass(frozen=True)
class Schedule:
    """What `export.checks.reference.pictures` needs from a Source."""

    prediction_type: str
    scaling_factor: float
    tables: dict[int, list[tuple[int, float, float]]]

    def steps(self, count: int) -> list[tuple[int, float, float]]:
        """(timestep, alpha, sigma) of each step, noisiest first."""
        return self.tables[count]


def save_reference(reference: Reference, path: Path) -> None:
    """Write the arrays and the noise schedule of a reference as one .npz."""
    source = reference.source
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(reference, name) for name in ARRAYS}
    if reference.four is not None:
        arrays["four"] = reference.four
    if reference.network.vae_encoder is not None:
        arrays["encoded"] = reference.network.vae_encoder(reference.decoded)
    arrays |= {f"steps_{count}": np.array(source.steps(count)) for count in STEPS}
    scalars = {"prediction_type": source.prediction_type, "scaling_factor": source.scaling_factor} | reference.notes
    np.savez(path, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in scalars.items()})


class StoredReference(Reference):
    """A reference read from its file; `drawn`: the last network's one-step pictures, f32[N,3,H,W] in [0,1]."""

    drawn: Floats

    def __init__(self, path: Path) -> None:
        stored = np.load(path, allow_pickle=False)
        for name in ARRAYS:
            setattr(self, name, stored[name])
        self.four = stored.get("four")
        tables = {n: [(int(t), float(a), float(s)) for t, a, s in stored[f"steps_{n}"]] for n in STEPS}
        schedule = Schedule(str(stored["prediction_type"]), float(stored["scaling_factor"]), tables)
        self.source = cast(Source, schedule)  # of which nothing else is needed
        self.timestep, self.alpha, self.sigma = schedule.steps(1)[0]
        self.network, self.notes = recalled(stored), {"prompts": str(stored["prompts"])}

    def pictures_db(self, network: Network) -> list[float]:
        """As in Reference; the pictures are kept."""
        self.drawn = pictures(network, self.source, self.ids, self.noise)
        return [psnr_db(a, b, peak=1.0) for a, b in zip(self.pictures, self.drawn, strict=True)]


def recalled(stored: Any) -> Network:
    """The checkpoint as a comparison uses it: its stored outputs."""
    network = Network(lambda _: stored["states"], lambda *_: stored["prediction"], lambda _: stored["decoded"])
    return replace(network, vae_encoder=lambda _: stored["encoded"]) if "encoded" in stored else network
