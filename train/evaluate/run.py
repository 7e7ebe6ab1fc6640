"""One evaluation: open a student and its teacher, draw and measure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from runtime.command import tell
from runtime.errors import UserError
from runtime.files import check_writable, write_text
from train.checkpoint import load_pipeline
from train.evaluate.distributions.run import evaluate_distributions, make_plan, questions, table_of
from train.evaluate.distributions.source import Source
from train.evaluate.evaluation import WITHIN, make_evaluation, report, sheet_prompts, write_comparison, write_sheet
from train.evaluate.feature_sets import discriminator_features, refuse_own_features
from train.evaluate.generators import bundle_generator, checkpoint_generator, find_subject, require_device
from train.families import KINDS
from train.student import count_parameters


def evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """Write what is asked for and return the figures; None with --sheet-only. Refuses what it can before any work."""
    source = None if args.sheet_only else open_world(args.data)
    check(args, source is not None)
    asked, plan = questions(source, args.prompts, make_plan(args)) if source else ([], None)
    folder, bundled = find_subject(args.subject)
    if not args.sheet_only and not source:
        warn_of_features(args, folder)
    pipeline = None if bundled else load_pipeline(folder, kinds=KINDS).to(args.device)
    student = bundle_generator(folder) if pipeline is None else checkpoint_generator(pipeline, 1.0)
    prompts = () if source or not (args.sheet or args.compare) else sheet_prompts(args.prompts, args.data, folder)
    if args.sheet and not source:
        write_sheet(args.sheet, student, prompts)
    if args.sheet_only and not args.compare:
        return None
    teacher_pipeline = load_pipeline(args.teacher, kinds=KINDS).to(args.device)
    teacher = checkpoint_generator(teacher_pipeline, args.guidance)
    if args.compare:
        write_comparison(args.compare, student, teacher, args.steps, args.teacher_steps, prompts)
    if args.sheet_only:
        return None
    if source and plan:
        table = None if args.plain else table_of(folder, source)
        figures = evaluate_distributions(source, asked, plan, args, student, teacher, table)
        figures |= {"critic": discriminator_features(folder)}
    else:
        figures = report(make_evaluation(args), student, teacher, args.steps, args.teacher_steps, args.within)
        figures |= {"features": args.features}
    student_size = count_parameters(pipeline.unet) if pipeline else None  # a bundle's graphs do not say
    figures["params"] = {"student": student_size, "teacher": count_parameters(teacher_pipeline.unet)}
    figures |= {"text_embedder": args.text_embedder, "guidance": args.guidance}
    if args.out:
        write_text(args.out, json.dumps(figures, indent=2) + "\n")
    return figures


def open_world(data: Path) -> Source | None:
    """The world of a folder, None of shards. Raises UserError at a world of another version."""
    from train.world.questions import WorldSource
    from train.world.source import is_world

    return WorldSource(data) if is_world(data) else None


def warn_of_features(args: argparse.Namespace, folder: Path) -> None:
    """Raises UserError where the figures would flatter the student, unless that is allowed."""
    if line := refuse_own_features(args.features, folder, args.allow_discriminator_features):
        tell(line)


def check(args: argparse.Namespace, world: bool) -> None:
    """Fills in the defaults that depend on the data. Raises UserError on numbers out of range, a file that cannot be
    written, options of other data, and --sheet-only with nothing to do."""
    if args.sheet_only and not (args.sheet or args.compare):
        raise UserError("--sheet-only needs --sheet PNG or --compare PNG")
    if world:
        _check_world(args)
    elif args.quick or args.plain:
        raise UserError(f"--quick and --plain are for a folder made by `train.data world`, which {args.data} is not")
    args.steps = args.steps or ([1] if world else [1, 2, 4])
    args.teacher_steps = (
        args.teacher_steps if args.teacher_steps is not None else (make_plan(args).teacher_steps if world else 50)
    )
    args.n = 500 if args.n is None and not world else args.n
    if not all(1 <= count <= 1000 for count in (*args.steps, args.teacher_steps)):
        raise UserError("--steps and --teacher-steps must be 1 to 1000")
    if args.within < 0:
        raise UserError(f"--within {args.within}: 0 or more prompts")
    require_device(args.device)
    for path in filter(None, (args.sheet, args.compare, args.out)):
        check_writable(path)


def _check_world(args: argparse.Namespace) -> None:
    """Raises UserError on what a world's figures do not have, and on too few pictures."""
    given = {"--compare": args.compare, "--inception": args.inception, "--clip": args.clip}
    given |= {"--features": args.features != "lite0", "--within": args.within != WITHIN}
    if unfit := [name for name, value in given.items() if value]:
        raise UserError(
            f"{', '.join(unfit)}: not for a world, whose figures have two networks and a sheet of their own"
        )
    if not 0 <= args.seed < 2**20:
        raise UserError(f"--seed {args.seed}: 0 to {2**20 - 1}")
    make_plan(args)
