"""Export an ONNX bundle: write the graphs, judge them against PyTorch, put the folder in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from export.checks.distance import Distance, measure_distance, refuse_further
from export.checks.gates import THRESHOLDS_DB
from export.checks.measure import Parity, psnr_db, refuse_below
from export.checks.reference import Reference
from export.checks.sizes import OtherSizes
from export.checks.weights import watching
from export.facts import size_mb
from export.heap import give_back_memory, keep_no_large_blocks
from export.onnx.bundle import finish_bundle, write_configs, write_graph
from export.onnx.fused import fused
from export.onnx.half import to_fp16
from export.onnx.options import FUSED, Options
from export.onnx.quantize.planner import (
    BUDGET_DB,
    FURTHER_DB,
    LADDERS,
    MARGIN_DB,
    ROUNDS,
    STEPS_DB,
    Plan,
    Planner,
    stored_encoder,
)
from export.onnx.quantize.qdq import rewrite
from export.onnx.run import fused_pixels, network_of
from export.onnx.trace import Tracer
from export.parked import park, restore
from export.source import Source
from export.text import told
from runtime.errors import UserError
from runtime.files import whole_folder
from runtime.manifest import MANIFEST
from train.progress import progress


def export_onnx(source: Source, out: Path, options: Options | None = None) -> dict[str, Any]:
    """Write the bundle `out` of a checkpoint and return its report.

    Raises UserError, and writes nothing, when `out` is taken or the pictures are too far from the checkpoint's.
    """
    started = time.perf_counter()
    options = options or Options()
    precision = options.precision
    if source.large:
        keep_no_large_blocks()
    stages = len(source.components) + 3 + (precision in LADDERS)
    with (
        progress(f"export to ONNX {precision}", stages) as advance,
        whole_folder(out, MANIFEST, options.overwrite) as folder,
    ):
        with watching(source, precision):
            reference, others = Reference(source), OtherSizes(source)
        advance(1)
        write_configs(folder, source)
        verdict, recipe = write_graphs(folder, source, reference, options, advance)
        verdict.refuse(f"ONNX {precision} of {source.name}")
        figures = verdict.to_json() | {"recipe": recipe}
        if source.sizes:
            network = network_of(folder, options.fold_timestep, told(source), one_at_a_time=source.large)
            figures["sizes"] = others.compare(network, options.threshold_db)
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
    """Write the graphs and compare them; returns the recipe too. Plans are tried until one passes the gates."""
    tracer = Tracer(source, options.fold_timestep, keep=options.precision in LADDERS)
    recipe: dict[str, Any] = {"attention": "com.microsoft MultiHeadAttention"}
    recipe |= source.folded
    recipe |= {"folded_timestep": source.steps(1)[0].timestep} if options.fold_timestep else {}
    if options.precision not in LADDERS:
        for name in source.components:
            write_component(folder, name, tracer, half_of(source, name) if options.precision == "fp16" else as_it_is)
            advance(1)
        return judged(folder, reference, options), recipe
    planner = Planner(source, options.precision)
    give_back_memory()
    advance(1)
    goal = BUDGET_DB[options.precision] if options.budget_db is None else options.budget_db
    budget = goal
    for rounds in range(1, ROUNDS + 1):
        plan = planner.plan(budget)
        for name in source.components:
            write_component(folder, name, tracer, partial(smaller, component=name, plan=plan, reference=reference))
            advance(1 if rounds == 1 else 0)
        verdict = judged(folder, reference, options)
        steps, missing_db = verdict.missing_in_several_db(goal - STEPS_DB)
        if not max(missing_db, verdict.missing_db) or not plan.kinds:
            break
        if missing_db and planner.steps == 1:
            planner.look_at(steps)
            give_back_memory()
            budget += verdict.missing_db
        else:
            budget = max(budget, plan.expected_db) + max(missing_db, verdict.missing_db)
    return verdict, recipe | planner.notes(plan, goal, rounds)


@dataclass(frozen=True)
class Verdict:
    """The gates of one try. distance: None where it is not needed, or the pictures already failed."""

    parity: Parity
    distance: Distance | None

    @property
    def missing_db(self) -> float:
        """By how much the error in the picture should shrink; 0 when both gates are passed."""
        worst = self.parity.picture.psnr_db
        if self.parity.picture.status == "failed" and worst is not None:
            return self.parity.threshold_db - worst + MARGIN_DB
        return FURTHER_DB if self.distance is not None and self.distance.status == "failed" else 0.0

    def missing_in_several_db(self, goal_db: float) -> tuple[int, float]:
        """(Number of steps, by how much the error in its pictures should shrink): the worse of two and four.

        0 dB where none is drawn, or they are close enough.
        """
        steps, found = self.parity.worst_steps or (1, goal_db)
        return steps, 0.0 if found >= goal_db else goal_db - found + MARGIN_DB

    def refuse(self, what: str) -> None:
        """Raise UserError unless both gates are passed."""
        refuse_below(self.parity, what)
        if self.distance is not None:
            refuse_further(self.distance, what)

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return self.parity.to_json() | ({"fd_lite0": self.distance.to_json()} if self.distance else {})


def judged(folder: Path, reference: Reference, options: Options) -> Verdict:
    """The written graphs beside the checkpoint."""
    source = reference.source
    if source.large:
        park(source)
    network = network_of(folder, options.fold_timestep, told(source), one_at_a_time=source.large)
    parity = reference.compare(network, options.threshold_db)
    if options.precision == "fp32" or parity.picture.status == "failed":
        return Verdict(parity, None)
    return Verdict(parity, measure_distance(source, network, options.data, options.max_fd_ratio))


def write_component(
    folder: Path, name: str, tracer: Tracer, rewritten: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    """Trace, rewrite and write one component; nothing of it stays in memory unless the tracer keeps it."""
    restore(tracer.source)
    write_graph(folder / name, rewritten(tracer.graph(name)))
    give_back_memory()


def half_of(source: Source, component: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """The rewrite of a component for half precision: none for an autoencoder that must be computed in single."""
    return as_it_is if source.upcast and component.startswith("vae") else to_fp16


def as_it_is(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in single precision."""
    return model


def smaller(model: onnx.ModelProto, component: str, plan: Plan, reference: Reference) -> onnx.ModelProto:
    """One graph with the layers of a plan quantized."""
    if component == "vae_encoder":
        return stored_encoder(model, reference)
    return rewrite(model, plan.kinds, plan.ranges)


def write_fused(folder: Path, source: Source, reference: Reference) -> dict[str, Any]:
    """Write fused.onnx from the written graphs; returns how close its pixels are to those of the separate graphs."""
    graphs = {name: onnx.load(folder / name / "model.onnx") for name in source.conditioning.required}
    onnx.save(fused(source, graphs), folder / FUSED)
    found = fused_pixels(folder / FUSED, reference)
    expected = reference.pixels(network_of(folder, True, told(source), one_at_a_time=source.large))
    psnr = psnr_db(expected / 255, found / 255, peak=1.0)
    if psnr < THRESHOLDS_DB["fp32"]:
        raise UserError(f"{FUSED} of {source.name} is {psnr:.1f} dB from its own parts; nothing was written")
    return {"psnr_db": round(psnr, 2), "size_mb": round((folder / FUSED).stat().st_size / 1e6, 2)}
