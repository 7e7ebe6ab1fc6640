"""The retrieval scorer: what it learns from real pictures, and what its figures mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.errors import UserError
from train.evaluate.retrieval import Remembered, RetrievalScorer, hashed_words, text_embedder

torch.set_num_threads(1)
COLOURS, SHAPES, SIZES = (
    ["red", "green", "blue", "white", "black", "brown"],
    ["disc", "square", "star", "ring", "cross"],
    ["tiny", "small", "large", "huge"],
)
CAPTIONS = [f"{size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]


def pictured(captions: Sequence[str], noise: float = 0.3, seed: int = 1) -> Tensor:
    """Features f32[N, 96] that tell a caption's words, mixed and noisy."""
    words = torch.from_numpy(hashed_words(captions))
    mixing = torch.randn(words.shape[1], 96, generator=torch.Generator().manual_seed(0))
    return words @ mixing + noise * torch.randn(len(captions), 96, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scorer() -> RetrievalScorer:
    """Fitted without any of the blue stars."""
    captions = [caption for caption in CAPTIONS if "blue star" not in caption] * 2
    return RetrievalScorer(pictured(captions), captions, hashed_words, max_steps=150)


def test_it_finds_the_own_prompt_also_of_new_pictures_and_new_captions(scorer: RetrievalScorer) -> None:
    found = scorer.figures(pictured(CAPTIONS, seed=2), CAPTIONS)
    assert found["retrieval_at_1"] > 0.5 and found["retrieval_at_5"] > 0.9 and found["alignment"] > 0.5
    unseen = [caption for caption in CAPTIONS if "blue star" in caption]
    cosines = scorer.cosines(pictured(unseen, seed=2), CAPTIONS)
    own = torch.tensor([CAPTIONS.index(caption) for caption in unseen])
    better = (cosines > cosines.gather(1, own[:, None])).sum(dim=1)
    assert (better < 12).all(), better  # in the first tenth of 120


def test_wrong_pictures_score_at_chance(scorer: RetrievalScorer) -> None:
    wrong = scorer.figures(pictured(CAPTIONS[::-1], seed=2), CAPTIONS)
    right = scorer.figures(pictured(CAPTIONS, seed=2), CAPTIONS)
    assert wrong["retrieval_at_1"] < 0.05 and wrong["alignment"] < right["alignment"] - 0.3


def test_one_picture_for_every_prompt_gains_nothing(scorer: RetrievalScorer) -> None:
    collapsed = scorer.figures(torch.zeros(len(CAPTIONS), 96) + pictured(["red disc"]), CAPTIONS)
    assert collapsed["retrieval_at_1"] == pytest.approx(1 / len(CAPTIONS))
    assert collapsed["retrieval_at_5"] == pytest.approx(5 / len(CAPTIONS), abs=1 / len(CAPTIONS))


def test_the_same_seed_gives_the_same_scorer_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    made = [RetrievalScorer(pictured(CAPTIONS), CAPTIONS, hashed_words, seed=seed, max_steps=20) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(2), expected)
    first, again, other = (scorer.cosines(pictured(CAPTIONS[:4]), CAPTIONS[:4]) for scorer in made)
    assert torch.equal(first, again) and not torch.equal(first, other)


class Known(RetrievalScorer):
    """Cosines that are given."""

    def __init__(self, cosines: list[list[float]]) -> None:
        self.given = torch.tensor(cosines)

    def cosines(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prompts) == self.given.shape[1]
        return self.given


def test_ranks_are_among_the_distinct_prompts_and_ties_count_against_the_picture() -> None:
    prompts = ["a", "b", "a"]  # two distinct ones
    found = Known([[0.9, 0.1], [0.2, 0.2], [0.1, 0.3]]).figures(torch.zeros(3, 1), prompts)
    assert found["retrieval_at_1"] == pytest.approx(1 / 3)  # the second is a tie, the third comes second
    assert found["retrieval_at_5"] == 1.0
    assert found["alignment"] == pytest.approx((0.9 + 0.2 + 0.1) / 3)


def test_a_validation_group_is_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from train.evaluate import retrieval

    seen: set[int] = set()
    step = retrieval._Fit._step

    def spy(self: retrieval._Fit, index: Tensor) -> None:
        seen.update(index.tolist())
        step(self, index)

    monkeypatch.setattr(retrieval._Fit, "_step", spy)
    groups = [caption.rpartition(" ")[0] for caption in CAPTIONS]  # 24 of them, five shapes each
    RetrievalScorer(pictured(CAPTIONS), CAPTIONS, hashed_words, groups, max_steps=20)
    assert len(seen) == len(CAPTIONS) - 2 * 5
    assert {groups[i] for i in seen}.isdisjoint({groups[i] for i in range(len(groups)) if i not in seen})


def test_too_few_captions_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="at least 4 different captions, but there are 2"):
        RetrievalScorer(torch.rand(6, 8), ["a", "b"] * 3, hashed_words)


def test_a_bag_of_words_has_unit_length_and_no_order() -> None:
    bags = hashed_words(["a red fox", "Fox, red: a", "a pizza", ""])
    assert np.linalg.norm(bags, axis=1) == pytest.approx([1, 1, 1, 0])
    assert np.array_equal(bags[0], bags[1]) and bags[0] @ bags[2] < 0.9


def test_every_text_is_embedded_once() -> None:
    asked: list[list[str]] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.append(list(texts))
        return hashed_words(texts)

    texts = Remembered(embed)
    texts(["a", "b", "a"])
    assert texts(["b", "c"]).shape == (2, 512) and asked == [["a", "b"], ["c"]]
    assert torch.equal(texts(["c"])[0], torch.from_numpy(hashed_words(["c"])[0]))


def test_without_minilm_the_error_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import train.minilm

    def fail(texts: Sequence[str], dtype: torch.dtype) -> np.ndarray:
        raise UserError("no network")

    monkeypatch.setattr(train.minilm, "embed", fail)
    with pytest.raises(UserError, match="no network.*--text-embedder words"):
        text_embedder("minilm")(["a"])
