"""`python -m train.text_encoder`: a compact CLIPTextModel that learns MiniLM's sentence embeddings.

Its token embeddings start as a PCA of MiniLM's embedding of each BPE token's own text, so that words which no
caption holds mean something from the first step; its pooled state, through a linear projection, is trained to
give MiniLM's embedding of the whole phrase. The projection is only used in training.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import whole_folder
from train.clip_vocab import write_tokenizer_folder
from train.config import RunSettings
from train.data.shards import read_records
from train.minilm import embed
from train.registry import CLIP_BENCHMARK, OPEN_CLIP, fetch
from train.run.engine import Engine
from train.run.learning_rate import learning_rate, set_rate
from train.run.loop import run_task
from train.run.options import RUN_RANGES, add_number, add_run_options, check_ranges, settings_of
from train.run.task import Task, Values, descend
from train.run.telemetry import Telemetry

EXAMPLES = """examples:
  python -m train.text_encoder --data data/stickers --out runs/text_encoder
  python -m train.text_encoder --data data/mine --out runs/text_encoder --width 96 --max-steps 1000
OUT gets tokenizer/ and text_encoder/: the folder that --text of python -m train.teacher takes."""
MINILM_WIDTH = 384


def build_text_encoder(width: int = 144, layers: int = 4, heads: int = 4, vocab_size: int = 49408) -> CLIPTextModel:
    """CLIPTextModel with CLIP's 77 positions. 144 wide: its fp16 embedding table stays below 15 MB."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act="gelu",
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    return CLIPTextModel(config)


class PhraseStudent(nn.Module):
    """CLIPTextModel and the projection of its pooled state to MiniLM's space."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Linear(encoder.config.hidden_size, MINILM_WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        """ids i64[B, T] ending in <|endoftext|> -> f32[B, 384], unit length."""
        return F.normalize(self.projection(self.encoder(ids).pooler_output), dim=-1)


def training_phrases(data: Path, descriptions: int, seed: int) -> list[str]:
    """Captions of the training split, class descriptions, and every whole word of CLIP's vocabulary."""
    captions = {caption for record, _ in read_records(data, "train") for caption in record.captions}
    path = fetch(CLIP_BENCHMARK) / "clip_benchmark/datasets/cupl_prompts.json"
    prompts = [text for texts in json.loads(path.read_text())["imagenet1k"].values() for text in texts]
    rng = random.Random(seed)
    chosen = rng.sample(sorted(set(prompts)), descriptions)
    return sorted(captions) + chosen


def token_texts(tokenizer: CLIPTokenizerFast) -> list[str]:
    """The plain text of each of the vocabulary's tokens, in id order."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.all_special_tokens)
    return ["" if token in special else tokenizer.convert_tokens_to_string([token]).strip() for token, _ in vocabulary]


@torch.no_grad()
def set_token_embeddings(encoder: CLIPTextModel, sentence_embeddings: np.ndarray) -> None:
    """Token embeddings = PCA of f32[vocab, 384] to the model's width, at the scale of CLIP's own start."""
    centred = sentence_embeddings - sentence_embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    reduced = centred @ vectors[:, ::-1][:, : encoder.config.hidden_size]
    table = torch.from_numpy((reduced / reduced.std() * 0.05).astype(np.float32).copy())
    encoder.text_model.embeddings.token_embedding.weight.copy_(table)


def encode_phrases(tokenizer: CLIPTokenizerFast, phrases: list[str], max_tokens: int) -> list[list[int]]:
    return tokenizer(phrases, truncation=True, max_length=max_tokens)["input_ids"]


def batches(ids: list[list[int]], size: int, rng: random.Random) -> list[list[int]]:
    """One pass over the phrases as lists of indices, phrases of similar length together, batches shuffled."""
    order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), rng.random()))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(parts)
    return parts


def pad(ids: list[list[int]], pad_id: int) -> Tensor:
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [pad_id] * (longest - len(row)) for row in ids])


@dataclass(frozen=True, kw_only=True)
class PhraseSettings(RunSettings):
    """Settings of the text encoder's training."""

    lr: float = 1e-3


