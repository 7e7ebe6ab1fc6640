"""Students keep the teacher's weights; PCA latents are exact; linear decoding is least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from runtime.errors import UserError
from train.autoencoder import build_autoencoder, pca_of_patches, set_pca_encoder
from train.latents import encode_all, fit_linear_decoder
from train.lora import add_lora
from train.random_teacher import SHAPES, random_unet
from train.sizes import count_adapters, describe_sizes
from train.student import (
    STUDENTS,
    build_student,
    count_parameters,
    kept_positions,
    multiply_adds,
    prune,
    with_attention,
)
from train.teacher import build_unet
from train.teacher_task import draw_timesteps

torch.set_num_threads(1)  # toy tensors: with more, threads mostly wait for one another


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
    with pytest.raises(UserError, match="3 entries"):
        prune(teacher, (1, 1, 1), attention=(False,))


@pytest.mark.parametrize("layers", [(1, 1), (1, 2, 3), (0, 1, 1)])
def test_impossible_students_are_refused(teacher: UNet2DConditionModel, layers: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="3 entries"):
        prune(teacher, layers)


@pytest.fixture(scope="module")
def diffusion_shaped() -> UNet2DConditionModel:
    """Stable Diffusion's arrangement, tiny; the innermost stage is wider than the one above it."""
    torch.manual_seed(1)
    return random_unet(replace(SHAPES["tiny"], block_out_channels=(16, 24, 32))).requires_grad_(False)


def shapes_of(unet: UNet2DConditionModel) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in unet.state_dict().items()}


def run(unet: UNet2DConditionModel) -> torch.Tensor:
    torch.manual_seed(2)
    text = torch.randn(2, 77, unet.config.cross_attention_dim)
    return unet.eval()(torch.randn(2, 4, 8, 8), torch.tensor([999, 3]), text).sample


def test_sizes_are_the_published_ones() -> None:
    published = {"full": 859.5e6, "base": 579.4e6, "small": 482.3e6, "tiny": 323.4e6}  # BK-SDM, table 2 and its models
    with torch.device("meta"):
        teacher = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    for name, parameters in published.items():
        student = build_student(teacher, name)
        assert student.device.type == "meta"
        assert count_parameters(student) == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_runs_and_trains(diffusion_shaped: UNet2DConditionModel, name: str) -> None:
    student = build_student(diffusion_shaped, name)
    output = run(student)
    assert output.shape == (2, 4, 8, 8) and output.isfinite().all()
    output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert UNet2DConditionModel.from_config(dict(student.config)).config == student.config


def test_students_without_removed_blocks_are_the_teacher(diffusion_shaped: UNet2DConditionModel) -> None:
    for name in ("full", "custom"):
        torch.testing.assert_close(run(build_student(diffusion_shaped, name)), run(diffusion_shaped))


def test_base_keeps_the_first_and_the_last_block_of_an_up_stage(diffusion_shaped: UNet2DConditionModel) -> None:
    student = build_student(diffusion_shaped, "base")
    for ours, theirs in zip(student.up_blocks, diffusion_shaped.up_blocks, strict=True):
        for index, position in ((0, 0), (1, 2)):
            assert torch.equal(ours.resnets[index].conv2.weight, theirs.resnets[position].conv2.weight)
    assert [len(stage.resnets) for stage in student.down_blocks] == [1, 1, 1]
    assert build_student(diffusion_shaped, "small").mid_block is None


def test_tiny_cuts_the_channels_that_the_missing_stage_would_feed(diffusion_shaped: UNet2DConditionModel) -> None:
    student = build_student(diffusion_shaped, "tiny")
    assert len(student.down_blocks) == len(student.up_blocks) == 2
    ours, theirs = student.up_blocks[0].resnets[0], diffusion_shaped.up_blocks[1].resnets[0]
    kept = [*range(24), *range(32, 56)]  # 24 of the 32 hidden channels, the 24 of the skip connection
    assert torch.equal(ours.conv1.weight, theirs.conv1.weight[:, kept])
    assert torch.equal(ours.conv_shortcut.weight, theirs.conv_shortcut.weight[:, kept])
    assert torch.equal(ours.norm1.bias, theirs.norm1.bias[kept]) and ours.norm1.weight.shape == (48,)
    cut = {f"up_blocks.0.resnets.0.{name}.weight" for name in ("norm1", "conv1", "conv_shortcut")}
    known = {parameter.numpy().tobytes() for parameter in diffusion_shaped.parameters()}
    others = [parameter for name, parameter in student.named_parameters() if name not in cut]
    assert all(parameter.detach().numpy().tobytes() in known for parameter in others)


