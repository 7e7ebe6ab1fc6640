"""The ONNX exporter: what other loaders see, whole pictures, the gate, and folders written whole or not at all."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import runtime
from export.checks.measure import psnr_db
from export.onnx import __main__ as exporter
from export.onnx import bundle as onnx_bundle
from export.onnx.bundle import write_graph
from export.onnx.export import export_onnx
from export.onnx.options import Options
from export.onnx.quantize.planner import copied
from export.onnx.run import open_session
from export.onnx.trace import Tracer
from export.source import open_source
from runtime.bundle import open_bundle
from runtime.errors import UserError
from tests.support.tiny import FACTS, SMALL, copied_graph, small_bundle, small_checkpoint, small_graphs

PROMPTS = ["a red fox", "the cat in a box"]
SEED = 5
FILES = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    *(
        f"{part}/{name}"
        for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
        for name in ("model.onnx", "config.json")
    ),
}


@pytest.fixture(scope="module")
def source():
    return open_source(str(small_checkpoint()))


@pytest.fixture(scope="module")
def graphs():
    return small_graphs()


@pytest.fixture(scope="module")
def bundle() -> Path:
    return small_bundle()


@pytest.fixture
def traced(graphs, monkeypatch):
    """Let the exporter reuse the graphs; tests may damage the copies."""
    copies = {name: copied_graph(None, name) for name in graphs}
    monkeypatch.setattr(Tracer, "graph", lambda _, name: copied(copies[name]))
    return copies


def command(argv: list[str], capsys) -> tuple[int, list[str]]:
    """(exit code, lines on stderr) of the command."""
    capsys.readouterr()
    return exporter.main(argv), capsys.readouterr().err.splitlines()


def diffusers_pictures(steps: int) -> np.ndarray:
    """The checkpoint's pictures [N,H,W,3] in [0,1], by diffusers from the folder as it is."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(small_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    made = [
        pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=0.0,
            output_type="np",
            generator=torch.Generator().manual_seed(SEED),
        ).images
        for prompt in PROMPTS
    ]
    return np.concatenate(made)


def ours(bundle: Path, steps: int) -> np.ndarray:
    """The bundle's pictures by our runtime."""
    pipe = runtime.load(bundle, provider="cpu")
    return np.asarray(pipe(PROMPTS, seed=[SEED, SEED], num_inference_steps=steps, output_type="np"))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pictures_are_those_of_diffusers(bundle: Path, steps: int) -> None:
    expected = diffusers_pictures(steps)
    assert expected.std() > 0.1  # a picture, not a grey plane
    assert psnr_db(expected, ours(bundle, steps), peak=1.0) >= 60


@pytest.mark.parametrize("steps", [1, 4])
def test_optimum_opens_the_bundle_and_draws_the_same(bundle: Path, steps: int) -> None:
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pipe = ORTStableDiffusionPipeline.from_pretrained(bundle)
    pipe.set_progress_bar_config(disable=True)
    expected = ours(bundle, steps)
    for prompt, picture in zip(PROMPTS, expected, strict=True):
        generator = torch.Generator().manual_seed(SEED)
        options = {"num_inference_steps": steps, "guidance_scale": 0.0, "output_type": "np"}
        found = pipe(prompt, generator=generator, **options).images[0]
        assert psnr_db(picture, found, peak=1.0) >= 60


def test_optimum_encodes_pictures_with_the_bundle(bundle: Path, source) -> None:
    from optimum.onnxruntime import ORTStableDiffusionImg2ImgPipeline

    pipe = ORTStableDiffusionImg2ImgPipeline.from_pretrained(bundle)
    picture = torch.rand(2, 3, *source.image_size) * 2 - 1
    with torch.no_grad():
        expected = source.pipe.vae.encode(picture).latents
    torch.testing.assert_close(pipe.vae.encode(picture).latents, expected, rtol=1e-4, atol=1e-4)


