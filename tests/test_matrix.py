"""Models with the structure of real ones, exported as their users do, draw what diffusers' own pipelines draw.

A few cells here, all of them in `make test-slow`; docs/checkpoints.md prints the table.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from scripts import matrix
from scripts.matrix_formats import FORMATS
from scripts.matrix_models import MODELS

QUICK = {("sdxs-512-0.9", "onnx-fp32"), ("sdxs-512-0.9", "openvino")}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix") / "zoo"


@cache
def judge_of(name: str, zoo: Path) -> matrix.Judge:
    """diffusers' pipeline of a model, which is built once; its pictures serve every format."""
    matrix.built(MODELS[name], zoo)
    return matrix.Judge(MODELS[name], zoo)


def cells() -> list[Any]:
    """Every model in every format, all but the quick ones marked as slow."""
    every = [(name, format) for name in MODELS for format in FORMATS]
    return [cell if cell in QUICK else pytest.param(*cell, marks=pytest.mark.slow) for cell in every]


@pytest.mark.parametrize(("name", "format"), cells())
def test_the_pictures_are_diffusers(name: str, format: str, zoo: Path, tmp_path: Path) -> None:
    model, judge = MODELS[name], judge_of(name, zoo)
    with matrix.environment(model, zoo):
        row = matrix.measured(model, FORMATS[format], judge, zoo, tmp_path / "out")
    assert not row.refused, row.refused
    drawn = {steps: cell for steps, cell in row.cells.items() if not isinstance(cell, str)}
    assert all(cell >= FORMATS[format].least_db for cell in drawn.values()), row.cells
    assert 1 in drawn and (format == "openvino" or set(drawn) == set(matrix.STEPS)), row.cells


def test_a_line_says_what_is_drawn_and_what_is_refused() -> None:
    model, formats = MODELS["sdxs-512-0.9"], (FORMATS["onnx-fp32"], FORMATS["openvino"], FORMATS["coreml"])
    made = [
        matrix.Row(model, formats[0], {1: 124.21, 2: 125.7, 4: 130.3}),
        matrix.Row(model, formats[1], {1: 52.71, 2: "GenAI has no DEIS", 4: "GenAI has no DEIS"}),
        matrix.Row(model, formats[2], {}, "no"),
    ]
    cells = "124.2 / 125.7 / 130.3 | 52.7 / - / - | - | OpenVINO: GenAI has no DEIS; Core ML fp16: no"
    assert matrix.markdown(made) == f"| SDXS-512-0.9 | {cells} |"
    assert made[1].passed and not matrix.Row(model, formats[1], {1: 44.9}).passed
