"""`python -m train.sticker.everyday`: words that no caption has, as the text encoder sees them; `tune` improves that.

Each word of everyday_words.tsv has the caption subjects that a reasonable person would accept for it, written down
before any encoder was asked. The answer is the subject whose caption has the nearest pooled state. Of the list,
`tune` reads only which words are `test`, so as not to train on them; its settings were chosen on the others.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizerFast

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.errors import UserError
from runtime.files import check_writable, whole_folder, write_text
from train.checkpoint import SHARD_BYTES, load_part
from train.data.encoders import encode_captions
from train.data.shards import Record, read_facts, splits_of
from train.evaluate.retrieval import Embed, text_embedder
from train.minilm import embed
from train.opening.resolve import resolve_checkpoint
from train.sticker.captions import group_of
from train.sticker.prompts import without_style
from train.sticker.token_rows import Subjects, Tokenizer, open_wordnet, tuned_table

EXAMPLES = """examples:
  python -m train.sticker.everyday sticker-128 --data data/stickers
  python -m train.sticker.everyday tune sticker-128 --data data/stickers --out runs/everyday
  python -m train.sticker.everyday sticker-128 --text-encoder runs/everyday/text_encoder"""
WORDS = Path(__file__).with_name("everyday_words.tsv")
SPLITS = ("tune", "test")
CAPTION_SPLITS = ("train", "composed", "held_out")
LEAST_WEIGHT = 1e-3  # of a subject, where a logarithm is taken


def read_captions(data: Path) -> dict[str, list[Record]]:
    """The records of every split of captions that the folder has, without their pictures. Raises UserError."""
    return {split: list(read_facts(data, split)) for split in splits_of(data, CAPTION_SPLITS)}


def subjects_of(records: Sequence[Record]) -> Subjects:
    """What is drawn in training: each caption subject, its names (the plainest first), weight and group.

    A name is a caption without its style, with the keywords that some have; "a sticker of ..." is not one.
    """
    names: dict[str, dict[str, None]] = {}
    weights: dict[str, float] = {}
    groups: dict[str, str] = {}
    for record in records:
        if record.weight > 0:
            subject = without_style(record.captions[0])
            own = (caption for caption in record.captions if without_style(caption) != caption)
            names.setdefault(subject, {subject: None}).update(
                (without_style(caption), None) for caption in own if not caption.startswith("a sticker of")
            )
            weights[subject] = max(record.weight, weights.get(subject, LEAST_WEIGHT))
            groups.setdefault(subject, group_of(record))
    return Subjects({subject: list(several) for subject, several in names.items()}, weights, groups)


@dataclass(frozen=True)
class Word:
    """One word of the list."""

    word: str
    split: str  # "tune" or "test"
    subjects: tuple[str, ...]  # the right answers


def read_words(path: Path = WORDS) -> list[Word]:
    """The list: tab-separated word, split, subjects joined by "|", below a header. Raises UserError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a list of words: {error}") from error
    if not rows or rows[0] != ["word", "split", "subjects"]:
        raise UserError(f"{path}: its first line must be word, split, subjects, with tabs between")
    words = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 3 or row[1] not in SPLITS or not all(row):
            raise UserError(f"{path}, line {number}: a word, tune or test, and subjects joined by |, with tabs between")
        words.append(Word(row[0], row[1], tuple(row[2].split("|"))))
    repeated = len(words) - len({word.word for word in words})
    if repeated or not words:
        raise UserError(f"{path}: {'words that repeat' if repeated else 'no words'}")
    return words


def words_of(captions: Sequence[str]) -> set[str]:
    return {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}


def encoder_cosines(
    encoder: CLIPTextModel, tokenizer: Tokenizer, words: Sequence[str], subjects: Sequence[str]
) -> Tensor:
    """f32[W, S]: cosines of the pooled states of "WORD, 3d style" and "SUBJECT, 3d style", less the subjects' mean."""
    pooled = encode_captions(encoder, tokenizer, [f"{text}, 3d style" for text in (*subjects, *words)])[1]
    unit = F.normalize(pooled - pooled[: len(subjects)].mean(0), dim=-1)
    return unit[len(subjects) :] @ unit[: len(subjects)].T


def embedder_cosines(embed: Embed, words: Sequence[str], subjects: Sequence[str]) -> Tensor:
    """f32[W, S] by a sentence embedder, of the bare words and subjects."""
    unit = F.normalize(torch.from_numpy(embed([*subjects, *words])).float(), dim=-1)
    return unit[len(subjects) :] @ unit[: len(subjects)].T


