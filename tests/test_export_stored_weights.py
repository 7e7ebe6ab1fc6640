"""Every weight comes from the checkpoint's files: names of other versions are restored, gaps are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.onnx import __main__ as onnx
from export.plan.sizes import part_weights
from export.source import open_source
from runtime.errors import UserError
from tests.support.tiny import small_checkpoint
from train.checkpoint import load_part, load_pipeline
from train.weights.files import weight_files
from train.weights.keys import restored

FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
PARTS = tuple(FILES)
Tensors = dict[str, Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(small_checkpoint(), tmp_path / "checkpoint")


def rewrite(checkpoint: Path, part: str, change: Callable[[Tensors], Tensors]) -> None:
    """Put other tensors into a part's file."""
    path = checkpoint / part / FILES[part]
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, path)


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def weights(pipe: Any) -> Tensors:
    """All weights of a pipeline."""
    parts = {part: getattr(pipe, part).state_dict() for part in PARTS}
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def same(pipe: Any, other: Any) -> bool:
    """Whether two pipelines hold the same numbers."""
    ours, theirs = weights(pipe), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def line_of(checkpoint: Path, capfd: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line with which the exporter refuses, having written nothing."""
    code = onnx.main([str(checkpoint), "--out", str(checkpoint.parent / "out"), *options])
    printed = capfd.readouterr()
    assert (code, printed.out) == (2, "") and not (checkpoint.parent / "out").exists()
    assert len(printed.err.splitlines()) == 1, printed.err
    return printed.err


MISSING = [
    ("text_encoder", "text_model.encoder.layers.0.self_attn.k_proj.weight"),
    ("text_encoder", "text_model.embeddings.token_embedding.weight"),
    ("unet", "conv_in.weight"),
    ("vae", "decoder.layers.0.bias"),
]


@pytest.mark.parametrize(("part", "name"), MISSING)
def test_a_missing_weight_is_named_with_its_part_and_the_count(part: str, name: str, checkpoint: Path, capfd) -> None:
    count = len(load_file(checkpoint / part / FILES[part]))
    rewrite(checkpoint, part, without(name))
    line = line_of(checkpoint, capfd)
    assert f"{checkpoint / part}: the files lack {name} (1 of {count} tensors are missing)" in line
    with pytest.raises(UserError, match="the files lack"):  # the trainers open it in the same way
        load_pipeline(checkpoint)


@pytest.mark.parametrize("part", PARTS)
def test_an_unexpected_weight_is_named(part: str, checkpoint: Path, capfd) -> None:
    rewrite(checkpoint, part, lambda tensors: tensors | {"more.weight": torch.zeros(1), "more.bias": torch.zeros(1)})
    line = line_of(checkpoint, capfd)
    assert f"{checkpoint / part}: the files hold more." in line and "(2 such tensors)" in line


def test_a_weight_of_another_shape_is_named(checkpoint: Path, capfd) -> None:
    rewrite(checkpoint, "unet", lambda tensors: tensors | {"conv_out.bias": torch.zeros(9)})
    assert "conv_out.bias is stored as 9, and config.json says 4 (1 such tensors)" in line_of(checkpoint, capfd)


def test_a_text_encoder_without_its_prefix_is_the_same(checkpoint: Path) -> None:
    """As transformers 5.6 writes it."""
    before = load_pipeline(checkpoint)
    rewrite(checkpoint, "text_encoder", lambda t: {name.removeprefix("text_model."): one for name, one in t.items()})
    assert same(load_pipeline(checkpoint), before) and same(open_source(str(checkpoint)).pipe, before)


def test_a_text_encoder_partly_without_its_prefix_is_refused_where_one_is_missing(checkpoint: Path, capfd) -> None:
    def change(tensors: Tensors) -> Tensors:
        short = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        return without("final_layer_norm.bias")(short)

    rewrite(checkpoint, "text_encoder", change)
    assert "the files lack text_model.final_layer_norm.bias (1 of " in line_of(checkpoint, capfd)


def test_buffers_of_old_transformers_and_the_rest_of_clip_are_not_reported(checkpoint: Path) -> None:
    before = load_pipeline(checkpoint)
    beside = {
        "text_model.embeddings.position_ids": torch.arange(77.0)[None],
        "text_projection.weight": torch.zeros(32, 32),
        "logit_scale": torch.zeros(1),
    }
    rewrite(checkpoint, "text_encoder", lambda tensors: tensors | beside)
    assert same(load_pipeline(checkpoint), before)


def test_an_autoencoder_with_old_attention_names_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=16)  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def old(name: str) -> str:
        for now, then in names.items():
            name = name.replace(now, then)
        return name

    rewrite(tmp_path, "vae", lambda tensors: {old(name): tensor for name, tensor in tensors.items()})
    assert any(".proj_attn." in name for name in load_file(tmp_path / "vae" / FILES["vae"]))
    loaded = load_part(AutoencoderKL, tmp_path / "vae").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in vae.state_dict().items())


def test_a_name_without_any_dot_is_kept() -> None:
    assert restored("logit_scale", {"x"}) == "logit_scale"


def test_an_encoder_with_a_projection_is_opened_for_its_hidden_states(checkpoint: Path) -> None:
    before = load_pipeline(checkpoint)
    index = checkpoint / "model_index.json"
    said = json.loads(index.read_text()) | {"text_encoder": ["transformers", "CLIPTextModelWithProjection"]}
    index.write_text(json.dumps(said))
    rewrite(checkpoint, "text_encoder", lambda tensors: tensors | {"text_projection.weight": torch.zeros(32, 32)})
    assert same(load_pipeline(checkpoint), before)


def make_lora(checkpoint: Path, folder: Path) -> None:
    """A random LoRA for a checkpoint's U-Net, in diffusers' format."""
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    torch.manual_seed(0)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {name.replace(".default.", "."): p for name, p in unet.named_parameters() if "lora_" in name}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def with_lora(checkpoint: Path, lora: Path) -> Any:
    """diffusers' own pipeline, with the LoRA loaded."""
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint)
    pipe.load_lora_weights(lora)
    return pipe


