"""`python -m export.onnx CHECKPOINT --out DIR`: an ONNX bundle, written once its pictures are PyTorch's."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from export.distance import MOST_RATIO, Distance, measure_distance, refuse_further
from export.folder import check_free, size_mb, whole_folder
from export.fused import COMPONENTS as FUSED_COMPONENTS
from export.fused import FUSED, fused
from export.half import to_fp16
from export.heap import give_back_memory, keep_no_large_blocks
from export.measure import THRESHOLDS_DB, Parity, Reference, psnr_db, refuse_below
from export.onnx_bundle import finish_bundle, write_configs, write_graph
from export.onnx_run import fused_pixels, network_of
from export.onnx_trace import COMPONENTS, Tracer
from export.plan import add_export_options, only_planned
from export.preflight import preflight, watching
from export.qdq import rewrite
from export.quantize import BUDGET_DB, FURTHER_DB, LADDERS, MARGIN_DB, ROUNDS, Plan, Planner, stored_encoder
from export.report import table
from export.source import MOST_STEPS, Source, open_source
from runtime.manifest import MANIFEST, PRECISIONS
from train.errors import UserError, run_command
from train.progress import progress

EXAMPLES = """examples:
  python -m export.onnx sticker-128 --out out/sticker-onnx
  python -m export.onnx path/to/checkpoint --out out/bundle --precision int8 --fused
  python -m export.onnx path/to/checkpoint --out out/bundle --precision int4-weights --dry-run
  python -m export.onnx path/to/checkpoint --out out/bundle --overwrite --json"""


@dataclass(frozen=True)
class Options:
    """How a bundle is made; None where the precision's own default holds."""

    precision: str = "fp32"
    fold_timestep: bool = False  # the U-Net of the one-step timestep alone
    fused: bool = False  # also one graph for the whole way
    min_psnr_db: float | None = None  # of the worst picture
    budget_db: float | None = None  # error that smaller weights may make in the mean picture
    max_fd_ratio: float = MOST_RATIO  # of the bundle's FD-Lite0 to the checkpoint's
    data: Path | None = None  # real pictures for it
    overwrite: bool = False

    @property
    def threshold_db(self) -> float:
        return THRESHOLDS_DB[self.precision] if self.min_psnr_db is None else self.min_psnr_db

    @property
    def steps(self) -> int:
        """The most steps that the bundle can be asked for."""
        return 1 if self.fold_timestep else MOST_STEPS


def export_onnx(source: Source, out: Path, options: Options = Options()) -> dict[str, Any]:
    """Write the bundle `out` of a checkpoint and return its report.

    Raises UserError, and writes nothing, when `out` is taken or the pictures are too far from the checkpoint's.
    """
    started = time.perf_counter()
    precision = options.precision
    if source.large:
        keep_no_large_blocks()
    stages = len(COMPONENTS) + 3 + (precision in LADDERS)
    with progress(f"export to ONNX {precision}", stages) as advance, \
            whole_folder(out, MANIFEST, options.overwrite) as folder:
        with watching(source, precision):
            reference = Reference(source)
        advance(1)
        write_configs(folder, source)
        verdict, recipe = write_graphs(folder, source, reference, options, advance)
        verdict.refuse(f"ONNX {precision} of {source.name}")
        figures = verdict.to_json() | {"recipe": recipe}
        advance(1)
        if options.fused:
            figures["fused"] = write_fused(folder, source, reference)
        finish_bundle(folder, source, precision, figures, options.steps)
        advance(1)
    facts = {"path": str(out), "format": "onnx", "precision": precision, "size_mb": round(size_mb(out), 2)}
    return facts | {"export_s": round(time.perf_counter() - started, 1)} | figures


def write_graphs(
    folder: Path, source: Source, reference: Reference, options: Options, advance: Callable[[int], None]
) -> tuple[Verdict, dict[str, Any]]:
    """Write the four graphs and compare them; also the recipe. Smaller weights are tried until the gates are kept."""
    tracer = Tracer(source, options.fold_timestep, keep=options.precision in LADDERS)
    recipe: dict[str, Any] = {"attention": "com.microsoft MultiHeadAttention"}
    recipe |= {"folded_timestep": source.steps(1)[0][0]} if options.fold_timestep else {}
    if options.precision not in LADDERS:
        for name in COMPONENTS:
            write_component(folder, name, tracer, to_fp16 if options.precision == "fp16" else as_it_is)
            advance(1)
        return judged(folder, reference, options), recipe
    planner = Planner(source, options.precision)
    give_back_memory()
    advance(1)
    goal = BUDGET_DB[options.precision] if options.budget_db is None else options.budget_db
    budget = goal
    for rounds in range(1, ROUNDS + 1):
        plan = planner.plan(budget)
        for name in COMPONENTS:
            write_component(folder, name, tracer, partial(smaller, component=name, plan=plan, reference=reference))
            advance(1 if rounds == 1 else 0)
        verdict = judged(folder, reference, options)
        if not verdict.missing_db or not plan.kinds:
            break
        budget = max(budget, plan.expected_db) + verdict.missing_db
    return verdict, recipe | planner.notes(plan, goal, rounds)


