"""Padding and added tokens of a checkpoint: the ids of its own tokenizer, by every client of what is exported."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import CLIPTokenizer, CLIPTokenizerFast

from export.coreml.swift_resources import refuse_swift
from export.facts import model_manifest
from export.onnx.bundle import write_configs
from export.source import open_source
from export.tokens import expected_ids, probes, tokens_of
from runtime.errors import UserError
from runtime.tokenizer import Tokenizer, Tokens
from tests.support.tiny import SMALL, make_pipeline
from train.families import SD

TOY = "<frog-toy>"
PROMPTS = (
    "",
    "a fox",
    "a red fox!",
    f"a {TOY}, red",
    f"my{TOY}x!",
    "A <FROG-TOY>",
    "the " * 74 + TOY,
    "the " * 75 + TOY,
)


def checkpoint(folder: Path) -> Path:
    """A small pipeline whose tokenizer pads with "!" and knows <frog-toy>, the encoder resized for it."""
    pipe = make_pipeline(folder, SMALL)
    pipe.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")
    pipe.tokenizer.add_tokens([TOY])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    pipe.save_pretrained(folder)
    return folder


def json_alone(folder: Path) -> Path:
    """The same with the tokenizer as transformers 5 writes it."""
    home = checkpoint(folder) / "tokenizer"
    CLIPTokenizerFast.from_pretrained(home).save_pretrained(home)
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        (home / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("make", [checkpoint, json_alone])
def test_the_bundle_gives_the_checkpoints_ids(tmp_path: Path, make) -> None:
    source = open_source(str(make(tmp_path / "checkpoint")))
    reference = source.pipe.tokenizer
    (tmp_path / "bundle").mkdir()
    write_configs(tmp_path / "bundle", source)
    held = json.loads(json.dumps(model_manifest(source, "fp32")["tokenizer"]))
    ours = Tokenizer.from_folder(tmp_path / "bundle" / "tokenizer", Tokens.from_dict(held))
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "bundle" / "tokenizer")
    number = reference.convert_tokens_to_ids(TOY)
    assert ours.tokens.pad_id == 0 and number == len(reference) - 1
    assert number in ours.encode(f"my{TOY}x").ids
    for prompt in (*PROMPTS, *probes(tokens_of(reference))):
        expected = expected_ids(reference, prompt)
        assert ours.encode(prompt).ids.tolist() == expected, prompt
        if "FROG" not in prompt:  # the slow tokenizer that reads the folder never finds a token in capitals
            assert expected_ids(theirs, prompt) == expected, prompt


def test_dropped_words_are_named_around_added_tokens(tmp_path: Path) -> None:
    source = open_source(str(checkpoint(tmp_path / "checkpoint")))
    ours = Tokenizer.from_folder(source.folder / "tokenizer", tokens_of(source.pipe.tokenizer))
    assert ours.encode("the " * 74 + TOY).dropped_words == ()
    assert ours.encode("the " * 75 + TOY + " a").dropped_words == (TOY, "a")
    assert ours.encode("the " * 74 + TOY + "x\u00a0b").dropped_words == (TOY + "x", "b")


def test_swift_is_refused_what_it_cannot_know(tmp_path: Path) -> None:
    pipe = make_pipeline(tmp_path, SMALL)
    refuse_swift(SimpleNamespace(pipe=pipe, kind=SD))  # type: ignore[arg-type]
    pipe.tokenizer.add_tokens([TOY])
    with pytest.raises(UserError, match=f"added token '{TOY}'.*without --bundle-resources-for-swift-cli"):
        refuse_swift(SimpleNamespace(pipe=pipe, kind=SD))  # type: ignore[arg-type]
    pipe.tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer", pad_token="!")
    with pytest.raises(UserError, match="this checkpoint with the token 0"):
        refuse_swift(SimpleNamespace(pipe=pipe, kind=SD))  # type: ignore[arg-type]
