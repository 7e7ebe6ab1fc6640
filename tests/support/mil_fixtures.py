"""Small Core ML programs for the evaluator's tests: built with coremltools, saved, evaluated, compared."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import types

from export.mil import Program

logging.getLogger("coremltools").setLevel(logging.ERROR)
gc.collect()
gc.freeze()  # each conversion collects garbage: 0.4 s with all objects of coremltools and torch, 0.01 s without

mb = ct.converters.mil.Builder
T = torch.from_numpy
RNG = np.random.default_rng(0)
HALF_PASSES = ct.PassPipeline(
    ["common::add_fp16_cast", "common::cast_optimization", "common::const_elimination"], "half"
)
CASTABLE = {types.bool: "fp32", types.int8: "int32", types.uint8: "int32", types.int16: "int32", types.uint16: "int32"}
HALF_RTOL, HALF_ATOL = 4e-3, 4e-3


def values(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal numbers that fp16 holds exactly, as fp32."""
    return (RNG.standard_normal(shape) * scale).astype(np.float16).astype(np.float32)


def wholes(*shape: int, low: int = -5, high: int = 6) -> np.ndarray:
    """int32 in low..high-1."""
    return RNG.integers(low, high, shape).astype(np.int32)


@dataclass(frozen=True)
class Case:
    """An operation in one form: inputs, the program that is built of them, and what it should give.

    reference: of torch tensors (one result, or several). half: whether to run it in fp16 as well, which is of no use
    where fp16 rounds further than the tolerance, or where its coordinates fall into other pixels.
    """

    op: str
    inputs: Sequence[np.ndarray]
    build: Callable[..., Any]
    reference: Callable[..., Any]
    target: str = "iOS16"
    half: bool = True
    note: str = ""

    @property
    def label(self) -> str:
        """For pytest."""
        return f"{self.op}-{self.note}" if self.note else self.op


def save(folder: Path, build: Callable[..., Any], inputs: Sequence[np.ndarray], target="iOS16", half=False) -> Path:
    """A saved package of one small program; `half`: through coremltools' conversion to fp16."""
    kinds = {"f": types.fp32, "i": types.int32}
    specs = [mb.TensorSpec(shape=x.shape, dtype=kinds[x.dtype.kind]) for x in inputs]
    # the builder asks for a function of as many named arguments as there are inputs
    body = {
        1: lambda a: castable(build(a)),
        2: lambda a, b: castable(build(a, b)),
        3: lambda a, b, c: castable(build(a, b, c)),
    }[len(inputs)]
    made = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(body)
    model = ct.convert(
        made,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=getattr(ct.target, target),
        skip_model_load=True,
        pass_pipeline=HALF_PASSES if half else ct.PassPipeline.EMPTY,
    )
    path = folder / "case.mlpackage"
    model.save(str(path))
    return path


def castable(results: Any) -> Any:
    """The results in types that a model may give."""
    many = results if isinstance(results, list | tuple) else [results]
    return [mb.cast(x=item, dtype=CASTABLE[item.dtype]) if item.dtype in CASTABLE else item for item in many]


def feed(program: Program, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs by name, in the program's order."""
    return dict(zip((port.name for port in program.inputs), inputs, strict=True))


def run(path: Path, inputs: Sequence[np.ndarray]) -> Any:
    """The program's outputs in order; its one output where it has one."""
    found = list((program := Program(path)).run(feed(program, inputs)).values())
    return found[0] if len(found) == 1 else found


def check(case: Case, folder: Path, half: bool) -> None:
    """Build, save, evaluate and compare."""
    path = save(folder, case.build, case.inputs, case.target, half)
    kinds = {op.type for op in Program(path).block.operations}
    assert half or case.op in kinds, "the program does not hold the operation"  # in fp16 constants are folded
    found, expected = run(path, case.inputs), case.reference(*map(T, case.inputs))
    many = isinstance(found, list)
    rtol, atol = (HALF_RTOL, HALF_ATOL) if half else (1e-5, 1e-5)
    for ours, theirs in zip(found if many else [found], expected if many else [expected], strict=True):
        wanted = np.asarray(theirs.numpy() if isinstance(theirs, torch.Tensor) else theirs)
        assert ours.shape == wanted.shape
        np.testing.assert_allclose(ours.astype(np.float64), wanted.astype(np.float64), rtol, atol)
