"""One evaluation: open a student and its teacher, draw and measure."""

from __future__ import annotations

import argparse
import json
from typing import Any

from runtime.command import tell
from runtime.errors import UserError
from runtime.files import check_writable, write_text
from train.checkpoint import load_pipeline
from train.evaluate.evaluation import make_evaluation, report, sheet_prompts, write_comparison, write_sheet
from train.evaluate.feature_sets import refuse_own_features
from train.evaluate.generators import bundle_generator, checkpoint_generator, find_subject, require_device
from train.student import count_parameters


def evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """Write what is asked for and return the figures; None with --sheet-only. Refuses what it can before any work."""
    check(args)
    folder, bundled = find_subject(args.subject)
    if not args.sheet_only and (line := refuse_own_features(args.features, folder, args.allow_discriminator_features)):
        tell(line)
    pipeline = None if bundled else load_pipeline(folder).to(args.device)
    student = bundle_generator(folder) if pipeline is None else checkpoint_generator(pipeline, 1.0)
    prompts = sheet_prompts(args.prompts, args.data, folder) if args.sheet or args.compare else ()
    if args.sheet:
        write_sheet(args.sheet, student, prompts)
    if args.sheet_only and not args.compare:
        return None
    teacher_pipeline = load_pipeline(args.teacher).to(args.device)
    teacher = checkpoint_generator(teacher_pipeline, args.guidance)
    if args.compare:
        write_comparison(args.compare, student, teacher, args.steps, args.teacher_steps, prompts)
    if args.sheet_only:
        return None
    figures = report(make_evaluation(args), student, teacher, args.steps, args.teacher_steps, args.within)
    student_size = count_parameters(pipeline.unet) if pipeline else None  # a bundle's graphs do not say
    figures["params"] = {"student": student_size, "teacher": count_parameters(teacher_pipeline.unet)}
    figures |= {"features": args.features, "text_embedder": args.text_embedder, "guidance": args.guidance}
    if args.out:
        write_text(args.out, json.dumps(figures, indent=2) + "\n")
    return figures


def check(args: argparse.Namespace) -> None:
    """Raises UserError on numbers out of range, a file that cannot be written, and --sheet-only with nothing to do."""
    if args.sheet_only and not (args.sheet or args.compare):
        raise UserError("--sheet-only needs --sheet PNG or --compare PNG")
    if not all(1 <= count <= 1000 for count in (*args.steps, args.teacher_steps)):
        raise UserError("--steps and --teacher-steps must be 1 to 1000")
    if args.within < 0:
        raise UserError(f"--within {args.within}: 0 or more prompts")
    require_device(args.device)
    for path in filter(None, (args.sheet, args.compare, args.out)):
        check_writable(path)
