"""Models with the structure of real ones, exported as their users do, draw what diffusers' own pipelines draw.

That takes `make test-slow`, and docs/checkpoints.md prints the table. A small model goes the same way here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from diffusers import DEISMultistepScheduler, StableDiffusionPipeline

from export.onnx.trace import Tracer
from export.openvino.run import MODEL, load_openvino
from scripts import matrix
from scripts.matrix_formats import FORMATS
from scripts.matrix_models import MODELS, Model, opened
from tests.support.tiny import copied_graph, small_checkpoint, small_openvino


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix") / "zoo"


@cache
def judge_of(name: str, zoo: Path) -> matrix.Judge:
    """diffusers' pipeline of a model, which is built once; its pictures serve every format."""
    matrix.built(MODELS[name], zoo)
    return matrix.Judge(MODELS[name], zoo)


def measured(model: Model, format: str, judge: matrix.Judge, zoo: Path, out: Path) -> set[int]:
    """The numbers of steps in which a model is drawn; each of its pictures must be close enough."""
    with matrix.environment(model, zoo):
        row = matrix.measured(model, FORMATS[format], judge, zoo, out)
    assert not row.refused, row.refused
    drawn = {steps: cell for steps, cell in row.cells.items() if not isinstance(cell, str)}
    assert all(cell >= FORMATS[format].least_db for cell in drawn.values()), row.cells
    return set(drawn)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_the_pictures_are_diffusers(name: str, format: str, zoo: Path, tmp_path: Path) -> None:
    drawn = measured(MODELS[name], format, judge_of(name, zoo), zoo, tmp_path / "out")
    assert 1 in drawn and (format == "openvino" or drawn == set(matrix.STEPS))


@pytest.mark.parametrize(("format", "drawn"), [("onnx-fp32", {1, 2, 4}), ("openvino", {1})])
def test_a_small_models_are(format: str, drawn: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SDXS' scheduler, which GenAI does not have; the networks were traced and converted before."""
    pipe = StableDiffusionPipeline.from_pretrained(small_checkpoint())
    pipe.scheduler = DEISMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    pipe.save_pretrained(tmp_path / "small")
    if format == "openvino":
        small_openvino()  # before its own conversion is replaced: it would wait for itself
    monkeypatch.setattr(Tracer, "graph", copied_graph)
    monkeypatch.setattr("export.openvino.export.convert", small_openvino_model)
    model = Model("small", "{zoo}/small", opened("small"), ())
    assert measured(model, format, matrix.Judge(model, tmp_path), tmp_path, tmp_path / "out") == drawn


def small_openvino_model(part: Any) -> Any:
    """In place of the conversion of one of `small_checkpoint`'s networks."""
    return load_openvino().Core().read_model(small_openvino() / part.name / MODEL)


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
