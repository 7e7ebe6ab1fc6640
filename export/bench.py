"""`python -m export.bench EXPORT PEER...`: the U-Net of one export beside those of others, in turns in one run.

A ratio is the first export's time over a peer's, turn by turn, so that other load on the machine affects both alike.
OpenVINO folders run twice: in single precision and, where the CPU supports it, in bf16, OpenVINO's default there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bench.machine import cores, cpu_name, spread
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from runtime.tokenizer.vocabulary import MAX_TOKENS
from train.progress import progress

Feed = dict[str, npt.NDArray[Any]]

EXAMPLES = """examples:
  python -m export.bench out/onnx-int8 out/onnx-fp32 out/openvino
  python -m export.bench out/onnx-int8 out/openvino --turns 5 --threads 2 --json"""


@dataclass
class Engine:
    """One U-Net in one engine; `run` is None where this machine cannot run it, and `why` says so."""

    name: str
    run: Callable[[Feed], Any] | None
    why: str = ""
    seconds: list[float] = field(default_factory=list)

    def turn(self, feed: Feed) -> None:
        """Run once and note the time."""
        assert self.run is not None
        started = time.perf_counter()
        self.run(feed)
        self.seconds.append(time.perf_counter() - started)


def engines(folder: Path, threads: int) -> Iterator[Engine]:
    """The ways to run the U-Net of an export. Raises UserError when the folder holds none."""
    onnx, ir = folder / "unet" / "model.onnx", folder / "unet" / "openvino_model.xml"
    if onnx.is_file():
        yield onnx_engine(onnx, folder, threads)
    elif ir.is_file():
        yield from openvino_engines(ir, folder, threads)
    else:
        raise UserError(f"{folder}: neither unet/model.onnx nor unet/openvino_model.xml is there: give an export")


def onnx_engine(path: Path, folder: Path, threads: int) -> Engine:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    label = f"{folder.name}: ONNX Runtime {version('onnxruntime')} {manifest['precision']}"
    return Engine(label, lambda feed: session.run(None, feed))


def openvino_engines(path: Path, folder: Path, threads: int) -> Iterator[Engine]:
    """OpenVINO on the CPU, in single precision and in bf16."""
    from export.openvino.run import load_openvino

    core = load_openvino().Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for hint in ("f32", "bf16"):
        label = f"{folder.name}: OpenVINO {version('openvino')} {hint}"
        if hint.upper() not in ("F32", *able):
            yield Engine(label, None, "this CPU has no bf16 arithmetic")
            continue
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        yield Engine(label, compiled(core, path, settings))


def compiled(core: Any, path: Path, settings: dict[str, Any]) -> Callable[[Feed], Any]:
    """A model on the CPU, as a function that ignores inputs it does not have and casts the others to its types."""
    model = core.compile_model(path, "CPU", settings)
    request = model.create_infer_request()
    kinds = {port.get_any_name(): port.element_type.to_dtype() for port in model.inputs}
    shapes = {port.get_any_name(): port.partial_shape for port in model.inputs}

    def run(feed: Feed) -> Any:
        given = {name: feed[name].astype(kind, copy=False) for name, kind in kinds.items()}
        scalars = {name for name, shape in shapes.items() if len(shape) == 1 and given[name].ndim == 0}
        return request.infer({name: value[None] if name in scalars else value for name, value in given.items()})

    return run


def feed_of(folder: Path) -> Feed:
    """Random inputs of the U-Net's sizes, batch 1."""
    try:
        config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder}: unet/config.json cannot be read: give an export") from error
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    generator = np.random.default_rng(0)
    sample = generator.standard_normal((1, config["in_channels"], height, width)).astype(np.float32)
    text_width = config["cross_attention_dim"]
    text_width = text_width if isinstance(text_width, int) else text_width[0]
    states = generator.standard_normal((1, MAX_TOKENS, text_width)).astype(np.float32)
    return {"sample": sample, "timestep": np.array(999, np.float32), "encoder_hidden_states": states}


def race(found: list[Engine], feed: Feed, turns: int) -> None:
    """Run all engines in turns, once as a warm-up; the order changes from turn to turn."""
    able = [engine for engine in found if engine.run]
    with progress("turns", (turns + 1) * len(able)) as advance:
        for turn in range(turns + 1):
            for engine in able[turn % len(able) :] + able[: turn % len(able)]:
                engine.turn(feed)
                advance(1)
    for engine in able:
        del engine.seconds[0]


def report(found: list[Engine], threads: int) -> dict[str, Any]:
    """The figures; a ratio is the first engine's time over the other's, turn by turn."""
    first, rows = found[0], []
    for engine in found:
        row: dict[str, Any] = {"name": engine.name, "status": "run" if engine.run else "not run", "why": engine.why}
        if engine.run:
            row["ms"] = spread([1000 * seconds for seconds in engine.seconds])
            row["ratio"] = spread([a / b for a, b in zip(first.seconds, engine.seconds, strict=True)])
        rows.append(row)
    return {"cpu": cpu_name(), "threads": threads, "turns": len(first.seconds), "engines": rows}


def show(facts: dict[str, Any]) -> str:
    """A table: milliseconds, and the first engine's time over each."""
    lines = [f"{facts['cpu']}, {facts['threads']} threads, {facts['turns']} turns; the first's time over each:"]
    for row in facts["engines"]:
        if row["status"] == "not run":
            lines.append(f"  {row['name']:<58} not run: {row['why']}")
            continue
        ms, ratio = row["ms"], row["ratio"]
        lines.append(
            f"  {row['name']:<58} {ms['median']:9.1f} ms   {ratio['median']:.2f} "
            f"({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    return "\n".join(lines)


def parser() -> Parser:
    """The command line."""
    made = command_parser("export.bench", __doc__, EXAMPLES)
    made.add_argument("export", type=Path, help="the export whose time is divided by that of each other")
    made.add_argument("peers", nargs="*", type=Path, help="other exports of the same sizes, ONNX or OpenVINO")
    made.add_argument("--turns", type=int, default=7)
    made.add_argument("--threads", type=int, default=cores())
    return made


def work(args: argparse.Namespace) -> None:
    """Race the exports and print the table, or the figures."""
    if args.turns < 1 or args.threads < 1:
        raise UserError("--turns and --threads must be 1 or more")
    feed = feed_of(args.export)
    found = [engine for folder in (args.export, *args.peers) for engine in engines(folder, args.threads)]
    race(found, feed, args.turns)
    facts = report(found, args.threads)
    print_result(json.dumps(facts, indent=2) if args.json else show(facts))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
