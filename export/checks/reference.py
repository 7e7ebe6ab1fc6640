"""diffusers' own pictures of fixed cases, and PyTorch's outputs on them: what every export is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from export.checks.gates import MOST_STEPS, SEVERAL
from export.checks.measure import MIN_ENCODER_DB, Measure, Network, Parity, at_least, measure, psnr_db, worse
from export.checks.pipeline import drawn_by_diffusers
from export.checks.prompts import LARGE_COMPARED
from export.source import Floats, Ids, Source
from export.text import Text, encoded, told
from runtime.manifest import Step
from runtime.pixels import unit_to_uint8
from runtime.sampler import Memory, weighed

ARRAYS = ("ids", "draws", "prediction", "latents", "decoded", "pictures")
POOLED = "pooled"  # of a Text, where the U-Net takes it


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
    def read(ids: Ids) -> Text:
        return encoded(source, torch.from_numpy(ids)).each(torch.Tensor.numpy)

    @torch.no_grad()
    def predict(sample: Floats, timestep: float, text: Text) -> Floats:
        parts, given = (torch.from_numpy(sample), torch.tensor(timestep)), text.each(torch.from_numpy)
        return pipe.unet(*parts, **given.arguments(told(source).sizes(sample)), return_dict=False)[0].numpy()  # type: ignore

    return Network(
        text_encoder=read,
        unet=predict,
        vae_decoder=decode,
        vae_encoder=encode,
    )


class Sampling(Protocol):
    """What `pictures` needs to know of a checkpoint."""

    @property
    def prediction_type(self) -> str: ...
    @property
    def scaling_factor(self) -> float: ...
    def steps(self, count: int) -> tuple[Step, ...]: ...


def pictures(network: Network, sampling: Sampling, ids: Ids, draws: Floats, steps: int = 1) -> Floats:
    """Pictures f32[N,3,H,W] in [0,1] from token ids and normals f32[1+fresh,N,C,h,w], as a client of the export makes.

    draws: see `Source.draws`.
    """
    text = network.text_encoder(ids)
    table, memory = sampling.steps(steps), Memory()
    latents = draws[0] * np.float32(table[0].noise_scale)
    for step in table:
        output = network.unet(latents, float(step.timestep), text)
        output = weighed(step, latents, output, network.prediction_type, sampling.prediction_type)
        latents = memory.advance(step, latents, output, draws[step.draw] if step.noise else None).astype(np.float32)
    decoded = network.vae_decoder(latents / np.float32(sampling.scaling_factor))
    return np.clip(decoded / 2 + 0.5, 0, 1).astype(np.float32)


class Reference:
    """The fixed cases: diffusers' pictures of prompts and seeds, and what each module gives. Computed once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.network = torch_network(source)
        compared = source.prompts.compared[:LARGE_COMPARED] if source.large else source.prompts.compared
        self.notes: dict[str, Any] = {"prompts": source.prompts.origin}
        self.ids = source.encode(list(compared))
        seeds = list(range(len(compared)))
        self.draws = source.draws(seeds, MOST_STEPS)
        self.text = self.network.text_encoder(self.ids)
        (self.step,) = source.steps(1)
        self.prediction = self.network.unet(self.start, float(self.step.timestep), self.text)
        self.pictures, latents = drawn_by_diffusers(source, compared, seeds)
        self.latents = (latents / source.scaling_factor).astype(np.float32)
        self.decoded = self.network.vae_decoder(self.latents)
        drawn = () if source.large else [steps for steps in SEVERAL if steps in source.tables]
        self.several = {steps: drawn_by_diffusers(source, compared, seeds, steps)[0] for steps in drawn}

    @property
    def noise(self) -> Floats:
        """Each case's first noise, f32[N,C,h,w]."""
        return np.asarray(self.draws[0])

    @property
    def start(self) -> Floats:
        """Each case's first input of the U-Net, f32[N,C,h,w]."""
        return np.multiply(self.noise, self.step.noise_scale, dtype=np.float32)

    def compare(self, network: Network, min_psnr_db: float) -> Parity:
        """Compare every module on the reference's own inputs, then the whole picture against `min_psnr_db`."""
        each = self.pictures_db(network)
        status, why = ("passed", "") if min(each) >= min_psnr_db else ("failed", f"below {min_psnr_db:g} dB")
        worst = Measure(None, min(each), status, why)
        parity = Parity(worst, self.modules(network), each, threshold_db=min_psnr_db, notes=dict(self.notes))
        several = self.several_db(network)
        parity.two_steps_db, parity.four_steps_db = several.get(2), several.get(4)
        return parity

    def several_db(self, network: Network) -> dict[int, float]:
        """Number of steps -> PSNR of all cases' pictures; none for a one-step network or a model too slow here."""
        drawn = {} if network.one_step else self.several
        return {
            steps: psnr_db(expected, pictures(network, self.source, self.ids, self.draws, steps), peak=1.0)
            for steps, expected in drawn.items()
        }

    def pictures_db(self, network: Network) -> list[float]:
        """PSNR of each case's one-step picture."""
        found = pictures(network, self.source, self.ids, self.draws)
        return [psnr_db(a, b, peak=1.0) for a, b in zip(self.pictures, found, strict=True)]

    def pixels(self, network: Network) -> npt.NDArray[np.uint8]:
        """Each case's one-step picture, u8[N,H,W,3], made alone: in a batch, sums of 8-bit layers round differently."""
        each = [
            pictures(network, self.source, self.ids[i : i + 1], self.draws[:, i : i + 1]) for i in range(len(self.ids))
        ]
        return unit_to_uint8(np.concatenate(each).transpose(0, 2, 3, 1))

    def modules(self, network: Network) -> dict[str, Measure]:
        """Each module alone; a U-Net that gives epsilon instead of v is compared by the v computed from it."""
        unet = network.unet(self.start, float(self.step.timestep), self.text)
        unet = weighed(self.step, self.start, unet, network.prediction_type, self.source.prediction_type)
        found = text_measures(self.text, network.text_encoder(self.ids)) | {
            "unet": measure(self.prediction, unet),
            "vae_decoder": measure(self.decoded, network.vae_decoder(self.latents)),
        }
        if network.vae_encoder is not None and self.network.vae_encoder is not None:
            expected = self.network.vae_encoder(self.decoded)
            found["vae_encoder"] = at_least(measure(expected, network.vae_encoder(self.decoded)), MIN_ENCODER_DB)
        return found


