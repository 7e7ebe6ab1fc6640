"""Variation in a call: each picture's seed completes its prompt, and the completed prompt gives the same picture."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime import BundleError, TruncationWarning
from runtime.__main__ import main
from runtime.bundle import open_bundle
from runtime.image_files import read_parameters
from runtime.interpolate.inputs import prompt_of
from runtime.variation import Variation
from runtime.variation.choice import check_choice, read_choice
from scripts.variation_cases import table
from tests.support.varied import TINY, varied_bundle

VARIATION = Variation.from_json(table())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied_bundle(tmp_path_factory.mktemp("varied") / "bundle")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> runtime.Pipeline:
    return runtime.load(folder)


def same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_the_manifest_holds_the_table(folder: Path) -> None:
    found = open_bundle(folder).manifest
    assert found.variation is not None and found.variation.to_json() == VARIATION.to_json()
    assert json.loads((folder / "manifest.json").read_text())["variation"] == VARIATION.to_json()
    assert "variation" not in open_bundle(TINY).manifest.to_dict()


def test_a_prompt_is_completed_and_typing_that_gives_the_same_picture(pipe: runtime.Pipeline) -> None:
    plain = runtime.load(TINY)
    for seed in range(6):
        (made,) = pipe.run("a fox", seed=seed)
        assert made.prompt == VARIATION.complete("a fox", seed) != "a fox" == made.typed_prompt
        (again,) = pipe.run(made.prompt, seed=seed)
        assert again.prompt == again.typed_prompt == made.prompt
        assert same(again.image, made.image)
        assert same(plain(made.prompt, seed=seed)[0], made.image)  # by a bundle without a table
        assert not same(pipe("a fox", seed=seed, variation=None)[0], made.image)
        assert same(pipe("a fox", seed=seed, variation=None)[0], plain("a fox", seed=seed)[0])


def test_every_picture_has_its_own_words(pipe: runtime.Pipeline) -> None:
    made = pipe("a fox", seed=3, num_images_per_prompt=6)
    assert made.prompts == [VARIATION.complete("a fox", seed) for seed in range(3, 9)]
    assert made.typed_prompts == ["a fox"] * 6 and len(set(made.prompts)) > 3
    made = pipe(["a fox", "a pizza"], seed=[1, -1])
    assert made.prompts == [VARIATION.complete("a fox", 1), VARIATION.complete("a pizza", 2**64 - 1)]


def test_the_seed_may_be_a_generators(pipe: runtime.Pipeline) -> None:
    assert pipe("a fox", generator=5).prompts == pipe("a fox", seed=5).prompts
    (made,) = pipe.run("a fox")
    assert made.prompt == VARIATION.complete("a fox", made.seed)


def test_what_is_given_as_states_is_not_completed(pipe: runtime.Pipeline) -> None:
    states = pipe.encode_prompt("a fox")
    (made,) = pipe.run(prompt_embeds=states, seed=1)
    assert made.prompt == made.typed_prompt == ""
    assert same(made.image, pipe("a fox", seed=1, variation=None)[0])


def test_negative_prompts_stay_as_they_are(pipe: runtime.Pipeline) -> None:
    (made,) = pipe.run("a fox", seed=1, negative_prompt="a dog", guidance_scale=3)
    assert made.job.negative_prompt == "a dog" and made.prompt == VARIATION.complete("a fox", 1)


def test_chosen_words(pipe: runtime.Pipeline) -> None:
    for seed in range(8):
        (made,) = pipe.run("a fox", seed=seed, variation={"facing": "left", "size": "small"})
        words = made.prompt.split(", ")
        assert "facing left" in words and "small" in words
        assert set(words) - {"facing left", "small"} < set(VARIATION.complete("a fox", seed).split(", "))
    with pytest.raises(ValueError, match="choose one of facing left, facing right"):
        pipe("a fox", variation={"facing": "up"})
    with pytest.raises(ValueError, match="there is no wheels; properties are thing, style"):
        pipe("a fox", variation={"wheels": "4"})
    with pytest.raises(ValueError, match="has no table of variation: leave variation facing out"):
        runtime.load(TINY)("a fox", variation={"facing": "left"})


@pytest.mark.parametrize("wrong", ["on", "none", True, 1, ["facing"], {"facing": 1}, {1: "left"}])
def test_another_value_is_refused(pipe: runtime.Pipeline, wrong: Any) -> None:
    with pytest.raises(ValueError, match='variation must be "auto", None or {property: word}'):
        pipe("a fox", variation=wrong)


def test_image_to_image_streams_and_generate(pipe: runtime.Pipeline, folder: Path) -> None:
    start = Image.new("RGB", (40, 32), "orange")
    (made,) = pipe.run("a fox", seed=2, image=start, strength=0.5)
    assert made.prompt == VARIATION.complete("a fox", 2)
    (again,) = pipe.run(made.prompt, seed=2, image=start, strength=0.5, variation=None)
    assert same(made.image, again.image)
    stream = pipe.stream(["a fox", "a pizza"], seed=2)
    assert [stream.next().prompt, stream.next().prompt] == [VARIATION.complete(p, 2) for p in ("a fox", "a pizza")]
    assert pipe.stream(["a fox"], seed=2, variation=None).next().prompt == "a fox"
    auto, plain = (runtime.generate("a fox", seed=2, bundle=folder, variation=v) for v in ("auto", None))
    assert same(auto, pipe("a fox", seed=2)[0]) and not same(auto, plain)


def test_typed_words_are_never_pushed_out(pipe: runtime.Pipeline) -> None:
    """Completing words go where there is room; no warning tells of words that nobody typed."""
    most = pipe.manifest.max_tokens
    counts = set()
    for length in range(80):
        typed = " ".join(["a fox,", *["x"] * length])
        fits = not pipe.tokenizer.encode(typed, most).dropped_words
        with warnings.catch_warnings():
            warnings.simplefilter("error" if fits else "ignore", TruncationWarning)
            (made,) = pipe.run(typed, seed=3, decode=False)
            (again,) = pipe.run(made.prompt, seed=3, decode=False)
        assert made.prompt.startswith(typed) and again.prompt == made.prompt
        assert (made.prompt == typed) or fits
        counts.add(len(made.prompt.removeprefix(typed).split(", ")) - 1)
    assert counts == {0, 1, 2, 3, 4}


# The command line.


def test_the_command_completes_and_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made(name: str, *options: str) -> tuple[dict[str, Any], str]:
        path = tmp_path / name
        assert main([*options, "--seed", "7", "--bundle", str(folder), "-o", str(path), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["images"][0], read_parameters(path.read_bytes())[1]

    whole = VARIATION.complete("a fox", 7)
    report, text = made("fox.png", "a fox")
    assert report["prompt"] == whole and report["typed_prompt"] == "a fox"
    assert prompt_of(text) == whole and 'Typed prompt: "a fox", Version: addkit' in text
    report, text = made("typed.png", whole)
    assert report["prompt"] == whole and "typed_prompt" not in report and "Typed prompt" not in text
    assert same(Image.open(tmp_path / "fox.png"), Image.open(tmp_path / "typed.png"))
    report, plain = made("plain.png", "a fox", "--plain")
    assert report["prompt"] == prompt_of(plain) == "a fox" and "Variation: none, Version: addkit" in plain
    assert made("none.png", "a fox", "--variation", "none")[1] == plain
    assert "facing right" in made("right.png", "a fox", "--variation", "facing=right")[0]["prompt"]
    assert main(["a fox", "--bundle", str(TINY), "-o", str(tmp_path / "bare.png"), "--plain"]) == 0
    assert "Variation" not in read_parameters((tmp_path / "bare.png").read_bytes())[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--variation", "some"], "variation 'some' is not auto, none or PROPERTY=WORD"),
        (["--variation", "facing=up"], "choose one of facing left, facing right"),
        (["--variation", "facing=left", "--variation", "facing=right"], "names a property twice"),
        (["--variation", "facing="], "'facing=' is not auto"),
        (["--plain", "--variation", "auto"], "--plain is --variation none"),
    ],
)
def test_mistakes_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main(["a fox", "--bundle", str(folder), "-o", str(tmp_path / "fox.png"), *options]) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_texts_of_a_choice() -> None:
    assert read_choice([]) == read_choice(["auto"]) == read_choice([" "]) == check_choice("auto") == "auto"
    assert read_choice(["none"]) is check_choice(None) is None
    assert read_choice(["facing = left; size=large"]) == read_choice(["facing=left", "size=large"])
    assert read_choice(["facing=left;size=large"]) == {"facing": "left", "size": "large"}


# Damaged tables of untrusted bundles.


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ([], "a table", "the table is str, not an object"),
        (["version"], 2, "version 2 is not known, only 1"),
        (["kinds", "food", "properties", "size", "words", "small"], -0.5, "frequency of 'small' is -0.5"),
        (["kinds", "food", "properties", "wheels"], {"words": {"four": 1}}, "order lacks wheels"),
        (["kinds", "woman, ink", "requires"], ["black hair"], "order: hair must come after hair color"),
        (["kinds", "food", "words"], ["x\n\x1b[31m" * 9], "is no text of at most 100 letters"),
    ],
)
def test_a_damaged_table_is_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: list[str], value: Any, says: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(folder, bundle)
    data = json.loads((bundle / "manifest.json").read_text())
    inner: Any = data
    for step in ["variation", *where][:-1]:
        inner = inner[step]
    inner[["variation", *where][-1]] = copy.deepcopy(value)
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError) as error:
        runtime.load(bundle)
    assert says in str(error.value) and "manifest.json: variation" in str(error.value)
    assert main(["a fox", "--bundle", str(bundle), "-o", str(tmp_path / "fox.png")]) == 2
    err = capsys.readouterr().err
    assert says in err and err.strip().isprintable() and len(err) < 1000
    assert not (tmp_path / "fox.png").exists()


def test_a_huge_table_is_not_read(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(folder, bundle)
    data = json.loads((bundle / "manifest.json").read_text())
    data["variation"]["kinds"]["food"]["words"] = [f"pizza {i}" for i in range(400_000)]
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="4000000 at most are read"):
        runtime.load(bundle)
