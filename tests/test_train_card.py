"""A model card's parts: prompts, sheets with complete captions, tables made from the figures alone."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import UserError
from tests.support.tiny import small_checkpoint
from tests.support.train_fixtures import make_data, picture, png
from train.data.shards import Record, write_shard
from train.evaluate.grids import SMALLEST_FONT, Lettering, Section, draw_grid, draw_sections, shrunk, wrap
from train.sticker import prompts
from train.sticker.card import MARKS, Tables, main, rewrite, with_tables, write_sheet
from train.sticker.prompts import CARD_PROMPTS, COMPOSITION_PROMPTS, compositions, known, plain, require_absent

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
CARD, FIGURES = ROOT / "checkpoints/sticker-128/README.md", ROOT / "docs/figures/sticker-128.json"


def write_split(folder: Path, split: str, *captions: str) -> Path:
    """A shard of one picture with these captions."""
    folder.mkdir(exist_ok=True)
    record = Record(split, captions)
    write_shard(folder / f"{split}-00000.tar", [(record, png(picture("red", "disc", 32)))])
    return folder


# ---- prompts ------------------------------------------------------------------------------------------------------


def test_the_card_asks_for_64_subjects_in_every_style_and_in_none() -> None:
    subjects = [prompt.split(",")[0] for prompt in CARD_PROMPTS]
    assert len(CARD_PROMPTS) == len(set(map(plain, CARD_PROMPTS))) == len(set(subjects)) == 64
    for style in ("3d style", "flat style", "cartoon style"):
        assert sum(prompt.endswith(f", {style}") for prompt in CARD_PROMPTS) >= 6
    assert sum("style" not in prompt for prompt in CARD_PROMPTS) >= 10


def test_the_compositions_are_three_kinds_of_eight() -> None:
    assert [len(kind) for kind in COMPOSITION_PROMPTS.values()] == [8, 8, 8]
    assert len(set(map(plain, compositions()))) == 24


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a purple banana, flat style", "purple banana"),
        ("Purple banana", "purple banana"),
        ("a sticker of an owl, cartoon style", "owl"),
        ("3d style owl sticker", "owl"),
        ("the owl", "owl"),
        ("a pizza next to a fox, 3d style", "fox and pizza"),
        ("fox and pizza, flat style", "fox and pizza"),
        ("teddy bear, soft toy, 3d style", "teddy bear, soft toy"),
    ],
)
def test_style_article_and_order_do_not_count(text: str, named: str) -> None:
    assert plain(text) == named


@pytest.mark.parametrize("split", ["train", "composed"])
def test_a_composition_among_the_captions_of_either_split_is_found(tmp_path: Path, split: str) -> None:
    data = write_split(tmp_path / "data", "train", "owl, 3d style", "an owl")
    require_absent(data)
    write_split(data, split, "something", "3d style purple banana sticker")
    assert known(compositions(), data) == ["a purple banana, flat style"]
    with pytest.raises(UserError, match="'a purple banana, flat style': among the captions of"):
        require_absent(data)


def test_two_things_are_found_in_either_order_and_held_out_captions_do_not_count(tmp_path: Path) -> None:
    data = write_split(tmp_path / "data", "train", "pizza and fox, 3d style")
    write_split(data, "held_out", "three red apples, flat style")
    assert known(compositions(), data) == ["a fox and a pizza, flat style"]


def test_the_command_says_which_and_exits_with_one(tmp_path: Path, capsys: Any) -> None:
    data = write_split(tmp_path / "data", "train", "owl")
    assert prompts.main(["--data", str(data)]) == 0
    assert capsys.readouterr().out == f"none of 24 compositions is a caption of {data}\n"
    write_split(data, "composed", "five stars, flat style")
    assert prompts.main(["--data", str(data)]) == 1
    assert "1 of 24" in (err := capsys.readouterr().err) and "'five stars, flat style'" in err and err.count("\n") == 1


def test_the_sheet_of_sixteen_has_each_subject_in_two_styles() -> None:
    assert len(prompts.SHEET_PROMPTS) == len(set(prompts.SHEET_PROMPTS)) == 32
    assert len({prompt.split(",")[0] for prompt in prompts.SHEET_PROMPTS}) == 16


# ---- captions -----------------------------------------------------------------------------------------------------


def letters(text: str) -> float:
    return len(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a fox", ["a fox"]),
        ("", []),
        ("fox, 3d style", ["fox, 3d style"]),
        ("a purple banana, flat style", ["a purple banana,", "flat style"]),  # not "flat" on the first
        ("a penguin wearing hats, 3d style", ["a penguin wearing", "hats, 3d style"]),  # at the comma it is three
        ("hippopotamusrhinoceros, 3d style", ["hippopotamusrhinoc", "eros, 3d style"]),
    ],
)
def test_captions_are_wrapped_whole(text: str, lines: list[str]) -> None:
    assert wrap(text, 18, letters) == lines


@pytest.mark.parametrize("width", [64, 128, 256])
def test_no_caption_of_a_card_loses_a_letter_or_leaves_its_column(width: int) -> None:
    lettering = Lettering.under(width)
    assert lettering.size >= SMALLEST_FONT
    for prompt in (*CARD_PROMPTS, *compositions(), *prompts.SHEET_PROMPTS):
        lines = lettering.wrap(prompt, width)
        assert "".join(lines).replace(" ", "") == prompt.replace(" ", "")
        assert max(map(lettering.length, lines)) <= width
        assert len(lines) <= 3 or width == 64


def ink(sheet: Image.Image) -> np.ndarray:
    """Where a sheet of white pictures is dark: bool[H, W]."""
    return np.asarray(sheet.convert("L")) < 128


def test_every_line_of_a_caption_is_on_the_sheet_and_between_its_neighbours(tmp_path: Path) -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    captions = ("a", "one word below the other, to the last")
    draw_grid([white, white], tmp_path / "sheet.png", 2, captions)
    drawn = ink(Image.open(tmp_path / "sheet.png"))
    lettering = Lettering.under(64)
    lines = lettering.wrap(captions[1], 60)
    assert len(lines) >= 4
    for index in range(len(lines)):
        top = 4 + 64 + 2 + index * lettering.line
        assert drawn[top : top + lettering.line, 72 : 72 + 64].any(), lines[index]
        assert drawn[top : top + lettering.line, :68].any() == (index == 0)
    assert not drawn[:, 64:70].any() and not drawn[-2:].any()


def test_a_grid_without_captions_is_pictures_and_gaps(tmp_path: Path) -> None:
    draw_grid([np.full((8, 12, 3), value, np.uint8) for value in (10, 20, 30)], tmp_path / "grid.png", 2)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (2 * 12 + 4, 2 * 16 + 4, 3)
    assert [sheet[8, 10, 0], sheet[8, 26, 0], sheet[20, 10, 0], sheet[20, 26, 0]] == [10, 20, 30, 255]


def test_sections_begin_with_their_titles_on_a_new_row(tmp_path: Path) -> None:
    pictures = [np.full((32, 32, 3), 255, np.uint8)] * 3
    path = tmp_path / "sheet.webp"
    draw_sections([Section("one", pictures, ("a", "b", "c")), Section("two", pictures, ("d", "e", "f"))], path, 2)
    with Image.open(path) as sheet:
        assert sheet.format == "WEBP" and sheet.width == 2 * 42 + 10
        rows = ink(sheet).any(axis=1)
    assert np.diff(np.r_[0, rows.astype(int), 0]).clip(0).sum() == 6  # a title and two rows of captions, twice
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.webp"]


def test_large_pictures_are_shown_smaller() -> None:
    assert shrunk(np.zeros((512, 256, 3), np.uint8)).shape == (256, 128, 3)
    assert shrunk(small := np.zeros((32, 40, 3), np.uint8)) is small


# ---- sheets -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("card") / "data")


def test_a_sheet_is_one_step_of_one_seed_each_picture_above_its_own_prompt(tmp_path: Path) -> None:
    asked: list[tuple[str, int, int]] = []

    def student(texts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        asked.extend((text, seed, steps) for text, seed in zip(texts, seeds, strict=True))
        return np.stack([np.full((32, 32, 3), 60 * (index + 1), np.uint8) for index in range(len(texts))])

    write_sheet(tmp_path / "sheet.webp", {"": ("a", "b"), "more": ("c",)}, student, 3)
    assert asked == [("a", 3, 1), ("b", 3, 1), ("c", 3, 1)]
    sheet = np.asarray(Image.open(tmp_path / "sheet.webp").convert("L")).astype(int)
    assert abs(sheet[20, 20] - 60) < 5 and abs(sheet[20, 62] - 120) < 5 and abs(sheet[-40, 20] - 180) < 5


@pytest.mark.parametrize("subject", ["bundle", "checkpoint"])
def test_the_command_writes_three_sheets_of_a_bundle_or_a_checkpoint(
    data: Path, tmp_path: Path, capsys: Any, subject: str
) -> None:
    folder = TINY if subject == "bundle" else small_checkpoint()
    out = tmp_path / "card"
    assert main([str(folder), "--data", str(data), "--out", str(out), "--seed", "3", "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts["seed"] == 3 and {name: len(texts) for name, texts in facts["prompts"].items()} == {
        "sheet": 64,
        "compositions": 24,
        "sixteen": 32,
    }
    width = 40 if subject == "bundle" else 64
    for name, path in facts["files"].items():
        assert path == str(out / f"{name}.webp") and f"{name}.webp: " in printed.err
        with Image.open(path) as sheet:
            assert sheet.format == "WEBP" and sheet.width == 8 * (width + 10) + 10
    assert len(list(out.iterdir())) == 3


def test_without_json_it_prints_the_files_and_the_same_seed_gives_the_same_bytes(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        assert main([str(TINY), "--data", str(data), "--out", str(tmp_path / name), "--seed", seed]) == 0
        written = [str(tmp_path / name / f"{sheet}.webp") for sheet in ("sheet", "compositions", "sixteen")]
        assert capsys.readouterr().out.splitlines() == written
    one, two, three = ((tmp_path / name / "sheet.webp").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def damaged(folder: Path) -> str:
    shutil.copytree(TINY, folder)
    (folder / "unet" / "model.onnx").write_bytes(b"no graph")
    return str(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subject": "nothing-there"}, "no diffusers pipeline there"),
        ({"subject": "damaged"}, "unet/model.onnx"),
        ({"--seed": str(2**64)}, "--seed: seed 18446744073709551616 is out of range"),
        ({"--device": "abacus"}, "--device abacus: no such device"),
        ({"--data": "no-folder"}, "no train-*.tar shards"),
        ({"--data": "learned"}, "'a yellow owl, flat style': among the captions"),
        ({"--out": "a-file"}, "a-file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("")
    write_split(tmp_path / "learned", "train", "yellow owl, 3d style")
    given = {"subject": str(TINY), "--data": str(data), "--out": "card"} | change
    subject = given.pop("subject")
    arguments = [damaged(tmp_path / "damaged") if subject == "damaged" else subject]
    code = main(arguments + [part for pair in given.items() for part in pair])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" pictures")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0]
    assert not Path("card").exists()


# ---- tables -------------------------------------------------------------------------------------------------------


def some_figures(**changes: Any) -> dict[str, Any]:
    """Figures of a teacher at 25 steps and a student at one and two."""

    def row(teacher: float, one: float, two: float, **more: float) -> dict[str, float]:
        return {"teacher_25": teacher, "student_1": one, "student_2": two, **more}

    figures = {
        "fd_blocks": {"all": row(100, 85, 90), "held_out": row(100, 85.01, 90)},
        "kid_blocks": {"all": row(0.1, 0.2, 0.3), "held_out": row(0.4, 0.5, 0.6)},
        "precision": {"all": row(0.5, 0.6, 0.7), "held_out": row(0.5, 0.6, 0.7)},
        "recall": {"all": row(0.5, 0.45, 0.7), "held_out": row(0, 0.6, 0.7)},
        "alignment": row(0.2, 0.2, 0.1, real=0.9),
        "alignment_held_out": row(0.2, 0.19996, 0.1, real=0.8),
        "retrieval_at_1": row(0.2, 0.3, 0.1, real=0.9),
        "retrieval_at_1_held_out": row(0.2, 0.3, 0.1, real=0.8),
        "n": {"all": 40, "held_out": 12},
        "params": {"student": 10_000_000, "teacher": 30_000_000},
        "features": "blocks",
    }
    return figures | changes


def ratios(figures: dict[str, Any]) -> dict[str, list[str]]:
    """{name: [teacher, student, ratio, goal, result]} of the second table."""
    rows = [line.strip("| ").split(" | ") for line in Tables(figures, "x").ratio_table().splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_the_first_table_has_every_figure_on_both_splits() -> None:
    lines = Tables(some_figures(), "x").figure_table().splitlines()
    assert lines[0] == "| figure | teacher 25 | student 1 | student 2 | real pictures |"
    assert "| FD-blocks, held-out | 100.0 | 85.0 | 90.0 |  |" in lines
    assert "| text alignment, held-out | 0.200 | 0.200 | 0.100 | 0.800 |" in lines
    assert "| own caption first of 12, held-out | 0.200 | 0.300 | 0.100 | 0.800 |" in lines
    assert "| Vendi within a prompt, all concepts |  |  |  |  |" in lines and len(lines) == 2 + 16


def test_goals_are_reached_or_missed_by_the_figures_not_by_what_is_printed() -> None:
    found = ratios(some_figures())
    assert found["FD-blocks, all concepts"] == ["100.0", "85.0", "0.850", "at most 1.00, then 0.85", "reached, reached"]
    assert found["FD-blocks, held-out"][2:] == ["0.850", "at most 1.00, then 0.85", "reached, missed"]
    assert found["recall, all concepts"][2:] == ["0.900", "at least 0.9", "reached"]
    assert found["text alignment, all concepts"][2:] == ["1.000", "at least 1.00", "reached"]
    assert found["text alignment, held-out"][2:] == ["1.000", "at least 1.00", "missed"]
    assert found["parameters, M"] == ["30.0", "10.0", "0.333", "at most 1/3", "reached"]
    worse = ratios(
        some_figures(
            params={"student": 10_000_001, "teacher": 30_000_000},
            fd_blocks={"all": {"teacher_25": 1.0, "student_1": 2.0}},
        )
    )
    assert worse["parameters, M"][-1] == "missed" and worse["FD-blocks, all concepts"][-1] == "missed, missed"


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    found = ratios(some_figures(params={"student": None, "teacher": 30_000_000}))
    assert found["recall, held-out"] == ["0.000", "0.600", "", "at least 0.9", "no ratio"]
    assert found["Vendi within a prompt, all concepts"] == ["", "", "", "at least 0.9", "not measured"]
    assert found["parameters, M"] == ["30.0", "", "", "at most 1/3", "not measured"]


def test_data_without_held_out_pictures_give_no_rows_of_them() -> None:
    tables = Tables(some_figures(n={"all": 40}), "x")
    assert "held-out" not in tables.text() and len(tables.figure_table().splitlines()) == 2 + 8


def test_the_part_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path, capsys: Any) -> None:
    figures, card = tmp_path / "figures.json", tmp_path / "card.md"
    figures.write_text(json.dumps(some_figures()))
    card.write_text(f"# Title\n{MARKS[0]}\nold\n{MARKS[1]}\n\nprose, 100 %\n")
    assert main(["figures", str(figures), str(card), "--check"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(figures) in err and "old" in card.read_text()
    assert main(["figures", str(figures), str(card)]) == 0
    assert capsys.readouterr().out == f"{card}\n"
    head, tail = f"# Title\n{MARKS[0]}\n\n", f"\n\n{MARKS[1]}\n\nprose, 100 %\n"
    assert card.read_text() == head + Tables(some_figures(), "x").text() + tail
    assert main(["figures", str(figures), str(card), "--check"]) == 0
    card.write_text(card.read_text().replace("0.850", "0.840"))
    assert main(["figures", str(figures), str(card), "--check"]) == 1


@pytest.mark.parametrize("card", ["", MARKS[0], f"{MARKS[1]} {MARKS[0]}", f"{MARKS[0]} {MARKS[0]} {MARKS[1]}"])
def test_a_card_without_both_marks_is_refused(card: str) -> None:
    with pytest.raises(UserError, match="card.md: it needs <!-- figures --> and <!-- /figures --> once each"):
        with_tables(card, "", "card.md")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(some_figures(features="other")),
        json.dumps(some_figures(n={})),
        json.dumps(some_figures(fd_blocks={"all": {"student_1": 1.0}})),
        json.dumps(some_figures(fd_blocks={"all": 3})),
        json.dumps(some_figures(recall={"all": {"teacher_25": "much", "student_1": 1.0}})),
    ],
)
def test_figures_that_are_none_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "figures.json").write_text(text)
    (tmp_path / "card.md").write_text("\n".join(MARKS))
    with pytest.raises(UserError, match="figures.json"):
        rewrite(tmp_path / "figures.json", tmp_path / "card.md", False)
    assert (tmp_path / "card.md").read_text() == "\n".join(MARKS)


def test_the_shipped_card_shows_its_figures(capsys: Any, tmp_path: Path) -> None:
    assert main(["figures", str(FIGURES), str(CARD), "--check"]) == 0
    figures = json.loads(FIGURES.read_text())
    changed = copy.deepcopy(figures)
    changed["vendi_held_out"]["student_1"] += 0.1
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    assert main(["figures", str(tmp_path / "changed.json"), str(CARD), "--check"]) == 1
    shown = re.findall(r"\| parameters, M \| ([0-9.]+) \| ([0-9.]+) \|", CARD.read_text())
    assert shown == [tuple(f"{figures['params'][who] / 1e6:.1f}" for who in ("teacher", "student"))]
