"""Pictures of another size than the checkpoint's, fixed or several in a bundle, are those that diffusers draws."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import runtime
from export.checkpoint.changes import brought
from export.onnx.__main__ import main as export
from export.onnx.run import open_session
from export.onnx.trace import Tracer
from export.parity.__main__ import main as parity
from export.source import open_source
from runtime.__main__ import main as draw_one
from runtime.batch.rows import Row, Rules, rows
from runtime.bundle import open_bundle
from runtime.errors import BundleError, UserError
from runtime.onnx_guard.component import check_component
from scripts.zoo_parts import kl
from tests.support.tiny import SMALL, make_checkpoint, small_checkpoint
from tests.test_zoo import psnr
from train.checkpoint import load_pipeline


def options(**given: Any) -> argparse.Namespace:
    none = dict.fromkeys(("variant", "config", "base", "vae", "scheduler", "height", "width"))
    call = {"guidance_scale": None, "eta": 0.0, "timestep": None}
    return argparse.Namespace(checkpoint=str(small_checkpoint()), **{**none, **call, "lora": [], **given})


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


@pytest.fixture(scope="module")
def one_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes little time to trace."""
    return make_checkpoint(tmp_path_factory.mktemp("one") / "level", replace(SMALL, channels=(16,)))


@pytest.fixture(scope="module")
def several(one_level: Path) -> Path:
    """A bundle of 64x64, 96x48 and 32x80 pictures, whose gate has compared each size."""
    out = one_level.parent / "bundle"
    assert export([str(one_level), "--out", str(out), "--sizes", "96x48,32x80"]) == 0
    return out


def test_a_report_compares_any_size_that_a_bundle_makes(several: Path, one_level: Path, capfd: Any) -> None:
    assert parity([str(one_level), str(several), "--height", "48", "--width", "96", "--json"]) == 0
    (facts,) = json.loads(capfd.readouterr().out)["exports"]
    assert facts["picture"]["status"] == "passed" and facts["picture"]["psnr_db"] > 60
    assert facts["warnings"] == []
    assert parity([str(one_level), str(several), "--height", "96", "--width", "96"]) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert "makes pictures of 64x64 or 96x48 or 32x80, not of 96x96: choose one by --width, --height" in said


@pytest.mark.slow
@torch.no_grad()
def test_the_decoder_of_a_variational_autoencoder_takes_every_size() -> None:
    torch.manual_seed(0)
    vae = kl(block_out_channels=(32, 32, 32, 64), layers_per_block=1).eval()
    source = open_source(str(small_checkpoint()))
    source.pipe.register_modules(vae=vae)
    session = open_session(Tracer(replace(source, sizes=((64, 64), (48, 96)))).graph("vae_decoder"))
    for sides in ((8, 8), (6, 12), (10, 4)):
        latents = torch.randn(2, 4, *sides)
        (found,) = session.run(None, {"latent_sample": latents.numpy()})
        assert np.abs(found - vae.decode(latents).sample.numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_levels_are_halved_and_joined_again_at_every_size(precision: str, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert export([str(small_checkpoint()), "--out", str(out), "--sizes", "96x48,32x80", "--precision", precision]) == 0
    pipe, judge = runtime.load(out, "cpu"), load_pipeline(small_checkpoint())
    for height, width in pipe.manifest.sizes:
        found = pipe("a fox", seed=3, height=height, width=width, output_type="np")[0]
        least = {"fp32": 60, "fp16": 45, "int8": 35}[precision]
        assert psnr(found, drawn(judge, "a fox", 3, height=height, width=width)) > least


def test_one_bundle_draws_several_sizes_as_diffusers_does(several: Path, one_level: Path) -> None:
    pipe, judge = runtime.load(several, "cpu"), load_pipeline(one_level)
    assert pipe.manifest.sizes == ((64, 64), (48, 96), (80, 32))
    assert min(pipe.manifest.parity["sizes"].values()) > 60
    for height, width in pipe.manifest.sizes:
        found = pipe("a fox", seed=3, height=height, width=width, output_type="np")[0]
        assert found.shape == (height, width, 3)
        assert psnr(found, drawn(judge, "a fox", 3, height=height, width=width)) > 60
    assert pipe("a fox", seed=3, output_type="np").shape == (1, 64, 64, 3)
    start = pipe.encode(np.zeros((48, 96, 3), np.float32), height=48, width=96)
    assert start.shape == pipe.manifest.latents_of((48, 96)) == (4, 6, 12)
    made = pipe.run("a fox", seed=3, height=48, width=96, image=start, strength=0.5)[0]
    assert made.picture is not None and made.picture.shape == (3, 48, 96)
    with pytest.raises(ValueError, match="width 64, height 64 or width 96, height 48 or width 32, height 80"):
        pipe("a fox", height=96, width=96)


def test_the_command_line_and_rows_of_a_batch_choose_a_size(several: Path, tmp_path: Path) -> None:
    assert (
        draw_one(["a fox", "--bundle", str(several), "--width", "96", "--height", "48", "-o", str(tmp_path / "x.png")])
        == 0
    )
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (96, 48) and "Size: 96x48" in picture.info["parameters"]
    rules = Rules(open_bundle(several).manifest, "png")
    records: list[tuple[int, dict[str, Any]]] = [
        (1, {"prompt": "a fox", "height": "48", "width": 96}),
        (2, {"prompt": "a fox"}),
    ]
    first, second = rows(records, "x.csv", rules)
    assert first.size == (48, 96) and second.size is None and first.identity() != second.identity()
    assert Row.from_line(first.to_line()) == first


def test_a_graph_of_several_sizes_is_opened_with_such_a_manifest_alone(several: Path) -> None:
    bundle = open_bundle(several)
    with pytest.raises(BundleError, match="has the shape"):
        check_component(several, "unet", replace(bundle.manifest, sizes=()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sizes", "64"], "is no size"),
        (["--sizes", "72x64"], "multiples of 16"),
        (["--sizes", "96x48", "--fused"], "has one size"),
        (["--sizes", "8192x64"], "4096 pixels a side"),
    ],
)
def test_sizes_that_no_graph_takes_together_are_refused(
    options: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    assert export([str(small_checkpoint()), "--out", str(tmp_path / "x"), *options]) == 2
    assert said in capsys.readouterr().err
