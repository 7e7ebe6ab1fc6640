"""Prompt -> what the text encoders give, kept for the prompts used last."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.cancel import CancelToken
from runtime.coreml import CoremlSession
from runtime.errors import TruncationWarning
from runtime.ort.session import Session
from runtime.threads import watch
from runtime.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]
Encoder = tuple[Tokenizer, Session | CoremlSession]
_KEPT = 64  # prompts
_KEPT_BYTES = 32_000_000  # of their states: a large text encoder's take 300 KB each
_NAMED_WORDS, _NAMED_LETTERS = 20, 40  # of what a TruncationWarning says was dropped


@dataclass(frozen=True)
class Text:
    """A prompt as the U-Net takes it: states f32[1, tokens, width], and pooled f32[1, width] where it takes that."""

    states: F32
    pooled: F32 | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.states.nbytes + (0 if self.pooled is None else self.pooled.nbytes)

    def zeros(self) -> Text:
        """No text at all, in the same shapes."""
        return Text(np.zeros_like(self.states), None if self.pooled is None else np.zeros_like(self.pooled))

    def inputs(self, sizes: Sequence[int]) -> dict[str, F32]:
        """The U-Net's inputs by name. sizes: see `Conditioning.sizes`."""
        given = {"encoder_hidden_states": self.states}
        if self.pooled is not None:
            given |= {"text_embeds": self.pooled, "time_ids": np.array([sizes], np.float32)}
        return given


class Texts:
    """Tokenizers, their text encoders and what they gave for the prompts used last. Safe from any thread."""

    def __init__(self, encoders: Sequence[Encoder], max_tokens: int) -> None:
        self._encoders, self._max_tokens = encoders, max_tokens
        self._kept: OrderedDict[bytes, Text] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        watch(self)

    def encode(self, prompt: str, cancel: CancelToken | None = None) -> Text:
        """A prompt's Text; TruncationWarning when it is too long. Do not write to its arrays."""
        encodings = [tokenizer.encode(prompt, self._max_tokens) for tokenizer, _ in self._encoders]
        if dropped := encodings[0].dropped_words:
            warnings.warn(_dropped(dropped, self._max_tokens), TruncationWarning, stacklevel=2)
        key = b"".join(encoding.ids.tobytes() for encoding in encodings)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pairs = zip(self._encoders, encodings, strict=True)
        given = [encoder.run_all(cancel=cancel, input_ids=one.ids[None]) for (_, encoder), one in pairs]
        states = given[0][0] if len(given) == 1 else np.concatenate([states for states, *_ in given], axis=2)
        text = Text(states, next((pooled for _, *rest in given for pooled in rest), None))
        self._keep(key, text)
        return text

    def fits(self, prompt: str) -> bool:
        """Whether no word of a prompt is dropped."""
        return not any(tokenizer.encode(prompt, self._max_tokens).dropped_words for tokenizer, _ in self._encoders)

    def clear(self) -> None:
        """Forgets every prompt."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _keep(self, key: bytes, text: Text) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = text
                self._bytes += text.nbytes
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
