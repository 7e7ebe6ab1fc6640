"""Pictures of another size than the checkpoint's, fixed or several in a bundle, are those that diffusers draws."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint.changes import brought
from export.onnx.__main__ import main as export
from runtime.errors import UserError
from tests.support.tiny import small_checkpoint
from train.checkpoint import load_pipeline


def options(**given: Any) -> argparse.Namespace:
    none = dict.fromkeys(("variant", "config", "base", "vae", "scheduler", "height", "width"))
    return argparse.Namespace(checkpoint=str(small_checkpoint()), **{**none, "lora": [], **given})


def drawn(pipe: Any, prompt: str, seed: int, **size: int) -> Any:
    """diffusers' own picture, f32[H,W,3] in [0,1]."""
    generator = torch.Generator("cpu").manual_seed(seed)
    asked = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "np", "generator": generator}
    return pipe(prompt, **asked, **size).images[0]


def test_another_size_is_the_checkpoints_own_size_for_everything_that_follows(capsys: Any, tmp_path: Path) -> None:
    folder = brought(options(height=48, width=96))
    judge = load_pipeline(small_checkpoint())
    found, expected = drawn(load_pipeline(folder), "a fox", 3), drawn(judge, "a fox", 3, height=48, width=96)
    assert found.shape == (48, 96, 3) and (found == expected).all()
    assert brought(options(width=96)) != folder and (folder / "unet" / "config.json").is_file()
    needed = []
    for sides in ((), ("--height", "512", "--width", "1024")):
        assert export([str(small_checkpoint()), "--out", str(tmp_path / "x"), "--dry-run", "--json", *sides]) == 0
        needed.append(json.loads(capsys.readouterr().out)["peak_memory_bytes"])
    assert needed[1] > needed[0]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ({"height": 60}, "multiples of 8"),
        ({"width": 0}, "multiples of 8"),
        ({"height": 8192}, "4096 pixels a side"),
        ({"height": 4096, "width": 4096}, "in all"),
    ],
)
def test_a_size_that_cannot_be_drawn_is_refused(size: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        brought(options(**size))
