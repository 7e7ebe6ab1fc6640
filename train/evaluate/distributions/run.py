"""One table of figures from start to end: the data's part, the teacher, the student, the sheet."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.command import tell
from runtime.errors import UserError
from runtime.variation import Variation
from train.evaluate.distributions.measure import Figures, Measure
from train.evaluate.distributions.networks import NAMES, Networks
from train.evaluate.distributions.plan import FULL, QUICK, Plan
from train.evaluate.distributions.report import arranged
from train.evaluate.distributions.sheet import write_sheet
from train.evaluate.distributions.source import Asked, Source
from train.evaluate.generators import Generate
from train.evaluate.retrieval import text_embedder
from train.prompts import read_prompts


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of a command line, its prompts not counted yet. Raises UserError."""
    plan = replace(QUICK if args.quick else FULL, seed=args.seed)
    plan = plan if args.teacher_steps is None else replace(plan, teacher_steps=args.teacher_steps)
    return plan if args.n is None else replace(plan, each=args.n // plan.prompts)


def questions(source: Source, given: Path | None, plan: Plan) -> tuple[list[Asked], Plan]:
    """The prompts of a file, or the data's own, and the plan for as many. Raises UserError at one of nothing known."""
    if given is None:
        return source.questions(plan.prompts, plan.seed), plan
    prompts = [source.asked(prompt) for prompt in dict.fromkeys(read_prompts(given))]
    return prompts, replace(plan, prompts=len(prompts), each=max(plan.each, plan.n // len(prompts)))


def table_of(folder: Path, source: Source) -> Variation:
    """A model's own table of variation; the data's for what has none. Raises UserError at a damaged one."""
    path = next((folder / name for name in ("manifest.json", "variation.json") if (folder / name).is_file()), None)
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8")) if path else None
        if path and path.name == "manifest.json":
            said = said.get("variation")
        if said is not None:
            return Variation.from_json(said)
    except ValueError as error:
        raise UserError(f"{path} holds no table of variation that can be read: {error}") from error
    tell(f"{folder} has no table of variation: its prompts are completed by the data's; --plain draws them as they are")
    return source.table


def evaluate_distributions(
    source: Source,
    asked: Sequence[Asked],
    plan: Plan,
    args: argparse.Namespace,
    student: Generate,
    teacher: Generate,
    table: Variation | None,
) -> dict[str, Any]:
    """The figures; writes the sheet that is asked for. table: completes the prompts; None draws them as typed."""
    tell(f"{plan.prompts} prompts, {plan.each} pictures each in a set, {plan.repeats} sets")
    measure = Measure(source, asked, plan, Networks(args.device), text_embedder(args.text_embedder))
    scores: dict[str, list[Figures]] = {"real": measure.real()}
    rows = {"real": measure.reference.rows}
    todo = [(f"teacher_{plan.teacher_steps}", teacher, plan.teacher_steps, 1)]
    todo += [(f"student_{count}", student, count, plan.repeats) for count in args.steps]
    for who, generate, count, repeats in todo:
        tell(f"{who}: pictures and figures")
        scores[who], rows[who] = measure.score(generate, count, table, repeats)
    if args.sheet:
        write_sheet(args.sheet, rows, [one.prompt for one in asked])
    return arranged(scores) | {
        "n": {"all": plan.n, "held_out": plan.held_out},
        "prompts": [one.prompt for one in asked],
        "repeats": plan.repeats,
        "seed": plan.seed,
        "features": NAMES[0],
        "completed": table is not None,
    }
