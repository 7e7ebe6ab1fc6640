"""The ablation on the sticker data: a compact student of the shipped teacher, a few hundred updates a row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.command import tell
from runtime.files import write_text
from train.ablation.rows import ROWS, Row, folder_of, order, train_row
from train.checkpoint import load_pipeline
from train.config import Config
from train.data.shards import list_shards
from train.evaluate.evaluation import Evaluation
from train.evaluate.generators import checkpoint_generator
from train.presets import sticker

FIGURES = ("fd_lite0", "kid_lite0", "precision", "recall", "alignment", "retrieval_at_1", "vendi")
WITHIN = 8  # prompts per split drawn with several seeds, for the Vendi score
STEPS, PICTURES = 300, 300  # updates of 16 pictures, and pictures scored per split, unless said otherwise
Results = dict[str, dict[str, Any]]  # row -> figure -> mean, min and max


def base_config(teacher: str, data: Path, steps: int) -> Config:
    """ADD without our additions: no reconstruction term; a compact student of the sticker teacher."""
    return replace(
        sticker(),
        teacher=teacher,
        data=str(data),
        max_steps=steps,
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
        save_every=steps,
        keep=1,
        score_pictures=0,
    )


def run(rows: Sequence[Row], seeds: Sequence[int], out: Path, base: Config, pictures: int) -> Results | None:
    """Train and score every row of every seed; pictures: scored per split, 0 to train only, which gives None."""
    list_shards(base.data, "train")  # before anything is trained
    for seed in seeds:  # seed by seed, so that an early stop leaves whole columns
        for row in rows:
            train_row(row, seed, out, base)
    if not pictures:
        return None
    evaluation = Evaluation(Path(base.data), pictures)
    results: Results = {}
    for row in rows:
        results[row.name] = summarise([_score(row, seed, out, evaluation) for seed in seeds])
        tell(f"{row.name}: FD-Lite0 {results[row.name]['fd_lite0']['mean']:.1f}")
    return results


def _score(row: Row, seed: int, out: Path, evaluation: Evaluation) -> dict[str, Any]:
    """The figures of one row and seed at one step; read back when they exist."""
    folder = folder_of(row, seed, out)
    result = folder / "figures.json"
    if not result.is_file():
        generate = checkpoint_generator(load_pipeline(folder / "pipeline"), 1.0)
        write_text(result, json.dumps(evaluation.score(generate, 1, within=WITHIN), indent=1) + "\n")
    return dict(json.loads(result.read_text()))


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and range over the seeds of each figure on all concepts."""
    table = {}
    for figure in FIGURES:
        values = [run["all"][figure] for run in runs]
        table[figure] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    return {"seeds": len(runs), **table}


def table(results: Results) -> str:
    """A Markdown table, our figures beside the paper's, and whether the rows are in its order."""
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
    return "\n".join([*lines, "", *order(list(results), lambda name: float(results[name]["fd_lite0"]["mean"]))])
