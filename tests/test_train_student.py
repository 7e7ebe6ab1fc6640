"""Block removal keeps the teacher's weights; PCA latents are exact; linear decoding is least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from train.autoencoder import build_autoencoder, encode_all, pca_of_patches, set_pca_encoder
from train.linear_decoder import fit_linear_decoder
from train.student import count_parameters, kept_positions, multiply_adds, prune
from train.teacher import build_unet, draw_timesteps


@pytest.fixture(scope="module")
def teacher() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet(4, 8, 16, widths=(16, 16, 32), layers=(1, 2, 2), attention=(False, True, True)).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 8, 8), torch.tensor([999, 3]), torch.randn(2, 77, 16)


def test_the_last_block_of_a_stage_always_stays() -> None:
    assert kept_positions(3, 2) == [0, 2]
    assert kept_positions(2, 1) == [0]
    assert kept_positions(2, 2) == [0, 1]


def test_nothing_removed_is_the_teacher_itself(teacher: UNet2DConditionModel) -> None:
    student, batch = prune(teacher, (1, 2, 2)).eval(), inputs()
    with torch.no_grad():
        torch.testing.assert_close(student(*batch).sample, teacher(*batch).sample)


def test_a_pruned_student_is_smaller_and_every_weight_is_the_teachers(teacher: UNet2DConditionModel) -> None:
    student = prune(teacher, (1, 1, 1))
    assert count_parameters(student) < count_parameters(teacher)
    assert multiply_adds(student) < multiply_adds(teacher)
    known = {parameter.detach().numpy().tobytes() for parameter in teacher.parameters()}
    assert all(parameter.detach().numpy().tobytes() in known for parameter in student.parameters())
    assert student(*inputs()).sample.shape == (2, 4, 8, 8)


def test_copies_do_not_touch_the_teacher_and_shared_modules_do(teacher: UNet2DConditionModel) -> None:
    copied, shared = prune(teacher, (1, 1, 1)), prune(teacher, (1, 1, 1), share=True)
    assert copied.conv_in.weight is not teacher.conv_in.weight
    assert shared.conv_in.weight is teacher.conv_in.weight
    own = {id(parameter) for parameter in teacher.parameters()}
    assert all(id(parameter) in own for parameter in shared.parameters())


def test_without_a_middle_block(teacher: UNet2DConditionModel) -> None:
    student = prune(teacher, (1, 1, 1), mid_block=False)
    assert student.mid_block is None
    assert student(*inputs()).sample.shape == (2, 4, 8, 8)


def test_without_attention_at_the_lowest_resolution(teacher: UNet2DConditionModel) -> None:
    student = prune(teacher, (1, 1, 1), attention=(False, True, False))
    assert student.config.down_block_types == ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    assert student.config.up_block_types == ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]
    known = {parameter.detach().numpy().tobytes() for parameter in teacher.parameters()}
    assert all(parameter.detach().numpy().tobytes() in known for parameter in student.parameters())
    assert student(*inputs()).sample.shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="3 entries"):
        prune(teacher, (1, 1, 1), attention=(False,))


@pytest.mark.parametrize("layers", [(1, 1), (1, 2, 3), (0, 1, 1)])
def test_impossible_students_are_refused(teacher: UNet2DConditionModel, layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 entries"):
        prune(teacher, layers)


def test_the_encoder_computes_the_pca_exactly() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (12, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    pictures = (smooth // 2 + rng.integers(0, 128, (12, 32, 32, 3))).astype(np.uint8)
    mean, basis, std = pca_of_patches(pictures, 12)
    autoencoder = build_autoencoder(12)
    set_pca_encoder(autoencoder, mean, basis, std)
    latents = encode_all(autoencoder, pictures).permute(0, 2, 3, 1).numpy().reshape(-1, 12)
    blocks = pictures.reshape(12, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192) / 255
    exact = (blocks - mean) @ basis
    for k in range(12):
        slope = (latents[:, k] @ exact[:, k]) / (exact[:, k] @ exact[:, k])
        np.testing.assert_allclose(latents[:, k], slope * exact[:, k], atol=2e-4)


def test_the_linear_decoder_inverts_linear_latents() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, 2, 2, 3), np.uint8).repeat(8, 1).repeat(8, 2)  # flat patches: rank 3
    mean, basis, std = pca_of_patches(pictures, 3)
    autoencoder = build_autoencoder(3)
    set_pca_encoder(autoencoder, mean, basis, std)
    latents = encode_all(autoencoder, pictures)
    decoded = fit_linear_decoder(latents, pictures)(latents)
    wanted = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(decoded, wanted.float(), atol=2e-2, rtol=0)


def test_timesteps_prefer_high_noise() -> None:
    timesteps = draw_timesteps(4000, np.random.default_rng(0), last=0.25, power=0.6)
    assert timesteps.min() >= 0 and timesteps.max() == 999
    assert 0.2 < (timesteps == 999).float().mean() < 0.3
    assert timesteps.float().mean() > 600
