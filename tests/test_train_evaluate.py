"""Evaluation from end to end on tiny networks and data, and its rules: what is refused, reported, resized."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from runtime.errors import UserError
from runtime.noise import randn
from tests.support.mistakes import refused
from tests.support.tiny import SMALL, make_pipeline, make_tokenizer
from tests.support.train_fixtures import COLOURS, make_data, make_teacher, picture
from train.checkpoint import load_pipeline
from train.data.shards import Record
from train.evaluate.__main__ import main
from train.evaluate.evaluation import Evaluation, arrange, choose, report, sheet_prompts, write_comparison
from train.evaluate.feature_sets import (
    ClipScore,
    FeatureSet,
    Inception,
    cached_features,
    discriminator_features,
    fit_side,
    make_feature_set,
    refuse_own_features,
)
from train.evaluate.generators import checkpoint_generator, find_subject
from train.evaluate.grids import draw_comparison
from train.evaluate.metrics import score_pictures
from train.evaluate.retrieval import hashed_words

torch.set_num_threads(1)  # toy tensors: with more, threads mostly wait for one another
ADD = "adversarial diffusion distillation (arXiv 2311.17042)"


class Blocks(FeatureSet):
    """Mean colours of a 4 x 4 grid: enough to tell discs from squares."""

    name = "blocks"

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pictures.float() / 255, 4).flatten(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher in teacher/, tiny data in data/."""
    path = tmp_path_factory.mktemp("evaluate")
    make_teacher(path)
    make_data(path / "data")
    return path


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDKIT_CACHE", str(folder / "cache"))


@pytest.fixture
def evaluation(folder: Path) -> Evaluation:
    return Evaluation(folder / "data", 12, network=Blocks(), embed=hashed_words)


def perfect(prompts: Sequence[str], seeds: Sequence[int], steps: int, size: int = 64) -> np.ndarray:
    """The data's own picture for each prompt, a few levels lighter or darker by the seed."""
    words = [prompt.split() for prompt in prompts]
    drawn = [np.asarray(picture(colour, shape, size), np.int16) for colour, shape in words]
    shifted = [drawing + seed % 5 for drawing, seed in zip(drawn, seeds, strict=True)]
    return np.stack(shifted).clip(0, 255).astype(np.uint8)


