"""Parts that do not belong together, and forms of checkpoints that do: one line at once, or an export."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from export.coreml import __main__ as coreml
from export.locate import locate
from export.onnx import __main__ as onnx
from export.openvino import __main__ as openvino
from runtime.errors import UserError
from tests.support.tiny import small_checkpoint
from train.checkpoint import load_pipeline
from train.evaluate import __main__ as evaluate
from train.opening.hub import MOST_NAME, name_of
from train.random_teacher import make_random_teacher
from train.run.build import check_teacher
from train.sizes import latent_side

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "openvino", "coremltools")
Change = Callable[[Path], object]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(small_checkpoint(), tmp_path / "checkpoint")


def config(name: str, **values: Any) -> Change:
    """Set entries of a JSON file."""

    def change(folder: Path) -> None:
        path = folder / name
        said = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(said | values))

    return change


def index(**values: Any) -> Change:
    return config("model_index.json", **values)


def family(name: str, **parts: Any) -> Change:
    """A pipeline with a transformer in the place of the U-Net, as diffusers writes it."""

    def change(folder: Path) -> None:
        said = {"_class_name": name, "transformer": ["diffusers", "SomeTransformer2DModel"], **parts}
        (folder / "model_index.json").write_text(json.dumps(said))

    return change


SECOND = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
REFUSED: list[tuple[str, Change, str]] = [
    ("latents", config("vae/config.json", latent_channels=16), "latents have 16 channels, the U-Net's 4"),
    ("four colours", config("vae/config.json", out_channels=4), "the autoencoder's out_channels is 4"),
    ("colours in", config("vae/config.json", in_channels=4), "the autoencoder's in_channels is 4"),
    ("vocabulary", config("text_encoder/config.json", vocab_size=99), "has rows for 99 ids only"),
    ("added token", config("tokenizer/added_tokens.json", **{"<frog>": 9999}), "knows '<frog>' as id 9999"),
    ("two texts", config("unet/config.json", dual_cross_attention=True), "dual_cross_attention"),
    ("widths", config("unet/config.json", cross_attention_dim=[32, 64]), "32 numbers a token, the U-Net takes 64"),
    ("width", config("unet/config.json", cross_attention_dim=[64, 64]), "32 numbers a token, the U-Net takes 64"),
    ("size", config("unet/config.json", sample_size=[8, 8, 8]), "sample_size is [8, 8, 8]"),
    ("size 0", config("unet/config.json", sample_size=0), "sample_size is 0"),
    ("SDXL", index(_class_name="StableDiffusionXLPipeline"), "its text_encoder_2 is a None"),
    ("SDXL inpainting", index(_class_name="StableDiffusionXLInpaintPipeline", **SECOND), "Pipelines are (CLIP text"),
    ("SD3", family("StableDiffusion3Pipeline", **SECOND), "the family Stable Diffusion 3"),
    ("FLUX", family("FluxPipeline", **SECOND), "the family FLUX, "),
    ("FLUX.2", family("Flux2KleinPipeline"), "the family FLUX.2, "),
    ("SANA", family("SanaSprintPipeline"), "the family SANA"),
    ("PixArt", family("PixArtSigmaPipeline"), "the family PixArt"),
    ("other DiT", family("UnheardOfPipeline"), "the family diffusion transformers (DiT)"),
]


def refused(main: Callable[[list[str]], int], checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses, having written nothing."""
    out = checkpoint.parent / "out"
    code = main([str(checkpoint), "--out", str(out)])
    printed = capfd.readouterr()
    assert (code, printed.out) == (2, "") and not out.exists()
    assert len(printed.err.splitlines()) == 1, printed.err
    return printed.err


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_does_not_fit_is_one_line(change: Change, said: str, checkpoint: Path, capfd) -> None:
    change(checkpoint)
    for main in (onnx.main, openvino.main):
        assert said in refused(main, checkpoint, capfd)


