"""LoRA: the start changes nothing, only adapters learn, merging is exact, files open in diffusers."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from runtime.errors import UserError
from train.checkpoint import load_pipeline
from train.lora import (
    WEIGHTS_FILE,
    add_lora,
    has_lora,
    load_lora,
    load_lora_state,
    lora_state,
    merge_lora,
    save_lora,
)
from train.random_teacher import make_random_teacher
from train.student import count_parameters

torch.set_num_threads(1)  # toy tensors: with more, threads mostly wait for one another


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_teacher(tmp_path_factory.mktemp("lora") / "teacher", "tiny")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> UNet2DConditionModel:
    return load_pipeline(folder).unet.eval()


@pytest.fixture
def unet(loaded: UNet2DConditionModel) -> UNet2DConditionModel:
    return copy.deepcopy(loaded)


def run(unet: UNet2DConditionModel) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return unet(torch.randn(2, 4, 8, 8, generator=noise), 999, torch.randn(2, 77, 32, generator=noise)).sample


def trained(unet: UNet2DConditionModel, rank: int = 4, alpha: int = 12) -> UNet2DConditionModel:
    """The U-Net with adapters that do something."""
    torch.manual_seed(1)
    for parameter in add_lora(unet, rank, alpha):
        parameter.data.normal_(std=0.05)
    return unet


def test_the_first_output_is_unchanged_bit_for_bit(unet: UNet2DConditionModel) -> None:
    with torch.no_grad():
        before = run(unet)
        add_lora(unet, rank=4, alpha=8)
        assert torch.equal(run(unet), before)


def test_only_adapters_learn_and_all_of_them_do(unet: UNet2DConditionModel) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    parameters = add_lora(unet, rank=4)
    learning = {id(parameter) for parameter in unet.parameters() if parameter.requires_grad}
    assert learning == {id(parameter) for parameter in parameters}
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(2):  # in the first step the zero factor hides the other one's gradient
        optimizer.zero_grad()
        run(unet).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters)
    after = {name.replace(".base_layer", ""): value for name, value in unet.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_default_targets_reach_attention_and_residual_blocks(unet: UNet2DConditionModel) -> None:
    add_lora(unet, rank=2)
    layers = {key.split(".lora_")[0].rsplit(".", 1)[-1] for key in lora_state(unet)}
    assert layers == {"to_q", "to_k", "to_v", "0", "conv1", "conv2", "time_emb_proj"}
    assert any("mid_block.resnets.1.conv2" in key for key in lora_state(unet))


def test_merged_is_plain_and_gives_the_same_output(unet: UNet2DConditionModel) -> None:
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    before = run(unet).detach()
    merged = merge_lora(trained(unet)).eval()
    assert {name: value.shape for name, value in merged.state_dict().items()} == shapes
    assert not has_lora(merged) and has_lora(unet)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    with torch.no_grad():
        torch.testing.assert_close(run(merged), run(unet), rtol=1e-4, atol=1e-4)
        assert (run(merged) - before).abs().max() > 1e-2  # and the adapters did something


def test_a_merged_student_saves_as_any_unet(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    merged = merge_lora(trained(unet))
    merged.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(run(again), run(merged.eval()))


def test_the_file_opens_in_diffusers_and_draws_the_merged_students_picture(
    folder: Path, unet: UNet2DConditionModel, tmp_path: Path
) -> None:
    path = save_lora(trained(unet), tmp_path / "lora")
    assert path.name == WEIGHTS_FILE and [file.name for file in path.parent.iterdir()] == [WEIGHTS_FILE]
    pictures = {}
    for name in ("plain", "lora", "merged"):
        pipe = load_pipeline(folder)
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
        if name == "lora":
            StableDiffusionPipeline.load_lora_weights(pipe, tmp_path / "lora")
        if name == "merged":
            pipe.register_modules(unet=merge_lora(unet).eval())
        pictures[name] = torch.from_numpy(
            pipe(
                "a fox",
                num_inference_steps=1,
                guidance_scale=1.0,
                output_type="np",
                generator=torch.Generator().manual_seed(0),
            ).images
        )
    torch.testing.assert_close(pictures["lora"], pictures["merged"], rtol=0, atol=1e-3)
    assert (pictures["lora"] - pictures["plain"]).abs().mean() > 1e-2


def test_load_is_the_inverse_of_save(unet: UNet2DConditionModel, loaded: UNet2DConditionModel, tmp_path: Path) -> None:
    save_lora(trained(unet), tmp_path)
    other = copy.deepcopy(loaded)
    parameters = load_lora(other, tmp_path)
    assert {id(p) for p in other.parameters() if p.requires_grad} == {id(p) for p in parameters}
    with torch.no_grad():
        torch.testing.assert_close(run(other), run(unet), rtol=1e-4, atol=1e-4)


def test_a_checkpoint_holds_the_adapters_alone(unet: UNet2DConditionModel, loaded: UNet2DConditionModel) -> None:
    state = lora_state(trained(unet))
    assert sum(value.numel() for value in state.values()) < count_parameters(loaded) / 2
    other = copy.deepcopy(loaded)
    add_lora(other, rank=4, alpha=12)
    load_lora_state(other, {name: value.clone() for name, value in state.items()})
    with torch.no_grad():
        assert torch.equal(run(other), run(unet))
    third = copy.deepcopy(loaded)
    add_lora(third, rank=2)
    with pytest.raises(UserError, match="another rank"):
        load_lora_state(third, state)


def test_what_cannot_be_adapted_is_refused(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 or more"):
        add_lora(unet, rank=0)
    with pytest.raises(UserError, match="targets to_z"):
        add_lora(unet, rank=2, targets=("to_q", "to_z"))
    with pytest.raises(UserError, match="no LoRA adapters to save"):
        save_lora(unet, tmp_path)
    with pytest.raises(UserError, match="there is no pytorch_lora_weights"):
        load_lora(unet, tmp_path)
    add_lora(unet, rank=2)
    with pytest.raises(UserError, match="already"):
        add_lora(unet, rank=2)


def test_a_file_of_another_unet_is_refused(
    unet: UNet2DConditionModel, loaded: UNet2DConditionModel, tmp_path: Path
) -> None:
    save_lora(trained(unet), tmp_path)
    path = tmp_path / WEIGHTS_FILE
    wide = {name: value.repeat(1, 2, *(1,) * (value.ndim - 2)) for name, value in load_file(path).items()}
    save_file(wide, path)
    with pytest.raises(UserError, match="does not fit"):
        load_lora(copy.deepcopy(loaded), tmp_path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="does not fit"):
        load_lora(copy.deepcopy(loaded), tmp_path)


def test_the_file_carries_no_pickle(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    data = save_lora(trained(unet), tmp_path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert all(key.startswith("unet.") for key in header if key != "__metadata__")
