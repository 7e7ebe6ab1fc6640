"""Text alignment by a retrieval scorer: two linear maps into one space, trained on real captioned pictures alone.

Texts come in as MiniLM sentence embeddings, pictures as the figures' own features. The generator's text encoder has
no part in it. MiniLM itself never generates; what train.text_encoder makes is distilled from it, so the two read words
alike, which is why the maps are learned from real pictures and never see a generated one. It stands in for CLIP,
whose score it cannot be compared with.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import UserError
from train.diffusion import computes_in_bf16
from train.progress import progress

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> f32[N, E]

WIDTH = 128  # of the shared space
BATCH = 512
PATIENCE = 8  # validations without improvement before the fit ends
VALIDATE_EVERY = 10  # steps


def hashed_words(texts: Sequence[str], width: int = 512) -> np.ndarray:
    """Unit bags of words f32[N, width], each word at a place and with a sign given by its hash; needs no download."""
    bags = np.zeros((len(texts), width), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            code = zlib.crc32(word.encode())
            bags[row, code % width] += 1 if code >> 31 else -1
    return bags / np.maximum(np.linalg.norm(bags, axis=1, keepdims=True), 1e-6)


def text_embedder(name: str) -> Embed:
    """ "minilm" or "words"."""
    return hashed_words if name == "words" else _minilm


def _minilm(texts: Sequence[str]) -> np.ndarray:
    from train.minilm import embed

    try:
        return embed(texts, dtype=torch.bfloat16 if computes_in_bf16("cpu") else torch.float32)
    except UserError as error:
        raise UserError(f"{error}; or do without: --text-embedder words") from error


class Remembered:
    """An embedder that is asked once for each text; f32[N, E] tensors."""

    def __init__(self, embed: Embed) -> None:
        self.embed = embed
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, self.embed(new), strict=True))
        return torch.from_numpy(np.stack([self.known[text] for text in texts])).float()


class _Side(nn.Module):
    """Standardised inputs f32[B, D] -> unit vectors f32[B, WIDTH]."""

    def __init__(self, inputs: Tensor, dropout: float) -> None:
        super().__init__()
        self.mean = nn.Buffer(inputs.mean(dim=0))
        self.scale = nn.Buffer(inputs.std(dim=0).clamp_min(1e-3 * inputs.std() + 1e-6))
        self.drop = nn.Dropout(dropout)
        self.map = nn.Linear(inputs.shape[1], WIDTH, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(self.map(self.drop((inputs - self.mean) / self.scale)), dim=1)


class RetrievalScorer:
    """Fitted when made; the same for the same pictures, captions and seed.

    features: f32[N, D] of real pictures, captions: one per picture. groups: pictures of one group are kept on the same
    side of the validation split (default: those of one caption); a tenth of the groups decides when the fit ends.
    """

    def __init__(
        self,
        features: Tensor,
        captions: Sequence[str],
        embed: Embed,
        groups: Sequence[str] = (),
        seed: int = 0,
        max_steps: int = 600,
    ) -> None:
        self.texts = Remembered(embed)
        embedded, labels = self.texts(captions), _numbered(captions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.picture_side, self.text_side = _Side(features, 0.5), _Side(embedded, 0.1)
            fit = _Fit(self.picture_side, self.text_side, features, embedded, labels)
            self.validation_loss = fit.run(_validation(groups or captions), max_steps)
        self.picture_side.eval().requires_grad_(False)
        self.text_side.eval().requires_grad_(False)

    def cosines(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """f32[N, T]: every picture with every prompt."""
        return self.picture_side(features) @ self.text_side(self.texts(prompts)).T

    def figures(self, features: Tensor, prompts: Sequence[str]) -> dict[str, float]:
        """Figures from pictures' features f32[N, D] and the prompt of each.

        alignment: mean cosine of picture and prompt, -1..1. retrieval_at_1, retrieval_at_5: share of pictures whose
        own prompt ranks first, or among the first five, of the distinct prompts here; a tie counts against the picture.
        """
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        cosines = self.cosines(features, distinct)
        own = cosines.gather(1, torch.tensor([[place[prompt]] for prompt in prompts]))
        rank = (cosines >= own).sum(dim=1)  # 1 is first: the own prompt itself
        return {
            "alignment": float(own.mean()),
            "retrieval_at_1": float((rank <= 1).float().mean()),
            "retrieval_at_5": float((rank <= 5).float().mean()),
        }


class _Fit:
    """Symmetric InfoNCE (Radford et al. 2021) with early stopping; pictures that share a caption are not negatives."""

    def __init__(self, pictures: _Side, texts: _Side, features: Tensor, embedded: Tensor, labels: Tensor) -> None:
        self.sides = nn.ModuleList([pictures, texts])
        self.features, self.embedded, self.labels = features, embedded, labels
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        maps = [pictures.map.weight, texts.map.weight]
        self.optimizer = torch.optim.AdamW(
            [{"params": maps, "weight_decay": 0.1}, {"params": [self.log_scale], "weight_decay": 0.0}], lr=1e-3
        )

    def loss(self, index: Tensor) -> Tensor:
        pictures, texts = self.sides
        scale = self.log_scale.exp().clamp_max(100)
        logits = scale * pictures(self.features[index]) @ texts(self.embedded[index]).T
        labels = self.labels[index]
        same = (labels[:, None] == labels[None]) & ~torch.eye(len(index), dtype=torch.bool)
        logits = logits.masked_fill(same, -torch.inf)
        target = torch.arange(len(index))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def run(self, validation: Tensor, max_steps: int) -> float:
        """Fit on the pictures not marked in bool[N]; keeps the maps of the lowest validation loss and returns that."""
        train, held = (~validation).nonzero()[:, 0], validation.nonzero()[:, 0]
        best, best_state, waited = float("inf"), {}, 0
        with progress("retrieval scorer", max_steps) as advance:
            for step in range(1, max_steps + 1):
                self._step(train[torch.randperm(len(train))[:BATCH]])
                advance(1)
                if step % VALIDATE_EVERY:
                    continue
                found = self._validate(held)
                waited = 0 if found < best else waited + 1
                if found < best:
                    best, best_state = found, {name: value.clone() for name, value in self.sides.state_dict().items()}
                if waited >= PATIENCE:
                    break
        self.sides.load_state_dict(best_state)
        return best

    def _step(self, index: Tensor) -> None:
        self.sides.train()
        self.optimizer.zero_grad()
        self.loss(index).backward()
        self.optimizer.step()

    @torch.no_grad()
    def _validate(self, index: Tensor) -> float:
        self.sides.eval()
        return float(self.loss(index))


def _numbered(captions: Sequence[str]) -> Tensor:
    """i64[N]: equal captions, equal numbers."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(caption, len(numbers)) for caption in captions])


def _validation(groups: Sequence[str]) -> Tensor:
    """bool[N]: the tenth of the groups that the fit does not see, at least two of them. Raises UserError below four."""
    numbers = _numbered(groups)
    count = int(numbers.max()) + 1
    if count < 4:
        raise UserError(f"the text alignment needs pictures with at least 4 different captions, but there are {count}")
    chosen = torch.randperm(count)[: max(2, count // 10)]
    return torch.isin(numbers, chosen)
