"""Prompt -> the text encoder's states, kept for the prompts used last."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.cancel import CancelToken
from runtime.coreml import CoremlSession
from runtime.errors import TruncationWarning
from runtime.ort.session import Session
from runtime.threads import watch
from runtime.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]
_KEPT = 64  # prompts
_KEPT_BYTES = 32_000_000  # of their states: a large text encoder's take 300 KB each
_NAMED_WORDS, _NAMED_LETTERS = 20, 40  # of what a TruncationWarning says was dropped


class Texts:
    """A tokenizer, a text encoder and what it gave for the prompts used last. Safe from any thread."""

    def __init__(self, tokenizer: Tokenizer, encoder: Session | CoremlSession, max_tokens: int) -> None:
        self._tokenizer, self._encoder, self._max_tokens = tokenizer, encoder, max_tokens
        self._kept: OrderedDict[bytes, F32] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        watch(self)

    def states(self, text: str, cancel: CancelToken | None = None) -> F32:
        """f32[1, tokens, width]; TruncationWarning when the text is too long. Do not write to it."""
        encoding = self._tokenizer.encode(text, self._max_tokens)
        if encoding.dropped_words:
            warnings.warn(_dropped(encoding.dropped_words, self._max_tokens), TruncationWarning, stacklevel=2)
        key = encoding.ids.tobytes()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        states = self._encoder.run(cancel=cancel, input_ids=encoding.ids[None])
        self._keep(key, states)
        return states

    def clear(self) -> None:
        """Forgets every prompt."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _keep(self, key: bytes, states: F32) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = states
                self._bytes += states.nbytes
            while len(self._kept) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._kept) > 1):
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def forked(self) -> None:
        """In a child process."""
        self._lock = threading.Lock()


def _dropped(words: Sequence[str], max_tokens: int) -> str:
    """One line for a prompt of any length: the first words, each cut to a length that can be read."""
    named = " ".join(_shortened(word) for word in words[:_NAMED_WORDS])
    more = f" and {len(words) - _NAMED_WORDS} more" if len(words) > _NAMED_WORDS else ""
    return f"the prompt is longer than {max_tokens} tokens; dropped from its end: {named}{more}"


def _shortened(word: str) -> str:
    return word if len(word) <= _NAMED_LETTERS else word[:_NAMED_LETTERS] + "..."