def text_measures(expected: Text, found: Text) -> dict[str, Measure]:
    """Each text encoder alone; the last one's pooled text counts where it is the worse of its outputs."""
    pairs = zip(expected.states, found.states, strict=True)
    measures = {f"text_encoder{f'_{i}' if i > 1 else ''}": measure(a, b) for i, (a, b) in enumerate(pairs, 1)}
    if expected.pooled is not None and found.pooled is not None:
        last = [*measures][-1]
        measures[last] = worse(measures[last], measure(expected.pooled, found.pooled))
    return measures


@dataclass(frozen=True)
class StoredSampling:
    """A `Sampling` read from a file."""

    prediction_type: str
    scaling_factor: float
    tables: Mapping[int, tuple[Step, ...]]

    def steps(self, count: int) -> tuple[Step, ...]:
        """Each step, noisiest first."""
        return self.tables[count]


def save_reference(reference: Reference, path: Path) -> None:
    """Write the arrays and the noise schedule of a reference as one .npz."""
    source = reference.source
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(reference, name) for name in ARRAYS}
    arrays |= {f"states_{i}": states for i, states in enumerate(reference.text.states)}
    arrays |= {} if reference.text.pooled is None else {POOLED: reference.text.pooled}
    arrays |= {f"pictures_{steps}": drawn for steps, drawn in reference.several.items()}
    if reference.network.vae_encoder is not None:
        arrays["encoded"] = reference.network.vae_encoder(reference.decoded)
    tables = {n: [asdict(step) for step in steps] for n, steps in source.tables.items()}
    scalars = {
        "prediction_type": source.prediction_type,
        "scaling_factor": source.scaling_factor,
        "steps": json.dumps(tables),
    } | reference.notes
    np.savez(path, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in scalars.items()})


class StoredReference(Reference):
    """A reference read from its file; `drawn`: the last network's one-step pictures, f32[N,3,H,W] in [0,1]."""

    drawn: Floats

    def __init__(self, path: Path) -> None:
        stored = np.load(path, allow_pickle=False)
        for name in ARRAYS:
            setattr(self, name, stored[name])
        self.several = {n: stored[f"pictures_{n}"] for n in SEVERAL if f"pictures_{n}" in stored}
        tables = {int(n): stored_steps(rows) for n, rows in json.loads(str(stored["steps"])).items()}
        sampling = StoredSampling(str(stored["prediction_type"]), float(stored["scaling_factor"]), tables)
        self.source = cast(Source, sampling)  # of which nothing else is needed
        (self.step,) = sampling.steps(1)
        states = tuple(stored[name] for name in sorted(stored) if name.startswith("states_"))
        self.text = Text(states, stored.get(POOLED))
        self.network, self.notes = recalled(stored, self.text), {"prompts": str(stored["prompts"])}

    def pictures_db(self, network: Network) -> list[float]:
        """As in Reference; the pictures are kept."""
        self.drawn = pictures(network, self.source, self.ids, self.draws)
        return [psnr_db(a, b, peak=1.0) for a, b in zip(self.pictures, self.drawn, strict=True)]


def stored_steps(rows: list[dict[str, Any]]) -> tuple[Step, ...]:
    """Steps from their JSON form."""
    return tuple(Step(**row | {key: tuple(row[key]) for key in ("latents", "outputs")}) for row in rows)


def recalled(stored: Any, text: Text) -> Network:
    """The checkpoint as a comparison uses it: its stored outputs."""
    network = Network(lambda _: text, lambda *_: stored["prediction"], lambda _: stored["decoded"])
    return replace(network, vae_encoder=lambda _: stored["encoded"]) if "encoded" in stored else network
