"""A model card: `python -m train.sticker.card CHECKPOINT|BUNDLE --out DIR` makes sheets, `... card figures` tables.

Sheets: sheet.webp (64 everyday prompts), compositions.webp (24 prompts that no picture of the data shows, by kind),
sixteen.webp (sixteen subjects in two styles); one step, one seed for all, nothing chosen.
Tables: what stands in a Markdown file between <!-- figures --> and <!-- /figures -->, made of what train.evaluate --out
wrote.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from runtime.files import check_folder, write_text
from runtime.noise import check_seed
from train.checkpoint import load_pipeline
from train.evaluate.evaluation import OWN_FIGURES
from train.evaluate.generators import Generate, bundle_generator, checkpoint_generator, find_subject, require_device
from train.evaluate.grids import Section, draw_sections, shrunk
from train.sticker.prompts import CARD_PROMPTS, COMPOSITION_PROMPTS, SHEET_PROMPTS, SHEET_SEED, require_absent

EXAMPLES = """examples:
  python -m train.sticker.card sticker-128 --data data/stickers --out out/card
  python -m train.sticker.card figures docs/figures/sticker-128.json checkpoints/sticker-128/README.md --check
exit code of figures --check: 0 the tables match the figures, 1 they differ."""
COLUMNS = 8
# Each sheet's prompts, by the title of its parts.
SHEETS: dict[str, dict[str, Sequence[str]]] = {
    "sheet": {"": CARD_PROMPTS},
    "compositions": {**COMPOSITION_PROMPTS},
    "sixteen": {"": SHEET_PROMPTS},
}

MARKS = ("<!-- figures -->", "<!-- /figures -->")
SPLITS = {"all": "all concepts", "held_out": "held-out"}
FEATURE_NAMES = {"lite0": "Lite0", "mobilenet_v2": "MobileNetV2", "dinov2": "DINOv2"}


@dataclass(frozen=True)
class Figure:
    """One of train.evaluate's figures in a table, and what the student's one step should reach of the teacher's."""

    key: str
    name: str  # {features}, {n}: the network of the figures, pictures of the split
    digits: int
    goals: tuple[str, ...] = ()  # for the ratio student / teacher, the nearest first
    less_is_better: bool = False


FIGURES = (
    Figure("fd", "FD-{features}", 1, ("1.00", "0.85"), less_is_better=True),
    Figure("kid", "KID-{features}", 3),
    Figure("precision", "precision", 3),
    Figure("recall", "recall", 3, ("0.9",)),
    Figure("alignment", "text alignment", 3, ("1.00",)),
    Figure("retrieval_at_1", "own caption first of {n}", 3),
    Figure("diversity", "diversity within a prompt", 3),
    Figure("vendi", "Vendi within a prompt", 2, ("0.9",)),
)
PARAMETERS = Figure("params", "parameters, M", 1, ("1/3",), less_is_better=True)


# ---- sheets -------------------------------------------------------------------------------------------------------


def prompts_of(parts: dict[str, Sequence[str]]) -> list[str]:
    return [prompt for part in parts.values() for prompt in part]


def write_sheet(path: Path, parts: dict[str, Sequence[str]], student: Generate, seed: int) -> None:
    """One sheet: the student's one step for every prompt, each part under its title."""
    prompts = prompts_of(parts)
    tell(f"{path.name}: {len(prompts)} pictures")
    pictures = iter(student(prompts, [seed] * len(prompts), 1))
    sections = [Section(title, [shrunk(next(pictures)) for _ in part], part) for title, part in parts.items()]
    draw_sections(sections, path, COLUMNS)


def open_student(name_or_path: str, device: str) -> Generate:
    """The generator of a checkpoint or bundle. Raises UserError, or the runtime's own errors."""
    folder, bundled = find_subject(name_or_path)
    return bundle_generator(folder) if bundled else checkpoint_generator(load_pipeline(folder).to(device), 1.0)


def write_sheets(args: argparse.Namespace) -> None:
    try:
        check_seed(args.seed)
    except ValueError as error:
        raise UserError(f"--seed: {error}") from error
    require_device(args.device)
    check_folder(args.out)
    require_absent(args.data)
    files = {name: args.out / f"{name}.webp" for name in SHEETS}
    student = open_student(args.subject, args.device)
    for name, path in files.items():
        write_sheet(path, SHEETS[name], student, args.seed)
    report: dict[str, Any] = {
        "subject": args.subject,
        "seed": args.seed,
        "steps": 1,
        "files": {name: str(path) for name, path in files.items()},
        "prompts": {name: prompts_of(parts) for name, parts in SHEETS.items()},
    }
    print_result(json.dumps(report) if args.json else "\n".join(report["files"].values()))


# ---- tables -------------------------------------------------------------------------------------------------------


