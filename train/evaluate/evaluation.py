"""Quality figures of one subject, and the pictures that go with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from runtime.command import tell
from runtime.errors import UserError
from train.data.corpus import load_pictures
from train.data.shards import Record, has_split, read_facts
from train.evaluate.feature_sets import (
    ClipScore,
    FeatureSet,
    Inception,
    Lite0,
    cached_features,
    fit_side,
    make_feature_set,
)
from train.evaluate.generators import SCORER_PICTURES, Generate
from train.evaluate.grids import draw_comparison, draw_grid
from train.evaluate.metrics import frechet_distance, mean_distance, score_features, vendi_score
from train.evaluate.retrieval import Embed, RetrievalScorer, text_embedder
from train.prompts import PROMPTS, read_prompts, sample_prompts

SHEET, COMPARED = 32, 11  # prompts of a sheet, and of a comparison, at most
SHEET_SEED = 7
SEEDS_A_PROMPT = 8  # for the diversity within a prompt
WITHIN = 16  # prompts per split for it
# Figures against the real pictures are reported for each split; these are of pictures by themselves, have a "real"
# column where that means something, and are reported as NAME (all concepts) and NAME_held_out.
OWN_FIGURES = ("alignment", "retrieval_at_1", "retrieval_at_5", "clip_score", "diversity", "vendi", "vendi_across")


def choose(records: Sequence[Record], count: int) -> np.ndarray:
    """Indices of `count` records (or all there are), spread evenly over the split."""
    return np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)


class Evaluation:
    """Real pictures' features and a retrieval scorer, made once; then the figures of any generator against them.

    data: folder of shards; without held-out ones all figures are on "all" alone. count: pictures per split, at least 2.
    network: Lite0 when left out. embed: texts for the alignment, MiniLM when left out. inception, clip: make `fid`
    and `clip_score` as well. Raises UserError.
    """

    def __init__(
        self,
        data: Path,
        count: int,
        *,
        network: FeatureSet | None = None,
        embed: Embed | None = None,
        inception: Inception | None = None,
        clip: ClipScore | None = None,
    ) -> None:
        if count < 2:
            raise UserError(f"--n {count}: at least 2 pictures per split are needed")
        self.network, self.inception, self.clip = network or Lite0(), inception, clip
        records, pictures = load_pictures(data, "train")
        self.side = pictures.shape[1]
        self.scorer = self._fit_scorer(records, pictures, embed or text_embedder("minilm"))
        self.prompts: dict[str, list[str]] = {}
        self.pictures: dict[str, np.ndarray] = {}
        if has_split(data, "held_out"):
            held_records, held_pictures = load_pictures(data, "held_out")
            self._take("all", records + held_records, np.concatenate([pictures, held_pictures]), count)
            self._take("held_out", held_records, held_pictures, count)
        else:
            tell(f"{data} has no held_out-*.tar: figures on all concepts only")
            self._take("all", records, pictures, count)
        self.real = {
            name: cached_features(self.network, real, f"real pictures, {name}") for name, real in self.pictures.items()
        }
        self.real_inception = (
            {
                name: cached_features(inception, real, f"Inception on real pictures, {name}")
                for name, real in self.pictures.items()
            }
            if inception
            else {}
        )

    def _fit_scorer(self, records: list[Record], pictures: np.ndarray, embed: Embed) -> RetrievalScorer:
        index = choose(records, SCORER_PICTURES)
        features = cached_features(self.network, pictures[index], "real training pictures")
        captions, units = [records[i].captions[0] for i in index], [records[i].unit for i in index]
        return RetrievalScorer(features, captions, embed, units)

    def _take(self, name: str, records: list[Record], pictures: np.ndarray, count: int) -> None:
        index = choose(records, count)
        self.prompts[name], self.pictures[name] = [records[i].captions[0] for i in index], pictures[index]

    def score(self, generate: Generate, steps: int, within: int = 0, seed: int = 0) -> dict[str, dict[str, float]]:
        """{"all": figures, "held_out": figures} of one generator at one number of steps.

        The i-th prompt is drawn from seed + i. within: prompts per split drawn with 8 seeds each, for
        `diversity` (mean cosine distance within a prompt) and `vendi` (mean Vendi score within a prompt); 0: neither.
        """
        result = {}
        for name, prompts in self.prompts.items():
            pictures = fit_side(generate(prompts, range(seed, seed + len(prompts)), steps), self.side)
            result[name] = self._figures(name, pictures)
            if within:
                result[name] |= self._diversity(generate, prompts, steps, within, seed)
        return result

    def _figures(self, name: str, pictures: np.ndarray) -> dict[str, float]:
        features = self.network.of(pictures)
        figures = score_features(self.real[name], features, self.network.name)
        if self.inception:
            figures["fid"] = frechet_distance(self.real_inception[name], self.inception.of(pictures))
        return figures | self._own(name, features, pictures)

    def _own(self, name: str, features: Tensor, pictures: np.ndarray) -> dict[str, float]:
        """Figures of pictures by themselves, real or generated, for a split's prompts."""
        figures = self.scorer.figures(features, self.prompts[name]) | {"vendi_across": vendi_score(features)}
        return figures | ({"clip_score": self.clip(pictures, self.prompts[name])} if self.clip else {})

    def real_figures(self) -> dict[str, dict[str, float]]:
        """The real pictures' own alignment and diversity across prompts: a ceiling.

        On "held_out" none of the pictures was seen by the retrieval scorer; on "all" it learned from many of them.
        """
        return {name: self._own(name, self.real[name], pictures) for name, pictures in self.pictures.items()}

    def _diversity(
        self, generate: Generate, prompts: list[str], steps: int, within: int, seed: int
    ) -> dict[str, float]:
        chosen = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(within, len(prompts))).astype(int)]
        repeated = [prompt for prompt in chosen for _ in range(SEEDS_A_PROMPT)]
        seeds = list(range(seed, seed + SEEDS_A_PROMPT)) * len(chosen)
        parts = self.network.of(fit_side(generate(repeated, seeds, steps), self.side)).split(SEEDS_A_PROMPT)
        return {
            "diversity": float(np.mean([mean_distance(part) for part in parts])),
            "vendi": float(np.mean([vendi_score(part) for part in parts])),
        }


