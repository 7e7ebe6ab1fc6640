"""The padding and the added tokens of a tokenizer, with the meaning that transformers gives them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runtime.errors import BundleError
from runtime.tokenizer.vocabulary import END, MOST_ID, START
from runtime.untrusted import read_inside, read_json, shown

MOST_ADDED = 1000  # tokens
MOST_LETTERS = 200  # of one
_MOST_BYTES = 1_000_000  # of a configuration file
_CONFIG, _MAP = "tokenizer_config.json", "special_tokens_map.json"
_JOINERS = "\u200c\u200d"
_FLAGS = ("single_word", "normalized", "lstrip", "rstrip", "special")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the text is split into words."""

    id: int
    content: str
    lstrip: bool = False  # takes the white space before it; CLIP drops white space anyway
    rstrip: bool = False  # takes the white space after it
    single_word: bool = False  # only where no letter, digit or underscore touches it
    normalized: bool = False  # found in the text after NFC and lower case, and lowered itself
    special: bool = False


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer has besides vocab.json and merges.txt."""

    pad_id: int
    added: tuple[AddedToken, ...]  # <|startoftext|> and <|endoftext|> among them, where a prompt may hold them

    @classmethod
    def from_dict(cls, data: Any) -> Tokens:
        """Checks and converts {"pad_id", "added": [...]}; raises ValueError with what is wrong."""
        if isinstance(data, Tokens):
            return data
        if not isinstance(data, Mapping) or set(data) != {"pad_id", "added"}:
            raise ValueError("an object with pad_id and added is needed")
        if not isinstance(data["added"], (list, tuple)) or len(data["added"]) > MOST_ADDED:
            raise ValueError(f"added must be a list of at most {MOST_ADDED} tokens")
        added = tuple(map(_token, data["added"]))
        if len({token.content for token in added}) != len(added):
            raise ValueError("an added token appears twice")
        return cls(_id(data["pad_id"]), added)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which `from_dict` reads back."""
        return {"pad_id": self.pad_id, "added": [asdict(token) for token in self.added]}


class Splitter:
    """Finds added tokens in a text: at each place the longest, specials first among equals."""

    def __init__(self, added: Sequence[AddedToken], normalize: Callable[[str], str] = str) -> None:
        """`normalize`: what the texts went through, and the tokens must go through too."""
        ordered = sorted(added, key=lambda token: not token.special)
        self._tokens: dict[str, AddedToken] = {}
        for token in ordered:
            self._tokens.setdefault(normalize(token.content), token)
        contents = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, contents))) if contents else None

    def split(self, text: str) -> Iterator[tuple[int, str, AddedToken | None]]:
        """(start, part, its token or None) from left to right; the parts make up the text."""
        done = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            start, end = match.span()
            token = self._tokens[match[0]]
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                continue
            if done < start:
                yield done, text[done:start], None
            yield start, match[0], token
            done = end
        if done < len(text):
            yield done, text[done:], None


def _is_word(character: str) -> bool:
    """Unicode's word characters (UTS 18, \\w): letters, marks, digits, connectors; False for no character."""
    if not character:
        return False
    kind = unicodedata.category(character)
    return kind[0] in "LM" or kind in ("Nd", "Nl", "Pc") or character in _JOINERS or _is_circled(character)


def _is_circled(character: str) -> bool:
    """Letters in circles and squares, which are symbols but alphabetic."""
    return any(first <= character <= last for first, last in ("Ⓐⓩ", "🄰🅉", "🅐🅩", "🅰🆉"))


def _token(entry: Any) -> AddedToken:
    if isinstance(entry, AddedToken):
        return entry
    if not isinstance(entry, Mapping) or set(entry) != {field.name for field in fields(AddedToken)}:
        raise ValueError(f"an added token needs {', '.join(field.name for field in fields(AddedToken))}")
    content = entry["content"]
    if not isinstance(content, str) or not 0 < len(content) <= MOST_LETTERS or content.strip() != content:
        raise ValueError(f"an added token has 1 to {MOST_LETTERS} characters and no white space at its ends")
    if not all(type(entry[name]) is bool for name in _FLAGS):
        raise ValueError(f"{', '.join(_FLAGS)} of an added token are true or false")
    return AddedToken(**{**entry, "id": _id(entry["id"])})


def _id(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_ID:
        raise ValueError(f"a token's id is a whole number from 0 to {MOST_ID}")
    return value


def tokens_of_folder(folder: str | Path, find: Callable[[str], int | None]) -> Tokens:
    """What a tokenizer's folder says in the files that transformers writes; CLIP's own where it says nothing.

    find: the id of a token of vocab.json. For bundles whose manifest does not hold it. Raises BundleError.
    """
    config, names = (_configuration(folder, name) for name in (_CONFIG, _MAP))
    try:
        listed = _decoder(config)
        pad = _content(config.get("pad_token") if listed else names.get("pad_token", config.get("pad_token")))
        known = {token.content for token in listed}
        marks = [AddedToken(_known(mark, find), mark, normalized=True, special=True) for mark in (START, END)]
        added = [*listed, *(mark for mark in marks if mark.content not in known)]
        if pad not in {token.content for token in added}:  # transformers makes every special token an added one
            added.append(AddedToken(_known(pad, find), pad, special=True))
        pad_id = next(token.id for token in added if token.content == pad)
        return Tokens.from_dict({"pad_id": pad_id, "added": added})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BundleError(f"cannot read the tokenizer in {folder}: {shown(error, 200)}") from error


def _decoder(config: Mapping[str, Any]) -> list[AddedToken]:
    """added_tokens_decoder of tokenizer_config.json: {id: {content, lstrip, ...}}."""
    entries = config.get("added_tokens_decoder") or {}
    if len(entries) > MOST_ADDED:
        raise ValueError(f"{len(entries)} added tokens are too many, {MOST_ADDED} at most are allowed")
    flags = dict.fromkeys(_FLAGS, False)
    return [_token({**flags, **entry, "id": int(key)}) for key, entry in entries.items()]


def _content(pad: Any) -> str:
    """The text of a special token, which is written as a text or as an added token."""
    text = pad.get("content") if isinstance(pad, Mapping) else pad
    if text is not None and not isinstance(text, str):
        raise ValueError("pad_token must be a text")
    return text or END


def _known(token: str, find: Callable[[str], int | None]) -> int:
    found = find(token)
    if found is None:
        raise ValueError(f"the pad token {shown(repr(token))} is not in vocab.json")
    return found


def _configuration(folder: str | Path, name: str) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    try:
        data = read_json(read_inside(folder, name, _MOST_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"cannot read the tokenizer in {folder}: {name}: {shown(error)}") from error
    if not isinstance(data, dict):
        raise BundleError(f"cannot read the tokenizer in {folder}: {name} holds no JSON object")
    return data
