"""The rows of ADD's ablation (2311.17042, table 1), one setting changed at a time, and what a row's run leaves.

A row's seed is a folder OUT/ROW/seed-N that resumes; what is finished is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.command import tell
from runtime.errors import UserError
from train.config import Config
from train.run.add_task import AddTrainer


@dataclass(frozen=True)
class Row:
    """One line of the ablation. paper: FID and CLIP score of the paper's line, where it has one."""

    group: str
    name: str
    changes: dict[str, Any]
    paper: tuple[float, float] | None = None


NO_PAIRS: dict[str, Any] = {"pairs": "", "pair_batch": 0, "pairs_first": 0}
# What our preset `add` changed: ADD's own noise levels and weights, and no pairs.
PAPER: dict[str, Any] = {
    **NO_PAIRS,
    "adversarial_balance": 0.0,
    "student_steps": 4,
    "distillation_weight": 2.5,
    "guidance": 2.0,
    "r1_weight": 1e-5,
}

ROWS = {
    row.name: row
    for row in (
        Row("", "default", {}, (20.6, 0.319)),
        Row("loss", "loss=adv", {"loss": "adv"}, (20.8, 0.315)),
        Row("loss", "loss=distill", {"loss": "distill"}, (315.6, 0.076)),
        Row("init", "init=random", {"init": "random"}, (293.6, 0.065)),
        Row("conditioning", "conditioning=none", {"conditioning": "none"}, (21.2, 0.302)),
        Row("conditioning", "conditioning=text", {"conditioning": "text"}, (21.2, 0.307)),
        Row("conditioning", "conditioning=image", {"conditioning": "image"}, (21.1, 0.316)),
        Row("features", "features=teacher", {"features": "teacher"}),
        Row("loss", "weighting=sds", {"weighting": "sds"}, (22.3, 0.325)),
        Row("loss", "weighting=nfsd", {"weighting": "nfsd"}, (21.8, 0.327)),
        Row("teacher steps", "teacher_steps=2", {"teacher_steps": 2}, (20.8, 0.321)),
        Row("teacher steps", "teacher_steps=4", {"teacher_steps": 4}, (20.3, 0.317)),
        Row("pairs", "pairs=alone", {"pairs_first": 10**9}),  # the game never begins
        Row("pairs", "pairs=none", NO_PAIRS),
        Row("recipe", "recipe=paper", PAPER),
    )
}
FIRST = tuple(ROWS)[:8]  # the default of `--rows`


def rows_of(names: Sequence[str], known: Mapping[str, Row] = ROWS) -> list[Row]:
    """The rows of these names. Raises UserError."""
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{unknown[0]!r} is not a row; choose from {', '.join(known)}")
    return [known[name] for name in names]


def folder_of(row: Row, seed: int, out: Path) -> Path:
    """Where a row's seed is trained."""
    return out / row.name / f"seed-{seed}"


def train_row(row: Row, seed: int, out: Path, base: Config) -> Path:
    """Train one row and seed, unless that is done already; returns its pipeline's folder."""
    folder = folder_of(row, seed, out)
    if not (folder / "pipeline" / "model_index.json").is_file():
        share_cache(out, folder)
        tell(f"{row.name}, seed {seed}")
        AddTrainer(replace(base, run_dir=str(folder), seed=seed, **row.changes)).run()
    return folder / "pipeline"


def share_cache(out: Path, folder: Path) -> None:
    """One cache of latents and texts for all rows."""
    (out / "cache").mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "cache").exists():
        (folder / "cache").symlink_to((out / "cache").resolve())


def order(names: Sequence[str], value: Callable[[str], float]) -> list[str]:
    """For each group of the paper's rows: whether ours are in the same order, and where they are not.

    names: of the rows that were scored. value: the figure of a row by which they are ordered, the best first.
    """
    lines = []
    for group in dict.fromkeys(row.group for row in ROWS.values() if row.group):
        rows = [row for row in ROWS.values() if row.group in (group, "") and row.paper and row.name in names]
        if len(rows) < 2:
            continue
        ours = sorted(rows, key=lambda row: value(row.name))
        theirs = sorted(rows, key=lambda row: row.paper[0] if row.paper else 0.0)
        chains = [" < ".join(row.name for row in rows) for rows in (ours, theirs)]
        same = chains[0] == chains[1]
        lines.append(f"{group}: same order" if same else f"{group}: ours {chains[0]}; paper {chains[1]}")
    return lines
