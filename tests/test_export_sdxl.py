"""SDXL's structure in ONNX bundles: two encoders, pooled text and sizes; diffusers' own pipeline is the judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image

import runtime
from export.checks.measure import psnr_db
from export.onnx.__main__ import main as export_onnx
from export.onnx.quantize import planner
from export.onnx.trace import Tracer
from export.parity.__main__ import main as parity
from export.source import open_source
from runtime.bundle import open_bundle
from runtime.interpolate.path import between
from runtime.interpolate.slerp import lerp
from runtime.manifest import Manifest
from runtime.noise import randn
from tests.support.small_sdxl import small_parts, small_sdxl

PROMPT, STEPS = "a photograph of an old lighthouse at dusk", 4
SIZE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sdxl(tmp_path_factory.mktemp("sdxl") / "small-sdxl")


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Every export of this file is of the same networks: their graphs are traced once and copied."""
    kept: dict[tuple[str, str], onnx.ModelProto] = {}
    trace = Tracer.graph

    def graph(tracer: Tracer, component: str) -> onnx.ModelProto:
        key = (type(tracer.source.pipe.vae).__name__ if component.startswith("vae") else "", component)
        if key not in kept:
            kept[key] = trace(tracer, component)
        copy = onnx.ModelProto()
        copy.CopyFrom(kept[key])
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracer, "graph", graph)
        yield


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's export in single precision, with one graph for everything."""
    out = tmp_path_factory.mktemp("made") / "onnx"
    assert export_onnx([str(checkpoint), "--out", str(out), "--fused"]) == 0
    return out