def answers(word: Word, cosines: Tensor, subjects: Sequence[str]) -> dict[str, Any]:
    """The nearest five subjects of f32[S], the first one's cosine, and whether one of them is right."""
    found = cosines.topk(min(5, len(subjects)))
    nearest = [subjects[index] for index in found.indices.tolist()]
    return {
        "nearest": nearest,
        "cosine": float(found.values[0]),
        "first": nearest[0] in word.subjects,
        "first_five": bool(set(nearest) & set(word.subjects)),
    }


def report(
    words: Sequence[Word],
    captions: Sequence[str],
    subjects: Sequence[str],
    encoder: CLIPTextModel,
    tokenizer: Tokenizer,
    embed: Embed | None,
) -> dict[str, Any]:
    """Answers for each word, totals for each split, and which words or right answers are not as the list says.

    Words that captions hold after all are left out. Raises UserError when none is left.
    """
    held = words_of(captions)
    asked = [word for word in words if word.word not in held]
    if not asked:
        raise UserError("captions hold every word of the list: there is nothing to ask")
    texts = [word.word for word in asked]
    own = encoder_cosines(encoder, tokenizer, texts, subjects)
    rows = [{"word": word.word, "split": word.split, **answers(word, own[i], subjects)} for i, word in enumerate(asked)]
    if embed:
        teacher = embedder_cosines(embed, texts, subjects)
        for i, word in enumerate(asked):
            rows[i]["beside"] = answers(word, teacher[i], subjects)
    known = set(subjects)
    return {
        "totals": {split: totals([row for row in rows if row["split"] == split]) for split in SPLITS},
        "words": rows,
        "in_captions": sorted(word.word for word in words if word.word in held),
        "unknown_subjects": sorted({subject for word in words for subject in word.subjects} - known),
    }


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The number of words, and the shares that are right in first place and in the first five."""
    result: dict[str, float] = {"words": len(rows)}
    for name in ("first", "first_five") if rows else ():
        result[name] = float(np.mean([row[name] for row in rows]))
        if "beside" in rows[0]:
            result[f"beside_{name}"] = float(np.mean([row["beside"][name] for row in rows]))
    return result


def table(figures: dict[str, Any]) -> str:
    """A line for each word, `+` where it is right in first place, `.` in the first five; then the totals."""
    lines = []
    for row in figures["words"]:
        line = f"{row['word']:<20} {row['split']:<5} {_mark(row)} {row['cosine']:.2f} {row['nearest'][0]:<36}"
        if "beside" in row:
            line += f" {figures['text_embedder']} {_mark(row['beside'])} {row['beside']['nearest'][0]}"
        lines.append(line.rstrip())
    for split, shares in figures["totals"].items():
        parts = [
            f"{name.replace('beside', figures['text_embedder']).replace('_', ' ')} {share:.3f}"
            for name, share in shares.items()
            if name != "words"
        ]
        lines.append(f"{split}: {shares['words']} words" + "".join(f", {part}" for part in parts))
    lines.append(f"in captions after all, left out: {', '.join(figures['in_captions']) or 'none'}")
    if figures["unknown_subjects"]:
        lines.append(f"right answers that no caption is about: {', '.join(figures['unknown_subjects'])}")
    return "\n".join(lines)


def _mark(row: dict[str, Any]) -> str:
    return "+" if row["first"] else "." if row["first_five"] else " "


def load_text_parts(checkpoint: str, text_encoder: Path | None) -> tuple[CLIPTextModel, CLIPTokenizerFast]:
    """(text encoder in its own dtype, tokenizer). Raises UserError."""
    root = resolve_checkpoint(checkpoint)
    return load_text_encoder(text_encoder or root / "text_encoder"), load_part(CLIPTokenizerFast, root / "tokenizer")


def load_text_encoder(folder: Path) -> CLIPTextModel:
    """In its own dtype. Raises UserError."""
    return load_part(CLIPTextModel, folder, dtype="auto").eval()


def save_text_encoder(target: Path, encoder: CLIPTextModel, table: Tensor) -> None:
    """Fill the folder `target`: the encoder with another table, in its own dtype, in shards as a pipeline's."""
    changed = copy.deepcopy(encoder)
    changed.get_input_embeddings().weight.data.copy_(table)
    changed.config.name_or_path = ""  # where it was loaded from means nothing elsewhere
    changed.save_pretrained(target, max_shard_size=SHARD_BYTES)


