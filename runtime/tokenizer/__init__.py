"""CLIP's byte-pair encoding, with the same ids as transformers' CLIPTokenizerFast, from vocab.json and merges.txt."""

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

from runtime.tokenizer.vocabulary import END, END_OF_WORD, START, Merges, Vocabulary, alphabet, read

_MARKS = re.compile("(" + re.escape(START) + "|" + re.escape(END) + ")")
# Unicode's White_Space. `str.split` would also split at U+001C..U+001F, which CLIP keeps.
_SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# CLIP's pattern, on a word whose characters beyond ASCII became A (letters), 0 (numbers) or ~ (the rest).
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-zA]+|[0-9]|[^a-zA0-9]+")
# The reference composes by Unicode 9: to it, marks of later versions are letters, over which no accent moves. Here
# are those up to Unicode 15 that would move or compose.
_LATER_MARKS = re.compile(
    "([\u07fd\u0898-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1ace\u1df6-\u1dfa\ua82c"
    "\U00010d24-\U00010d27\U00010eab\U00010eac\U00010efd-\U00010eff\U00010f46-\U00010f50\U00010f82-\U00010f85"
    "\U00011070\U0001133b\U0001145e\U00011839\U0001183a\U00011930\U00011938\U0001193d\U0001193e\U00011943\U000119e0"
    "\U00011a34\U00011a47\U00011a99\U00011d42\U00011d44\U00011d45\U00011d97\U00011f41\U00011f42\U00016ff0\U00016ff1"
    "\U0001e08f\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef])"
)
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

        Raises ValueError when the text holds lone surrogates (bytes that were not UTF-8).
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
        clean = "".join(character.lower() for character in _composed(word))
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


def _composed(word: str) -> str:
    """NFC as the reference does it, see _LATER_MARKS."""
    if word.isascii():
        return word
    return "".join(unicodedata.normalize("NFC", part) for part in _LATER_MARKS.split(word))


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
