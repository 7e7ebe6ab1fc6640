"""train.teacher: where it starts from, and how much of what it sees is composed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from train.corpus import Corpus, share_groups
from train.diffusion import NoiseLevels
from train.shards import Record
from train.student import blocks_of
from train.teacher import build_unet, start_unet, x0_loss


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


def test_a_student_to_be_is_the_teachers_own_weights(tmp_path: Path) -> None:
    unet = build_unet(4, 8, 16, widths=(16, 32), layers=(1, 2), attention=(False, False), time_width=32)
    unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    student = start_unet(str(tmp_path), student="base")
    assert blocks_of(student) == (1, 1) and blocks_of(unet) == (1, 2)
    assert torch.equal(student.conv_in.weight, unet.conv_in.weight)


class Perfect(torch.nn.Module):
    """Knows the picture: v of x0 for whatever it is given, which it keeps."""

    def __init__(self, x0: torch.Tensor) -> None:
        super().__init__()
        self.x0, self.levels = x0, NoiseLevels()

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> SimpleNamespace:
        self.seen = x
        alpha, sigma = self.levels.at(timesteps)
        return SimpleNamespace(sample=(alpha * x - self.x0) / sigma)


def test_a_student_to_be_learns_from_noise_alone_at_the_last_timestep() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn((2, 2, 4, 4, 4), generator=generator)
    timesteps, text, network = torch.tensor([999, 300]), torch.zeros(2, 77, 4), Perfect(x0)
    assert float(x0_loss(network, NoiseLevels(), x0, eps, timesteps, text)) < 1e-9
    assert torch.equal(network.seen[0], eps[0])
    assert torch.allclose(network.seen[1], NoiseLevels().noised(x0, eps, timesteps)[1])
    assert float(x0_loss(network, NoiseLevels(), x0 + 1, eps, timesteps, text)) == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_teacher_draws_the_share_of_compositions_it_is_told(share: float) -> None:
    groups = ["animals-nature"] * 3 + ["colour", "pair"]
    records = [Record(str(index), ("x",), "", "", group, 2.0) for index, group in enumerate(groups)]
    corpus = Corpus(records, torch.zeros(5, 1, 1, 1), [[0]] * 5, torch.zeros(1, 77, 4), torch.zeros(1, 4))
    share_groups(corpus, {"colour", "pair"}, share)
    weights = [record.weight for record in corpus.records]
    assert weights[:3] == [2.0, 2.0, 2.0]
    assert sum(weights[3:]) / sum(weights) == pytest.approx(share)
