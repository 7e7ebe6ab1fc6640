"""The `variation` argument: "auto", None, or words for some properties; as Python, a command line, a file give it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from runtime.variation import Variation

AUTO, NONE = "auto", "none"
Choice = str | Mapping[str, str] | None  # "auto"; None: prompts as they are typed; {property: word}: the rest is drawn


def check_choice(given: object) -> Choice:
    """The value itself; ValueError unless it is "auto", None or {property: word}."""
    if given is None or (isinstance(given, str) and given == AUTO):
        return given
    if isinstance(given, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair):
        return dict(given)
    raise ValueError(f'variation must be "auto", None or {{property: word}}, not {given!r}')


def read_choice(texts: Iterable[str]) -> Choice:
    """The value of texts such as "auto", "none", "facing=left". Raises ValueError.

    texts: of one flag each, or of one cell, "facing=left; size=large".
    """
    parts = [part.strip() for text in texts for part in text.split(";") if part.strip()]
    if not parts or parts == [AUTO]:
        return AUTO
    if parts == [NONE]:
        return None
    pairs = [(name.strip(), word.strip()) for name, _, word in (part.partition("=") for part in parts)]
    if wrong := next((part for part, pair in zip(parts, pairs, strict=True) if not all(pair)), None):
        raise ValueError(f"variation {wrong!r} is not auto, none or PROPERTY=WORD, such as facing=left")
    chosen = dict(pairs)
    if len(chosen) != len(pairs):
        raise ValueError(f"variation {'; '.join(parts)!r} names a property twice")
    return chosen


def completed(
    table: Variation | None, choice: Choice, prompt: str, seed: int, fits: Callable[[str], bool], bundle: str
) -> str:
    """The prompt as it is drawn. fits: as in `Variation.complete`. Raises ValueError, also without a table."""
    chosen = choice if isinstance(choice, Mapping) else None
    if table is None and chosen:
        raise ValueError(f"bundle {bundle} has no table of variation: leave variation {next(iter(chosen))} out")
    return prompt if table is None or choice is None else table.complete(prompt, seed, chosen, fits)
