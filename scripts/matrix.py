"""Checkpoints as people bring them, in every format, beside the pictures of diffusers' own pipelines.

Small models with the structure of the real ones (scripts/zoo.py) are exported by the commands that their users type and
drawn in 1, 2 and 4 steps from prompts and seeds alone; the table holds how close the worst picture is, in dB of PSNR.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from scripts.matrix_formats import FORMATS, Draw, Format, Pictures, Refused, export
from scripts.matrix_models import MODELS, Model

PROMPTS = ("a red fox", "a photograph of an old lighthouse at dusk, oil on canvas")
STEPS = (1, 2, 4)
EXAMPLES = """examples:
  python -m scripts.matrix --out out/matrix
  python -m scripts.matrix sd-turbo lcm-dreamshaper --out out/matrix --format onnx-fp32"""


@dataclass(frozen=True)
class Row:
    """A model in a format: number of steps -> dB of the worst picture, or why there is none."""

    model: Model
    format: Format
    cells: Mapping[int, float | str]
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether every picture that is drawn is close enough."""
        return all(isinstance(cell, str) or cell >= self.format.least_db for cell in self.cells.values())

    @property
    def cell(self) -> str:
        """The table's cell: dB in 1, 2 and 4 steps."""
        return " / ".join("-" if isinstance(cell, str) else f"{cell:.1f}" for cell in self.cells.values()) or "-"

    @property
    def said(self) -> list[str]:
        """Why cells are empty."""
        reasons = [self.refused] if self.refused else [cell for cell in self.cells.values() if isinstance(cell, str)]
        return [f"{self.format.title}: {reason}" for reason in dict.fromkeys(reasons)]


def markdown(made: Sequence[Row]) -> str:
    """The table's line of one model, with a row for each format."""
    refused = "; ".join(reason for row in made for reason in row.said)
    return "| " + " | ".join([made[0].model.title, *(row.cell for row in made), refused]) + " |"


class Judge:
    """diffusers' own pipeline of one model, and its pictures, each drawn once."""

    def __init__(self, model: Model, zoo: Path) -> None:
        self.model = model
        self.pipe = model.judge(zoo)
        self.pipe.set_progress_bar_config(disable=True)
        self.drawn: dict[int, Pictures] = {}

    def pictures(self, steps: int) -> Pictures:
        """By `__call__` with prompt and generator: the seeds are 0, 1, ..."""
        if steps not in self.drawn:
            self.drawn[steps] = np.concatenate([self.one(*case, steps) for case in enumerate(PROMPTS)])
        return self.drawn[steps]

    def one(self, seed: int, prompt: str, steps: int) -> Pictures:
        """A single picture f32[1,H,W,3] in [0,1]."""
        import torch

        options = {"num_inference_steps": steps, "output_type": "np", **self.model.called}
        return np.asarray(self.pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **options).images)


def measured(model: Model, format: Format, judge: Judge, zoo: Path, out: Path) -> Row:
    """One row: the model is exported to `out` and drawn."""
    try:
        draw = format.open(export(format, model.arguments(zoo), out), judge.pipe)
    except Refused as refused:
        return Row(model, format, {}, str(refused))
    return Row(model, format, {steps: distance(judge, draw, steps) for steps in STEPS})


def distance(judge: Judge, draw: Draw, steps: int) -> float | str:
    """dB of the worst picture, or why the format does not draw in that many steps."""
    from export.checks.measure import psnr_db

    try:
        found = draw(PROMPTS, steps)
    except (Refused, ValueError) as refused:
        return str(refused)
    return min(psnr_db(*pair, peak=1.0) for pair in zip(judge.pictures(steps), found, strict=True))


def built(model: Model, zoo: Path) -> None:
    """Write what a model needs of the zoo, if it is not there."""
    from scripts.zoo import build

    for part in model.parts:
        if not (zoo / part).is_dir():
            build(part, zoo / part)


@contextmanager
def environment(model: Model, zoo: Path) -> Iterator[None]:
    """Within the block the process has the model's environment."""
    before = dict(os.environ)
    os.environ.update({key: value.replace("{zoo}", str(zoo)) for key, value in model.environment.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def rows(names: Sequence[str], formats: Sequence[str], out: Path) -> Iterator[Row]:
    """Every model in every format, one after the other; models and exports are written below `out`."""
    from export.source import silence

    silence()
    zoo = out / "zoo"
    for name in names:
        model = MODELS[name]
        built(model, zoo)
        judge = Judge(model, zoo)
        for format in formats:
            tell(f"{name}, {format}")
            with environment(model, zoo), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield measured(model, FORMATS[format], judge, zoo, out / f"{name}-{format}")


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.matrix", __doc__, EXAMPLES, json=False)
    made.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(MODELS)}")
    made.add_argument("--out", type=Path, required=True, help="folder for models and exports")
    made.add_argument("--format", choices=tuple(FORMATS), action="append", help="default: each of them")
    return made


def work(args: argparse.Namespace) -> int:
    """Print the table; 1 when a picture is further than its format's limit."""
    if unknown := [name for name in args.names if name not in MODELS]:
        raise UserError(f"unknown model {unknown[0]}: known are {', '.join(MODELS)}")
    formats = args.format or list(FORMATS)
    heads = ["structure of", *(FORMATS[name].title for name in formats), "refused"]
    print_result("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    failed = 0
    for _, made in groupby(rows(args.names or list(MODELS), formats, args.out), key=lambda row: row.model.title):
        of_model = list(made)
        print_result(markdown(of_model))
        failed += sum(not row.passed for row in of_model)
    return int(failed > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
