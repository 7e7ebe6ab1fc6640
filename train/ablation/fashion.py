"""The ablation on Fashion-MNIST: everything is made here, from the data to the table, and a row takes minutes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from runtime.command import tell
from runtime.files import whole_file, write_text
from train.ablation.classifier import trained
from train.ablation.fashion_data import CAPTIONS, prepare
from train.ablation.figures import EACH, Figures, Measure, RealSet, spread, table
from train.ablation.rows import Row, folder_of, order, train_row
from train.ablation.sheet import draw_rows
from train.ablation.small import GUIDANCE, STEPS, small_teacher, teachers_pairs
from train.checkpoint import load_pipeline
from train.config import Config
from train.data.corpus import load_pictures
from train.evaluate.generators import Generate, checkpoint_generator
from train.presets import add

REFERENCE = 1000  # real pictures of a class that everything is compared with
REAL = "real pictures, held out"
UPDATES = 1500  # of a row, eight minutes of a core with bf16, unless said otherwise
TEACHERS = ((1, 1.0), (4, GUIDANCE), (STEPS, GUIDANCE))  # steps and guidance of the teacher's own rows
Results = dict[str, dict[str, Any]]


class Fashion:
    """The folder OUT of one yardstick: data/, autoencoder/, teacher/, classifier.safetensors, and a folder a row."""

    def __init__(self, files: Path, out: Path, threads: int) -> None:
        """Prepares all that the rows need, and takes up what is there. Raises UserError."""
        self.out, self.threads = out, threads
        self.data = out / "data"
        prepare(files, self.data)
        self.teacher = small_teacher(self.data, out, threads)

    def base(self, updates: int) -> Config:
        """The default row's settings."""
        preset = add()
        return replace(
            preset,
            pairs=str(teachers_pairs(self.data, self.out, self.teacher, self.threads)) if preset.pair_batch else "",
            teacher=str(self.teacher),
            data=str(self.data),
            max_steps=updates,
            pairs_first=updates * preset.pairs_first // preset.max_steps,
            save_every=max(1, updates // 2),
            threads=self.threads,
        )

    def run(self, rows: Sequence[Row], seeds: Sequence[int], base: Config) -> None:
        """Train every row of every seed, seed by seed, so that an early stop leaves whole columns."""
        for seed in seeds:
            for row in rows:
                train_row(row, seed, self.out, base)

    # ---- figures -----------------------------------------------------------------------------------------------

    def measure(self) -> Measure:
        """The figures' own network and reference, both kept beside the rows."""
        network = trained(self.out / "classifier.safetensors", lambda: self._real("train").both, len(CAPTIONS))
        path = self.out / "reference.safetensors"
        if not path.is_file():
            features = network.read(self._real("train").of_each(REFERENCE).pictures)[0]
            with whole_file(path) as partial:
                save_file({"features": features}, partial)
        return Measure(network, load_file(path)["features"])

    def _real(self, split: str) -> RealSet:
        records, pictures = load_pictures(self.data, split)
        return RealSet(pictures, np.array([record.facts["class"] for record in records]))

    def score(self, rows: Sequence[Row], seeds: Sequence[int]) -> Results:
        """Row -> figures over the seeds, with real pictures' and the teacher's own; each set is drawn once."""
        measure = self.measure()
        results: Results = {REAL: spread([self._held_out(half, measure) for half in (0, 1)])}
        for steps, guidance in TEACHERS:
            name = f"teacher-{steps}-steps"
            results[_said(steps)] = spread([self._drawn(name, measure, self.teacher, steps, guidance)])
        for row in rows:
            found = spread([self._row(row, seed, measure) for seed in seeds])
            tell(f"{row.name}: KID {found['kid']['mean']:.1f}, Vendi {found['vendi']['mean']:.2f}")
            results[row.name] = found
        return results

    def _held_out(self, half: int, measure: Measure) -> Figures:
        """EACH real pictures of a class that no network was trained on: the floor of every figure."""
        return self._figures(f"real-{half}", measure, lambda: self._real("held_out").of_each(EACH, half * EACH))

    def _row(self, row: Row, seed: int, measure: Measure) -> Figures:
        pipeline = folder_of(row, seed, self.out) / "pipeline"
        return self._drawn(f"{row.name}-seed-{seed}", measure, pipeline, 1, 1.0)

    def _drawn(self, name: str, measure: Measure, pipeline: Path, steps: int, guidance: float) -> Figures:
        def shown() -> RealSet:
            pictures = draw(checkpoint_generator(load_pipeline(pipeline), guidance), steps)
            return RealSet(pictures, np.arange(len(CAPTIONS)).repeat(EACH))

        return self._figures(name, measure, shown)

    def _figures(self, name: str, measure: Measure, shown: Callable[[], RealSet]) -> Figures:
        """The figures of a set that were kept, or those of the pictures that `shown` gives."""
        path = self._file(name)
        if path.is_file():
            kept: Figures = json.loads(path.read_text())
            return kept
        pictures = shown()
        figures = measure.of(pictures)
        draw_rows([(name, pictures.pictures)], len(CAPTIONS), path.with_suffix(".png"))
        write_text(path, json.dumps(figures, indent=1) + "\n")
        return figures

    def _file(self, name: str) -> Path:
        return self.out / "figures" / f"{name.replace('=', '-')}.json"


def draw(generate: Generate, steps: int) -> np.ndarray:
    """u8[N, 32, 32, 3]: EACH pictures of each class, the seeds 0, 1, ... of every class."""
    prompts = [caption for caption in CAPTIONS for _ in range(EACH)]
    return generate(prompts, [*range(EACH)] * len(CAPTIONS), steps)


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, and whether the rows are in the paper's order."""
    lines = order(list(results), lambda name: float(results[name]["kid"]["mean"]))
    return "\n".join([table(results, REAL), "", *lines])


def _said(steps: int) -> str:
    return f"teacher, {steps} step" if steps == 1 else f"teacher, {steps} guided steps"
