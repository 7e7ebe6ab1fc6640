"""A checkpoint's padding and added tokens as a bundle carries them, and whether a reader of the bundle agrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import BundleError, UserError
from runtime.tokenizer import AddedToken, Tokenizer, Tokens
from runtime.tokenizer.vocabulary import END, MAX_TOKENS, START

Encode = Callable[[str], Sequence[int]]
# Around every added token, {} in its place; the last is cut at the token.
AROUND = ("{}", "a {} on the table", "a {}, red", "my{}x", "{}{}!", "A {}.", "fox " * 73 + "{} {}", "fox " * 75 + "{}")
PLAIN = ("", "a photo of a cat", "A red fox! Two (2) foxes...", "it's 3 o'clock!!!", "fox! " * 60)
MOST_PROBED = 20  # tokens


def tokens_of(tokenizer: Any) -> Tokens:
    """Padding and added tokens of transformers' CLIPTokenizer or CLIPTokenizerFast. Raises UserError.

    The slow tokenizer looks for added tokens in the prompt as it was typed, whatever their `normalized` says; only the
    two marks it also knows in capitals.
    """
    entries = sorted(tokenizer.added_tokens_decoder.items())
    added = [
        AddedToken(
            id=number,
            content=token.content,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            normalized=token.normalized and (tokenizer.is_fast or token.content in (START, END)),
            special=token.special,
        )
        for number, token in entries
    ]
    try:
        return Tokens.from_dict(Tokens(int(tokenizer.pad_token_id), tuple(added)).to_dict())
    except (ValueError, TypeError) as error:
        raise UserError(f"the checkpoint's tokenizer cannot be exported: {error}") from error


def probes(tokens: Tokens) -> list[str]:
    """Prompts that show whether a reader knows the padding and the added tokens."""
    contents = [token.content for token in tokens.added if token.content not in (START, END)][:MOST_PROBED]
    written = [form for content in contents for form in dict.fromkeys((content, content.upper()))]
    return [*PLAIN, *(text.replace("{}", content) for content in written for text in AROUND)]


def expected_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The ids by transformers, padded and truncated as diffusers asks for."""
    options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True}
    return [int(number) for number in tokenizer(prompt, **options).input_ids]


def check_reader(encode: Encode, tokenizer: Any, reader: str, prompts: Sequence[str] = ()) -> None:
    """Raise UserError when `encode` gives other ids than the checkpoint's tokenizer for a probe or one of `prompts`."""
    for prompt in (*probes(tokens_of(tokenizer)), *prompts):
        if list(encode(prompt)) != expected_ids(tokenizer, prompt):
            start = prompt if len(prompt) <= 60 else "..." + prompt[-60:]
            raise UserError(f"the checkpoint's tokenizer cannot be carried over: {reader} reads {start!r} differently")


def check_written(folder: Path, tokenizer: Any) -> None:
    """Raise UserError when the runtime reads the written tokenizer differently from the checkpoint's own."""
    try:
        written = Tokenizer.from_folder(folder, tokens_of(tokenizer))
    except BundleError as error:
        raise UserError(f"the checkpoint's tokenizer cannot be exported: {error}") from error
    check_reader(lambda prompt: written.encode(prompt, MAX_TOKENS).ids.tolist(), tokenizer, "the runtime")


def refuse_all_but_clips(tokens: Tokens, reader: str) -> None:
    """Raise UserError for a `reader` that knows CLIP's two marks alone and pads with the second."""
    ends = {token.id for token in tokens.added if token.content == END}
    others = [token.content for token in tokens.added if token.content not in (START, END)]
    if tokens.pad_id not in ends or others:
        pads = "" if tokens.pad_id in ends else f"pads with {END}, and this checkpoint with the token {tokens.pad_id}"
        knows = f"does not know the added token {others[0]!r}" if others else ""
        raise UserError(f"{reader} {' and '.join(filter(None, (pads, knows)))}: it would draw other pictures")
