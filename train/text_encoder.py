"""`python -m train.text_encoder`: a compact CLIPTextModel that learns MiniLM's sentence embeddings.

Its token embeddings start as a PCA of what MiniLM says of each BPE token's own text, so that words which no
caption holds mean something from the first step; its pooled state, through a linear projection, is trained to
give MiniLM's embedding of the whole phrase. The projection serves training alone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from runtime.command import Parser, command_parser, print_result, run_command
from runtime.files import whole_folder
from train.clip_vocab import write_tokenizer_folder
from train.data.shards import read_records
from train.minilm import embed
from train.registry import CLIP_BENCHMARK, OPEN_CLIP, fetch
from train.run.checkpoints import TrainingState

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
    """One pass over the phrases as lists of indices, phrases of like length together, batches shuffled."""
    order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), rng.random()))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(parts)
    return parts


def pad(ids: list[list[int]], pad_id: int) -> Tensor:
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [pad_id] * (longest - len(row)) for row in ids])


def distill(
    student: PhraseStudent,
    ids: list[list[int]],
    targets: np.ndarray,
    run_dir: Path,
    max_steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> list[dict[str, float]]:
    """Train the student on (token ids, MiniLM embeddings); the last 2 % of phrases are kept for validation."""
    kept = max(1, len(ids) // 50)
    shuffled = list(range(len(ids)))
    random.Random(seed).shuffle(shuffled)
    validation, training = shuffled[:kept], shuffled[kept:]
    train_ids = [ids[index] for index in training]
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    state = TrainingState(run_dir / "state", {"student": student}, {"optimizer": optimizer})
    step, rows = state.load()
    pad_id = student.encoder.config.eos_token_id
    rng, started = random.Random(seed + step), time.monotonic()
    queue: list[list[int]] = []
    while step < max_steps:
        if not queue:
            queue = batches(train_ids, batch, rng)
        chosen = queue.pop()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / max_steps))
        with torch.autocast("cpu", torch.bfloat16):
            predicted = student(pad([train_ids[index] for index in chosen], pad_id))
        wanted = torch.from_numpy(targets[[training[index] for index in chosen]])
        loss = 1 - (predicted.float() * wanted).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0 or step == max_steps:
            cosine = validation_cosine(student, [ids[index] for index in validation], targets[validation])
            rows.append(
                {
                    "step": step,
                    "train_cosine": 1 - loss.item(),
                    "validation_cosine": cosine,
                    "seconds": time.monotonic() - started,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            state.save(step, rows)
    return rows


@torch.no_grad()
def validation_cosine(student: PhraseStudent, ids: list[list[int]], targets: np.ndarray) -> float:
    pad_id = student.encoder.config.eos_token_id
    parts = [student(pad(ids[start : start + 256], pad_id)) for start in range(0, len(ids), 256)]
    return float((torch.cat(parts) * torch.from_numpy(targets)).sum(-1).mean())


def parser() -> Parser:
    """The command line."""
    made = command_parser("train.text_encoder", __doc__, EXAMPLES, json=False)
    made.add_argument("--data", type=Path, required=True, help="folder made by train.data")
    made.add_argument("--out", type=Path, required=True, help="run folder; OUT/text_encoder and OUT/tokenizer")
    made.add_argument("--width", type=int, default=144)
    made.add_argument("--layers", type=int, default=4)
    made.add_argument("--max-steps", type=int, default=2500)
    made.add_argument("--batch", type=int, default=256)
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--descriptions", type=int, default=40_000, help="class descriptions used, of 149,700")
    made.add_argument("--seed", type=int, default=0)
    return made


def work(args: argparse.Namespace) -> None:
    """Train, and write OUT/tokenizer and OUT/text_encoder."""
    torch.manual_seed(args.seed)
    vocabulary = fetch(OPEN_CLIP) / "open_clip/bpe_simple_vocab_16e6.txt.gz"
    with whole_folder(args.out / "tokenizer") as folder:
        write_tokenizer_folder(folder, vocabulary)
    tokenizer = CLIPTokenizerFast.from_pretrained(args.out / "tokenizer")
    words = token_texts(tokenizer)
    word_embeddings = embed(words)
    whole = [index for index, word in enumerate(words) if word.isalpha() and len(word) > 2]
    phrases = training_phrases(args.data, args.descriptions, args.seed)
    targets = np.concatenate([embed(phrases), word_embeddings[whole]])
    ids = encode_phrases(tokenizer, phrases + [words[index] for index in whole], max_tokens=40)
    student = PhraseStudent(build_text_encoder(args.width, args.layers))
    set_token_embeddings(student.encoder, word_embeddings)
    distill(student, ids, targets, args.out, args.max_steps, args.batch, args.lr, args.seed)
    with whole_folder(args.out / "text_encoder") as folder:
        student.encoder.save_pretrained(folder)
    print_result(str(args.out))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
