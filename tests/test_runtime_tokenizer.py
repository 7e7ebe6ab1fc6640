"""The tokenizer against transformers' CLIPTokenizerFast, and its own promises."""

from __future__ import annotations

import json
import random
import tracemalloc
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizerFast

from runtime import BundleError
from runtime.tokenizer import Tokenizer, _composed
from scripts.golden_cases import PIECES
from tests.support.counting import lines_run, reading_at_most

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "full": ROOT / "runtime" / "bundles" / "sticker-128" / "tokenizer",
    "tiny": ROOT / "tests" / "golden" / "tiny_bundle" / "tokenizer",
}
REFERENCES = {name: CLIPTokenizerFast.from_pretrained(folder) for name, folder in FOLDERS.items()}
OURS = {name: Tokenizer.from_folder(folder) for name, folder in FOLDERS.items()}
FULL = OURS["full"]
# Characters in this Python's database: the reference may know newer ones.
ASSIGNED = st.characters(exclude_categories=["Cn", "Cs", "Co"])
EMOJI = ["👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷🇯", "👍🏽👍🏿", "1️⃣#️⃣", "❤️‍🔥", "🧑🏻‍🚀", "\U000e0067\U000e007f"]
SCRIPTS = [
    "שלום עולם", "مرحبا بالعالم", "\u202eabc\u202c", "\u2067x\u2069", "۱۲۳", "नमस्ते", "ไทย", "한국어", "漢字かな",
]  # fmt: skip
COMPOSED = ["é", "e\u0301", "ﬁ", "İ", "ǅ", "ΑΣ ΣΑΣ", "ẞ", "\u212b", "\u1e9e", "가\u11a8", "\u0344", "ſt", "Ǆ"]
MARKS = ["'s", "'RE", "don't", "'", "''ll", "<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "<|", "|>", "</w>"]
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


def nasty_texts(seed: int, count: int) -> list[str]:
    """Texts of pieces that tokenizers stumble over, mixed with any characters that this Python's database knows."""
    draw = random.Random(seed)
    known = [i for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
    rare: dict[str, list[int]] = {}
    for i in known:
        rare.setdefault(unicodedata.category(chr(i)), []).append(i)

    def piece() -> str:
        kind = draw.randrange(12)
        if kind == 0:  # a letter under a pile of marks
            return draw.choice("aeoỳкא") + "".join(chr(draw.choice(rare["Mn"])) for _ in range(draw.randint(1, 12)))
        if kind == 1:  # families, flags, skin tones, keycaps
            return draw.choice(EMOJI)
        if kind == 2:
            return draw.choice(SCRIPTS)
        if kind == 3:  # control and format characters, and what looks like a space
            return chr(draw.choice([*range(32), *range(0x7F, 0xA1), *rare["Cf"], *rare["Zs"], 0x2028, 0x2029]))
        if kind == 4:
            return "".join(draw.choice("abcxyzÀßéＡ１ŉ") for _ in range(draw.choice([3, 10, 200])))
        if kind == 5:  # composed and decomposed, and characters that lower case makes longer
            return draw.choice(COMPOSED)
        if kind == 6:
            return draw.choice(MARKS)
        if kind == 7:
            return draw.choice(PIECES)
        if kind == 8:  # beyond the first plane: pairs of surrogates in UTF-16
            return chr(draw.choice([i for i in (draw.choice(known) for _ in range(20)) if i > 0xFFFF] or [0x1F600]))
        if kind == 9:
            return chr(draw.choice(rare[draw.choice(list(rare))]))
        if kind == 10:
            return draw.choice('!?.,;:-_()[]{}@#$%^&*+=~`/\\"') * draw.randint(1, 9) + draw.choice(["", "7", "x"])
        return draw.choice(["fox", "3d style", "a red", "Pizza", " ", "  ", "\t", "\n"])

    return ["".join(piece() for _ in range(draw.randint(1, 10))) for _ in range(count)]


def check_ten_thousand(seed: int) -> None:
    texts = nasty_texts(seed, 10_000)
    assert len(set(texts)) > 9_000
    for start in range(0, len(texts), 500):
        rows = texts[start : start + 500]
        encoded = REFERENCES["full"](rows, padding="max_length", truncation=True, max_length=77).input_ids
        for text, ids in zip(rows, encoded, strict=True):
            assert FULL.encode(text).ids.tolist() == ids, ascii(text)


def test_ten_thousand_nasty_texts() -> None:
    check_ten_thousand(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_hundred_thousand_nasty_texts(seed: int) -> None:
    check_ten_thousand(seed)


def test_every_mark_is_composed_and_moved_as_in_the_reference() -> None:
    normalize = REFERENCES["full"].backend_tokenizer.normalizer.normalize_str
    marks = [chr(i) for i in range(0x110000) if unicodedata.combining(chr(i))]
    others = ["\u0301", "\u0334", "\u0323", "\u093c", "\u094d", "\u05b0", "\u0345", "\u1dfa", "\U00011930"]
    cases = [text for mark in marks for other in others for text in (f"e{mark}{other}", f"e{other}{mark}")]
    assert len(marks) > 900
    for text in [*cases, "\U00011935\U00011930", "\U00011938"]:
        assert "".join(one.lower() for one in _composed(text)) == normalize(text), ascii(text)


def renumbered(tmp_path: Path, **changes: Any) -> Path:
    """The tiny tokenizer with changed ids, as its folder."""
    for path in FOLDERS["tiny"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, **changes}), encoding="utf-8")
    return tmp_path


def test_ids_in_any_order_are_looked_up(tmp_path: Path) -> None:
    ids = json.loads((FOLDERS["tiny"] / "vocab.json").read_text(encoding="utf-8"))
    mixed = dict(zip(ids, random.Random(1).sample(sorted(ids.values()), len(ids)), strict=True))
    folder = renumbered(tmp_path, **mixed)
    ours, reference = Tokenizer.from_folder(folder), CLIPTokenizerFast.from_pretrained(folder)
    for text in nasty_texts(2, 500):
        ids_there = reference(text, padding="max_length", truncation=True, max_length=77).input_ids
        pad, end = reference.pad_token_id, mixed["<|endoftext|>"]
        assert ours.encode(text).ids.tolist() == [end if i == pad else i for i in ids_there], ascii(text)


def test_clips_own_files_take_little_memory() -> None:
    tracemalloc.start()
    tokenizer = Tokenizer.from_folder(FOLDERS["full"])
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2_000_000 and most < 8_000_000
    assert tokenizer.encode("a photo of a cat").ids.tolist() == expected("full", "a photo of a cat")


def test_clips_own_files_are_known_by_their_hash_and_pass_the_examination_too(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((FOLDERS["full"] / name).read_bytes() + b"\n")  # another hash
    examined = Tokenizer.from_folder(tmp_path)
    assert examined._vocabulary._counted and FULL._vocabulary._counted
    for text in nasty_texts(3, 200):
        assert examined.encode(text).ids.tolist() == FULL.encode(text).ids.tolist()


@pytest.mark.parametrize("value", [-1, 2**31, 1.0, True, None, "3", [1], 5], ids=repr)
def test_ids_that_are_none_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BundleError, match="vocab.json") as error:
        Tokenizer.from_folder(renumbered(tmp_path, a=value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ab", "'ab'"),
        ("a b c", "'a b c'"),
        (" a", "' a'"),
        ("a nowhere", "nowhere"),
        ("x" * 10**6, "xxx"),
        ("\udcff x", "xff"),
    ],
    ids=["no space", "three", "empty", "unknown", "long", "no text"],
)
def test_merges_that_are_none_are_refused(tmp_path: Path, line: str, why: str) -> None:
    folder = renumbered(tmp_path)
    with open(folder / "merges.txt", "ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(BundleError, match=f"merge 401 is .*{why}") as error:
        Tokenizer.from_folder(folder)
    assert len(str(error.value)) < 500 and str(error.value).isprintable()


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    folder = renumbered(tmp_path)
    with open(folder / "merges.txt", "ab") as file:
        file.truncate(10**10)
    with reading_at_most(10**7), pytest.raises(BundleError, match="10000000000 bytes"):
        Tokenizer.from_folder(folder)


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    folder = renumbered(tmp_path)
    merges = (folder / "merges.txt").read_bytes()
    (folder / "merges.txt").write_bytes(merges.replace(b"\n", b"\r\n"))
    found = Tokenizer.from_folder(folder).encode("a red fox, 3d style")
    assert (found.ids == OURS["tiny"].encode("a red fox, 3d style").ids).all()


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


def test_ten_thousand_characters_are_dropped_by_name() -> None:
    (word,) = FULL.encode("abcdefghij" * 1000).dropped_words
    assert len(word) == 10_000
    assert len(FULL.encode("quick brown fox " * 625).dropped_words) == 1875 - 75


@pytest.mark.parametrize("words", ["abcdefghij", "quick brown fox "])
def test_twice_the_text_is_twice_the_work(words: str) -> None:
    once, twice = (lines_run(partial(FULL.encode, words * count)) for count in (500, 1000))
    assert twice < 2.5 * once


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
