"""Run a folder of Core ML packages: by the reference evaluator anywhere, by Core ML itself on macOS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checks.measure import Network
from export.mil.program import Program
from export.source import Floats, Ids
from export.text import PLAIN, Text, Told
from runtime.coreml import APPLE_SCALING
from runtime.tokenizer.conditioning import TextEncoder

Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, Array]], dict[str, Array]]
NEEDS_MACOS = "needs macOS"


def on_macos() -> bool:
    """Whether Core ML can predict here."""
    return sys.platform == "darwin"


def evaluated(
    packages: Mapping[str, Path], scaling_factor: float, overflows: dict[str, str] | None = None, told: Told = PLAIN
) -> Network:
    """The packages, by part, computed by the reference evaluator.

    overflows: receives each part in which a value left fp16's range, with the layer where it first happened.
    """
    programs = {name: Program(path) for name, path in run_of(packages).items()}
    runners = {
        name: picking([port.name for port in one.inputs], noting(one, name, {} if overflows is None else overflows))
        for name, one in programs.items()
    }
    return apple_network(runners, scaling_factor, told)


def noting(program: Program, part: str, overflows: dict[str, str]) -> Runner:
    """`program.run` that records the layer of its first overflow."""

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        found = program.run(feed)
        if program.overflows:
            overflows.setdefault(part, layer_of(program, program.overflows[0]))
        return found

    return run


def layer_of(program: Program, value: str) -> str:
    """A value's operation and the weight of the layer nearest to it: only weights have names that mean something."""
    operations = list(program.block.operations)
    start = next(i for i, op in enumerate(operations) if value in [output.name for output in op.outputs])
    weights = (
        argument.name
        for op in operations[start:]
        for key in ("weight", "gamma")
        if key in op.inputs
        for argument in op.inputs[key].arguments
    )
    return f"{program.types[value]} {value}, at {next(weights, 'the end')}"


def predicted(packages: Mapping[str, Path], scaling_factor: float, compute_unit: str, told: Told = PLAIN) -> Network:
    """The packages, by part, computed by Core ML (macOS only)."""
    import coremltools as ct

    unit = ct.ComputeUnit[compute_unit]
    models = {name: ct.models.MLModel(str(path), compute_units=unit) for name, path in run_of(packages).items()}
    runners = {
        name: picking([port.name for port in model.get_spec().description.input], model.predict)
        for name, model in models.items()
    }
    return apple_network(runners, scaling_factor, told)


def run_of(packages: Mapping[str, Path]) -> dict[str, Path]:
    """The packages that a loader runs: the halves of a U-Net where there are halves."""
    halved = "unet_chunk1" in packages
    return {part: path for part, path in packages.items() if not (halved and part == "unet")}


def picking(names: list[str], run: Runner) -> Runner:
    """`run`, fed only its own inputs: the second half of a U-Net does not take all that the first does."""
    return lambda feed: run({name: feed[name] for name in names})


def apple_network(runners: Mapping[str, Runner], scaling_factor: float, told: Told = PLAIN) -> Network:
    """Packages as Apple's pipelines feed them: one picture per call, latents divided or multiplied by 0.18215."""
    per_latent = scaling_factor / APPLE_SCALING

    def encode(one: TextEncoder, ids: Ids) -> list[Floats]:
        names = apple_outputs(one, told)
        rows = [runners[one.component]({"input_ids": row[None].astype(np.float32)}) for row in ids]
        return [np.concatenate([row[name] for row in rows]) for name in names]

    def unet(sample: Floats, timestep: float, text: Text) -> Floats:
        feeds = (unet_feed(sample[i : i + 1], timestep, text.row(i), told.sizes(sample)) for i in range(len(sample)))
        return np.concatenate([whole_unet(runners, feed) for feed in feeds])

    def vae_decoder(latents: Floats) -> Floats:
        z = (latents * per_latent).astype(np.float16)
        return np.concatenate([runners["vae_decoder"]({"z": row[None]})["image"] for row in z])

    def vae_encoder(picture: Floats) -> Floats:
        found = [runners["vae_encoder"]({"x": row[None].astype(np.float16)})["latent"] for row in picture]
        mean, _ = np.split(np.concatenate(found), 2, axis=1)
        return np.asarray(mean / per_latent, np.float32)

    encoder = vae_encoder if "vae_encoder" in runners else None
    return Network(lambda ids: told.text(ids, encode), unet, vae_decoder, encoder, prediction_type="epsilon")


def apple_outputs(one: TextEncoder, told: Told) -> tuple[str, ...]:
    """The outputs that are used, in Apple's names."""
    states = "hidden_embeds" if told.conditioning.time_ids else "last_hidden_state"
    return (states, "pooled_outputs") if one.pooled else (states,)


def unet_feed(sample: Floats, timestep: float, text: Text, sizes: Sequence[int] = ()) -> dict[str, Array]:
    """The U-Net's inputs: sample[1,C,h,w] and the text of one picture as fp16, the states as [1,H,1,T]."""
    given = text.inputs(sizes)
    states = given.pop("encoder_hidden_states").transpose(0, 2, 1)[:, :, None]
    feed = {"sample": sample, "timestep": np.array([timestep]), "encoder_hidden_states": states, **given}
    return {name: value.astype(np.float16) for name, value in feed.items()}


def whole_unet(runners: Mapping[str, Runner], feed: Mapping[str, Array]) -> Floats:
    """noise_pred of one picture, from one package or from two chunks in a row."""
    if "unet_chunk1" not in runners:
        return np.asarray(runners["unet"](feed)["noise_pred"], np.float32)
    between = runners["unet_chunk1"](feed)
    return np.asarray(runners["unet_chunk2"]({**feed, **between})["noise_pred"], np.float32)