def test_tiny_shrinks_every_entry_that_has_one_element_a_stage() -> None:
    with torch.device("meta"):
        teacher = UNet2DConditionModel(
            sample_size=64,
            attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=[32, 48, 64, 64],
            transformer_layers_per_block=[1, 2, 1, 1],
            only_cross_attention=[False, True, False, False],
        )
    student = build_student(teacher, "tiny")
    config = student.config
    assert config.attention_head_dim == [5, 10, 20] and config.block_out_channels == [320, 640, 1280]
    assert config.cross_attention_dim == [32, 48, 64] and config.transformer_layers_per_block == [1, 2, 1]
    assert config.up_block_types == ["CrossAttnUpBlock2D"] * 3 and config.only_cross_attention == [False, True, False]
    for ours, theirs in zip(student.up_blocks, teacher.up_blocks[1:], strict=True):
        heads = [stage.attentions[0].transformer_blocks[0].attn1.heads for stage in (ours, theirs)]
        assert heads[0] == heads[1]
        assert shapes_of(ours.attentions[-1]) == shapes_of(theirs.attentions[-1])


def test_stages_that_share_modules_must_fit(diffusion_shaped: UNet2DConditionModel) -> None:
    with pytest.raises(UserError, match="different widths"):
        prune(diffusion_shaped, (1, 1), mid_block=False, share=True, removed_stages=1)
    torch.manual_seed(3)
    even = random_unet(SHAPES["tiny"])
    shared = prune(even, (1, 1), mid_block=False, share=True, removed_stages=1)
    assert shared.up_blocks[0].resnets[0] is even.up_blocks[1].resnets[0]
    assert run(shared).shape == (2, 4, 8, 8)


def test_no_attention_at_the_highest_resolution(
    teacher: UNet2DConditionModel, diffusion_shaped: UNet2DConditionModel
) -> None:
    student = build_student(diffusion_shaped, "no_hires_attention")
    assert student.config.down_block_types == ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    assert student.config.up_block_types == ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]
    assert [len(stage.resnets) for stage in student.down_blocks] == [2, 2, 2]
    with pytest.raises(UserError, match="no attention at its highest resolution"):
        build_student(teacher, "no_hires_attention")


def test_random_start_has_the_architecture_and_none_of_the_weights(diffusion_shaped: UNet2DConditionModel) -> None:
    kept, fresh = (build_student(diffusion_shaped, "small", init) for init in ("pruned", "random"))
    assert shapes_of(kept) == shapes_of(fresh)
    assert not torch.equal(kept.conv_in.weight, fresh.conv_in.weight)


def test_students_are_float32_whatever_the_teacher(diffusion_shaped: UNet2DConditionModel) -> None:
    half = UNet2DConditionModel.from_config(diffusion_shaped.config).to(torch.bfloat16)
    student = build_student(half, "base")
    assert student.dtype == torch.float32 and student.conv_in.weight.requires_grad
    assert torch.equal(student.conv_in.weight, half.conv_in.weight.float())


@pytest.mark.parametrize(("name", "init"), [("huge", "pruned"), ("base", "magic")])
def test_unknown_names_are_refused(teacher: UNet2DConditionModel, name: str, init: str) -> None:
    with pytest.raises(UserError, match="choose one of"):
        build_student(teacher, name, init)


def test_multiply_adds_of_convolutions_and_attention() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
    )
    pixels, width, time = 64, 8, 32
    resnets = (8, 16, 16)  # input channels: one down, two up
    convolutions = 4 * width * 9 * 2 + sum(9 * (c + width) * width + (c * width if c != width else 0) for c in resnets)
    linears = width * time + time * time + 3 * time * width
    assert multiply_adds(unet) == pixels * convolutions + linears
    with_attention = UNet2DConditionModel.from_config({**unet.config, "mid_block_type": "UNetMidBlock2DCrossAttn"})
    without_heads = UNet2DConditionModel.from_config({**unet.config, "mid_block_type": "UNetMidBlock2D"})
    projections = pixels * width * (2 + 4 + 2 + 8 + 4) * width + 2 * 77 * 16 * width
    products = 2 * pixels * pixels * width + 2 * pixels * 77 * width
    second_resnet = pixels * 2 * 9 * width * width + time * width
    assert multiply_adds(with_attention) - multiply_adds(without_heads) == projections + products + second_resnet


