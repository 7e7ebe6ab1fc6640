"""Quality figures on feature sets whose answers are known, and the shape of the report."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.errors import UserError
from train.evaluate import SHEET_PROMPTS, choose, find_subject, report
from train.metrics import FEATURES, Alignment, Lite0, frechet_distance, kernel_distance, precision_recall, vendi_score
from train.shards import Record


def features(count: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)) + shift


def test_frechet_distance_of_a_shift_is_its_squared_length() -> None:
    real = features(64)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-2)
    assert frechet_distance(real, real + 0.5) == pytest.approx(FEATURES * 0.25, rel=1e-2)


def test_kernel_distance_grows_with_the_shift() -> None:
    real = features(120)
    near, far = (kernel_distance(real, features(120, shift, seed=1)) for shift in (0.0, 0.5))
    assert abs(near) < far / 10


def test_precision_and_recall_see_what_is_missing() -> None:
    real = torch.cat([features(40), features(40, 50.0, seed=1)])
    one_mode = features(80, seed=2)
    precision, recall = precision_recall(real, real[:40])
    assert precision == 1.0 and recall == pytest.approx(0.5)
    assert precision_recall(one_mode, one_mode + 500)[0] == 0.0


def test_vendi_counts_different_pictures() -> None:
    assert vendi_score(torch.ones(8, 16)) == pytest.approx(1)
    assert vendi_score(torch.eye(8)) == pytest.approx(8)
    assert vendi_score(torch.eye(4).repeat(2, 1)) == pytest.approx(4)


def test_alignment_prefers_the_right_captions() -> None:
    texts = torch.nn.functional.normalize(torch.randn(200, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    pictures = texts @ torch.randn(384, FEATURES, generator=torch.Generator().manual_seed(1))
    alignment = Alignment(pictures, texts, ridge=1e-3)
    assert alignment(pictures, texts) > 0.9 > alignment(pictures, texts.roll(1, 0)) + 0.5


def test_lite0_features_have_the_published_width_and_tell_pictures_apart() -> None:
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    pictures[1, 16:48, 16:48] = (255, 0, 0)
    found = Lite0().of(pictures)
    assert found.shape == (2, FEATURES)
    assert (found[0] - found[1]).abs().max() > 0.01


class FakeEvaluation:
    """Scores that are known, for the shape of the report."""

    prompts = {"all": ["a", "b"], "held_out": ["c"]}

    def score(self, generate: object, steps: int, within: int = 0) -> dict[str, object]:
        figures = {"fd_lite0": float(steps), "kid_lite0": 0.1, "precision": 0.5, "recall": 0.4, "alignment": 0.3}
        return {"all": figures, "held_out": figures} | ({"vendi": 2.0} if within else {})


def test_the_report_has_the_contracts_keys() -> None:
    found = report(FakeEvaluation(), None, None, [1, 2, 4])  # type: ignore[arg-type]
    assert found["fd_lite0"]["all"] == {"teacher_50": 50.0, "student_1": 1.0, "student_2": 2.0, "student_4": 4.0}
    assert found["kid_lite0"].keys() == {"all", "held_out"}
    assert found["vendi"] == {"teacher_50": 2.0, "student_1": 2.0}
    assert found["alignment"].keys() == found["fd_lite0"]["all"].keys()
    assert found["n"] == {"all": 2, "held_out": 1}


def test_chosen_pictures_are_spread_over_the_split() -> None:
    records = [Record(str(i), (f"caption {i}",), "", str(i), "", 1.0) for i in range(10)]
    captions, pictures = choose(records, np.arange(10), 3)
    assert captions == ["caption 0", "caption 4", "caption 9"] and pictures.tolist() == [0, 4, 9]
    assert len(choose(records, np.arange(10), 99)[0]) == 10


def test_the_sheet_is_sixteen_subjects_in_two_styles() -> None:
    assert len(SHEET_PROMPTS) == len(set(SHEET_PROMPTS)) == 32


def test_a_missing_subject_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="no diffusers pipeline"):
        find_subject("/nonexistent")
