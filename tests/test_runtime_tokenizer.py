"""The tokenizer against transformers' CLIPTokenizerFast, and its own promises."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizerFast

from export.golden_cases import PIECES
from runtime import BundleError
from runtime.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "full": ROOT / "runtime" / "bundles" / "sticker-128" / "tokenizer",
    "tiny": ROOT / "tests" / "golden" / "tiny_bundle" / "tokenizer",
}
REFERENCES = {name: CLIPTokenizerFast.from_pretrained(folder) for name, folder in FOLDERS.items()}
OURS = {name: Tokenizer.from_folder(folder) for name, folder in FOLDERS.items()}
FULL = OURS["full"]
# Characters that this Python's database knows: the reference may know newer ones.
ASSIGNED = st.characters(exclude_categories=["Cn", "Cs", "Co"])
TEXTS = st.one_of(
    st.text(ASSIGNED, max_size=80),
    st.text(st.characters(min_codepoint=0, max_codepoint=0x24F, exclude_categories=["Cn"]), max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
)


def expected(name: str, text: str, max_tokens: int = 77) -> list[int]:
    reference = REFERENCES[name]
    return list(reference(text, padding="max_length", truncation=True, max_length=max_tokens).input_ids)


@pytest.mark.parametrize("name", FOLDERS)
@given(text=TEXTS)
@settings(max_examples=600, deadline=None)
def test_any_text(name: str, text: str) -> None:
    assert OURS[name].encode(text).ids.tolist() == expected(name, text)


@given(text=TEXTS, max_tokens=st.integers(3, 100))
@settings(max_examples=100, deadline=None)
def test_any_length(text: str, max_tokens: int) -> None:
    assert FULL.encode(text, max_tokens).ids.tolist() == expected("full", text, max_tokens)


def test_every_assigned_character_between_letters() -> None:
    known = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
    rows = ["".join(f"a{one}b " for one in known[i : i + 500]) for i in range(0, len(known), 500)]
    encoded = REFERENCES["full"](rows, truncation=False).input_ids
    for row, ids in zip(rows, encoded, strict=True):
        found = FULL.encode(row, len(ids))
        assert found.ids.tolist() == ids and not found.dropped_words


def test_an_encoding_is_marks_tokens_marks() -> None:
    ids = FULL.encode("a photo of a cat").ids
    assert ids.dtype.name == "int64" and ids.shape == (77,)
    assert ids[:7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407] and set(ids[7:]) == {49407}


def test_dropped_words_are_named_as_typed() -> None:
    assert FULL.encode("the " * 75).dropped_words == ()
    assert FULL.encode("the " * 75 + "Fox, JUMPS!").dropped_words == ("Fox,", "JUMPS!")
    assert FULL.encode("the " * 73 + "pizza over\u00a0Lunch").dropped_words == ("Lunch",)


def test_a_word_that_fits_in_part_is_dropped() -> None:
    assert FULL.encode("the " * 74 + "fox!").dropped_words == ("fox!",)


def test_ten_thousand_characters_take_no_time() -> None:
    start = time.perf_counter()
    (word,) = FULL.encode("abcdefghij" * 1000).dropped_words
    assert len(word) == 10_000
    assert len(FULL.encode("quick brown fox " * 625).dropped_words) == 1875 - 75
    assert time.perf_counter() - start < 2


def test_one_long_word_is_encoded_whole_before_it_is_cut() -> None:
    text = "thequickbrownfox" * 60
    assert FULL.encode(text).ids.tolist() == expected("full", text)


def test_the_other_separators_of_python_are_no_spaces() -> None:
    assert FULL.encode("a\x1cb").ids.tolist() == expected("full", "a\x1cb") != expected("full", "a b")


def test_greek_and_turkish_are_lowered_letter_by_letter() -> None:
    for text in ("ΟΔΟΣ", "İSTANBUL", "IŞIK"):
        assert FULL.encode(text).ids.tolist() == expected("full", text)
    assert (FULL.encode("ΟΔΟΣ").ids == FULL.encode("οδοσ").ids).all()


def test_bytes_that_were_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        FULL.encode("fox \udcff")


@pytest.mark.parametrize(
    ("name", "content"),
    [("vocab.json", b"{"), ("vocab.json", b"[1]"), ("vocab.json", b'{"a": 0}'), ("merges.txt", b"\xff\xfe")],
)
def test_a_broken_folder_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    for path in FOLDERS["tiny"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=str(tmp_path)):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=name):
        Tokenizer.from_folder(tmp_path)
