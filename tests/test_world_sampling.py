"""Pictures of a prompt from the world: what the prompt says is in them, and the rest has the table's frequencies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import UserError
from tests.support.world import prepared, small_world
from train.world import looks, questions
from train.world.questions import WorldSource
from train.world.reading import Reader
from train.world.scenes import KINDS, choose

SIDE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(small_world(), tmp_path_factory.mktemp("world"), portraits=60)


@pytest.fixture(scope="module")
def source(folder: Path) -> WorldSource:
    return WorldSource(folder, SIDE)


@pytest.mark.parametrize(
    ("prompt", "kind", "subjects", "words"),
    [
        (
            "a small red goose facing left",
            "thing",
            ("goose",),
            {"size": "small", "colors": "red", "facing": "facing left"},
        ),
        ("A big goose, on a red background!", "thing", ("goose",), {"size": "large", "background": "on red"}),
        ("red apple, 3d", "thing", ("red apple",), {"style": "3d style"}),
        ("a fox on top of a pizza", "pair", ("fox", "pizza"), {"arrangement": "one above the other"}),
        ("three geese on blue dots", "count", ("goose",), {"background": "on blue dots"}),
        ("a bearded man, cheeky style", "portrait", ("man",), {"style": "cheeky style"}),
        ("an animal, cartoon style", "coarse", ("animal",), {}),
        ("an animal, fox, cartoon style", "thing", ("fox",), {"style": "cartoon style"}),
    ],
)
def test_prompts_are_read(
    source: WorldSource, prompt: str, kind: str, subjects: tuple[str, ...], words: dict[str, str]
) -> None:
    request = source.reader.read(prompt)
    assert request is not None and (request.kind, request.subjects) == (kind, subjects)
    assert words.items() <= request.words.items()
    assert "colors" not in request.words or "colors" in words


def test_a_scenes_whole_prompt_is_read_back() -> None:
    world, rng = small_world(), np.random.default_rng(0)
    reader = Reader(world)
    for _ in range(300):
        kind = choose(KINDS, rng)
        scene = world.scene(kind, ("woman",), rng) if kind == "portrait" else world.any_thing(rng)
        read = reader.scene(scene.prompt)
        assert read == scene and read.words == scene.words, scene.prompt


def test_samples_show_what_the_prompt_says_and_come_again(source: WorldSource) -> None:
    for prompt in ("a small red goose facing left", "a goose and grapes", "two foxes, 3d style", "an animal", "a man"):
        asked = source.asked(prompt)
        drawn = source.sample(asked, range(24))
        for words in drawn.words:
            assert all(words[name] in fitting for name, fitting in asked.stated.items()), (prompt, words)
        assert (drawn.pictures == source.sample(asked, range(24)).pictures).all()
        assert len(set(drawn.scenes)) > 10
        assert all(text.startswith(prompt) for text in drawn.prompts)


def test_samples_have_the_tables_frequencies(source: WorldSource) -> None:
    words = source.sample(source.asked("a goose"), range(400)).words
    for name, shares in {"size": looks.SIZES, "facing": looks.FACINGS, "tilt": looks.TILTS}.items():
        counts = Counter(each[name] for each in words)
        for word, share in shares.items():
            assert counts[word] / 400 == pytest.approx(share, abs=0.08)
    groups = Counter(each["group"] for each in source.sample(source.asked("an animal"), range(60)).words)
    assert (
        set(groups) == {"animal-mammal", "animal-bird"}
        and "thing" not in source.sample(source.asked("an animal"), [1]).words[0]
    )


def test_portraits_are_those_that_are_drawn(source: WorldSource) -> None:
    parts = [portrait.words for portrait in source.painter.portraits]
    drawn = source.sample(source.asked("a man"), range(30))
    for words in drawn.words:
        assert any(part.items() <= words.items() for part in parts)
        assert words["group"] == "portrait"


def test_trained_and_held_out_are_apart(source: WorldSource) -> None:
    for prompt in ("a fox", "a goose", "a pizza", "a car"):
        asked = source.asked(prompt)
        every, trained = (source.sample(asked, range(60), only) for only in (False, True))
        assert trained.scenes[:1] and len(trained.scenes) == len(every.scenes)
        changed = [one for one, other in zip(every.scenes, trained.scenes, strict=True) if one != other]
        assert set(changed).isdisjoint(trained.scenes)
    held = source.held_out(20, 0)
    assert set(held.scenes).isdisjoint(source.training(150, 0).scenes)
    assert all(source.table.drawn(prompt, 1) == {} for prompt in held.prompts)


def test_the_datas_own_prompts_are_of_three_depths(source: WorldSource) -> None:
    asked = source.questions(15, 0)
    assert Counter(one.depth for one in asked) == {"coarse": 3, "thing": 6, "properties": 6}
    assert len({one.prompt for one in asked}) == 15
    assert source.questions(15, 0) == asked != source.questions(15, 1)
    for one in asked:
        usual = {word for words in one.stated.values() for word in words} & questions.UNSAID
        assert not usual, one.prompt


def test_what_the_data_have_not_is_told(source: WorldSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'quantum foam': the data have nothing that it names"):
        source.asked("quantum foam")
    with pytest.raises(UserError, match="the data have 0 portraits of it, and 8 are needed"):
        source.asked("a woman")
    with pytest.raises(UserError, match="general words"):
        source.questions(500, 0)


def test_a_table_of_another_version_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = prepared(small_world(), tmp_path)
    said = json.loads((folder / "variation.json").read_text())
    other = json.loads(json.dumps(said))
    other["kinds"]["pair"]["properties"]["arrangement"]["words"]["side by side"] = 0.1
    (folder / "variation.json").write_text(json.dumps(other))
    assert WorldSource(folder).table == small_world().table
    assert "has other words than this version draws" in capsys.readouterr().err
    for damage, message in {"[]": "is no table of variation", "{": "cannot be read"}.items():
        (folder / "variation.json").write_text(damage)
        with pytest.raises(UserError, match=message):
            WorldSource(folder)
    (folder / "variation.json").unlink()
    with pytest.raises(UserError, match=r"variation.json is missing: make it with"):
        WorldSource(folder)