def test_folder_and_manifest(bundle: Path, source) -> None:
    manifest = open_bundle(bundle).manifest  # verifies every file
    assert set(manifest.files) == FILES
    assert manifest.precision == "fp32"
    assert manifest.latent_shape == (SMALL.latent_channels, 8, 8)
    assert manifest.image_size == (64, 64)
    assert manifest.prediction_type == "v_prediction"
    assert [step.timestep for step in manifest.steps[4]] == [999, 749, 499, 249]
    assert manifest.training == {"steps": 0}
    assert [dict(entry) for entry in manifest.licences] == FACTS["licences"]
    parity = manifest.parity
    assert parity["picture"]["status"] == "passed" and parity["picture"]["psnr_db"] >= 50
    assert set(parity["modules"]) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    index = json.loads((bundle / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for part, key in (
        ("text_encoder", "num_hidden_layers"),
        ("unet", "time_cond_proj_dim"),
        ("vae_decoder", "scaling_factor"),
        ("vae_encoder", "block_out_channels"),
    ):
        assert key in json.loads((bundle / part / "config.json").read_text())
    for name in ("vocab.json", "merges.txt"):
        assert (bundle / "tokenizer" / name).read_bytes() == (source.folder / "tokenizer" / name).read_bytes()


PORTS = {
    "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output"]),
    "unet": (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
    "vae_decoder": (["latent_sample"], ["sample"]),
    "vae_encoder": (["sample"], ["latent_sample"]),
}


@pytest.mark.parametrize("part", PORTS)
def test_ports_metadata_and_tidiness(bundle: Path, part: str) -> None:
    model = onnx.load(bundle / part / "model.onnx")
    onnx.checker.check_model(model)
    assert ([p.name for p in model.graph.input], [p.name for p in model.graph.output]) == PORTS[part]
    for port in [*model.graph.input, *model.graph.output]:
        rank = len(port.type.tensor_type.shape.dim)
        batch = port.type.tensor_type.shape.dim[0].dim_param if rank else ""
        assert (batch, port.name == "timestep") in (("batch", False), ("", True))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["addkit.name"] == "small"
    assert json.loads(facts["addkit.steps"])["1"][0]["timestep"] == 999
    text = model.SerializeToString()
    assert str(Path(exporter.__file__).parent).encode() not in text and b"stack_trace" not in text
    shapes = [node for node in model.graph.node if node.op_type == "Shape"]
    assert len(shapes) <= 1  # the timestep's batch; nothing else is computed from shapes


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_is_free(bundle: Path, batch: int) -> None:
    session = open_session(bundle / "unet" / "model.onnx")
    feed = {
        "sample": np.zeros((batch, SMALL.latent_channels, 8, 8), np.float32),
        "timestep": np.array(499, np.float32),
        "encoder_hidden_states": np.zeros((batch, 77, SMALL.hidden), np.float32),
    }
    assert session.run(None, feed)[0].shape == feed["sample"].shape


def test_weights_beyond_the_limit_go_to_a_second_file(bundle, source, graphs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_bundle, "INLINE_BYTES", 100_000)
    (tmp_path / "unet").mkdir()
    write_graph(tmp_path / "unet", copied(graphs["unet"]))
    names = sorted(path.name for path in (tmp_path / "unet").iterdir())
    assert names == ["model.onnx", "model.onnx_data"]
    assert (tmp_path / "unet" / "model.onnx").stat().st_size < 250_000
    feed = {
        "sample": source.noise([1]),
        "timestep": np.array(999, np.float32),
        "encoder_hidden_states": np.ones((1, 77, SMALL.hidden), np.float32),
    }
    one, two = (open_session(folder / "unet" / "model.onnx").run(None, feed)[0] for folder in (bundle, tmp_path))
    np.testing.assert_array_equal(one, two)


def test_a_damaged_graph_is_refused_and_nothing_is_written(traced, tmp_path, capsys) -> None:
    weight = next(t for t in traced["unet"].graph.initializer if t.name.endswith("conv_out.weight"))
    damaged = onnx.numpy_helper.to_array(weight) * 1.2
    weight.CopyFrom(onnx.numpy_helper.from_array(damaged, weight.name))
    code, lines = command([str(small_checkpoint()), "--out", str(tmp_path / "out")], capsys)
    assert code == 2
    (line,) = lines
    assert line.startswith("error: ") and "below the threshold of 50 dB" in line and "unet" in line
    assert list(tmp_path.iterdir()) == []
    code, _ = command([str(small_checkpoint()), "--out", str(tmp_path / "out"), "--min-psnr-db", "1"], capsys)
    assert code == 0 and (tmp_path / "out" / "manifest.json").is_file()


def test_a_graph_that_gives_nan_is_refused(source, traced, tmp_path) -> None:
    weight = next(t for t in traced["vae_encoder"].graph.initializer if len(t.dims) == 4)
    nan = np.full(tuple(weight.dims), np.nan, np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(nan, weight.name))
    with pytest.raises(UserError, match="broken.*vae_encoder.*NaN"):
        export_onnx(source, tmp_path / "out", Options(min_psnr_db=0))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_unless_overwrite(bundle, source, traced, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    shutil.copytree(bundle, out)
    (out / "mine.txt").write_text("kept")
    argv = [str(small_checkpoint()), "--out", str(out)]
    code, lines = command(argv, capsys)
    assert code == 2 and len(lines) == 1 and "--overwrite" in lines[0]
    assert (out / "mine.txt").read_text() == "kept"
    code, _ = command([*argv, "--overwrite", "--json"], capsys)
    assert code == 0 and not (out / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_spares_what_is_no_export(source, traced, tmp_path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="spares it"):
        export_onnx(source, tmp_path, Options(overwrite=True))
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


def test_an_interrupted_export_leaves_nothing(source, traced, tmp_path, monkeypatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("export.onnx.export.finish_bundle", stop)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_exist_is_one_line(tmp_path, capsys) -> None:
    code, lines = command(["no-such-model", "--out", str(tmp_path / "out")], capsys)
    assert code == 2 and len(lines) == 1 and "no-such-model" in lines[0]


def test_a_checkpoint_that_predicts_x0_is_refused(tmp_path) -> None:
    copy = shutil.copytree(small_checkpoint(), tmp_path / "copy")
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(UserError, match="prediction_type is 'sample'"):
        open_source(str(copy))


@pytest.mark.parametrize(("text", "message"), [("[]", "no JSON object"), ('{"licences": [{}]}', "missing field")])
def test_facts_of_another_form_are_refused(text: str, message: str, traced, tmp_path) -> None:
    copy = shutil.copytree(small_checkpoint(), tmp_path / "copy")
    (copy / "training.json").write_text(text)
    with pytest.raises(UserError, match=f"training.json.*{message}"):
        export_onnx(open_source(str(copy)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_onnx_is_the_library_inside_the_exporter() -> None:
    assert vars(onnx_bundle)["onnx"] is sys.modules["onnx"] is onnx and onnx.__file__ != exporter.__file__


@pytest.mark.slow
@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_optimums_own_exporter_agrees_with_ours(component: str, bundle: Path, source, tmp_path: Path) -> None:
    """A second opinion on the graphs; optimum has no exporter for a tiny autoencoder."""
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.model_configs import CLIPTextOnnxConfig, UNetOnnxConfig

    model = getattr(source.pipe, component)
    if component == "text_encoder":
        config = CLIPTextOnnxConfig(model.config, task="feature-extraction")
        feed = {"input_ids": source.encode(PROMPTS)}
    else:
        for key in ("text_encoder_projection_dim", "requires_aesthetics_score"):  # which optimum expects of a U-Net
            model.config[key] = None
        config = UNetOnnxConfig(model.config, task="semantic-segmentation")
        feed = {
            "sample": source.noise([1, 2]),
            "timestep": np.array(999, np.float32),
            "encoder_hidden_states": np.ones((2, 77, SMALL.hidden), np.float32),
        }
    export(model, config, tmp_path / "theirs.onnx", opset=18)
    theirs, ours = (open_session(path) for path in (tmp_path / "theirs.onnx", bundle / component / "model.onnx"))
    inputs = {
        port.name: np.asarray(feed[port.name], np.int64 if "int64" in port.type else np.float32)
        for port in theirs.get_inputs()
    }
    np.testing.assert_allclose(ours.run(None, feed)[0], theirs.run(None, inputs)[0], rtol=1e-3, atol=1e-4)
