"""Prompts for calibrating and comparing exports: where they come from, and that they are the ones drawn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from export.checks.prompts import EVERYDAY, prompts_for
from export.checks.reference import Reference
from export.layers import calibration
from export.locate import locate
from export.source import open_source
from runtime.errors import UserError
from tests.support.tiny import small_checkpoint


def test_prompts_are_given_or_the_checkpoints_own_or_everyday(tmp_path: Path) -> None:
    assert prompts_for(tmp_path).origin == "everyday"
    (tmp_path / "prompts.txt").write_text("".join(f"own {number}\n" for number in range(9)))
    own = prompts_for(tmp_path)
    assert own.origin == "checkpoint" and own.compared == ("own 0", "own 1", "own 2", "own 3")
    assert own.calibration == ("own 4", "own 5", "own 6", "own 7", "own 8", "")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    few = prompts_for(tmp_path, tmp_path / "few.txt")
    assert few.origin == "given" and few.compared == ("one", "two") and few.calibration == ("one", "two", "")
    with pytest.raises(UserError, match="none.txt: No such file"):
        open_source(str(small_checkpoint()), tmp_path / "none.txt")


def test_everyday_sentences_are_many_and_of_every_length() -> None:
    lengths = [len(text.split()) for text in EVERYDAY]
    assert len(EVERYDAY) == len(set(EVERYDAY)) == 40 and min(lengths) == 1 and max(lengths) > 12
    assert sum(bool(re.search(r"[,;&'-]", text)) for text in EVERYDAY) >= 10


def test_the_shipped_model_is_compared_with_its_own_prompts() -> None:
    """The same as in every earlier version, so that figures can be compared with older ones."""
    found = prompts_for(locate("sticker-128"))
    assert found.compared[1:] == ("pepperoni pizza", "a smiling cat with heart eyes, flat style", "rocket")
    assert len(found.calibration) == 32 and found.calibration[0] == found.compared[0] == "a red fox, 3d style"


def test_calibration_and_comparison_draw_the_prompts_that_were_given(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("the red fox\nthe cat\n")
    source = open_source(str(small_checkpoint()), tmp_path / "p.txt")
    made = Reference(source)
    np.testing.assert_array_equal(made.ids, source.encode(["the red fox", "the cat"]))
    assert len(made.noise) == 2 and made.notes == {"prompts": "given"}
    ((ids, _),) = calibration(source, 4, 4)
    np.testing.assert_array_equal(ids.numpy(), source.encode(["the red fox", "the cat", "", "the red fox"]))