def constant(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
    return np.full((len(prompts), 64, 64, 3), 128, np.uint8)


def test_a_perfect_generator_is_close_and_aligned_and_a_constant_one_is_neither(evaluation: Evaluation) -> None:
    good, bad = evaluation.score(perfect, 1, within=2)["all"], evaluation.score(constant, 1, within=2)["all"]
    assert good["fd_blocks"] < bad["fd_blocks"] / 10 and good["kid_blocks"] < bad["kid_blocks"]
    assert good["precision"] > bad["precision"] and good["recall"] > bad["recall"]
    assert good["retrieval_at_1"] > bad["retrieval_at_1"] and good["alignment"] > bad["alignment"]
    assert good["diversity"] > 0 and bad["diversity"] == pytest.approx(0, abs=1e-6)
    assert good["vendi"] > bad["vendi"] == pytest.approx(1) and good["vendi_across"] > bad["vendi_across"]


def test_the_real_column_is_what_a_generator_of_the_real_pictures_would_get(evaluation: Evaluation) -> None:
    exact = evaluation.score(lambda prompts, seeds, steps: perfect(prompts, [0] * len(prompts), steps), 1)
    for split, figures in evaluation.real_figures().items():
        assert figures.keys() == {"alignment", "retrieval_at_1", "retrieval_at_5", "vendi_across"}
        assert figures == pytest.approx({name: exact[split][name] for name in figures}, abs=1e-5)


def test_pictures_of_another_side_are_resized_to_the_datas(evaluation: Evaluation) -> None:
    def large(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        return np.kron(perfect(prompts, seeds, steps), np.ones((1, 2, 2, 1), np.uint8))

    sides: set[int] = set()
    of = evaluation.network.of

    def spy(pictures: np.ndarray) -> Tensor:
        sides.add(pictures.shape[1])
        return of(pictures)

    evaluation.network.of = spy  # type: ignore[assignment, method-assign]
    same, resized = evaluation.score(perfect, 1, within=1)["all"], evaluation.score(large, 1, within=1)["all"]
    assert sides == {64}
    assert resized["fd_blocks"] == pytest.approx(same["fd_blocks"], abs=1e-3)
    assert fit_side(large(["red disc"], [0], 1), 64).shape == (1, 64, 64, 3)


def test_without_held_out_shards_the_figures_are_on_all_concepts(folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "train-00000.tar").write_bytes((folder / "data" / "train-00000.tar").read_bytes())
    found = Evaluation(tmp_path, 8, network=Blocks(), embed=hashed_words).score(perfect, 1)
    assert found.keys() == {"all"} and "no held_out" in capsys.readouterr().err
    with pytest.raises(UserError, match="at least 2"):
        Evaluation(folder / "data", 1, network=Blocks(), embed=hashed_words)


def test_the_report_has_the_contracts_keys(evaluation: Evaluation) -> None:
    asked: list[int] = []

    def teacher(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        asked.append(steps)
        return constant(prompts, seeds, steps)

    evaluation.network.name = "lite0"
    found = report(evaluation, perfect, teacher, [1, 2, 4], within=2)
    who = {"teacher_50", "student_1", "student_2", "student_4"}
    assert set(asked) == {50}
    for figure in ("fd_lite0", "kid_lite0", "precision", "recall"):
        assert found[figure].keys() == {"all", "held_out"}
        assert found[figure]["all"].keys() == found[figure]["held_out"].keys() == who
    for figure in ("vendi", "diversity", "vendi_held_out"):
        assert found[figure].keys() == who
    for figure in ("alignment", "retrieval_at_1", "retrieval_at_5", "alignment_held_out", "vendi_across"):
        assert found[figure].keys() == who | {"real"}
    assert found["n"] == {"all": 12, "held_out": 2}
    assert found["fd_lite0"]["all"]["teacher_50"] > found["fd_lite0"]["all"]["student_4"]


def test_arranging_keeps_every_value() -> None:
    first = {"all": {"fid": 1.0, "vendi": 2.0}, "held_out": {"fid": 3.0, "vendi": 4.0}}
    scores = {"a": first, "b": {"all": {"fid": 5.0}}}
    assert arrange(scores) == {
        "fid": {"all": {"a": 1.0, "b": 5.0}, "held_out": {"a": 3.0}},
        "vendi": {"a": 2.0},
        "vendi_held_out": {"a": 4.0},
    }


# ---- the generator ------------------------------------------------------------------------------------------------


def reference(pipeline: StableDiffusionPipeline, prompt: str, seed: int, steps: int) -> np.ndarray:
    """diffusers' own picture from the same noise, without guidance, u8[H, W, 3]."""
    shape = (pipeline.unet.config.in_channels, pipeline.unet.config.sample_size, pipeline.unet.config.sample_size)
    latents = torch.from_numpy(randn(seed, shape))[None]
    return np.asarray(pipeline(prompt, latents=latents, num_inference_steps=steps, guidance_scale=1.0).images[0])


@pytest.mark.parametrize(
    ("autoencoder", "schedule"),
    [
        ("tiny", "scaled_linear"),
        ("kl", "scaled_linear"),
        ("tiny", "linear"),
    ],
)
def test_pictures_are_those_of_diffusers_for_either_autoencoder_and_other_schedules(
    autoencoder: str, schedule: str, tmp_path: Path
) -> None:
    pipeline = make_pipeline(tmp_path, SMALL)
    config = dict(pipeline.scheduler.config, beta_schedule=schedule)
    pipeline.register_modules(scheduler=DDIMScheduler.from_config(config))
    if autoencoder == "kl":
        torch.manual_seed(0)
        vae = AutoencoderKL(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
            scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        pipeline.register_modules(vae=vae.eval())
    found = checkpoint_generator(pipeline, 1.0)(["a red fox", "the cat"], [5, 6], 2)
    expected = np.stack([reference(pipeline, "a red fox", 5, 2), reference(pipeline, "the cat", 6, 2)])
    assert expected.std() > 1 and np.abs(expected[0].astype(float) - expected[1]).mean() > 0.5
    error = np.abs(found.astype(float) - expected)
    assert error.mean() < 0.1 * np.abs(expected[0].astype(float) - expected[1]).mean()  # bf16 against f32


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "features"),
    [
        ({"method": ADD, "settings": {"features": "dinov2"}}, "dinov2"),
        ({"method": ADD, "settings": {"loss": "both"}}, "mobilenet_v2"),  # written before there was a choice
        ({"method": ADD, "settings": {"features": "mobilenet_v2", "loss": "distill"}}, "none"),
        ({"method": "something else"}, None),
    ],
)
def test_the_discriminators_features_are_read_from_checkpoint_and_bundle(
    facts: dict[str, Any], features: str | None, tmp_path: Path
) -> None:
    assert discriminator_features(tmp_path) is None
    (tmp_path / "training.json").write_text(json.dumps(facts))
    assert discriminator_features(tmp_path) == features
    (tmp_path / "training.json").unlink()
    (tmp_path / "manifest.json").write_text(json.dumps({"training": facts}))
    assert discriminator_features(tmp_path) == features


def test_the_discriminators_own_features_are_refused_unless_allowed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "training.json").write_text(json.dumps({"method": ADD, "settings": {"features": "mobilenet_v2"}}))
    assert refuse_own_features("lite0", tmp_path, False) is None
    line = refused(capsys, main, tmp_path, "--features", "mobilenet_v2", "--data", folder / "data")
    assert "--allow-discriminator-features" in line
    assert "flatter" in (refuse_own_features("mobilenet_v2", tmp_path, True) or "")
    assert "nothing says" in (refuse_own_features("lite0", folder, False) or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent"], "no diffusers pipeline"),
        (["x", "--sheet-only"], "--sheet-only needs"),
        (["x", "--steps", "0"], "must be 1 to 1000"),
        (["x", "--within", "-1"], "0 or more"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, main, *arguments)


def test_a_missing_subject_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="no diffusers pipeline"):
        find_subject("/nonexistent")


# ---- other networks -----------------------------------------------------------------------------------------------


class TinyInception(nn.Module):
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert x.dtype == torch.uint8
        pooled = torch.nn.functional.adaptive_avg_pool2d(x.float(), 3).flatten(1)
        return pooled if return_features else pooled[:, :2]


def test_with_inception_weights_fid_is_torchmetrics_fid(folder: Path, tmp_path: Path) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    torch.jit.script(TinyInception()).save(tmp_path / "inception.pt")
    inception = Inception(tmp_path / "inception.pt")
    evaluation = Evaluation(folder / "data", 12, network=Blocks(), embed=hashed_words, inception=inception)
    found = evaluation.score(constant, 1)

    class Features(nn.Module):
        num_features = 27

        def forward(self, pictures: Tensor) -> Tensor:
            return inception(pictures)

    metric = FrechetInceptionDistance(feature=Features())
    for pictures, real in ((evaluation.pictures["all"], True), (constant(["x"] * 12, range(12), 1), False)):
        metric.update(torch.from_numpy(pictures).permute(0, 3, 1, 2), real=real)
    assert found["all"]["fid"] == pytest.approx(float(metric.compute()), rel=1e-4)
    (tmp_path / "none.pt").write_bytes(b"no archive")
    with pytest.raises(UserError, match="no TorchScript"):
        Inception(tmp_path / "none.pt")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIPModel with its tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = make_tokenizer(folder / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1, "pad_token_id": len(tokenizer) - 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config=dict(sizes, vocab_size=len(tokenizer), max_position_embeddings=77, **ends),
            vision_config=dict(sizes, image_size=32, patch_size=8),
            projection_dim=8,
        )
    )
    model.save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_with_a_clip_model_its_score_is_a_hundred_times_the_mean_cosine(clip_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    prompts = ["red disc", "a cat", "blue square"]
    pictures = perfect(["red disc", "blue disc", "green square"], [0, 1, 2], 1)
    found = ClipScore(clip_folder)(pictures, prompts, batch=2)
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    inputs = processor(text=prompts, images=[Image.fromarray(p) for p in pictures], return_tensors="pt", padding=True)
    output = model(**inputs)
    cosines = (output.image_embeds * output.text_embeds).sum(dim=1)
    assert found == pytest.approx(max(0.0, 100 * float(cosines.mean())), abs=1e-3)
    with pytest.raises(UserError, match="no CLIPModel"):
        ClipScore(tmp_path)


def test_every_feature_set_gives_figures_under_its_own_name(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**sizes, image_size=32, patch_size=14)).save_pretrained(tmp_path / "dino")
    pictures = perfect(["red disc", "blue disc", "green square"], [0, 1, 2], 1)
    for name, width in (("mobilenet_v2", 320), ("dinov2", 16)):
        network = make_feature_set(name, str(tmp_path / "dino"))
        features = network.of(pictures)
        assert features.shape == (3, width) and f"fd_{name}" in score_pictures(features, pictures, network)
    with pytest.raises(UserError, match="--features-path"):
        make_feature_set("dinov2", str(tmp_path))


