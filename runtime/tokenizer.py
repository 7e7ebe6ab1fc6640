"""CLIP's byte-pair encoding, id for id as transformers' CLIPTokenizerFast, from vocab.json and merges.txt."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.vocabulary import END, END_OF_WORD, START, Merges, Vocabulary, alphabet, read

_MARKS = re.compile("(" + re.escape(START) + "|" + re.escape(END) + ")")
# Unicode's White_Space. `str.split` would also split at U+001C..U+001F, which CLIP keeps.
_SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# CLIP's pattern, on a word whose characters beyond ASCII became A (letters), 0 (numbers) or ~ (the rest).
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-zA]+|[0-9]|[^a-zA0-9]+")
_STAND_IN = {"L": "A", "N": "0"}


@dataclass(frozen=True)
class Encoding:
    """A prompt as the text encoder reads it.

    ids: i64[max_tokens], start mark, tokens, end mark, then end marks as padding.
    dropped_words: the prompt's words that did not fit, wholly or in part, as they were typed.
    """

    ids: npt.NDArray[np.int64]
    dropped_words: tuple[str, ...]


class Tokenizer:
    """CLIP's tokenizer: NFC, lower case, words, then byte pairs by rank. Safe to use from many threads.

    The reference is transformers' CLIPTokenizerFast, because what it returns does not depend on which other
    packages are installed (the slow tokenizer cleans text with ftfy where that is there).
    """

    def __init__(self, vocabulary: Vocabulary, merges: Merges) -> None:
        self._vocabulary, self._merges = vocabulary, merges

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Reads a folder's vocab.json and merges.txt; BundleError when they are not in CLIP's form."""
        return cls(*read(folder))

    def encode(self, text: str, max_tokens: int = 77) -> Encoding:
        """`text` -> Encoding of `max_tokens` ids; what does not fit is dropped from the end and named.

        Raises ValueError when the text holds lone surrogates (bytes that were no UTF-8).
        """
        room = max_tokens - 2
        words = [word for word in _SPACES.split(text) if word]
        tokens: list[int] = []
        kept = 0
        for word in words:
            tokens += self._word(word)
            if len(tokens) > room:
                break
            kept += 1
        ids = [self._vocabulary.start, *tokens[:room]]
        ids += [self._vocabulary.end] * (max_tokens - len(ids))
        return Encoding(np.array(ids, np.int64), tuple(words[kept:]))

    def _word(self, word: str) -> list[int]:
        """Ids of one word of the prompt: a piece of text without white space."""
        clean = "".join(character.lower() for character in unicodedata.normalize("NFC", word))
        return [i for piece in _split(clean) for i in self._piece(piece)]

    def _piece(self, piece: str) -> list[int]:
        if piece in (START, END):
            return [self._vocabulary.start if piece == START else self._vocabulary.end]
        try:
            letters = [_alphabet()[byte] for byte in piece.encode("utf-8")]
        except UnicodeEncodeError as error:
            raise ValueError("the prompt is not valid text: it holds bytes that are not UTF-8") from error
        letters[-1] += END_OF_WORD
        return self._merge(letters)

    def _merge(self, letters: list[str]) -> list[int]:
        """Ids, once the best-ranked neighbours are joined, leftmost first, until no merge applies: O(n log n)."""
        parts = list(letters)  # "" where a part was joined to the one before it
        ranks: list[int | None] = [None] * len(parts)  # of the merge that made a part
        after = list(range(1, len(parts) + 1))
        before = list(range(-1, len(parts) - 1))
        heap: list[tuple[int, int, str, str]] = []

        def consider(i: int) -> None:
            if i >= 0 and after[i] < len(parts):
                left, right = parts[i], parts[after[i]]
                rank = self._merges.rank(left, right)
                if rank is not None:
                    heapq.heappush(heap, (rank, i, left, right))

        for i in range(len(parts)):
            consider(i)
        while heap:
            rank, i, left, right = heapq.heappop(heap)
            j = after[i]
            if parts[i] != left or j == len(parts) or parts[j] != right:
                continue  # an earlier merge took one of the two
            parts[i], parts[j], ranks[i] = left + right, "", rank
            after[i] = after[j]
            if after[j] < len(parts):
                before[after[j]] = i
            consider(before[i])
            consider(i)
        return [self._vocabulary.id(part, rank) for part, rank in zip(parts, ranks, strict=True) if part]


def _split(word: str) -> Iterator[str]:
    """Literal marks, contractions, runs of letters, single digits, runs of anything else."""
    for part in _MARKS.split(word):
        if _MARKS.fullmatch(part):
            yield part
        elif part:
            for match in _PIECES.finditer(part if part.isascii() else "".join(map(_stand_in, part))):
                yield part[match.start() : match.end()]


def _stand_in(character: str) -> str:
    """An ASCII character of the same class, as `re` knows no \\p{L} and \\p{N}; ASCII stays."""
    return character if character.isascii() else _STAND_IN.get(unicodedata.category(character)[0], "~")


@cache
def _alphabet() -> list[str]:
    return alphabet()
