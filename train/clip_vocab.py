"""CLIP's published byte-pair merges, written as the tokenizer folder that transformers and `runtime` read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from runtime.files import write_text
from runtime.tokenizer.vocabulary import END, END_OF_WORD, MAX_TOKENS, START, letters_in_order

MERGE_COUNT = 49152 - 256 - 2


def read_merges(bpe_gz: Path) -> list[str]:
    """The 48,894 merges "left right" of CLIP's `bpe_simple_vocab_16e6.txt.gz`, best first.

    Raises ValueError when the file does not hold them.
    """
    with gzip.open(bpe_gz, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : MERGE_COUNT + 1]
    if len(merges) != MERGE_COUNT or any(merge.count(" ") != 1 for merge in merges):
        raise ValueError(f"{bpe_gz} does not hold CLIP's {MERGE_COUNT} merges, one 'left right' per line")
    return merges


def vocabulary(merges: Sequence[str]) -> dict[str, int]:
    """Token -> id: 256 bytes, the same 256 ending a word, one token per merge, then the start and end marks."""
    letters = letters_in_order()
    tokens = letters + [letter + END_OF_WORD for letter in letters]
    tokens += [merge.replace(" ", "") for merge in merges] + [START, END]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer_files(dst: Path, merges: Sequence[str]) -> None:
    """Writes vocab.json, merges.txt and the two configurations into `dst`, each file whole."""
    dst.mkdir(parents=True, exist_ok=True)
    tokens = json.dumps(vocabulary(merges), ensure_ascii=False, separators=(",", ":"))
    write_text(dst / "vocab.json", tokens + "\n")
    write_text(dst / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    write_text(dst / "special_tokens_map.json", json.dumps(_special_tokens(), indent=2) + "\n")
    write_text(dst / "tokenizer_config.json", json.dumps(_config(), indent=2) + "\n")


def write_tokenizer_folder(dst: Path, bpe_gz: Path) -> None:
    """Writes the full CLIP tokenizer (49,408 tokens) into the folder `dst`, from CLIP's merges file."""
    write_tokenizer_files(Path(dst), read_merges(Path(bpe_gz)))


def _special_tokens() -> dict[str, object]:
    def mark(content: str) -> dict[str, object]:
        plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"content": content, **plain}

    return {"bos_token": mark(START), "eos_token": mark(END), "unk_token": mark(END), "pad_token": END}


def _config() -> dict[str, object]:
    reading = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
    loading = {"model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    return _special_tokens() | reading | loading