@pytest.mark.parametrize("main", ["export.onnx", "export.coreml", "export.openvino"])
def test_a_refusal_imports_nothing_heavy(main: str, checkpoint: Path) -> None:
    """What takes seconds is imported once nothing in the JSON files and headers speaks against the export."""
    config("vae/config.json", latent_channels=16)(checkpoint)
    code = f"""
import sys
from {main}.__main__ import main
assert main(sys.argv[1:]) == 2
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    argv = [sys.executable, "-c", code, str(checkpoint), "--out", str(checkpoint.parent / "out")]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]" and "16 channels" in found.stderr


@pytest.mark.parametrize(
    ("name", "takers"),
    [
        ("StableDiffusion3Pipeline", ("ORTStableDiffusion3Pipeline", "OpenVINO GenAI")),
        ("FluxPipeline", ("ORTFluxPipeline", "OpenVINO GenAI")),
    ],
)
def test_a_family_names_what_runs_it_and_that_exists(name: str, takers: tuple[str, ...], checkpoint: Path) -> None:
    family(name)(checkpoint)
    with pytest.raises(UserError) as refusal:
        locate(str(checkpoint))
    assert all(taker in str(refusal.value) for taker in takers)
    import openvino_genai
    from optimum import onnxruntime

    assert hasattr(onnxruntime, takers[0])
    assert hasattr(openvino_genai.Text2ImagePipeline, {"F": "flux", "S": "stable_diffusion_3"}[name[0]])


def test_trainers_refuse_other_families_in_the_same_words(checkpoint: Path) -> None:
    index(_class_name="StableDiffusionXLPipeline", **SECOND)(checkpoint)
    with pytest.raises(UserError, match="belongs to the family SDXL"):
        load_pipeline(checkpoint)


def test_the_remedy_for_a_foreign_autoencoder_works(checkpoint: Path) -> None:
    shutil.copytree(checkpoint / "vae", checkpoint.parent / "own")
    shutil.rmtree(checkpoint / "vae")
    AutoencoderTiny(latent_channels=16).save_pretrained(checkpoint / "vae")
    with pytest.raises(UserError, match="put the vae folder of the U-Net's own model there"):
        locate(str(checkpoint))
    shutil.rmtree(checkpoint / "vae")
    shutil.copytree(checkpoint.parent / "own", checkpoint / "vae")
    load_pipeline(locate(str(checkpoint)))


def test_the_remedy_for_added_tokens_works(checkpoint: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint)
    pipe.tokenizer.add_tokens(["<frog-toy>"])
    pipe.save_pretrained(tmp_path / "added")
    with pytest.raises(UserError, match="pipe.load_textual_inversion"):
        locate(str(tmp_path / "added"))
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint)
    pipe.load_textual_inversion({"<frog-toy>": torch.ones(32)})
    pipe.save_pretrained(tmp_path / "mended")
    found = load_pipeline(locate(str(tmp_path / "mended")))
    assert torch.equal(found.text_encoder.get_input_embeddings().weight[-1], torch.ones(32))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("plain", "plain"),
        ("models--stabilityai--sd-turbo/snapshots/b261bac6fd2cf515557d5d0707481eafa0485ec2", "sd-turbo"),
        ("é" * 120, "é" * (MOST_NAME // 2)),
        ("x" * 200, "x" * MOST_NAME),
        ("tab\there", "tab_here"),
    ],
)
def test_an_export_is_called_after_its_checkpoint(folder: str, name: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert name_of(tmp_path / folder) == name


def test_evaluating_another_family_is_one_line(checkpoint: Path, capfd) -> None:
    index(_class_name="StableDiffusion3Pipeline")(checkpoint)
    code = evaluate.main([str(checkpoint), "--sheet-only", "--sheet", str(checkpoint.parent / "sheet.png")])
    lines = capfd.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and "Stable Diffusion 3" in lines[0]


def test_lists_of_one_width_and_equal_sides_are_trained(tmp_path: Path) -> None:
    checkpoint = make_random_teacher(tmp_path / "tiny", "tiny")
    config("unet/config.json", cross_attention_dim=[32, 32, 32], sample_size=[8, 8])(checkpoint)
    locate(str(checkpoint))
    pipe = load_pipeline(checkpoint)
    check_teacher(pipe, "x")
    assert latent_side(pipe.unet) == 8


def test_oblong_latents_are_not_trained_and_the_remedy_works(checkpoint: Path) -> None:
    config("unet/config.json", sample_size=[12, 20])(checkpoint)
    with pytest.raises(UserError, match="set it to one side in unet/config.json"):
        check_teacher(load_pipeline(checkpoint), "x")
    config("unet/config.json", sample_size=12)(checkpoint)
    check_teacher(load_pipeline(checkpoint), "x")


@pytest.mark.slow
@pytest.mark.parametrize("main", [onnx.main, openvino.main, coreml.main], ids=["onnx", "openvino", "coreml"])
def test_oblong_pictures_are_exported(main: Callable[[list[str]], int], checkpoint: Path) -> None:
    """Judged by the exporter's own gate, for OpenVINO also by GenAI's picture."""
    config("unet/config.json", sample_size=[6, 10])(checkpoint)
    assert main([str(checkpoint), "--out", str(checkpoint.parent / "out")]) == 0