def test_sizes_in_words(teacher: UNet2DConditionModel) -> None:
    student = build_student(teacher, "base")
    plain = describe_sizes({"teacher": teacher, "student": student}).splitlines()
    assert plain[0].startswith("teacher  ") and " parameters" in plain[0] and "MB in fp16" in plain[0]
    ratio = count_parameters(student) / count_parameters(teacher)
    assert f"({ratio:.2f} and {multiply_adds(student) / multiply_adds(teacher):.2f} of the teacher's)" in plain[1]
    trainable = sum(parameter.numel() for parameter in add_lora(student, rank=2))
    assert trainable == count_adapters(student)
    adapted = describe_sizes({"teacher": teacher, "student": student}).splitlines()
    assert adapted[1].startswith(plain[1]) and f"{trainable / 1e3:.2f} k trainable LoRA" in adapted[1]


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_the_encoder_computes_the_pca_exactly(patch: int) -> None:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (12, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    pictures = (smooth // 2 + rng.integers(0, 128, (12, 32, 32, 3))).astype(np.uint8)
    mean, basis, std = pca_of_patches(pictures, 12, patch)
    autoencoder = build_autoencoder(12, patch=patch)
    set_pca_encoder(autoencoder, mean, basis, std)
    latents = encode_all(autoencoder, pictures).permute(0, 2, 3, 1).numpy().reshape(-1, 12)
    count = 32 // patch
    blocks = pictures.reshape(12, count, patch, count, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    exact = (blocks.reshape(-1, 3 * patch * patch) / 255 - mean) @ basis
    for k in range(12):
        slope = (latents[:, k] @ exact[:, k]) / (exact[:, k] @ exact[:, k])
        np.testing.assert_allclose(latents[:, k], slope * exact[:, k], atol=4e-4)
    assert autoencoder.decode(torch.zeros(1, 12, count, count)).sample.shape == (1, 3, 32, 32)


def test_gray_patches_have_fewer_directions_than_channels() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), np.uint8).repeat(3, 3)
    found = pca_of_patches(pictures, 20, 4)
    with pytest.raises(UserError, match="vary in 16 directions only: use --latent-channels 16"):
        set_pca_encoder(build_autoencoder(20, patch=4), *found)


def test_the_linear_decoder_inverts_linear_latents() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, 2, 2, 3), np.uint8).repeat(8, 1).repeat(8, 2)  # uniform patches: rank 3
    mean, basis, std = pca_of_patches(pictures, 3)
    autoencoder = build_autoencoder(3)
    set_pca_encoder(autoencoder, mean, basis, std)
    latents = encode_all(autoencoder, pictures)
    wanted = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).float()
    decoded = fit_linear_decoder(latents, wanted)(latents)
    torch.testing.assert_close(decoded, wanted, atol=2e-2, rtol=0)


def test_timesteps_prefer_high_noise() -> None:
    timesteps = draw_timesteps(4000, np.random.default_rng(0), last=0.25, power=0.6)
    assert timesteps.min() >= 0 and timesteps.max() == 999
    assert 0.2 < (timesteps == 999).float().mean() < 0.3
    assert timesteps.float().mean() > 600


def test_added_attention_changes_nothing_until_it_learns(teacher: UNet2DConditionModel) -> None:
    plain = prune(teacher, (1, 2, 2), attention=(False, False, False)).eval()
    attending, batch = with_attention(plain, [1]).eval(), inputs()
    assert attending.config.down_block_types[1] == "CrossAttnDownBlock2D"
    with torch.no_grad():
        torch.testing.assert_close(attending(*batch).sample, plain(*batch).sample)
    attending(*batch).sample.square().mean().backward()
    gradient = attending.down_blocks[1].attentions[0].proj_out.weight.grad
    assert gradient is not None and gradient.abs().max() > 0
    for stage in (1, 3, -1):
        with pytest.raises(UserError, match="choose from the stages without"):
            with_attention(attending, [stage])