@pytest.mark.parametrize("fused", [False, True])
def test_a_lora_left_beside_the_weights_is_refused_and_the_remedy_works(fused: bool, tmp_path: Path, capfd) -> None:
    checkpoint, lora, target = small_checkpoint(), tmp_path / "lora", tmp_path / "target"
    make_lora(checkpoint, lora)
    pipe = with_lora(checkpoint, lora)
    if fused:
        pipe.fuse_lora()
    pipe.save_pretrained(target)
    capfd.readouterr()
    line = line_of(target, capfd)
    assert f"{target / 'unet'} was saved with a LoRA that is not merged" in line
    remedy = ["pipe.load_lora_weights(LORA)", "pipe.fuse_lora()", "pipe.unload_lora_weights()", "pipe.save_pretrained("]
    assert [line.index(call) for call in remedy] == sorted(line.index(call) for call in remedy)
    shutil.rmtree(target)
    pipe = with_lora(checkpoint, lora)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(target)
    assert same(load_pipeline(target), pipe) and not same(pipe, load_pipeline(checkpoint))


def as_variant(checkpoint: Path, *parts: str, bits: torch.dtype = torch.float16, name: str = "fp16") -> None:
    """Replace the plain files of parts by those of a variant."""
    for part in parts:
        path = checkpoint / part / FILES[part]
        save_file({key: one.to(bits) for key, one in load_file(path).items()}, path.with_suffix(f".{name}.safetensors"))
        path.unlink()


def test_the_only_variant_is_taken(checkpoint: Path) -> None:
    as_variant(checkpoint, *PARTS)
    own = StableDiffusionPipeline.from_pretrained(checkpoint, variant="fp16", torch_dtype=torch.float32)
    assert same(load_pipeline(checkpoint), own) and same(load_pipeline(checkpoint, variant="fp16"), own)
    assert all(weight.bits == 16 for weight in part_weights(checkpoint, "unet").values())


def test_a_variant_beside_plain_files_is_taken_on_request(checkpoint: Path) -> None:
    plain = load_pipeline(checkpoint)
    path = checkpoint / "unet" / FILES["unet"]
    half = {name: torch.zeros_like(tensor, dtype=torch.float16) for name, tensor in load_file(path).items()}
    save_file(half, path.with_suffix(".fp16.safetensors"))
    assert same(load_pipeline(checkpoint), plain)
    chosen = open_source(str(checkpoint), variant="fp16").pipe
    assert not any(tensor.any() for tensor in chosen.unet.state_dict().values())
    assert torch.equal(chosen.vae.decoder.layers[0].weight, plain.vae.decoder.layers[0].weight)


def test_a_variant_that_is_not_there_or_not_clear_is_told(checkpoint: Path, capfd) -> None:
    assert "--variant fp16" in (line := line_of(checkpoint, capfd, "--variant", "fp16")) and "only plain files" in line
    path = checkpoint / "vae" / FILES["vae"]
    shutil.copy(path, path.with_suffix(".ema.safetensors"))
    as_variant(checkpoint, "vae")
    assert "in several variants: choose one by --variant ema or fp16" in line_of(checkpoint, capfd)
    assert "it has ema, fp16" in line_of(checkpoint, capfd, "--variant", "bf16")
    load_pipeline(checkpoint, variant="ema")


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_of_any_form_are_opened(safe: bool, variant: str | None, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(small_checkpoint())
    folder = tmp_path / "sharded"
    pipe.save_pretrained(folder, safe_serialization=safe, variant=variant, max_shard_size="40KB")
    paths = weight_files(folder / "unet").paths
    assert len(paths) > 1 and (paths[0].suffix == ".safetensors") == safe
    assert same(load_pipeline(folder), pipe)


@pytest.mark.parametrize("part", ["safety_checker", "feature_extractor", "image_encoder"])
def test_a_part_that_nobody_needs_may_be_absent(part: str, checkpoint: Path) -> None:
    index = checkpoint / "model_index.json"
    classes = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: classes[part]}))
    assert not (checkpoint / part).exists()
    load_pipeline(checkpoint)