@torch.no_grad()
def check_unchanged(
    before: CLIPTextModel, after: CLIPTextModel, tokenizer: Tokenizer, captions: Sequence[str], sample: int = 512
) -> None:
    """Assert that every caption keeps its states, bit for bit.

    What the transformer reads of each caption must be equal, and so must the transformer be; the states themselves
    are compared for `sample` captions, spread evenly.
    """
    old, new = before.state_dict(), after.state_dict()
    name = next(key for key in old if key.endswith("token_embedding.weight"))
    assert old.keys() == new.keys(), "the encoders do not have the same weights"
    for key in old:
        assert key == name or torch.equal(old[key], new[key]), f"{key} has changed"
    for start in range(0, len(captions), 1024):
        ids = tokenizer(list(captions[start : start + 1024]), padding=True, return_tensors="pt").input_ids
        assert torch.equal(old[name][ids], new[name][ids]), "a caption's token has another row"
    chosen = [captions[index] for index in np.linspace(0, len(captions) - 1, min(sample, len(captions))).astype(int)]
    states = [encode_captions(copy.deepcopy(encoder).float(), tokenizer, chosen)[0] for encoder in (before, after)]
    assert torch.equal(*states), "a caption has other states"


def ask_parser() -> Parser:
    """The command line without `tune`."""
    made = command_parser("train.sticker.everyday", __doc__, EXAMPLES)
    add = made.add_argument
    _add_shared(made)
    add(
        "--text-embedder",
        choices=("minilm", "words", "none"),
        default="minilm",
        help="to compare with; words: no download (bags of words), none: left out",
    )
    add("--out", type=Path, metavar="FILE", help="also write the figures there (JSON)")
    return made


def tune_parser() -> Parser:
    """The command line of `tune`."""
    what = "Give words that no caption has rows of their own; all captions keep their states."
    made = command_parser("train.sticker.everyday tune", what, EXAMPLES, json=False)
    _add_shared(made)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/text_encoder is written, or replaced")
    return made


def _add_shared(parser: Parser) -> None:
    add = parser.add_argument
    add("checkpoint", nargs="?", default="sticker-128", help="a pipeline folder or name (default sticker-128)")
    add("--data", type=Path, default=Path("data/stickers"), help="folder made by train.data")
    add("--words", type=Path, default=WORDS, metavar="TSV", help="another list")
    add("--text-encoder", type=Path, metavar="FOLDER", help="instead of the checkpoint's own")


def ask(args: argparse.Namespace) -> None:
    """The command without `tune`."""
    if args.out:
        check_writable(args.out)
    words = read_words(args.words)
    encoder, tokenizer = load_text_parts(args.checkpoint, args.text_encoder)
    records = read_captions(args.data)
    beside = None if args.text_embedder == "none" else text_embedder(args.text_embedder)
    subjects = subjects_of(records["train"]).all
    figures = report(words, all_captions(records), subjects, encoder.float(), tokenizer, beside)
    figures |= {"checkpoint": args.checkpoint, "text_embedder": args.text_embedder}
    if args.out:
        write_text(args.out, json.dumps(figures, indent=2) + "\n")
    print_result(json.dumps(figures) if args.json else table(figures))


def tune(args: argparse.Namespace) -> None:
    """`tune`: writes the encoder, and says how many rows are new."""
    kept_out = {word.word for word in read_words(args.words) if word.split == "test"}
    encoder, tokenizer = load_text_parts(args.checkpoint, args.text_encoder)
    records = read_captions(args.data)
    captions = all_captions(records)
    table = tuned_table(encoder, tokenizer, captions, subjects_of(records["train"]), embed, open_wordnet(), kept_out)
    target = args.out / "text_encoder"
    with whole_folder(target) as folder:  # an encoder that fails the check is not left behind
        save_text_encoder(folder, encoder, table)
        written = load_text_encoder(folder)
        check_unchanged(encoder, written, tokenizer, captions)
    old, new = encoder.get_input_embeddings().weight, written.get_input_embeddings().weight
    tell(f"{int((old != new).any(1).sum())} of {len(old)} rows are new; {len(captions)} captions keep their states")
    print_result(str(target))


def all_captions(records: dict[str, list[Record]]) -> list[str]:
    """The distinct captions of all splits."""
    return sorted({caption for several in records.values() for record in several for caption in record.captions})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["tune"]:
        return run_command(tune_parser(), tune, given[1:])
    return run_command(ask_parser(), ask, given)


if __name__ == "__main__":
    sys.exit(main())
