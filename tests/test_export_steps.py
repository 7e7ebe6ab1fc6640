"""The checkpoint's own scheduler as sums: diffusers' schedulers are the judge, and what cannot be held is refused."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from export.steps import arguments, ready, steps_of
from runtime.errors import UserError
from runtime.manifest import Step
from runtime.noise import randn
from runtime.sampler import Memory

SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TRAILING = {"timestep_spacing": "trailing"}
SHAPE = (4, 8, 8)
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("DDIMScheduler", {**TRAILING, "clip_sample": False, "prediction_type": "v_prediction"}),
    "Stable Diffusion 1.5's DDIM": ("DDIMScheduler", {"clip_sample": False, "steps_offset": 1}),
    "SD-Turbo": ("EulerDiscreteScheduler", TRAILING),
    "zero terminal SNR": (
        "DDIMScheduler",
        {**TRAILING, "clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ),
    "continuous v": (
        "EulerDiscreteScheduler",
        {**TRAILING, "prediction_type": "v_prediction", "timestep_type": "continuous"},
    ),
    "ancestral": ("EulerAncestralDiscreteScheduler", TRAILING),
    "Heun": ("HeunDiscreteScheduler", TRAILING),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "SDXS": ("DEISMultistepScheduler", {}),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", TRAILING),
    "SDE-DPM-Solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
}


def scheduler_of(name: str, config: dict[str, Any]) -> Any:
    return getattr(diffusers, name)(**{**SD, **config})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("which", KNOWN)
def test_a_run_by_the_runtime_is_the_schedulers(which: str, count: int) -> None:
    """From the seed's first noise to the last latents, with a network that is not linear in its input."""
    check_run(scheduler_of(*KNOWN[which]), count)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("which", ["TCD", "ours"])
def test_eta_adds_the_schedulers_own_noise(which: str, eta: float) -> None:
    steps = check_run(scheduler_of(*KNOWN[which]), 4, eta)
    assert [step.draw for step in steps] == [1, 2, 3, 0]


def check_run(scheduler: Any, count: int, eta: float = 0.0) -> tuple[Step, ...]:
    """The steps, which must give what the scheduler gives."""
    steps = steps_of(scheduler, count, eta)
    theirs, generator = ready(scheduler, count), torch.Generator().manual_seed(5)

    def network(x: Any, t: Any) -> torch.Tensor:
        return torch.tanh(torch.as_tensor(x) * 0.7) + 0.1 * float(t) / 1000

    own = torch.randn((1, *SHAPE), generator=generator) * theirs.init_noise_sigma
    for t in theirs.timesteps:
        output = network(theirs.scale_model_input(own, t), t)
        own = theirs.step(output, t, own, **arguments(theirs, eta, generator)).prev_sample
    latents, memory = randn(5, SHAPE) * steps[0].noise_scale, Memory()
    for step in steps:
        latents = memory.step(step, latents, network(latents, step.timestep).numpy(), 5)
    torch.testing.assert_close(torch.as_tensor(latents).float(), own[0], rtol=2e-4, atol=2e-4)
    return steps


def test_what_is_written_for_sd_turbo() -> None:
    (step,) = steps_of(scheduler_of(*KNOWN["SD-Turbo"]), 1)
    assert step.timestep == 999 and step.noise == 0
    assert step.noise_scale == pytest.approx(0.99767, abs=1e-5)
    assert (step.alpha, step.sigma) == pytest.approx((0.06826, 0.99767), abs=1e-5)
    assert step.latents == pytest.approx((1 / 0.0682649,), rel=1e-4)
    assert step.outputs == pytest.approx((-0.997667 / 0.0682649,), rel=1e-4)


def test_lcm_noises_anew_and_ddim_does_not() -> None:
    lcm = steps_of(scheduler_of("LCMScheduler", {}), 4)
    assert [step.draw for step in lcm] == [1, 2, 3, 0] and all(step.noise for step in lcm[:-1])
    assert not any(step.noise for step in steps_of(scheduler_of(*KNOWN["ours"]), 4))


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("DDIMScheduler", {}, "does more in a step .* set clip_sample to false in scheduler/scheduler_config.json"),
        ("DDIMScheduler", {"clip_sample": False, "thresholding": True}, "set thresholding to false"),
        ("LCMScheduler", {"clip_sample": True}, "set clip_sample to false"),
        ("HeunDiscreteScheduler", {"clip_sample": True}, "set clip_sample to false"),
        ("SASolverScheduler", {}, "adds several noises in a step"),
    ],
)
def test_what_sums_cannot_hold_is_refused(name: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        steps_of(scheduler_of(name, config), 4)


def test_edm_levels_are_refused() -> None:
    with pytest.raises(UserError, match="noise levels of its EDMEulerScheduler do not preserve variance"):
        steps_of(diffusers.EDMEulerScheduler(), 2)