def test_real_features_are_computed_once_and_again_for_other_pictures(tmp_path: Path) -> None:
    class Counting(Blocks):
        calls = 0

        def forward(self, pictures: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(pictures)

    network, pictures = Counting(), perfect(["red disc", "blue disc"], [0, 1], 1) // 2
    first = cached_features(network, pictures, "test")
    assert torch.equal(cached_features(network, pictures, "test"), first) and network.calls == 1
    assert not torch.equal(cached_features(network, pictures + 1, "test"), first) and network.calls == 2


# ---- sheets and the command ---------------------------------------------------------------------------------------


def test_chosen_pictures_are_spread_over_the_split() -> None:
    records = [Record(str(i), (f"caption {i}",)) for i in range(10)]
    assert choose(records, 3).tolist() == [0, 4, 9] and choose(records, 99).tolist() == list(range(10))


def test_a_sheets_prompts_are_given_or_the_datas_or_the_checkpoints_own(folder: Path, tmp_path: Path) -> None:
    data, nothing = folder / "data", tmp_path / "nothing"
    (tmp_path / "prompts.txt").write_text("one\n\n two \n")
    (tmp_path / "given.txt").write_text("three\n" * 40)
    assert sheet_prompts(tmp_path / "given.txt", data, tmp_path) == ("three",) * 32
    found = sheet_prompts(None, data, tmp_path)
    assert len(set(found)) == 16 and set(found) <= {f"{c} {s}" for c in COLOURS for s in ("disc", "square")}
    assert found == sheet_prompts(None, data, nothing)
    assert sheet_prompts(None, nothing, tmp_path) == ("one", "two")
    with pytest.raises(UserError, match="give --prompts FILE"):
        sheet_prompts(None, nothing, nothing)


def test_a_comparison_takes_prompts_from_the_whole_list(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def student(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        asked.append(prompts)
        return constant(prompts, seeds, steps)

    prompts = [str(number) for number in range(32)]
    write_comparison(tmp_path / "c.png", student, student, [1], 2, prompts)
    assert asked == [prompts[::3]] * 2
    write_comparison(tmp_path / "c.png", student, student, [1], 2, prompts[:5])
    assert asked[2:] == [prompts[:5]] * 2


def test_a_comparison_has_a_row_a_prompt_and_a_column_a_title(tmp_path: Path) -> None:
    columns = [np.full((2, side, side, 3), (value, 0, 0), np.uint8) for side, value in ((64, 50), (32, 200))]
    columns[1][1] = (0, 0, 255)
    draw_comparison(columns, tmp_path / "sheet.png", ["left", "right"], ["one", "two"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (20 + 2 * (64 + 20 + 6), 2 * (64 + 6) + 6, 3)
    middles = [[sheet[20 + row * 90 + 20 + 32, 6 + column * 70 + 32].tolist() for column in (0, 1)] for row in (0, 1)]
    assert middles == [[[50, 0, 0], [200, 0, 0]], [[50, 0, 0], [0, 0, 255]]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png"]


def test_the_command_scores_a_checkpoint_and_writes_json_and_sheets(folder: Path, tmp_path: Path, capsys: Any) -> None:
    teacher = str(folder / "teacher")
    main(
        [
            teacher,
            "--teacher",
            teacher,
            "--data",
            str(folder / "data"),
            "--n",
            "4",
            "--steps",
            "1",
            "2",
            "--teacher-steps",
            "3",
            "--within",
            "2",
            "--features",
            "mobilenet_v2",
            "--text-embedder",
            "words",
            "--out",
            str(tmp_path / "figures.json"),
            "--json",
            "--device",
            "cpu",
            "--sheet",
            str(tmp_path / "sheet.png"),
            "--compare",
            str(tmp_path / "compare.png"),
        ]
    )
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures == json.loads((tmp_path / "figures.json").read_text())
    assert figures["kid_mobilenet_v2"]["held_out"].keys() == {"teacher_3", "student_1", "student_2"}
    assert figures["n"] == {"all": 4, "held_out": 2} and "fid" not in figures and "clip_score" not in figures
    size = sum(p.numel() for p in load_pipeline(teacher).unet.parameters())
    assert figures["params"] == {"student": size, "teacher": size}
    assert "nothing says which features" in printed.err and "student_2" in printed.err
    assert Image.open(tmp_path / "sheet.png").width == 8 * 68 + 4
    assert Image.open(tmp_path / "compare.png").width == 3 * 70 + 6


def test_the_table_says_what_was_not_run(folder: Path, capsys: Any) -> None:
    teacher = str(folder / "teacher")
    main(
        [
            teacher,
            "--teacher",
            teacher,
            "--data",
            str(folder / "data"),
            "--n",
            "2",
            "--steps",
            "1",
            "--teacher-steps",
            "1",
            "--within",
            "0",
            "--features",
            "mobilenet_v2",
            "--text-embedder",
            "words",
            "--device",
            "cpu",
        ]
    )
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["figure", "teacher_1", "student_1", "real"]
    assert [row.split(maxsplit=1)[1] for row in rows[-2:]] == ["not run: no weights given"] * 2
    assert any(row.startswith("fd_mobilenet_v2 held_out") for row in rows)
