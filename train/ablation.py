"""`python -m train.ablation`: the rows of ADD's ablation, one setting changed at a time, at one fixed budget.

Every run is a folder OUT/ROW/seed-N that resumes; rows that are finished are not run again. The table compares the
order of the rows with the paper's (2311.17042, table 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.command import Parser, command_parser, print_result, run_command, tell, whole
from runtime.errors import UserError
from runtime.files import check_folder, write_text
from train.checkpoint import load_pipeline
from train.config import Config
from train.data.shards import list_shards
from train.evaluate.evaluation import Evaluation
from train.evaluate.generators import checkpoint_generator
from train.presets import sticker
from train.run.add_task import AddTrainer

EXAMPLES = """examples:
  python -m train.ablation --out runs/ablation
  python -m train.ablation --out runs/ablation --rows default loss=adv --seeds 0 1 --steps 100"""
FIGURES = ("fd_lite0", "kid_lite0", "precision", "recall", "alignment", "retrieval_at_1", "vendi")
WITHIN = 8  # prompts per split drawn with several seeds, for the Vendi score


@dataclass(frozen=True)
class Row:
    """One line of the ablation. paper: FID and CLIP score of the paper's line, where it has one."""

    group: str
    name: str
    changes: dict[str, Any]
    paper: tuple[float, float] | None


DEFAULT = Row("", "default", {}, (20.6, 0.319))
ROWS = {
    row.name: row
    for row in (
        DEFAULT,
        Row("loss", "loss=adv", {"loss": "adv"}, (20.8, 0.315)),
        Row("loss", "loss=distill", {"loss": "distill"}, (315.6, 0.076)),
        Row("init", "init=random", {"init": "random"}, (293.6, 0.065)),
        Row("conditioning", "conditioning=none", {"conditioning": "none"}, (21.2, 0.302)),
        Row("conditioning", "conditioning=text", {"conditioning": "text"}, (21.2, 0.307)),
        Row("conditioning", "conditioning=image", {"conditioning": "image"}, (21.1, 0.316)),
        Row("features", "features=teacher", {"features": "teacher"}, None),
        Row("loss", "weighting=sds", {"weighting": "sds"}, (22.3, 0.325)),
        Row("loss", "weighting=nfsd", {"weighting": "nfsd"}, (21.8, 0.327)),
        Row("teacher steps", "teacher_steps=2", {"teacher_steps": 2}, (20.8, 0.321)),
        Row("teacher steps", "teacher_steps=4", {"teacher_steps": 4}, (20.3, 0.317)),
    )
}
FIRST = tuple(ROWS)[:8]  # the default of `--rows`


def base_config(args: argparse.Namespace) -> Config:
    """ADD without our additions: no reconstruction term; a compact student of the sticker teacher."""
    return replace(
        sticker(),
        teacher=args.teacher,
        data=str(args.data),
        max_steps=args.steps,
        batch=16,
        adversarial_batch=8,
        student="custom",
        mid_block=False,
        attention=(False,) * 4,
        compositions=0.0,
        reconstruction_weight=0.0,
        lr=5e-4,
        ema=0.97,
        log_every=10,
        save_every=args.steps,
        keep=1,
        score_pictures=0,
    )


def folder_of(row: Row, seed: int, args: argparse.Namespace) -> Path:
    return Path(args.out) / row.name / f"seed-{seed}"


def train_row(row: Row, seed: int, args: argparse.Namespace) -> None:
    """Train one row and seed, unless that is done already."""
    folder = folder_of(row, seed, args)
    if (folder / "pipeline" / "model_index.json").is_file():
        return
    config = replace(base_config(args), run_dir=str(folder), seed=seed, **row.changes)
    share_cache(args.out, folder)
    tell(f"{row.name}, seed {seed}")
    AddTrainer(config).run()


def score_row(row: Row, seed: int, args: argparse.Namespace, evaluation: Evaluation) -> dict[str, Any]:
    """The figures of one row and seed at one step; read back when they exist."""
    folder = folder_of(row, seed, args)
    result = folder / "figures.json"
    if not result.is_file():
        generate = checkpoint_generator(load_pipeline(folder / "pipeline"), 1.0)
        write_text(result, json.dumps(evaluation.score(generate, 1, within=WITHIN), indent=1) + "\n")
    return dict(json.loads(result.read_text()))


