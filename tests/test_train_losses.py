"""The ADD losses and networks, each against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from runtime.errors import UserError
from tests.support.train_fixtures import some_draws
from train.add.augment import CHOICES, diff_augment
from train.add.discriminator import Discriminator, DiscriminatorHead, VirtualBatchNorm
from train.add.draws import draw, shows_picture
from train.add.feature_networks import (
    DinoTaps,
    MobileNetTaps,
    PictureFeatures,
    TeacherFeatures,
    load_dino,
    tapped_modules,
)
from train.add.losses import adversarial_loss_d, adversarial_loss_g, distillation_loss, distillation_weight, r1_penalty
from train.add.mobilenet import load_mobilenet
from train.config import Config
from train.diffusion import NoiseLevels
from train.teacher import build_unet


def add_discriminator(conditioning: str = "both", taps: tuple[int, ...] = (3, 6, 13, 17)) -> Discriminator:
    torch.manual_seed(0)
    network = MobileNetTaps(taps)
    return Discriminator(PictureFeatures(network, network.trunk.tap_widths), text_width=8, conditioning=conditioning)


def ladd_discriminator() -> Discriminator:
    torch.manual_seed(0)
    unet = build_unet(4, 8, 16, widths=(16, 16, 32), layers=(1, 2, 2), attention=(False, True, True)).eval()
    return Discriminator(TeacherFeatures(unet, NoiseLevels(), (4, 8, 8)), text_width=16, conditioning="text")


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
    features = torch.randn(2, 3, 4)
    head_weight = torch.randn(1, requires_grad=True)
    with pytest.raises(RuntimeError):
        r1_penalty([features.flatten(1) * head_weight], [features])


ALPHA, SIGMA = torch.full((2, 1, 1, 1), 0.6), torch.full((2, 1, 1, 1), 0.8)


@pytest.mark.parametrize(
    ("weighting", "expected"), [("exponential", 0.6), ("sds", 0.6 / 1.6), ("nfsd", 0.6 / 1.6), ("uniform", 1.0)]
)
def test_distillation_weights(weighting: str, expected: float) -> None:
    weight = distillation_weight(ALPHA, SIGMA, weighting)
    student, teacher = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert distillation_loss(student, teacher, weight).item() == pytest.approx(expected)


def test_sds_weights_give_the_gradient_of_score_distillation() -> None:
    """d/dx of c(t) ||x - x0_teacher||^2 is eps_teacher - eps (DreamFusion), summed, not averaged."""
    x0 = torch.randn(2, 3, 4, 4, requires_grad=True)
    eps, eps_teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    noisy = ALPHA * x0.detach() + SIGMA * eps
    x0_teacher = (noisy - SIGMA * eps_teacher) / ALPHA
    (distillation_loss(x0, x0_teacher, distillation_weight(ALPHA, SIGMA, "sds")) * x0.numel()).backward()
    torch.testing.assert_close(x0.grad, eps_teacher - eps, atol=1e-4, rtol=1e-4)


def test_distillation_stops_at_the_teacher() -> None:
    student = torch.zeros(1, 1, 2, 2, requires_grad=True)
    teacher = torch.ones(1, 1, 2, 2, requires_grad=True)
    distillation_loss(student, teacher, torch.ones(1, 1, 1, 1)).backward()
    assert student.grad is not None and teacher.grad is None
    with pytest.raises(ValueError, match="exponential"):
        distillation_weight(ALPHA, SIGMA, "nfsd2")


def test_feature_network_is_frozen_and_passes_gradients() -> None:
    network = load_mobilenet()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    features = network(x)
    assert [f.shape[1] for f in features] == [24, 32, 96, 320]
    features[-1].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())


# ---- the discriminator: one interface for ADD and LADD ---------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["none", "text", "image", "both"])
def test_conditioning_changes_the_logits_exactly_where_it_should(conditioning: str) -> None:
    discriminator, draws = add_discriminator(conditioning), some_draws(8)
    real, text, pooled = torch.randn(8, 3, 64, 64), torch.randn(8, 77, 8), torch.randn(8, 8)
    features, shown = discriminator.network.observe(real, text, draws, fake=False), torch.ones(8).bool()

    def logits(other_pooled: Tensor, other_real: Tensor) -> Tensor:
        return discriminator(features, discriminator.condition(other_real, text, other_pooled, draws, shown))[-1]

    base = logits(pooled, real)
    assert torch.equal(base, logits(pooled.flip(0), real)) == (conditioning in ("none", "image"))
    assert torch.equal(base, logits(pooled, real.flip(0))) == (conditioning in ("none", "text"))


def test_pure_noise_is_not_judged_by_a_picture_that_the_student_cannot_know() -> None:
    """ADD, section 3.2: the image conditions the critic for tau < 1000, where the student sees something of it."""
    discriminator, draws = add_discriminator("both"), some_draws(4)
    draws.timesteps = torch.tensor([999, 749, 999, 249])
    text, pooled, real = torch.randn(4, 77, 8), torch.randn(4, 8), torch.randn(4, 3, 64, 64)
    for zero_terminal_snr, hidden in ((True, [0, 2]), (False, [])):
        config = Config(teacher="t", data="d", zero_terminal_snr=zero_terminal_snr)
        shown = shows_picture(config, draws)
        one, two = (discriminator.condition(x, text, pooled, draws, shown) for x in (real, torch.randn_like(real)))
        assert one is not None and two is not None
        same = (one == two).all(1).nonzero().flatten().tolist()
        assert same == hidden and one[:, :8].abs().sum() > 0  # the text's part stays


@pytest.mark.parametrize("make", [add_discriminator, ladd_discriminator])
def test_both_kinds_give_logits_and_gradients(make: object) -> None:
    discriminator: Discriminator = make()  # type: ignore[operator]
    latents = discriminator.network.on_latents
    x = torch.randn(8, 4, 8, 8) if latents else torch.randn(8, 3, 64, 64)
    x.requires_grad_()
    width, draws = (16 if latents else 8), some_draws(8)
    text, pooled = torch.randn(8, 77, width), torch.randn(8, width)
    condition = discriminator.condition(x, text, pooled, draws, torch.ones(8).bool())
    logits = discriminator(discriminator.network.observe(x, text, draws, fake=True), condition)
    assert len(logits) == len(discriminator.network.widths) and all(len(one) == 8 for one in logits)
    torch.stack([one.mean() for one in logits]).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    trained = {id(p) for p in discriminator.heads.parameters()}
    assert all(p.grad is None for p in discriminator.parameters() if id(p) not in trained)


def test_ladd_is_conditioned_on_the_noise_level_and_sees_it() -> None:
    network = ladd_discriminator().network
    assert isinstance(network, TeacherFeatures)
    low, high = some_draws(8), some_draws(8)
    low.view_level, high.view_level = torch.full((8,), -4.0), torch.full((8,), 2.0)
    assert (network.timesteps(low) < 100).all() and (network.timesteps(high) > 900).all()
    assert not torch.allclose(network.levels(low), network.levels(high), atol=0.1)
    x, text = torch.randn(8, 4, 8, 8), torch.randn(8, 77, 16)
    seen, noise = (network.observe(x, text, draws, fake=True)[0] for draws in (low, high))
    assert not torch.allclose(seen, noise, atol=0.1)


def test_ladd_taps_every_attention_block_and_stages_without_any() -> None:
    unet = build_unet(4, 8, 16, widths=(16, 16, 32), layers=(1, 2, 2), attention=(False, True, True))
    names = [type(module).__name__ for module in tapped_modules(unet)]
    assert names.count("Transformer2DModel") == 2 + 2 + 1 + 3 + 3
    assert names.count("ResnetBlock2D") == 2


def test_the_teacher_keeps_no_features_when_it_only_guides() -> None:
    discriminator = ladd_discriminator()
    network = discriminator.network
    assert isinstance(network, TeacherFeatures)
    network._unet[0](torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 77, 16))
    assert network._seen is None


def test_dino_gives_patch_tokens_of_five_layers(tmp_path: object) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=28))
    model.save_pretrained(tmp_path)
    taps = load_dino(str(tmp_path))
    assert isinstance(taps, DinoTaps) and not any(p.requires_grad for p in taps.parameters())
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    features = taps(x)
    assert [tuple(f.shape) for f in features] == [(2, 24, 16)] * 5
    features[-1].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_dino_that_is_not_on_disk_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="features_path"):
        load_dino("/nonexistent")


def test_virtual_batches_do_not_see_each_other() -> None:
    norm = VirtualBatchNorm(3, virtual_batch=4)
    x = torch.randn(8, 3, 5)
    torch.testing.assert_close(norm(x)[:4], norm(torch.cat([x[:4], 10 * x[4:]]))[:4])


@pytest.mark.parametrize("tokens", [1, 4, 64])
def test_heads_take_any_number_of_tokens_and_are_circular(tokens: int) -> None:
    head = DiscriminatorHead(12, 0).eval()
    x = torch.randn(8, 12, tokens)
    logits = head(x, None)
    assert logits.shape == (8, tokens)
    torch.testing.assert_close(head(x.roll(1, dims=2), None), logits.roll(1, dims=1), atol=1e-5, rtol=1e-4)


def test_spectral_norms_move_once_an_update_and_not_in_passes() -> None:
    discriminator = add_discriminator("none", (3, 6))
    buffers = dict(discriminator.heads.named_buffers())
    with torch.no_grad():
        for parameter in discriminator.heads.parameters():
            parameter.mul_(1.5).add_(torch.randn_like(parameter) * 0.1)
    before = {name: value.clone() for name, value in buffers.items()}
    draws, x = some_draws(8), torch.randn(8, 3, 64, 64)
    for _ in range(2):
        discriminator(discriminator.network.observe(x, torch.zeros(8, 77, 8), draws, fake=False), None)
    assert all(torch.equal(before[name], value) for name, value in buffers.items())
    discriminator.refresh_norms()
    assert not all(torch.equal(before[name], value) for name, value in buffers.items())


def test_augmentation_follows_its_draws_is_differentiable_and_keeps_the_shape() -> None:
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    one, other = torch.rand(4, CHOICES), torch.rand(4, CHOICES)
    first = diff_augment(x, one)
    assert first.shape == x.shape
    assert torch.equal(first, diff_augment(x, one)) and not torch.equal(first, diff_augment(x, other))
    torch.testing.assert_close(diff_augment(x[2:], one[2:]), first[2:])
    first.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_noise_that_nothing_reads_is_not_drawn_and_changes_no_other() -> None:
    views, none = (
        draw(Config(teacher="", data="", batch=4, features=features), 3, 0, (4, 2, 2))
        for features in ("teacher", "mobilenet_v2")
    )
    assert torch.equal(views.noise, none.noise) and torch.equal(views.teacher_noise, none.teacher_noise)
    assert views.view_noise_real.shape == (4, 4, 2, 2) and none.view_noise_real.shape == (4, 0)
    assert none.rows(slice(1, 3)).view_noise_fake.shape == (2, 0)
