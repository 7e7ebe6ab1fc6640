"""vocab.json and merges.txt in little memory: the merges stay the file's bytes and are found by their hash."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import BundleError
from runtime.untrusted import read_inside, read_json, shown

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
MOST_BYTES = 16_000_000  # of either file; CLIP's have 0.9 and 0.5 MB
MAX_TOKENS = 77  # that every CLIP text encoder of the field reads, start and end marks included
MOST_ID = 2_000_000
# CLIP's own two files (49,408 tokens), as every bundle of a CLIP-shaped model carries them: nothing to examine.
CLIP_SHA256 = "57456412fe5babad570170d7010fceae7a10bca0efb284bc542ee6152958b2f9"  # of vocab.json + merges.txt
LETTERS = 256
_REMEMBERED = 2048  # pairs
_WINDOW, _ODD = 8, 0x9E3779B97F4A7C15  # bytes in a key's half; an odd number spreads the bits (Knuth)

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def alphabet() -> list[str]:
    """Each byte's printable stand-in (Radford et al. 2019): Latin-1 where that prints, else from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(LETTERS)]


def letters_in_order() -> list[str]:
    """The alphabet as CLIP numbers it, 0 to 255: the bytes that print first."""
    stand_ins = alphabet()
    printable = [byte for byte in range(LETTERS) if stand_ins[byte] == chr(byte)]
    return [stand_ins[byte] for byte in printable] + [letter for letter in stand_ins if ord(letter) >= LETTERS]


class Merges:
    """The ranks of "left right" lines, best first. A repeated line has its last rank."""

    def __init__(self, data: bytes) -> None:
        """`data`: merges.txt; its lines that are empty or start with #version do not count.

        Besides the text, 16 bytes per merge are kept: its key, its place in the text and its rank.
        """
        self._text = data.replace(b"\r\n", b"\n") + b"\n"
        ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        first, last = _windows(self._text, starts, ends)
        kept = (ends > starts) & (first != int.from_bytes(b"#version", "little"))
        keys = (first * np.uint64(_ODD) ^ last)[kept]
        order = np.argsort(keys, kind="stable")
        self._keys = array("Q", keys[order].tobytes())
        self._order = array("I", order.astype(np.uint32).tobytes())
        self._starts = array("I", starts[kept].astype(np.uint32).tobytes())
        self.rank = lru_cache(_REMEMBERED)(self._rank)  # texts repeat the pairs of their letters

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[bytes]:
        for start in self._starts:
            yield self._text[start : self._text.index(b"\n", start)]

    def _rank(self, left: str, right: str) -> int | None:
        """The rank of joining two neighbours; None when they are not joined."""
        line = f"{left} {right}".encode()
        key, found = _key(line), None
        place = bisect_left(self._keys, key)
        while place < len(self._keys) and self._keys[place] == key:  # few lines share a key
            rank = self._order[place]
            if self._text.startswith(line + b"\n", self._starts[rank]):
                found = rank
            place += 1
        return found


def _key(line: bytes) -> int:
    """64 bits of a line: its first eight bytes, mixed with its last eight where it has as many."""
    last = int.from_bytes(line[-_WINDOW:], "little") if len(line) >= _WINDOW else 0
    return (int.from_bytes(line[:_WINDOW], "little") * _ODD & (1 << 64) - 1) ^ last


def _windows(text: bytes, starts: I64, ends: I64) -> tuple[U64, U64]:
    """The parts of `_key` for many lines at once: u64[lines] of first and of last bytes."""
    padded = bytes(_WINDOW) + text + bytes(_WINDOW)
    views = np.ndarray((len(padded) - _WINDOW + 1,), "<u8", padded, strides=(1,))  # eight bytes from every place
    sizes = ends - starts
    masks = np.array([(1 << 8 * n) - 1 for n in range(_WINDOW + 1)], np.uint64)
    first = views[starts + _WINDOW] & masks[np.minimum(sizes, _WINDOW)]
    return first, np.where(sizes >= _WINDOW, views[ends], np.uint64(0))