def report(
    evaluation: Evaluation,
    student: Generate,
    teacher: Generate,
    steps: Sequence[int],
    teacher_steps: int = 50,
    within: int = WITHIN,
) -> dict[str, Any]:
    """The figures in the shape that the contract fixes for `--json`."""
    todo = [(f"teacher_{teacher_steps}", teacher, teacher_steps)]
    todo += [(f"student_{count}", student, count) for count in steps]
    scores = {}
    for who, generate, count in todo:
        tell(f"{who}: pictures and figures")
        scores[who] = evaluation.score(generate, count, within)
    scores["real"] = evaluation.real_figures()
    return arrange(scores) | {"n": {name: len(prompts) for name, prompts in evaluation.prompts.items()}}


def arrange(scores: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """{who: {split: {figure: value}}} as {figure: {split: {who: value}}}, or {figure: {who: value}} of OWN_FIGURES."""
    by_figure: dict[str, dict[str, dict[str, float]]] = {}
    for who, splits in scores.items():
        for split, figures in splits.items():
            for figure, value in figures.items():
                by_figure.setdefault(figure, {}).setdefault(split, {})[who] = value
    against_real: dict[str, Any] = {figure: rows for figure, rows in by_figure.items() if figure not in OWN_FIGURES}
    own = {
        figure if split == "all" else f"{figure}_{split}": row
        for figure in OWN_FIGURES
        for split, row in by_figure.get(figure, {}).items()
    }
    return against_real | own


def table(figures: dict[str, Any]) -> str:
    """Every figure, one row each, and what was not run."""
    rows: dict[str, dict[str, float]] = {}
    for figure, values in figures.items():
        if figure in ("n", "params") or not isinstance(values, dict):
            continue
        nested = isinstance(next(iter(values.values())), dict)
        rows |= {f"{figure} {split}": row for split, row in values.items()} if nested else {figure: values}
    whos = list(dict.fromkeys(who for row in rows.values() for who in row))
    lines = [f"{'figure':<26}" + "".join(f"{who:>12}" for who in whos)]
    for name, row in rows.items():
        lines.append(f"{name:<26}" + "".join(f"{row[who]:>12.4f}" if who in row else " " * 12 for who in whos))
    lines += [f"{name:<26}  not run: no weights given" for name in ("fid", "clip_score") if name not in figures]
    return "\n".join(lines)


def sheet_prompts(given: Path | None, data: Path, subject: Path) -> Sequence[str]:
    """At most SHEET prompts for the sheets: those of a file, else captions of the data, else the checkpoint's own.

    Raises UserError when there are none of these.
    """
    if given:
        return read_prompts(given)[:SHEET]
    if has_split(data, "train"):
        return sample_prompts((record.captions[0] for record in read_facts(data, "train")), SHEET)
    if (subject / PROMPTS).is_file():
        return read_prompts(subject / PROMPTS)[:SHEET]
    raise UserError(f"the sheet needs prompts: give --prompts FILE, or a data folder ({data} has no train-*.tar)")


def write_sheet(path: Path, student: Generate, prompts: Sequence[str]) -> None:
    """The student's one step for the prompts, one seed for all."""
    pictures = student(prompts, [SHEET_SEED] * len(prompts), 1)
    draw_grid(list(pictures), path, columns=8, captions=prompts)


def write_comparison(
    path: Path, student: Generate, teacher: Generate, steps: Sequence[int], teacher_steps: int, prompts: Sequence[str]
) -> None:
    """A row per prompt, COMPARED in all: the teacher, then the student at each number of steps, from the same noise."""
    prompts = prompts[:: -(-len(prompts) // COMPARED)]
    seeds = [SHEET_SEED] * len(prompts)
    columns = {f"teacher, {teacher_steps} steps": teacher(prompts, seeds, teacher_steps)}
    for count in steps:
        columns[f"student, {count} step{'s' * (count > 1)}"] = student(prompts, seeds, count)
    draw_comparison(list(columns.values()), path, list(columns), prompts)


def make_evaluation(args: argparse.Namespace) -> Evaluation:
    """The evaluation that a command line asks for."""
    return Evaluation(
        args.data,
        args.n,
        network=make_feature_set(args.features, args.features_path, args.device),
        embed=text_embedder(args.text_embedder),
        inception=Inception(args.inception, args.device) if args.inception else None,
        clip=ClipScore(args.clip, args.device) if args.clip else None,
    )
