"""One table of figures: real pictures of each prompt, drawn once, and any generator beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.variation import Variation
from runtime.variation.table import THING
from train.evaluate.distributions.copies import Copies
from train.evaluate.distributions.distances import distances
from train.evaluate.distributions.frequencies import frequency_distances, open_properties
from train.evaluate.distributions.networks import NAMES, Features, Networks
from train.evaluate.distributions.plan import Plan
from train.evaluate.distributions.properties import Classifier, share_right
from train.evaluate.distributions.source import Asked, Drawn, Source, Words
from train.evaluate.distributions.vendi import SEEDS, vendi_within
from train.evaluate.feature_sets import fit_side
from train.evaluate.generators import Generate
from train.evaluate.retrieval import Embed, RetrievalScorer
from train.progress import progress

TRAINING, REFERENCE, REAL = 900, 901, 902  # numbers of the data's sets; the generators' are 0, 1, ...
Figures = dict[str, Any]  # figure -> number, or property -> number


@dataclass(frozen=True)
class Shown:
    """A set of pictures: features, what was asked for, and the first SEEDS pictures of each prompt."""

    features: Features
    said: Sequence[Words]  # property -> word that completes the prompt of each picture
    rows: np.ndarray  # u8[prompts, SEEDS, side, side, 3]


class Measure:
    """Draws the data's part when made. texts: for the alignment. Raises UserError where the data hold too little."""

    def __init__(self, source: Source, asked: Sequence[Asked], plan: Plan, networks: Networks, texts: Embed) -> None:
        self.source, self.asked, self.plan, self.networks = source, asked, plan, networks
        self.prompts = [one.prompt for one in asked for _ in range(plan.each)]
        self.depths = [one.depth for one in asked]
        training = self._training()
        features = networks.of(training.pictures, "real training pictures")
        self.side = training.pictures.shape[1]
        self.completing = {*source.table.order} - {THING}
        self.classifier = Classifier(features.layout, self._readable(training.words))
        first = NAMES[0]
        general = features.pooled[first][: plan.training]
        self.scorer = RetrievalScorer(general, training.prompts[: plan.training], texts, seed=plan.seed)
        self.reference, drawn = self._real(REFERENCE)
        self.left_open = [
            open_properties(one, drawn.words[row * plan.each : (row + 1) * plan.each]) for row, one in enumerate(asked)
        ]
        self.reference_read = self._read(self.reference)
        reals = [self._real(REAL + number) for number in range(plan.repeats)]
        self.reals = [shown for shown, _ in reals]
        self.copies = Copies(
            features.pooled[first],
            training.scenes,
            self.reals[0].features.pooled[first],
            reals[0][1].scenes,
        )
        self.held_out = source.held_out(plan.held_out, plan.seed)
        self.held_features = networks.of(self.held_out.pictures, "real pictures, held out")

    # ---- the data ----------------------------------------------------------------------------------------------

    def _training(self) -> Drawn:
        """Random pictures of the data, and some of each prompt."""
        parts = [self.source.training(self.plan.training, self.plan.seed)]
        seeds = [part[: self.plan.training_each] for part in self.plan.seeds(TRAINING)]
        return _put_together([*parts, *self._samples(seeds, trained=True)])

    def _samples(self, seeds: Sequence[range], trained: bool = False) -> list[Drawn]:
        with progress("drawing real pictures", len(seeds)) as advance:
            found = []
            for one, own in zip(self.asked, seeds, strict=True):
                found.append(self.source.sample(one, own, trained))
                advance(1)
        return found

    def _real(self, number: int) -> tuple[Shown, Drawn]:
        drawn = _put_together(self._samples(self.plan.seeds(number)))
        features = self.networks.of(drawn.pictures, "real pictures")
        said = [
            {name: word for name, word in words.items() if name in self.completing - one.stated.keys()}
            for one, words in zip(self._each_asked(), drawn.words, strict=True)
        ]
        return Shown(features, said, self._first(drawn.pictures)), drawn

    def _readable(self, words: Sequence[Words]) -> list[Words]:
        """Without things that no prompt names: a head for them all would need many more pictures."""
        named = {thing for one in self.asked for thing in one.stated.get("thing", ())}
        return [{name: word for name, word in each.items() if name != "thing" or word in named} for each in words]

    # ---- figures -----------------------------------------------------------------------------------------------

    def real(self) -> list[Figures]:
        """The data's own figures, of fresh pictures beside the reference: what a perfect generator gets."""
        fresh = self.source.held_out(self.plan.held_out, self.plan.seed + 1)
        features = self.networks.of(fresh.pictures, "real pictures, held out")
        return [self._figures(shown) | self._held_out(features, fresh.words) for shown in self.reals]

    def score(
        self, generate: Generate, steps: int, table: Variation | None, repeats: int
    ) -> tuple[list[Figures], np.ndarray]:
        """Figures of each of `repeats` sets, and the first set's pictures u8[prompts, SEEDS, side, side, 3].

        table: completes the prompts by the seed; None draws them as they were typed.
        """
        held = generate(self.held_out.prompts, range(self.plan.held_out), steps)
        features = self.networks.of(fit_side(held, self.side), "features")
        figures, rows = [], None
        for number in range(repeats):
            shown = self._generated(generate, steps, table, number)
            figures.append(self._figures(shown) | self._held_out(features, self.held_out.words))
            rows = shown.rows if rows is None else rows
        assert rows is not None
        return figures, rows

    def _generated(self, generate: Generate, steps: int, table: Variation | None, number: int) -> Shown:
        seeds = [seed for part in self.plan.seeds(number) for seed in part]
        said = [table.drawn(text, seed) if table else {} for text, seed in zip(self.prompts, seeds, strict=True)]
        prompts = [
            table.complete(text, seed) if table else text for text, seed in zip(self.prompts, seeds, strict=True)
        ]
        pictures = fit_side(generate(prompts, seeds, steps), self.side)
        said = [{name: word for name, word in words.items() if name in self.completing} for words in said]
        return Shown(self.networks.of(pictures, "features"), said, self._first(pictures))

    def _figures(self, shown: Shown) -> Figures:
        first = shown.features.pooled[NAMES[0]]
        read = self._read(shown)
        stated = self.classifier.right(read, [one.stated for one in self._each_asked()])
        drawn = self.classifier.right(read, [_each_alone(words) for words in shown.said])
        together, apart = frequency_distances(
            self._by_prompt(self.reference_read), self._by_prompt(read), self.left_open
        )
        found: Figures = {
            **distances(self.reference.features.pooled, shown.features.pooled),
            **vendi_within(first, len(self.asked), self.depths),
            "stated": share_right(stated),
            "drawn": share_right(drawn),
            "tv": float(np.mean(list(together.values()))) if together else None,
            "tv_within": float(np.mean(list(apart.values()))) if apart else None,
            "copies": self.copies.share(first),
            **self.scorer.figures(first, self.prompts),
            "stated_of": {name: hits / asked for name, (hits, asked) in stated.items()},
            "drawn_of": {name: hits / asked for name, (hits, asked) in drawn.items()},
            "tv_of": together,
            "tv_within_of": apart,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _held_out(self, features: Features, words: Sequence[Words]) -> Figures:
        """Figures of pictures of combinations that were not trained on, as NAME_held_out."""
        found: Figures = dict(distances(self.held_features.pooled, features.pooled))
        right = share_right(self.classifier.right(self._read_of(features), [_each_alone(each) for each in words]))
        found |= {} if right is None else {"stated": right}
        return {f"{name}_held_out": value for name, value in found.items()}

    def _read(self, shown: Shown) -> dict[str, np.ndarray]:
        """property -> i64[prompts * each]."""
        return self._read_of(shown.features)

    def _read_of(self, features: Features) -> dict[str, np.ndarray]:
        return self.classifier.read(features.layout)

    def _by_prompt(self, read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """property -> i64[prompts, each]."""
        return {name: found.reshape(len(self.asked), self.plan.each) for name, found in read.items()}

    def _each_asked(self) -> list[Asked]:
        return [one for one in self.asked for _ in range(self.plan.each)]

    def _first(self, pictures: np.ndarray) -> np.ndarray:
        return pictures.reshape(len(self.asked), self.plan.each, *pictures.shape[1:])[:, :SEEDS].copy()


def _put_together(parts: Sequence[Drawn]) -> Drawn:
    return Drawn(
        np.concatenate([part.pictures for part in parts]),
        [words for part in parts for words in part.words],
        [prompt for part in parts for prompt in part.prompts],
        [scene for part in parts for scene in part.scenes],
    )


def _each_alone(words: Words) -> Mapping[str, frozenset[str]]:
    return {name: frozenset([word]) for name, word in words.items()}
