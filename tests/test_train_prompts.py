"""Lists of prompts: files of them, samples of captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UserError
from train.prompts import prompts_text, read_prompts, repeated, sample_prompts


def test_a_file_of_prompts_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(prompts_text(["a red disc", "a  disc\nin two lines", "東京の猫"]), encoding="utf-8")
    assert read_prompts(path) == ("a red disc", "a disc in two lines", "東京の猫")
    path.write_bytes("\ufeffa\r\n\r\n  b, c! \r\n".encode())  # as editors on Windows write it
    assert read_prompts(path) == ("a", "b, c!")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no prompts in it"), (b"\n \n", "no prompts in it"), (b"\xff\xfe\x00", "not UTF-8 text")],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_prompts(tmp_path / "x.txt")
    with pytest.raises(UserError, match="y.txt: No such file or directory; give a text file"):
        read_prompts(tmp_path / "y.txt")


def test_a_sample_is_of_different_captions_and_does_not_depend_on_their_order() -> None:
    captions = [f"caption {number % 50}" for number in range(200)] + ["", " "]
    chosen = sample_prompts(captions, 20)
    assert len(chosen) == len(set(chosen)) == 20 and set(chosen) <= set(captions)
    assert chosen == sample_prompts(reversed(captions), 20) != sample_prompts(captions, 20, seed=1)
    assert sorted(sample_prompts(["b", "a", "a"], 20)) == ["a", "b"] and sample_prompts([]) == []
    assert repeated(["a", "b"], 5) == ["a", "b", "a", "b", "a"]