def share_cache(out: Path, folder: Path) -> None:
    """One cache of latents and texts for all rows."""
    (out / "cache").mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "cache").exists():
        (folder / "cache").symlink_to((out / "cache").resolve())


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and range over the seeds of each figure on all concepts."""
    table = {}
    for figure in FIGURES:
        values = [run["all"][figure] for run in runs]
        table[figure] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    return {"seeds": len(runs), **table}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, our figures beside the paper's."""
    lines = [
        "| row | seeds | FD-Lite0 (range) | KID-Lite0 | alignment | retrieval@1 | Vendi | paper: FID / CLIP |",
        "| --- " * 8 + "|",
    ]
    for name, result in results.items():
        fd, paper = result["fd_lite0"], ROWS[name].paper if name in ROWS else None
        said = f"{paper[0]} / {paper[1]:.3f}" if paper else "-"
        lines.append(
            f"| {name} | {result['seeds']} | {fd['mean']:.1f} ({fd['min']:.1f} to {fd['max']:.1f}) | "
            f"{result['kid_lite0']['mean']:.3f} | {result['alignment']['mean']:.3f} | "
            f"{result['retrieval_at_1']['mean']:.3f} | {result['vendi']['mean']:.2f} | {said} |"
        )
    return "\n".join(lines)


def order(results: dict[str, dict[str, Any]]) -> list[str]:
    """For each group of the paper's rows: whether ours are in the same order, and where they are not."""
    lines = []
    for group in dict.fromkeys(row.group for row in ROWS.values() if row.group):
        rows = [row for row in ROWS.values() if row.group in (group, "") and row.paper and row.name in results]
        if len(rows) < 2:
            continue
        ours = sorted(rows, key=lambda row: results[row.name]["fd_lite0"]["mean"])
        theirs = sorted(rows, key=lambda row: row.paper[0] if row.paper else 0.0)
        names = [" < ".join(row.name for row in rows) for rows in (ours, theirs)]
        lines.append(f"{group}: same order" if names[0] == names[1] else f"{group}: ours {names[0]}; paper {names[1]}")
    return lines


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.ablation", __doc__, EXAMPLES)
    made.add_argument("--out", type=Path, required=True, metavar="DIR")
    made.add_argument("--data", type=Path, default=Path("data/stickers"))
    made.add_argument("--teacher", default="sticker-128-teacher")
    made.add_argument("--steps", type=whole(1), default=300, help="student updates of 16 pictures (default 300)")
    made.add_argument("--n", type=whole(2), default=300, help="pictures scored per split (default 300)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--rows", nargs="+", default=list(FIRST), metavar="ROW", help=f"of {', '.join(ROWS)}")
    made.add_argument("--train-only", action="store_true", help="no figures yet")
    return made


def work(args: argparse.Namespace) -> None:
    """Train and score every row of every seed, write OUT/table.md and OUT/results.json, and print the table."""
    if unknown := [name for name in args.rows if name not in ROWS]:
        raise UserError(f"{unknown[0]!r} is not a row; choose from {', '.join(ROWS)}")
    check_folder(args.out)
    list_shards(str(args.data), "train")  # before anything is trained
    for seed in args.seeds:  # seed by seed, so that an early stop leaves whole columns
        for name in args.rows:
            train_row(ROWS[name], seed, args)
    if args.train_only:
        return
    evaluation = Evaluation(args.data, args.n)
    results = {}
    for name in args.rows:
        results[name] = summarise([score_row(ROWS[name], seed, args, evaluation) for seed in args.seeds])
        tell(f"{name}: FD-Lite0 {results[name]['fd_lite0']['mean']:.1f}")
    write_text(args.out / "table.md", table(results) + "\n\n" + "\n".join(order(results)) + "\n")
    write_text(args.out / "results.json", json.dumps(results, indent=1) + "\n")
    print_result(json.dumps(results) if args.json else table(results) + "\n\n" + "\n".join(order(results)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