def by_diffusers(checkpoint: Path, steps: int, **options: Any) -> np.ndarray:
    pipe = StableDiffusionXLPipeline.from_pretrained(checkpoint, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(5)
    options = {"guidance_scale": 0.0, "num_inference_steps": steps, "generator": generator, **options}
    return np.asarray(pipe(PROMPT, output_type="np", **options).images)


def test_the_gates_are_diffusers_pictures_in_one_step_and_in_four(made: Path) -> None:
    figures = open_bundle(made).manifest.parity
    parts = {"text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder"}
    assert set(figures["modules"]) == parts
    assert min(module["psnr_db"] for module in figures["modules"].values()) > 90
    assert figures["picture"]["psnr_db"] > 90 and figures["four_steps_db"] > 90
    assert figures["fused"]["psnr_db"] > 90


def test_what_the_manifest_says(made: Path) -> None:
    manifest = open_bundle(made).manifest
    encoders = manifest.conditioning.text_encoders
    assert [(one.component, one.tokenizer, one.states, one.pooled) for one in encoders] == [
        ("text_encoder", "tokenizer", "hidden_states.1", None),
        ("text_encoder_2", "tokenizer_2", "hidden_states.2", "text_embeds"),
    ]
    assert manifest.conditioning.time_ids and manifest.conditioning.zeros_without_negative_prompt
    assert manifest.tokenizer and manifest.tokenizer_2
    assert (manifest.tokenizer.pad_id, manifest.tokenizer_2.pad_id) == (49407, 0)
    assert manifest.conditioning.sizes(manifest.image_size) == (SIZE, SIZE, 0, 0, SIZE, SIZE)
    assert Manifest.from_dict(json.loads((made / "manifest.json").read_text())) == manifest


def test_the_ports_are_optimums(made: Path) -> None:
    def ports(name: str) -> tuple[list[str], list[str]]:
        graph = onnx.load(made / name / "model.onnx", load_external_data=False).graph
        return [port.name for port in graph.input], [port.name for port in graph.output]

    assert ports("unet")[0] == ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"]
    assert ports("text_encoder")[1] == ["last_hidden_state", "pooler_output", "hidden_states.0", "hidden_states.1"]
    layers = [f"hidden_states.{i}" for i in range(3)]
    assert ports("text_encoder_2")[1] == ["text_embeds", "last_hidden_state", *layers]


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_optimum_opens_the_folder_unchanged(made: Path, checkpoint: Path, guidance: float) -> None:
    from optimum.onnxruntime import ORTStableDiffusionXLPipeline

    pipe = ORTStableDiffusionXLPipeline.from_pretrained(made)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(5)
    options = {"guidance_scale": guidance, "height": SIZE, "width": SIZE}
    found = pipe(PROMPT, num_inference_steps=STEPS, generator=generator, output_type="np", **options).images
    assert psnr_db(by_diffusers(checkpoint, STEPS, guidance_scale=guidance), found, peak=1.0) > 90


@pytest.mark.parametrize(("precision", "least"), [("fp16", 45.0), ("int8", 35.0)])
def test_fewer_bits_pass_the_gate(
    checkpoint: Path, tmp_path: Path, precision: str, least: float, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROMPTS", "PRICED", "BATCH"):
        monkeypatch.setattr(planner, name, 2)
    assert export_onnx([str(checkpoint), "--out", str(tmp_path / "x"), "--precision", precision, "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["picture"]["psnr_db"] > least
    if precision == "fp16":  # force_upcast: diffusers computes this autoencoder in single precision
        kinds = {name: stored_kinds(tmp_path / "x", name) for name in ("unet", "vae_decoder")}
        assert onnx.TensorProto.FLOAT16 in kinds["unet"] and onnx.TensorProto.FLOAT16 not in kinds["vae_decoder"]
    else:
        assert facts["recipe"]["layers"]["static"] > 20


def stored_kinds(folder: Path, name: str) -> set[int]:
    graph = onnx.load(folder / name / "model.onnx", load_external_data=False).graph
    return {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}


def test_a_picture_to_start_from_is_encoded_as_diffusers_does(made: Path, checkpoint: Path) -> None:
    """The posterior's noise comes first from the generator, then the run's, then that of ancestral steps."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (4, 4, 3), np.uint8)).resize((SIZE, SIZE))
    judge = StableDiffusionXLImg2ImgPipeline.from_pretrained(checkpoint, add_watermarker=False)
    judge.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "guidance_scale": 0.0,
        "strength": 0.75,
        "output_type": "np",
    }
    generator = torch.Generator("cpu").manual_seed(5)
    expected = np.asarray(judge(PROMPT, image=picture, generator=generator, **options).images)
    found = runtime.load(made)(PROMPT, image=picture, seed=5, **options)
    assert psnr_db(expected, found, peak=1.0) >= 60


def test_a_bundle_whose_encoder_gives_the_mean_alone_starts_from_it(made: Path) -> None:
    pipe = runtime.load(made)
    picture, sessions = Image.new("RGB", (SIZE, SIZE), "teal"), pipe._networks.sessions
    encoder = sessions["vae_encoder"]
    mean: Any = SimpleNamespace(run=lambda **given: encoder.run(**given)[:, :4], close=encoder.close)
    pipe._networks.sessions = {**sessions, "vae_encoder": mean}
    (one,) = pipe.run(PROMPT, image=picture, seed=5, strength=1.0, decode=False)
    first = pipe.manifest.steps[1][0]
    start = first.alpha * pipe.encode(picture) + first.sigma * randn(5, one.latents.shape)
    (again,) = pipe.run(PROMPT, latents=start / first.noise_scale, seed=5, decode=False)
    assert one.drawn == 0
    np.testing.assert_allclose(one.latents, again.latents, rtol=1e-3, atol=1e-3)


def test_parity_reports_both_encoders(made: Path, checkpoint: Path, capfd: Any) -> None:
    assert parity([str(checkpoint), str(made), "--json"]) == 0
    (facts,) = json.loads(capfd.readouterr().out)["exports"]
    assert facts["modules"]["text_encoder_2"]["psnr_db"] > 90 and facts["four_steps_db"] > 90


def test_a_broken_pooled_text_is_seen_in_its_encoder(checkpoint: Path) -> None:
    from dataclasses import replace

    from export.checks.reference import text_measures
    from export.text import encoded

    source = open_source(str(checkpoint))
    with torch.no_grad():
        text = encoded(source, torch.from_numpy(source.encode([PROMPT]))).each(torch.Tensor.numpy)
    assert text.pooled is not None
    found = text_measures(text, replace(text, pooled=0.9 * text.pooled))
    assert found["text_encoder"].psnr_db == 150
    far = found["text_encoder_2"].psnr_db
    assert far is not None and far < 40


REFUSED = [
    ({"unet/config.json": {"cross_attention_dim": 128}}, "together give 192 numbers a token, the U-Net takes 128"),
    ({"unet/config.json": {"projection_class_embeddings_input_dim": 5}}, "text_encoder_2 and the picture's sizes give"),
    ({"unet/config.json": {"addition_embed_type": None}}, "needs no second text encoder's pooled text"),
    ({"model_index.json": {"text_encoder": [None, None]}}, "its text_encoder is a None"),
    ({"vae/config.json": {"latents_mean": [0, 0, 0, 0]}}, "latents_mean"),
    ({"tokenizer_2/added_tokens.json": {"<x>": 99999}}, "knows '<x>' as id 99999"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_what_does_not_fit_is_one_line(changes: Any, said: str, checkpoint: Path, tmp_path: Path, capfd: Any) -> None:
    folder = linked(checkpoint, tmp_path / "changed")
    for name, values in changes.items():
        path = folder / name
        old = json.loads(path.read_text()) if path.is_file() else {}
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(old | values))
    assert export_onnx([str(folder), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


def linked(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose files are links."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(checkpoint)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(checkpoint)).symlink_to(path)
    return folder


def test_the_plan_counts_every_part(checkpoint: Path, capfd: Any) -> None:
    assert export_onnx([str(checkpoint), "--out", "nowhere", "--dry-run", "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    parameters = {part["name"]: part["parameters"] for part in plan["components"]}
    for name in ("text_encoder", "text_encoder_2", "unet"):
        assert parameters[name] == sum(p.numel() for p in small_parts()[name].parameters())


def test_half_precision_spares_the_autoencoder_in_the_plan_too(checkpoint: Path, capfd: Any) -> None:
    assert export_onnx([str(checkpoint), "--out", "nowhere", "--precision", "fp16", "--dry-run", "--json"]) == 0
    parts = {part["name"]: part for part in json.loads(capfd.readouterr().out)["components"]}
    bits = {name: part["export_bytes"] / part["parameters"] for name, part in parts.items()}
    assert bits == {"text_encoder": 2, "text_encoder_2": 2, "unet": 2, "vae_decoder": 4, "vae_encoder": 4}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_runtime_draws_what_diffusers_draws(made: Path, checkpoint: Path, steps: int) -> None:
    found = runtime.load(made, "cpu")([PROMPT, "rain"], seed=[5, 6], num_inference_steps=steps, output_type="np")
    assert psnr_db(by_diffusers(checkpoint, steps)[0], found[0], peak=1.0) > 60


@pytest.mark.parametrize("negative", [None, "", "blue"])
def test_guidance_with_and_without_a_negative_prompt(made: Path, checkpoint: Path, negative: str | None) -> None:
    """Without one SDXL is guided away from zeros, not from the empty prompt."""
    options: dict[str, Any] = {"guidance_scale": 3.0, "negative_prompt": negative}
    found = runtime.load(made, "cpu")(PROMPT, seed=5, num_inference_steps=2, output_type="np", **options)
    assert psnr_db(by_diffusers(checkpoint, 2, **options)[0], found[0], peak=1.0) > 60


def test_states_without_pooled_text_are_refused(made: Path) -> None:
    pipe = runtime.load(made, "cpu")
    states, pooled = pipe.encode_prompt(PROMPT), pipe.encode_pooled_prompt(PROMPT)
    assert pooled is not None
    with pytest.raises(ValueError, match="takes pooled text too"):
        pipe(prompt_embeds=states, seed=1)
    with pytest.raises(ValueError, match=r"in the shape \(width\) or \(1, width\), not \(2, "):
        pipe(prompt_embeds=states, pooled_prompt_embeds=np.stack([pooled, pooled]), seed=1)
    with pytest.raises(ValueError, match="give both, or the prompt"):
        pipe(PROMPT, pooled_prompt_embeds=pooled, seed=1)


def test_states_and_pooled_text_in_the_place_of_a_prompt(made: Path, checkpoint: Path) -> None:
    """Halfway between two prompts, as diffusers draws it from the same arrays."""
    pipe = runtime.load(made, "cpu")
    states = lerp(pipe.encode_prompt(PROMPT), pipe.encode_prompt("rain"), 0.5)
    one, other = (pipe.encode_pooled_prompt(text) for text in (PROMPT, "rain"))
    assert one is not None and other is not None
    pooled = lerp(one, other, 0.5)
    found = pipe(prompt_embeds=states, pooled_prompt_embeds=pooled, seed=5, output_type="np")
    judge = StableDiffusionXLPipeline.from_pretrained(checkpoint, add_watermarker=False)
    judge.set_progress_bar_config(disable=True)
    given = {"prompt_embeds": torch.from_numpy(states[None]), "pooled_prompt_embeds": torch.from_numpy(pooled[None])}
    generator = torch.Generator("cpu").manual_seed(5)
    options = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "np"}
    assert psnr_db(judge(**given, generator=generator, **options).images, found, peak=1.0) > 60


def test_the_way_between_two_pictures(made: Path) -> None:
    pipe = runtime.load(made, "cpu")
    start, end = (Image.new("RGB", (SIZE, SIZE), colour) for colour in ("teal", "orange"))
    way = list(between(pipe, start, end, 1, prompt="a lake", prompt_b="a fox", strength=0.5, even=False))
    assert [frame.t for frame in way] == [0.0, 0.5, 1.0]
    alone = list(between(pipe, start, end, 1, prompt="a lake", strength=0.5, even=False))
    assert way[0].image.tobytes() == alone[0].image.tobytes() and way[1].image.tobytes() != alone[1].image.tobytes()


@pytest.mark.slow
def test_a_tiny_autoencoder_takes_the_place_of_the_other(checkpoint: Path, tmp_path: Path, capfd: Any) -> None:
    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**widths, scaling_factor=1.0).save_pretrained(tmp_path / "vae")
    options = ["--vae", str(tmp_path / "vae"), "--out", str(tmp_path / "out"), "--json"]
    assert export_onnx([str(checkpoint), *options]) == 0
    assert json.loads(capfd.readouterr().out)["picture"]["psnr_db"] > 90
