"""How a prompt is read: plain words, pauses, and what is another language's."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from functools import lru_cache

PAUSE = re.compile(r"[,.;:!?()]+")
TRAILING = " \t\r\n,.;:!?"  # of a prompt, in the place of which the separator comes
_OTHER = re.compile("[^a-z0-9\u00df-\u00f6\u00f8-\u00ff]+")
# ASCII and Latin-1 alone: other letters have other lower cases in other languages' libraries.
_LOWER = {code: code + 32 for code in (*range(0x41, 0x5B), *range(0xC0, 0xD7), *range(0xD8, 0xDF))}
# Letters of scripts other than Latin.
_FOREIGN = re.compile(
    "[\u0370-\u1dff\u1f00-\u1fff\u2c00-\u2dff\u3005-\ud7ff\uf900-\ufdff\ufe70-\ufefe\uff10-\uffdc"
    "\U00010000-\U0001cfff\U00020000-\U0003ffff]"
)


def plain(text: str) -> str:
    """' a red fox ' of 'A red fox!': lower-case letters and digits, words apart by one space."""
    return f" {_plain(text)} " if text else " "


@lru_cache(maxsize=8192)
def phrase(text: str) -> str:
    """'a red fox' of 'A red fox!': as `plain`, without the spaces around it. Of a table's words, which come again."""
    return _plain(text)


def _plain(text: str) -> str:
    return _OTHER.sub(" ", text.translate(_LOWER)).strip()


def longest_phrases(words: Sequence[str], known: Set[str], longest: int) -> list[str]:
    """The known phrases in a text's words, in their order; a longer one hides those within it.

    longest: words of the longest known phrase.
    """
    found, at = list[str](), 0
    while at < len(words):
        spans = (" ".join(words[at : at + length]) for length in range(min(longest, len(words) - at), 0, -1))
        span = next((span for span in spans if span in known), None)
        found += [span] if span else []
        at += span.count(" ") + 1 if span else 1
    return found


def is_foreign(text: str) -> bool:
    """Whether it has letters of a script other than Latin, whose words no table knows."""
    return _FOREIGN.search(text) is not None