@dataclass(frozen=True)
class Verdict:
    """The gates of one try. distance: None where it is not asked for, or the pictures failed already."""

    parity: Parity
    distance: Distance | None

    @property
    def missing_db(self) -> float:
        """By how much the error in the picture should shrink; 0 when the gates are kept."""
        worst = self.parity.picture.psnr_db
        if self.parity.picture.status == "failed" and worst is not None:
            return self.parity.threshold_db - worst + MARGIN_DB
        return FURTHER_DB if self.distance is not None and self.distance.status == "failed" else 0.0

    def refuse(self, what: str) -> None:
        """Raise UserError unless both gates are kept."""
        refuse_below(self.parity, what)
        if self.distance is not None:
            refuse_further(self.distance, what)

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return self.parity.to_json() | ({"fd_lite0": self.distance.to_json()} if self.distance else {})


def judged(folder: Path, reference: Reference, options: Options) -> Verdict:
    """The written graphs beside the checkpoint."""
    network = network_of(folder, options.fold_timestep)
    parity = reference.compare(network, options.threshold_db)
    if options.precision == "fp32" or parity.picture.status == "failed":
        return Verdict(parity, None)
    return Verdict(parity, measure_distance(reference.source, network, options.data, options.max_fd_ratio))


def write_component(
    folder: Path, name: str, tracer: Tracer, rewritten: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    """Trace, rewrite and write one component, of which nothing stays in memory unless the tracer keeps it."""
    write_graph(folder / name, rewritten(tracer.graph(name)))
    give_back_memory()


def as_it_is(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in single precision."""
    return model


def smaller(model: onnx.ModelProto, component: str, plan: Plan, reference: Reference) -> onnx.ModelProto:
    """One graph with the layers of a plan in fewer bits."""
    if component == "vae_encoder":
        return stored_encoder(model, reference)
    return rewrite(model, plan.kinds, plan.ranges)


def write_fused(folder: Path, source: Source, reference: Reference) -> dict[str, Any]:
    """Write fused.onnx from the written graphs; how close its pixels are to those of the graphs one by one."""
    graphs = {name: onnx.load(folder / name / "model.onnx") for name in FUSED_COMPONENTS}
    onnx.save(fused(source, graphs), folder / FUSED)
    found = fused_pixels(folder / FUSED, reference)
    expected = reference.pixels(network_of(folder, one_step=True))
    psnr = psnr_db(expected / 255, found / 255, peak=1.0)
    if psnr < THRESHOLDS_DB["fp32"]:
        raise UserError(f"{FUSED} of {source.name} is {psnr:.1f} dB from its own parts; nothing was written")
    return {"psnr_db": round(psnr, 2), "size_mb": round((folder / FUSED).stat().st_size / 1e6, 2)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m export.onnx", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_export_options(made, "the bundle")
    made.add_argument(
        "--precision", choices=PRECISIONS, default="fp32",
        help="int8: computed in 8 bits where the picture allows; int8-weights, int4-weights: only stored smaller",
    )
    made.add_argument("--fold-timestep", action="store_true", help="a U-Net for the one-step timestep alone: one step")
    made.add_argument("--fused", action="store_true", help=f"also {FUSED}: ids and noise in, pixels out")
    made.add_argument(
        "--budget-db", type=float, metavar="DB",
        help="PSNR of the mean picture down to which layers are made smaller; default 40, 31 for int4-weights",
    )
    made.add_argument(
        "--min-psnr-db", type=float, metavar="DB",
        help="least PSNR of a picture; default 50 (fp32), 35 (fp16), 30 (int8), 20 (int4-weights)",
    )
    made.add_argument(
        "--max-fd-ratio", type=float, default=MOST_RATIO, metavar="R",
        help=f"most FD-Lite0 to real pictures by the checkpoint's; default {MOST_RATIO}",
    )
    made.add_argument("--data", type=Path, metavar="DIR", help="shards of real pictures for it; default: the demo's")
    return made


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    check_free(args.out, MANIFEST, args.overwrite)
    if only_planned(args, "onnx", args.precision):
        return
    source = open_source(args.checkpoint)
    preflight(source, args.precision)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    facts = export_onnx(source, args.out, options)
    print(json.dumps(facts, indent=2) if args.json else table(facts))


if __name__ == "__main__":
    run_command(main)