class Tables:
    """The tables of a card from train.evaluate's figures. Raises UserError where they are not such figures."""

    def __init__(self, figures: Any, source: str) -> None:
        self.figures = figures if isinstance(figures, dict) else {}
        self.counts: dict[str, int] = self._dict("n")
        self.network = str(self.figures.get("features", ""))
        self.whos = list(self.values("fd", "all"))
        self.teacher = next((who for who in self.whos if who.startswith("teacher_")), "")
        if not self.teacher or "student_1" not in self.whos or "all" not in self.counts:
            raise UserError(f"{source}: not what train.evaluate --out writes, of a teacher and its student at one step")

    def _dict(self, key: str) -> dict[str, Any]:
        found = self.figures.get(key)
        return found if isinstance(found, dict) else {}

    def values(self, key: str, split: str) -> dict[str, float]:
        """{who: value} of a figure on a split; {} when it was not measured."""
        if key in OWN_FIGURES:
            return self._dict(key if split == "all" else f"{key}_{split}")
        return self._dict(f"{key}_{self.network}" if key in ("fd", "kid") else key).get(split, {})

    def _rows(self, figures: Iterable[Figure]) -> list[tuple[str, Figure, dict[str, float]]]:
        """(name, figure, values) of each figure on each split that there is."""
        return [
            (f"{self._name(figure, split)}, {SPLITS[split]}", figure, self.values(figure.key, split))
            for figure in figures
            for split in SPLITS
            if split in self.counts
        ]

    def _name(self, figure: Figure, split: str) -> str:
        return figure.name.format(features=FEATURE_NAMES.get(self.network, self.network), n=self.counts[split])

    def figure_table(self) -> str:
        """Every figure of the teacher, the student at each number of steps and the real pictures."""
        columns = {who: who.replace("_", " ") for who in self.whos} | {"real": "real pictures"}
        rows = [
            [name, *(_number(values.get(who), figure.digits) for who in columns)]
            for name, figure, values in self._rows(FIGURES)
        ]
        return _table(["figure", *columns.values()], rows)

    def ratio_table(self) -> str:
        """The student's one step over the teacher, the goals, and whether they are reached."""
        rows = self._rows(figure for figure in FIGURES if figure.goals)
        sizes = {who: self._dict("params").get(who.split("_")[0]) for who in (self.teacher, "student_1")}
        millions = {who: size / 1e6 for who, size in sizes.items() if size}
        rows.append((PARAMETERS.name, PARAMETERS, millions))
        head = ["student 1 / " + self.teacher.replace("_", " "), "teacher", "student", "ratio", "goal", "result"]
        return _table(head, [self._ratio_row(*row) for row in rows])

    def _ratio_row(self, name: str, figure: Figure, values: dict[str, float]) -> list[str]:
        theirs, ours = values.get(self.teacher), values.get("student_1")
        bound = "at most" if figure.less_is_better else "at least"
        ratio = ours / theirs if ours is not None and theirs is not None and theirs > 0 else None
        return [
            name,
            _number(theirs, figure.digits),
            _number(ours, figure.digits),
            _number(ratio, 3),
            f"{bound} {', then '.join(figure.goals)}",
            _verdict(figure, ratio, ours is not None),
        ]

    def text(self) -> str:
        return f"{self.figure_table()}\n\nThe student's one step beside its teacher:\n\n{self.ratio_table()}"


def _verdict(figure: Figure, ratio: float | None, measured: bool) -> str:
    """Judges the ratio as computed, not as rounded. None: the figure is missing, or the teacher's is no scale."""
    if ratio is None or math.isnan(ratio):
        return "no ratio" if measured else "not measured"
    goals = [float(Fraction(goal)) for goal in figure.goals]
    return ", ".join(
        "reached" if (ratio <= goal if figure.less_is_better else ratio >= goal) else "missed" for goal in goals
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def with_tables(card: str, tables: str, name: str) -> str:
    """The card with the part between the marks replaced. Raises UserError unless it has each mark once, in order."""
    start, end = (card.find(mark) for mark in MARKS)
    if any(card.count(mark) != 1 for mark in MARKS) or start > end:
        raise UserError(f"{name}: it needs {MARKS[0]} and {MARKS[1]} once each, in this order")
    return f"{card[:start]}{MARKS[0]}\n\n{tables}\n\n{card[end:]}"


def rewrite(figures: Path, card: Path, check: bool) -> int:
    """Write the card with the tables of the figures; with `check` only compare: 1 where they differ."""
    try:
        tables = Tables(json.loads(figures.read_text(encoding="utf-8")), str(figures)).text()
        before = card.read_text(encoding="utf-8")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{figures}, {card}: not JSON figures and a Markdown file: {error}") from error
    after = with_tables(before, tables, str(card))
    if check and after != before:
        how = f"python -m train.sticker.card figures {figures} {card} makes them"
        tell(f"{card}: its tables do not match {figures}; {how}")
        return 1
    if not check:
        write_text(card, after)
    print_result(f"{card}: the tables match {figures}" if check else str(card))
    return 0


# ---- the command --------------------------------------------------------------------------------------------------


def sheets_parser() -> Parser:
    """The command line that makes sheets."""
    made = command_parser("train.sticker.card", __doc__, EXAMPLES)
    add = made.add_argument
    add("subject", metavar="CHECKPOINT|BUNDLE", help="a student's pipeline folder, bundle, or name")
    add("--data", type=Path, default=Path("data/stickers"), help="its training data: must not hold the compositions")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the three sheets")
    add("--seed", type=int, default=SHEET_SEED, help=f"of every picture (default {SHEET_SEED})")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda (default: cuda if any)")
    return made


def figures_parser() -> Parser:
    """The command line that rewrites tables."""
    what = f"Put the tables of train.evaluate's figures between {MARKS[0]} and {MARKS[1]} of a model card."
    made = command_parser("train.sticker.card figures", what, EXAMPLES, json=False)
    made.add_argument("figures", type=Path, metavar="FIGURES.json", help="written by train.evaluate --out")
    made.add_argument("card", type=Path, metavar="CARD.md", help="the card that is rewritten")
    made.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the tables differ")
    return made


def rewrite_card(args: argparse.Namespace) -> int:
    """`card figures`: write the tables, or with --check compare them; 1 when they differ."""
    return rewrite(args.figures, args.card, args.check)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["figures"]:
        return run_command(figures_parser(), rewrite_card, given[1:])
    return run_command(sheets_parser(), write_sheets, given)


if __name__ == "__main__":
    sys.exit(main())
