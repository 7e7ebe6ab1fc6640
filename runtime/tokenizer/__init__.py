"""CLIP's byte-pair encoding, with the same ids as transformers' CLIPTokenizerFast, padding and added tokens too."""

from __future__ import annotations

import heapq
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.tokenizer.added import AddedToken, Splitter, Tokens, tokens_of_folder
from runtime.tokenizer.vocabulary import END_OF_WORD, Merges, Vocabulary, alphabet, read

__all__ = ["AddedToken", "Encoding", "Tokenizer", "Tokens"]

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
_NO_SPACE = re.compile("[^ ]+")
_STAND_IN = {"L": "A", "N": "0"}


@dataclass(frozen=True)
class Encoding:
    """A prompt as the text encoder reads it.

    ids: i64[max_tokens], start mark, tokens, end mark, then padding.
    dropped_words: the prompt's words that did not fit, wholly or in part, as they were typed.
    """

    ids: npt.NDArray[np.int64]
    dropped_words: tuple[str, ...]


class Tokenizer:
    """CLIP's tokenizer: NFC, lower case, words, then byte pairs by rank. Safe to use from many threads.

    The reference is transformers' CLIPTokenizerFast, because what it returns does not depend on which other
    packages are installed (the slow tokenizer cleans text with ftfy where that is there).
    """

    def __init__(self, vocabulary: Vocabulary, merges: Merges, tokens: Tokens) -> None:
        self._vocabulary, self._merges, self.tokens = vocabulary, merges, tokens
        self._raw = Splitter([token for token in tokens.added if not token.normalized])
        self._clean = Splitter([token for token in tokens.added if token.normalized], _normalized)

    @classmethod
    def from_folder(cls, folder: str | Path, tokens: Tokens | None = None) -> Tokenizer:
        """Reads a folder's vocab.json and merges.txt; BundleError when they are not in CLIP's form.

        tokens: padding and added tokens, as a bundle's manifest holds them; None reads them from the folder's
        tokenizer_config.json and special_tokens_map.json.
        """
        vocabulary, merges = read(folder)
        return cls(vocabulary, merges, tokens or tokens_of_folder(folder, vocabulary.find))

    def encode(self, text: str, max_tokens: int = 77) -> Encoding:
        """`text` -> Encoding of `max_tokens` ids; what does not fit is dropped from the end and named.

        Raises ValueError when the text holds lone surrogates (bytes that were not UTF-8).
        """
        room = max_tokens - 2
        words = [word for word in _SPACES.split(text) if word]
        tokens: list[int] = []
        kept = len(words)
        for word, ids in self._read(text):
            tokens += ids
            if len(tokens) > room:
                kept = word
                break
        ids = [self._vocabulary.start, *tokens[:room], self._vocabulary.end]
        ids += [self.tokens.pad_id] * (max_tokens - len(ids))
        return Encoding(np.array(ids, np.int64), tuple(words[kept:]))

    def _read(self, text: str) -> Iterator[tuple[int, list[int]]]:
        """(number of the word, ids) of added tokens and of what lies between them; a word may come in parts."""
        number, within = -1, False  # of the word that was begun last; whether the text before ends in it
        for _, part, token in self._raw.split(text):
            pieces = list(_words(part))
            numbers = []
            for spaced, word in pieces:
                number += bool(word) and (spaced or not within)
                within = bool(word)
                numbers.append(number)
            if token is not None:
                yield numbers[0], [token.id]
            else:
                yield from self._read_plain(pieces, numbers)

    def _read_plain(self, pieces: list[tuple[bool, str]], numbers: list[int]) -> Iterator[tuple[int, list[int]]]:
        """The same for text without raw tokens: its words are cleaned, then added tokens are looked for across them."""
        clean = [" " * spaced + _cleaned(word) for spaced, word in pieces]
        starts = list(accumulate(map(len, clean), initial=0))[:-1]
        for start, part, token in self._clean.split("".join(clean)):
            if token is not None:
                yield numbers[bisect_right(starts, start) - 1], [token.id]
                continue
            for match in _NO_SPACE.finditer(part):
                ids = [i for piece in _split(match[0]) for i in self._piece(piece)]
                yield numbers[bisect_right(starts, start + match.start()) - 1], ids

    def _piece(self, piece: str) -> list[int]:
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


def _cleaned(word: str) -> str:
    return "".join(character.lower() for character in _composed(word))


def _normalized(text: str) -> str:
    """A text as the reference normalizes it: NFC, runs of white space as one space, lower case."""
    return "".join(" " * spaced + _cleaned(word) for spaced, word in _words(text))


def _words(text: str) -> Iterator[tuple[bool, str]]:
    """(whether white space goes before it, word); the last word is empty where the text ends in white space."""
    first, *others = _SPACES.split(text)
    if first:
        yield False, first
    yield from ((True, word) for word in others)


def _split(word: str) -> Iterator[str]:
    """Contractions, runs of letters, single digits, runs of anything else."""
    for match in _PIECES.finditer(word if word.isascii() else "".join(map(_stand_in, word))):
        yield word[match.start() : match.end()]


def _stand_in(character: str) -> str:
    """An ASCII character of the same class, as `re` knows no \\p{L} and \\p{N}; ASCII stays."""
    return character if character.isascii() else _STAND_IN.get(unicodedata.category(character)[0], "~")


@cache
def _alphabet() -> list[str]:
    return alphabet()
