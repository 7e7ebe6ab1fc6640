"""train.teacher: where it starts from, and how much of what it sees is composed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from train.corpus import Corpus
from train.shards import Record
from train.student import blocks_of
from train.teacher import build_unet, share_compositions, start_unet


def test_a_teacher_without_attention_keeps_every_other_weight(tmp_path: Path) -> None:
    unet = build_unet(4, 8, 16, widths=(16, 32), layers=(1, 2), attention=(False, True), time_width=32)
    unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    whole, bare = (start_unet(str(tmp_path), no_attention) for no_attention in (False, True))
    assert blocks_of(bare) == blocks_of(whole)
    kept, all_weights = bare.state_dict(), whole.state_dict()
    assert all(torch.equal(weight, all_weights[name]) for name, weight in kept.items())
    left_out = set(all_weights) - set(kept)
    assert left_out and all(".attentions." in name and not name.startswith("mid_block") for name in left_out)
    assert bare(torch.zeros(1, 4, 8, 8), 999, torch.zeros(1, 77, 16)).sample.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_teacher_draws_the_share_of_compositions_it_is_told(share: float) -> None:
    groups = ["animals-nature"] * 3 + ["colour", "pair"]
    records = [Record(str(index), ("x",), "", "", group, 2.0) for index, group in enumerate(groups)]
    corpus = Corpus(records, torch.zeros(5, 1, 1, 1), [[0]] * 5, torch.zeros(1, 77, 4), torch.zeros(1, 4))
    share_compositions(corpus, share)
    weights = [record.weight for record in corpus.records]
    assert weights[:3] == [2.0, 2.0, 2.0]
    assert sum(weights[3:]) / sum(weights) == pytest.approx(share)
