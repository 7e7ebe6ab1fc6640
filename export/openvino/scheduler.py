"""The scheduler of a folder for OpenVINO GenAI: one that it supports and that takes the checkpoint's first step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from export.checks.folder import clipping
from export.checks.gates import MOST_STEPS
from export.source import Source
from export.steps import steps_of
from runtime import schedule
from runtime.errors import UserError
from runtime.manifest import MOST_MEMORY, Step

# The schedulers that GenAI computes as diffusers does, and the settings that needs (openvino.genai 2026.4,
# image_generation/schedulers). PNDM is not one of them: GenAI's reads before its timesteps in a one-step run.
DDIM = {"clip_sample": False, "thresholding": False}
EULER = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "interpolation_type": "linear",
    "final_sigmas_type": "zero",
    "timestep_type": "discrete",
}
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "DDIMScheduler": DDIM,
    "EulerDiscreteScheduler": EULER,
    "EulerAncestralDiscreteScheduler": {},
    "LCMScheduler": {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "thresholding": False},
}
# Substitutes for any other: the same step written in another form.
FORMS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "set_alpha_to_one": False}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
)
BETA_SCHEDULES = ("linear", "scaled_linear")  # that GenAI knows by name
DEFAULTED = "_use_default_values"  # lists keys that diffusers would not pass on to a scheduler of another class
TOLERANCE = 1e-4  # of weights


def genai_scheduler(source: Source) -> Any:
    """A diffusers scheduler to save: the checkpoint's own if GenAI computes it, else one with the same first step.

    Of several, the one that agrees for most numbers of steps. Raises UserError when GenAI has none.
    """
    own = source.pipe.scheduler
    fitting = [(agreeing(own, candidate, source.eta), candidate) for candidate in candidates(own)]
    counts, best = max(fitting, key=lambda pair: (1 in pair[0], len(pair[0])))
    if 1 in counts:
        return best
    clips = clipping(type(own).__name__, own.config)
    remedy = f"set {clips} to false in" if clips else "put a DDIMScheduler with timestep_spacing trailing into"
    raise UserError(
        f"OpenVINO GenAI has no scheduler that takes the first step of the {type(own).__name__} of {source.name}: "
        f"{remedy} {source.folder / 'scheduler' / 'scheduler_config.json'} if the model allows it"
    )


def agreeing(own: Any, other: Any, eta: float = 0.0) -> list[int]:
    """The numbers of steps, up to MOST_STEPS, that another scheduler takes as the checkpoint's own does at `eta`."""
    return [count for count in range(1, MOST_STEPS + 1) if equal(taken(own, count, eta), taken(other, count))]


def taken(scheduler: Any, count: int, eta: float = 0.0) -> tuple[Step, ...]:
    """The steps of `count`; none where the scheduler cannot take that many."""
    try:
        return steps_of(scheduler, count, eta)
    except UserError:
        return ()


def equal(one: Sequence[Step], other: Sequence[Step]) -> bool:
    """Whether two runs are the same steps; no steps are equal to none."""
    if not one or [(step.timestep, step.draw) for step in one] != [(step.timestep, step.draw) for step in other]:
        return False
    return all(
        np.allclose(weights(a), weights(b), rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(one, other, strict=True)
    )


def weights(step: Step) -> list[float]:
    """All weights of a step, those of latents and outputs that are not there being 0."""
    rows = [list(row) + [0.0] * (MOST_MEMORY - len(row)) for row in (step.latents, step.outputs)]
    return [*rows[0], *rows[1], step.noise, step.noise_scale]


def candidates(own: Any) -> Iterator[Any]:
    """Schedulers that GenAI computes, the likeliest first."""
    import diffusers

    name = type(own).__name__
    config = {key: value for key, value in own.config.items() if key != DEFAULTED} | named_betas(own.config)
    for kind, changes in ((name, {}), *FORMS) if name in KNOWN else FORMS:
        with quiet():
            yield getattr(diffusers, kind).from_config(config | dict(changes) | dict(KNOWN[kind]))


def named_betas(config: Mapping[str, Any]) -> dict[str, Any]:
    """The noise schedule as a table, if GenAI does not know it by name."""
    name = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None or name in BETA_SCHEDULES:
        return {}
    table = schedule.betas(int(config["num_train_timesteps"]), config["beta_start"], config["beta_end"], name)
    return {"trained_betas": table.tolist(), "beta_schedule": "linear"}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off stderr diffusers' warnings about keys that one scheduler has and another has not."""
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