class PhraseTask(Task):
    """The text encoder learns the embeddings of whole phrases; the last 2 % of them are kept for validation.

    A checkpoint's score is the mean cosine of the validation phrases with their embeddings.
    """

    name, unit = "text encoder", "phrases"

    def __init__(
        self,
        student: PhraseStudent,
        ids: list[list[int]],
        targets: np.ndarray,
        settings: PhraseSettings,
        engine: Engine,
    ) -> None:
        """ids: the phrases' token ids; targets: their embeddings f32[N, 384], unit length."""
        self.settings, self.engine, self.student = settings, engine, student.to(engine.device)
        shuffled = list(range(len(ids)))
        random.Random(settings.seed).shuffle(shuffled)
        kept = max(1, len(ids) // 50)
        self.validation, self.training = (
            [(ids[i], targets[i]) for i in part] for part in (shuffled[:kept], shuffled[kept:])
        )
        self.pad_id = student.encoder.config.eos_token_id
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)
        self.weights, self.optimizers = {"student": student}, {"optimizer": self.optimizer}
        self._pass, self._batches = -1, batches([], 1, random.Random())

    def step(self, step: int) -> Values:
        settings = self.settings
        set_rate(self.optimizer, learning_rate(step, settings.lr, settings.max_steps, warmup=100, decay_from=0.0))
        ids, targets = zip(*(self.training[index] for index in self._batch(step)), strict=True)
        loss = 1 - self._cosines(ids, targets).mean()
        return descend(self.engine, self.optimizer, loss, clip=1.0)

    def _batch(self, step: int) -> list[int]:
        """The phrases of a step: each pass over all of them is shuffled anew, by its own number."""
        count = -(-len(self.training) // self.settings.batch)
        if self._pass != step // count:
            self._pass = step // count
            rng = random.Random(f"{self.settings.seed} {self._pass}")
            self._batches = batches([ids for ids, _ in self.training], self.settings.batch, rng)
        return self._batches[step % count]

    def _cosines(self, ids: Sequence[list[int]], targets: Sequence[np.ndarray]) -> Tensor:
        """Cosines f32[B] of the predicted embeddings with their targets."""
        device = self.engine.device
        with self.engine.autocast():
            predicted = self.student(pad(list(ids), self.pad_id).to(device))
        return (predicted.float() * torch.from_numpy(np.stack(targets)).to(device)).sum(-1)

    @torch.no_grad()
    def keep(self, step: int, telemetry: Telemetry) -> float:
        parts = [self.validation[start : start + 256] for start in range(0, len(self.validation), 256)]
        cosine = float(torch.cat([self._cosines(*zip(*part, strict=True)) for part in parts]).mean())
        telemetry.row(step, {"validation_cosine": cosine})
        return -cosine

    def finish(self, step: int, best: int | None) -> Path:
        """The encoder without its projection, in OUT/text_encoder; returns OUT, where the tokenizer is, too."""
        with whole_folder(Path(self.settings.run_dir) / "text_encoder") as folder:
            self.student.encoder.save_pretrained(folder)
        return Path(self.settings.run_dir)


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.text_encoder", __doc__, EXAMPLES, json=False)
    made.add_argument("--data", type=Path, required=True, help="folder made by train.data")
    made.add_argument("--out", type=Path, required=True, help="run folder; OUT/text_encoder and OUT/tokenizer")
    add_run_options(made, "the validation cosine", max_steps=2500, batch=256, log_every=50, save_every=200)
    add_number(made, "--width", 144)
    add_number(made, "--layers", 4)
    add_number(made, "--lr", 1e-3)
    add_number(made, "--descriptions", 40_000, "class descriptions used, of 149,700")
    return made


def work(args: argparse.Namespace) -> None:
    """Train, and write OUT/tokenizer and OUT/text_encoder."""
    check_ranges(args, RUN_RANGES | {"width": (4, 4096), "layers": (1, 128), "descriptions": (0, 149_700)})
    settings = settings_of(PhraseSettings, args)
    print_result(str(run_task(partial(phrase_task, args, settings), settings)))


def phrase_task(args: argparse.Namespace, settings: PhraseSettings, engine: Engine) -> PhraseTask:
    """The tokenizer's folder, the phrases with their MiniLM embeddings, and a new encoder."""
    torch.manual_seed(settings.seed)
    phrases = training_phrases(args.data, args.descriptions, settings.seed)  # missing data before a download
    vocabulary = fetch(OPEN_CLIP) / "open_clip/bpe_simple_vocab_16e6.txt.gz"
    with whole_folder(args.out / "tokenizer") as folder:
        write_tokenizer_folder(folder, vocabulary)
    tokenizer = CLIPTokenizerFast.from_pretrained(args.out / "tokenizer")
    dtype = torch.bfloat16 if engine.bf16 else torch.float32
    words = token_texts(tokenizer)
    word_embeddings = embed(words, dtype=dtype, device=engine.device)
    whole = [index for index, word in enumerate(words) if word.isalpha() and len(word) > 2]
    targets = np.concatenate([embed(phrases, dtype=dtype, device=engine.device), word_embeddings[whole]])
    ids = encode_phrases(tokenizer, phrases + [words[index] for index in whole], max_tokens=40)
    student = PhraseStudent(build_text_encoder(args.width, args.layers))
    set_token_embeddings(student.encoder, word_embeddings)
    return PhraseTask(student, ids, targets, settings, engine)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
