"""Figures that compare distributions: each has a case whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from runtime.errors import UserError
from runtime.variation import Kind, Property, Variation
from train.evaluate.distributions.copies import QUANTILE, Copies
from train.evaluate.distributions.frequencies import frequency_distances, open_properties, total_variation
from train.evaluate.distributions.measure import Figures, Measure
from train.evaluate.distributions.networks import NAMES, Features, Networks
from train.evaluate.distributions.plan import FULL, QUICK, Plan
from train.evaluate.distributions.properties import Classifier, share_right
from train.evaluate.distributions.report import arranged, table
from train.evaluate.distributions.sheet import write_sheet
from train.evaluate.distributions.source import Asked, Drawn
from train.evaluate.distributions.vendi import SEEDS, vendi_within
from train.evaluate.retrieval import hashed_words

SIDE = 16
THINGS = {"block": (60, 60, 60), "brick": (180, 90, 60), "leaf": (60, 160, 60), "drop": (60, 90, 200)}
PLACES = {"on the left": 0, "on the right": SIDE // 2}
SIZES = {"small": 4, "large": 8}


def words_of(name: str, shares: dict[str, float]) -> dict[str, Property]:
    return {name: Property(shares)}


TABLE = Variation(
    {
        "things": Kind(
            list(THINGS),
            words_of("place", {"on the left": 0.5, "on the right": 0.5})
            | words_of("size", {"small": 0.25, "large": 0.75}),
        ),
        "shape": Kind(["shape"], words_of("thing", dict.fromkeys(THINGS, 0.25)), (), "coarse"),
    },
    ("thing", "place", "size"),
)


def picture(thing: str, place: str, size: str, noise: int) -> np.ndarray:
    """A square of the thing's color in one half of the picture, with a little noise."""
    rng = np.random.default_rng([noise, len(thing)])
    pixels = np.full((SIDE, SIDE, 3), 230) + rng.integers(-9, 10, (SIDE, SIDE, 3))
    side, left = SIZES[size], PLACES[place]
    pixels[:side, left : left + side] = np.array(THINGS[thing]) + rng.integers(-9, 10, (side, side, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def shown(prompt: str) -> dict[str, str]:
    """thing, place and size of a prompt that says all of them."""
    found = {"thing": next((word for word in THINGS if word in prompt), "block")}
    found |= {"place": next((word for word in PLACES if word in prompt), "on the left")}
    return found | {"size": next((word for word in SIZES if word in prompt), "large")}


class Squares:
    """A source whose scenes are squares; nothing of it is held out but what is asked for as such."""

    table = TABLE

    def questions(self, count: int, seed: int) -> list[Asked]:
        prompts = ["shape", *THINGS, "block, small", "leaf, on the left", "drop, small, on the right"]
        return [self.asked(prompt) for prompt in prompts[:count]]

    def asked(self, prompt: str) -> Asked:
        thing, *words = prompt.split(", ")
        stated = {name: frozenset([word]) for word in words for name in ("place", "size") if word in self._words(name)}
        depth = "coarse" if thing == "shape" else "properties" if words else "thing"
        return Asked(prompt, depth, stated if thing == "shape" else stated | {"thing": frozenset([thing])})

    def _words(self, name: str) -> Sequence[str]:
        return [*(PLACES if name == "place" else SIZES)]

    def sample(self, asked: Asked, seeds: Sequence[int], trained: bool = False) -> Drawn:
        return self._drawn([TABLE.complete(asked.prompt, seed + 7_000_000) for seed in seeds], seeds)

    def training(self, count: int, seed: int) -> Drawn:
        prompts = [TABLE.complete(list(THINGS)[number % 4], 10_000 + number) for number in range(count)]
        return self._drawn(prompts, range(50_000, 50_000 + count))

    def held_out(self, count: int, seed: int) -> Drawn:
        prompts = [TABLE.complete(list(THINGS)[number % 4], 20_000 + number) for number in range(count)]
        return self._drawn(prompts, range(70_000 + 1000 * seed, 70_000 + 1000 * seed + count))

    def _drawn(self, prompts: Sequence[str], noises: Sequence[int]) -> Drawn:
        words = [shown(prompt) for prompt in prompts]
        pictures = np.stack([picture(**each, noise=noise) for each, noise in zip(words, noises, strict=True)])
        return Drawn(
            pictures, words, list(prompts), [(*each.items(), noise) for each, noise in zip(words, noises, strict=True)]
        )


class Pixels(Networks):
    """Networks without weights: the pixels themselves."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.device = torch.device("cpu")

    def forward(self, pictures: Tensor) -> Features:
        flat = pictures.float().flatten(1) / 255
        return Features({name: torch.nn.functional.avg_pool1d(flat, 8) for name in NAMES}, flat.half())


PLAN = Plan(prompts=8, each=16, repeats=2, training=120, training_each=8, held_out=32, teacher_steps=1)


@pytest.fixture(scope="module")
def measure() -> Measure:
    source = Squares()
    return Measure(source, source.questions(8, 0), PLAN, Pixels(), hashed_words)


@pytest.fixture(scope="module")
def real(measure: Measure) -> list[Figures]:
    return measure.real()


def the_data(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
    """A generator that draws exactly what it is asked for."""
    return np.stack([picture(**shown(text), noise=seed) for text, seed in zip(prompts, seeds, strict=True)])


def one_picture(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
    return np.stack([picture("block", "on the left", "large", 1)] * len(prompts))


def copier(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
    """A generator that gives training pictures."""
    pictures = Squares().training(120, 0).pictures
    return pictures[np.array(seeds) % 120]


def mean(figures: list[Figures], name: str) -> float:
    return float(np.mean([one[name] for one in figures]))


# ---- the whole table ---------------------------------------------------------------------------------------------


def test_a_student_that_is_the_data_is_at_the_floor(measure: Measure, real: list[Figures]) -> None:
    student, rows = measure.score(the_data, 1, TABLE, 2)
    assert rows.shape == (8, SEEDS, SIDE, SIDE, 3)
    assert measure.score(the_data, 1, TABLE, 1)[0] == student[:1] != student[1:]  # the same again, and other seeds
    for name in ("stated", "drawn", "stated_held_out"):
        assert mean(real, name) > 0.97 and mean(student, name) > 0.97
    for name in ("tv", "tv_within", "copies", "vendi", "recall"):
        assert mean(student, name) == pytest.approx(mean(real, name), abs=0.12), name
    for network in NAMES:
        floor = max(one[f"fd_{network}"] for one in real)
        assert mean(student, f"fd_{network}") < 2 * floor
        assert abs(mean(student, f"kid_{network}")) < 0.02


def test_a_student_of_one_picture_is_found_out(measure: Measure, real: list[Figures]) -> None:
    student, _ = measure.score(one_picture, 1, TABLE, 1)
    assert mean(student, "vendi") == pytest.approx(1, abs=1e-4) and mean(real, "vendi") > 1.02
    assert mean(student, "tv_within") > 0.35 > mean(real, "tv_within")
    assert student[0]["tv_of"]["place"] == pytest.approx(0.5, abs=0.1)
    assert student[0]["stated_of"]["thing"] < 0.35 and student[0]["drawn_of"]["place"] == pytest.approx(0.5, abs=0.15)
    assert mean(student, "kid_lite0") > 10 * abs(mean(real, "kid_lite0"))
    assert mean(student, "alignment") < mean(real, "alignment")


def test_copies_of_training_pictures_are_found(measure: Measure, real: list[Figures]) -> None:
    copies, _ = measure.score(copier, 1, TABLE, 1)
    assert mean(copies, "copies") == 1.0
    assert mean(real, "copies") < 0.3


def test_plain_prompts_are_drawn_as_they_are(measure: Measure) -> None:
    seen: list[str] = []

    def listening(prompts: Sequence[str], seeds: Sequence[int], steps: int) -> np.ndarray:
        seen.extend(prompts)
        return the_data(prompts, seeds, steps)

    figures, _ = measure.score(listening, 1, None, 1)
    typed = {one.prompt for one in measure.asked}
    assert set(seen) - set(measure.held_out.prompts) == typed
    assert "drawn" not in figures[0]
    assert figures[0]["tv_of"]["place"] > 0.4  # always on the left


def test_the_report_has_every_figure_beside_the_datas(measure: Measure, real: list[Figures]) -> None:
    student, _ = measure.score(the_data, 1, TABLE, 2)
    teacher, _ = measure.score(one_picture, 1, TABLE, 1)
    figures = arranged({"real": real, "teacher_1": teacher, "student_1": student})
    for name in ("fd_lite0", "kid_lite0", "fd_mobilenet_v2", "kid_mobilenet_v2", "precision", "recall"):
        for split in ("all", "held_out"):
            assert set(figures[name][split]) == {"real", "teacher_1", "student_1"}
    assert set(figures["vendi"]) == set(figures["tv_of"]["size"]) == {"real", "teacher_1", "student_1"}
    assert set(figures["intervals"]) == {"real", "student_1"}
    least, most = figures["intervals"]["student_1"]["fd_lite0"]
    assert least <= figures["fd_lite0"]["all"]["student_1"] <= most
    text = table(figures)
    assert "Vendi of 8 seeds" in text and "copies" in text and f"({least:.3f}-{most:.3f})" in text
    assert text.count("  place") == 4  # said, completing, and both distances


# ---- each figure -------------------------------------------------------------------------------------------------


def test_vendi_counts_different_seeds() -> None:
    alike, different = torch.ones(SEEDS, SEEDS), torch.eye(SEEDS)
    figures = vendi_within(torch.cat([alike, different]), 2, ["coarse", "thing"])
    assert figures == pytest.approx({"vendi": (1 + SEEDS) / 2, "vendi_coarse": 1, "vendi_thing": SEEDS})


def test_total_variation() -> None:
    half = np.array([5, 5, 0])
    assert total_variation(half, 3 * half) == 0
    assert total_variation(half, np.array([0, 0, 4])) == 1
    assert total_variation(half, np.array([10, 0, 0])) == 0.5


def test_frequencies_within_a_prompt_and_together() -> None:
    real = {"size": np.array([[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]])}
    fixed = {"size": np.array([[0, 0, 0, 0], [1, 1, 1, 1], [9, 9, 9, 9]])}
    together, apart = frequency_distances(real, fixed, [["size"], ["size"], []])
    assert together == {"size": 0.0} and apart == {"size": 0.5}
    assert frequency_distances(real, fixed, [[], [], []]) == ({}, {})


def test_open_is_what_differs_and_is_not_settled() -> None:
    asked = Asked("x", "thing", {"size": frozenset(["small"]), "group": frozenset(["a", "b"])})
    samples = [{"size": "small", "group": group, "tilt": "none", "place": place} for group in "ab" for place in "lr"]
    assert open_properties(asked, [*samples, {"rare": "1"}, {"rare": "2"}]) == ["group", "place"]


def blobs(count: int, seed: int) -> tuple[Tensor, list[dict[str, str]]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    x = rng.normal(size=(count, 40)) + 3 * np.eye(3, 40)[labels]
    return torch.from_numpy(x).half(), [{"kind": "abc"[label]} for label in labels]


def test_a_head_reads_what_it_learned_and_shuffled_labels_are_at_chance() -> None:
    (x, words), (fresh, truth) = blobs(300, 0), blobs(300, 1)
    wanted = [{"kind": frozenset([each["kind"]])} for each in truth]
    learned = Classifier(x, words)
    assert (share_right(learned.right(learned.read(fresh), wanted)) or 0) > 0.95
    order = np.random.default_rng(2).permutation(300)
    shuffled = Classifier(x, [words[row] for row in order])
    assert share_right(shuffled.right(shuffled.read(fresh), wanted)) == pytest.approx(1 / 3, abs=0.12)


def test_words_that_no_head_knows_are_not_counted() -> None:
    x, words = blobs(300, 0)
    words[0] = {"kind": "rare", "single": "one"}
    classifier = Classifier(x, words)
    assert set(classifier.heads) == {"kind"} and classifier.heads["kind"].words == ("a", "b", "c")
    read = {"kind": np.array([0, 0, 1])}
    wanted = [
        {"kind": frozenset(["a", "b"])},
        {"kind": frozenset(["rare"])},
        {"kind": frozenset(["c"]), "x": frozenset("y")},
    ]
    assert classifier.right(read, wanted) == {"kind": (1, 2)}
    assert share_right({}) is None


def test_copies_are_nearer_than_real_neighbours() -> None:
    rng = torch.Generator().manual_seed(0)
    training, real = torch.randn(200, 12, generator=rng), torch.randn(300, 12, generator=rng)
    copies = Copies(training, range(200), real, range(200, 500))
    assert copies.share(real) == pytest.approx(QUANTILE, abs=0.01)
    assert copies.share(training[:50] * 2) == 1.0  # directions count, not lengths
    again = Copies(training, range(200), torch.cat([real, training]), [*range(200, 500), *range(200)])
    assert again.threshold > 0.5 * copies.threshold  # equal scenes are no neighbours


def test_seeds_of_sets_never_meet() -> None:
    seeds = [seed for number in (0, 1, 2, 900, 901) for part in FULL.seeds(number) for seed in part]
    assert len(set(seeds)) == len(seeds) == 5 * FULL.n == 10_000
    assert set(seeds).isdisjoint(seed for part in replace(FULL, seed=1).seeds(0) for seed in part)


def test_too_few_pictures_are_told() -> None:
    with pytest.raises(UserError, match="--n: 700 pictures are too few, 800 are needed: 8 for each of 100 prompts"):
        Plan(each=7)
    assert QUICK.n == 256


def test_the_networks_see_pictures_as_they_are() -> None:
    networks = Networks()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    features = networks.of(pictures, "features")
    assert {name: tuple(found.shape) for name, found in features.pooled.items()} == {
        "lite0": (3, 1280),
        "mobilenet_v2": (3, 320),
    }
    turned = networks.of(np.ascontiguousarray(pictures[:, :, ::-1]), "features")
    assert (features.layout - turned.layout).abs().max() > 0.1  # left and right are told apart
    assert torch.isfinite(features.layout).all()
    assert torch.allclose(
        networks.of(pictures[:1], "features").pooled["lite0"], features.pooled["lite0"][:1], atol=1e-4
    )


def test_a_sheet_has_a_row_a_prompt_with_all_three_beside_each_other(tmp_path: Path) -> None:
    colors = {"real": (200, 10, 10), "student": (10, 10, 200)}
    rows = {who: np.full((2, SEEDS, 24, 24, 3), color, np.uint8) for who, color in colors.items()}
    write_sheet(tmp_path / "sheet.png", rows, ["a fox", "a goose"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for color in colors.values():
        assert (sheet == color).all(axis=2).sum() == 2 * SEEDS * 24 * 24
