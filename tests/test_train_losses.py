"""The ADD losses and networks, each against its definition and against a known bug."""

from __future__ import annotations

import pytest
import torch

from train.augment import diff_augment
from train.discriminator import Discriminator, VirtualBatchNorm
from train.losses import adversarial_loss_d, adversarial_loss_g, distillation_loss, r1_penalty
from train.mobilenet import load_mobilenet


def test_hinge_is_zero_beyond_the_margins_and_two_at_zero() -> None:
    assert adversarial_loss_d([torch.full((2, 3), 1.5)], [torch.full((2, 3), -1.5)]) == 0
    assert adversarial_loss_d([torch.zeros(2, 3)], [torch.zeros(2, 3)]) == 2
    assert adversarial_loss_g([torch.full((2, 3), 0.5)]) == -0.5


def test_r1_is_the_squared_gradient_by_the_features() -> None:
    features = torch.randn(4, 3, 2, 2, requires_grad=True)
    weight = torch.randn(3, 2, 2)
    logits = (features * weight).sum(dim=(1, 2, 3)).unsqueeze(1)
    torch.testing.assert_close(r1_penalty([logits], [features]), weight.square().sum())


def test_r1_on_features_without_gradients_is_an_error_not_a_silent_zero() -> None:
    features = torch.randn(2, 3, 2, 2)
    head_weight = torch.randn(1, requires_grad=True)
    with pytest.raises(RuntimeError):
        r1_penalty([features.flatten(1) * head_weight], [features])


def test_r1_reaches_the_heads_weights() -> None:
    discriminator = Discriminator(text_width=8, conditioning="text", taps=(3, 6))
    features = [f.requires_grad_() for f in discriminator.extract(torch.randn(8, 3, 64, 64))]
    logits = discriminator(features, torch.randn(8, 8))
    r1_penalty(logits, features).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.trainable_parameters())


@pytest.mark.parametrize(("weighting", "expected"), [("exponential", 0.6), ("sds", 0.6 / 1.6), ("uniform", 1.0)])
def test_distillation_weights(weighting: str, expected: float) -> None:
    student, teacher = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    alpha, sigma = torch.full((2, 1, 1, 1), 0.6), torch.full((2, 1, 1, 1), 0.8)
    assert distillation_loss(student, teacher, alpha, sigma, weighting).item() == pytest.approx(expected)


def test_distillation_stops_at_the_teacher() -> None:
    student = torch.zeros(1, 1, 2, 2, requires_grad=True)
    teacher = torch.ones(1, 1, 2, 2, requires_grad=True)
    one = torch.ones(1, 1, 1, 1)
    distillation_loss(student, teacher, one, one, "uniform").backward()
    assert student.grad is not None and teacher.grad is None
    with pytest.raises(ValueError, match="exponential"):
        distillation_loss(student, teacher, one, one, "nfsd2")


def test_feature_network_is_frozen_and_passes_gradients() -> None:
    network = load_mobilenet()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    features = network(x)
    assert [f.shape[1] for f in features] == [24, 32, 96, 320]
    features[-1].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("conditioning", ["none", "text", "image", "both"])
def test_conditioning_changes_the_logits_exactly_where_it_should(conditioning: str) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(text_width=8, conditioning=conditioning).eval()
    real, text = torch.randn(8, 3, 64, 64), torch.randn(8, 8)
    features = discriminator.extract(real, augment=False)

    def logits(other_text: torch.Tensor, other_real: torch.Tensor) -> torch.Tensor:
        return discriminator(features, discriminator.condition(other_text, other_real))[-1]

    base = logits(text, real)
    assert torch.equal(base, logits(text.flip(0), real)) == (conditioning in ("none", "image"))
    assert torch.equal(base, logits(text, real.flip(0))) == (conditioning in ("none", "text"))


def test_an_unknown_conditioning_is_refused() -> None:
    with pytest.raises(ValueError, match="none, text, image, both"):
        Discriminator(8, "clip")


def test_virtual_batches_do_not_see_each_other() -> None:
    norm = VirtualBatchNorm(3, virtual_batch=4)
    x = torch.randn(8, 3, 5)
    torch.testing.assert_close(norm(x)[:4], norm(torch.cat([x[:4], 10 * x[4:]]))[:4])


def test_augmentation_is_random_differentiable_and_keeps_the_shape() -> None:
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    first, second = diff_augment(x), diff_augment(x)
    assert first.shape == x.shape and not torch.equal(first, second)
    first.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