class Vocabulary:
    """Ids of tokens: counted where they are numbered as CLIP does (letters, then the merges), else looked up."""

    def __init__(self, start: int, end: int, ids: Mapping[str, int] | None) -> None:
        """`ids`: token -> id, None for CLIP's numbering."""
        self.start, self.end = start, end
        self._ids = dict(zip(_tokens_without_merges(), range(2 * LETTERS), strict=True)) if ids is None else ids
        self._counted = ids is None

    def find(self, token: str) -> int | None:
        """The id of a mark or a letter, or of any token of a vocabulary that is not numbered as CLIP's; else None."""
        marks = {START: self.start, END: self.end}
        return marks[token] if token in marks else self._ids.get(token)

    def id(self, token: str, rank: int | None) -> int:
        """The id of a token, which a merge of this rank made, if one did; an unknown token's is the end mark's."""
        if self._counted and rank is not None:
            return 2 * LETTERS + rank
        return self._ids.get(token, self.end)


def read(folder: str | Path) -> tuple[Vocabulary, Merges]:
    """Reads a folder's vocab.json and merges.txt; BundleError when they are not in CLIP's form."""
    vocab, merges = _bytes(folder, "vocab.json"), _bytes(folder, "merges.txt")
    table = Merges(merges)
    digest = hashlib.sha256(vocab)
    digest.update(merges)
    if digest.hexdigest() == CLIP_SHA256:
        marks = 2 * LETTERS + len(table)
        return Vocabulary(marks, marks + 1, None), table
    ids = _checked_ids(Path(folder, "vocab.json"), vocab)
    lines = _checked_merges(Path(folder, "merges.txt"), table, ids)
    return Vocabulary(ids[START], ids[END], None if _numbered_as_clip(ids, lines) else ids), table


def _bytes(folder: str | Path, name: str) -> bytes:
    try:
        return read_inside(folder, name, MOST_BYTES)
    except OSError as error:
        raise BundleError(f"cannot read the tokenizer in {folder}: {error}") from error


def _checked_ids(path: Path, data: bytes) -> dict[str, int]:
    """The parsed vocabulary: texts to different whole numbers, both marks among them."""
    try:
        ids = read_json(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"cannot read the tokenizer in {path.parent}: {path.name}: {shown(error)}") from error
    if not isinstance(ids, dict) or START not in ids or END not in ids:
        raise BundleError(f"{path} is not a CLIP vocabulary: it lacks {START} or {END}")
    wrong = [token for token, i in ids.items() if type(i) is not int or not 0 <= i <= MOST_ID]
    if wrong:
        what = f"{shown(repr(wrong[0]))} has the id {shown(repr(ids[wrong[0]]))}"
        raise BundleError(f"{path}: {what}; whole numbers from 0 to {MOST_ID} are allowed")
    if len(set(ids.values())) != len(ids):
        raise BundleError(f"{path}: two tokens have one id")
    return ids


def _checked_merges(path: Path, lines: Iterable[bytes], ids: Mapping[str, Any]) -> list[str]:
    """The tokens that they make. Each line is two known tokens; BundleError names the first that is not."""
    made = []
    for number, line in enumerate(lines, start=1):
        parts = line.decode("utf-8", "replace").split(" ")
        if len(parts) != 2 or not all(part in ids for part in (*parts, "".join(parts))):
            why = "two tokens of vocab.json that make a third are needed"
            raise BundleError(f"{path}: merge {number} is {shown(ascii(line)[1:])}: {why}")
        made.append("".join(parts))
    return made


def _numbered_as_clip(ids: Mapping[str, int], made: Sequence[str]) -> bool:
    """Whether the ids are 256 letters, the same ending a word, one per merge, and the two marks, in this order."""
    tokens = [*_tokens_without_merges(), *made, START, END]
    return len(ids) == len(tokens) and all(ids.get(token) == i for i, token in enumerate(tokens))


def _tokens_without_merges() -> list[str]:
    letters = letters_in_order()
    return letters + [letter + END_OF_WORD for letter in letters]
