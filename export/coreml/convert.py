"""Convert a traced module to a Core ML package: an ML program in fp16, with a few operations in fp32."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from export.coreml.graphs import Part
from runtime.errors import UserError

MATRIX_OPS = ("conv", "conv_transpose", "einsum", "linear", "matmul")
FP16_MAX = 65504.0
NO_NUMBER = 1e38  # a larger constant stands for infinity, and may become infinite in fp16
CHANGE = "addkit::change"  # the graph pass that runs `convert`'s change

Array = npt.NDArray[Any]
Change = Callable[[Any], None]  # rewrites a coremltools Program in place


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the converter's progress bars and advice off stderr, and skip its slow self-checks.

    It validates the whole program after each of a hundred passes; we evaluate the result anyway.
    """
    import tqdm.std  # type: ignore[import-untyped]

    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    from coremltools.converters.mil.mil import Program
    from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

    init = tqdm.std.tqdm.__init__

    def disabled(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"disable": True}))

    with (
        warnings.catch_warnings(),
        patch.object(tqdm.std.tqdm, "__init__", disabled),
        patch.object(FP16ComputePrecision, "fp16_overflow", staticmethod(overflows_fp16)),
        patch.object(Program, "validate", lambda *_, **__: None),
    ):
        warnings.simplefilter("ignore")
        yield


def overflows_fp16(op: Any) -> bool:
    """Whether a float constant that an operation reads exceeds fp16, which coremltools asks about each operation.

    Its own version indexes all numbers: two of the five minutes that an 866 M U-Net takes.
    """
    values = [var for item in op.inputs.values() for var in (item if isinstance(item, list | tuple) else [item])]
    return any(
        largest_number(var.op.val.val) > FP16_MAX
        for var in values
        if var.op is not None and var.op.op_type == "const" and var.is_tensor_or_scalar_of(dtype="fp32")
    )


def largest_number(value: Any) -> float:
    """The largest magnitude below NO_NUMBER."""
    array = np.asarray(value)
    top = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
    if top < NO_NUMBER:
        return top
    magnitudes = np.abs(array)
    return float(magnitudes[magnitudes < NO_NUMBER].max(initial=0.0))


def convert(part: Part, target: str, package: Path, change: Change | None = None) -> None:
    """Write an .mlpackage (ML program) of one module in fp16 for a deployment target.

    change: applied to the program before it is written. Raises UserError with coremltools' own reason when it cannot
    convert the module.
    """
    try:
        with quiet(), torch.no_grad():
            write(part, target, package, change)
    except Exception as error:  # coremltools and torch.export raise all kinds of exceptions
        raise UserError(f"coremltools cannot convert the {part.name}: {error}") from error


def write(part: Part, target: str, package: Path, change: Change | None) -> None:
    """The conversion itself; see `convert`."""
    import coremltools as ct

    examples = tuple(example for _, example, _ in part.inputs)
    program = torch.export.export(part.module.eval(), examples).run_decompositions({})
    half = ct.transform.FP16ComputePrecision(op_selector=half_precision(part))
    precision = ct.precision.FLOAT32 if part.single else half
    ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[ct.TensorType(name=name, shape=x.shape, dtype=dtype) for name, x, dtype in part.inputs],
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in part.outputs],
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=precision,
        pass_pipeline=pipeline_with(change),
        skip_model_load=True,
        package_dir=str(package),
    )


def pipeline_with(change: Change | None) -> Any:
    """The converter's default passes, followed by `change`."""
    import coremltools as ct
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass

    if CHANGE not in PASS_REGISTRY:

        @register_pass(namespace="addkit", name="change")
        class ChangePass(AbstractGraphPass):  # type: ignore[misc]
            function: Change | None = None

            def apply(self, prog: Any) -> None:
                if self.function is not None:
                    self.function(prog)

    pipeline = ct.PassPipeline.DEFAULT
    if change is not None:
        pipeline.append_pass(CHANGE)
        pipeline.set_options(CHANGE, {"function": change})
    return pipeline


def half_precision(part: Part) -> Callable[[Any], bool]:
    """The operations that compute in fp16: all but the U-Net's sinusoids and its conversion of v to epsilon.

    999 times a frequency needs more than fp16's 11 bits; loaders divide epsilon's error by alpha = 0.068.
    """
    kept: set[str] = set()

    def select(op: Any) -> bool:
        if not kept:
            kept.add("")
            kept.update(float_operations(op.enclosing_block) if part.name == "unet" else ())
        return op.name not in kept

    return select


def float_operations(block: Any) -> set[str]:
    """Names of the operations before a sine or cosine, and after the last matrix product."""
    waves = [op for op in block.operations if op.op_type in ("sin", "cos")]
    return before(waves) | before([output.op for output in block.outputs])


def before(ops: list[Any]) -> set[str]:
    """Names of `ops` and of the operations that lead to them, back to inputs, constants and matrix products."""
    names: set[str] = set()
    waiting = [op for op in ops if op is not None]
    while waiting:
        op = waiting.pop()
        if op.name in names or op.op_type in (*MATRIX_OPS, "const"):
            continue
        names.add(op.name)
        for value in op.inputs.values():
            parts = value if isinstance(value, list | tuple) else [value]
            waiting += [part.op for part in parts if getattr(part, "op", None) is not None]
    return names
