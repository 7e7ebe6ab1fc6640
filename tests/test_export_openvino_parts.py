"""Parts of the OpenVINO exporter: tokens, schedulers, weight codes, a library without telemetry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer, CLIPTokenizerFast

from export.openvino.int8 import quantize
from export.openvino.run import devices, network_of
from export.openvino.scheduler import KNOWN, agreeing, genai_scheduler
from export.openvino.tokenizer import genai_ids, write_openvino_tokenizer
from export.tokens import expected_ids
from runtime.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_tokens_are_clips(tmp_path: Path) -> None:
    """All golden prompts: emoji, CJK, glued commas, special tokens, 75 to 300 tokens, 50 combining marks."""
    golden = read(ROOT / "tests" / "golden" / "tokenizer.json")
    group = next(group for group in golden["groups"] if "tiny_bundle" in group["tokenizer"])
    folder = shutil.copytree(ROOT / group["tokenizer"], tmp_path / "tokenizer")
    write_openvino_tokenizer(folder, CLIPTokenizerFast.from_pretrained(folder))
    texts = [case["text"] for case in group["cases"]]
    wrong = [
        case["text"] for case, found in zip(group["cases"], genai_ids(folder, texts), strict=True)
        if found.tolist() != (case["ids"] + [group["pad_id"]] * 77)[:77]
    ]  # fmt: skip
    assert len(texts) > 500
    # Cases only for GenAI: marks in an order that no keyboard produces, a special token in capitals.
    assert wrong in (["q\u0307\u0323", "<|EndOfText|>"], ["q\u0323\u0307", "<|EndOfText|>"])


@pytest.mark.parametrize("pad", ["!", "<|endoftext|>"])
def test_padding_and_added_tokens_are_the_checkpoints(tmp_path: Path, pad: str) -> None:
    """Stable Diffusion 2 pads with "!", which transformers then reads as the padding in prompts too."""
    folder = shutil.copytree(ROOT / "tests" / "golden" / "tiny_bundle" / "tokenizer", tmp_path / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder, pad_token=pad)
    tokenizer.add_tokens(["<frog-toy>"])
    write_openvino_tokenizer(folder, tokenizer)
    prompts = ["fox", "fox!", "a <frog-toy>, red", "my<frog-toy>x!", "fox " * 74 + "<frog-toy>"]
    assert genai_ids(folder, prompts).tolist() == [expected_ids(tokenizer, prompt) for prompt in prompts]


def test_an_added_token_that_openvino_misreads_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "tests" / "golden" / "tiny_bundle" / "tokenizer", tmp_path / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    with pytest.raises(UserError, match="OpenVINO GenAI reads 'ZEBRA' differently"):
        write_openvino_tokenizer(folder, tokenizer)


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TRAILING = BETAS | {"timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("DDIMScheduler", TRAILING | {"clip_sample": False}, "DDIMScheduler"),
        ("EulerDiscreteScheduler", TRAILING, "EulerDiscreteScheduler"),
        ("EulerDiscreteScheduler", TRAILING | {"use_karras_sigmas": True}, "EulerDiscreteScheduler"),
        ("EulerAncestralDiscreteScheduler", TRAILING, "EulerAncestralDiscreteScheduler"),
        ("LCMScheduler", BETAS, "LCMScheduler"),
        ("LCMScheduler", BETAS | {"prediction_type": "v_prediction"}, "DDIMScheduler"),
        ("PNDMScheduler", TRAILING | {"skip_prk_steps": True}, "DDIMScheduler"),
        ("PNDMScheduler", BETAS | {"skip_prk_steps": True, "steps_offset": 1}, "DDIMScheduler"),
        ("DPMSolverMultistepScheduler", BETAS, "DDIMScheduler"),
        ("UniPCMultistepScheduler", TRAILING, "DDIMScheduler"),
        ("TCDScheduler", BETAS, "DDIMScheduler"),
        ("DDPMScheduler", TRAILING | {"clip_sample": False}, "DDIMScheduler"),
        ("HeunDiscreteScheduler", TRAILING, "EulerDiscreteScheduler"),
    ],
)
def test_a_scheduler_with_the_same_first_step(name: str, config: dict[str, Any], expected: str) -> None:
    found = genai_scheduler(with_scheduler(getattr(diffusers, name)(**config)))
    assert type(found).__name__ == expected
    known = KNOWN[expected]
    assert {key: found.config[key] for key in known} == dict(known)


@pytest.mark.parametrize(
    ("name", "config", "counts"),
    [
        ("EulerDiscreteScheduler", TRAILING, [1, 2, 3, 4]),
        ("LCMScheduler", BETAS, [1, 2, 3, 4]),
        ("DDPMScheduler", TRAILING | {"clip_sample": False}, [1]),  # whose later steps add noise
        ("DEISMultistepScheduler", BETAS, [1]),
        ("TCDScheduler", BETAS, [1, 2]),  # with timesteps of its own from three steps
    ],
)
def test_the_numbers_of_steps_that_it_takes_as_the_checkpoints_own(
    name: str, config: dict[str, Any], counts: list[int]
) -> None:
    own = getattr(diffusers, name)(**config)
    assert agreeing(own, genai_scheduler(with_scheduler(own))) == counts


def with_scheduler(scheduler: Any) -> Any:
    """As much of a Source as the choice of a scheduler looks at."""
    pipe = SimpleNamespace(scheduler=scheduler)
    return SimpleNamespace(pipe=pipe, name="model", folder=Path("model"), eta=0.0)


def test_a_noise_schedule_that_genai_does_not_know_becomes_a_table() -> None:
    own = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", clip_sample=False)
    found = genai_scheduler(with_scheduler(own))
    assert found.config.beta_schedule == "linear"
    np.testing.assert_allclose(found.config.trained_betas, own.betas.numpy(), rtol=1e-4)


@pytest.mark.parametrize("key", ["clip_sample", "thresholding"])
def test_a_scheduler_that_clips_is_refused(key: str) -> None:
    clipping = diffusers.DDIMScheduler(**TRAILING, **{"clip_sample": False, key: True})
    with pytest.raises(UserError, match=f"set {key} to false in model/scheduler"):
        genai_scheduler(with_scheduler(clipping))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1]), st.floats(-3, 3), st.floats(0, 4))
@example(seed=33554433, axis=1, offset=-2.49609375, exponent=0.0)  # a scale that float16 rounds down
def test_codes_are_within_half_a_step(seed: int, axis: int, offset: float, exponent: float) -> None:
    draw = np.random.default_rng(seed)
    weight = (draw.standard_normal((5, 7, 3)) * 10**-exponent + offset).astype(np.float32)
    weight[1] = 0
    codes, zero, scale = quantize(weight, axis)
    step = scale.astype(np.float32)
    error = np.abs((codes.astype(np.float32) - zero) * step - weight)
    assert codes.dtype == zero.dtype == np.uint8 and scale.shape == zero.shape
    assert (error <= 0.51 * step + 2e-3 * np.abs(weight)).all()  # f16 scales: 2^-11 of the range
    assert (error[1] == 0).all()


def test_no_telemetry(tmp_path: Path) -> None:
    """openvino_telemetry would write a client's id below the home folder and open connections."""
    program = (
        "import sys; from export.openvino.run import devices; print(devices()); import openvino_genai; "
        "import openvino_tokenizers; assert sys.modules['openvino_telemetry'] is None"
    )
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": paths},
        text=True,
        capture_output=True,
        check=True,
    )
    assert "CPU" in done.stdout and list(tmp_path.iterdir()) == []


def test_devices() -> None:
    assert "CPU" in devices()


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "openvino_model.xml").write_text("<net/>")
    for device in ("CPU", "TPU"):
        with pytest.raises(UserError, match=f"OpenVINO cannot open .* on {device}: [^\n]+$"):
            network_of(tmp_path, device)
