"""An export's needs are known before anything is loaded, and it is refused where there is no room."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import plan as plans
from export.onnx import __main__ as onnx
from export.onnx.quantize.planner import BATCH
from export.onnx.quantize.prices import LARGE_SIDE
from export.plan import check_room, large, machine, memory, plan, show_plan
from export.plan.sizes import WIDTHS
from export.source import LARGE, open_source
from runtime.errors import UserError
from runtime.manifest import COMPONENTS, PRECISIONS
from tests.support.tiny import small_checkpoint
from train.opening.resolve import resolve_checkpoint
from train.weights.files import Weight, stored_weights

ROOT = Path(__file__).resolve().parent.parent
UNET = "unet/diffusion_pytorch_model.safetensors"


def command(capfd: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, list[str]]:
    """(exit code, stdout, lines on stderr) of `python -m export.onnx`."""
    code = onnx.main([str(part) for part in argv])
    printed = capfd.readouterr()
    return code, printed.out, printed.err.splitlines()


@pytest.mark.parametrize(("format", "precision"), WIDTHS)
def test_the_headers_tell_what_loading_would(format: str, precision: str) -> None:
    pipe = open_source(str(small_checkpoint())).pipe
    made = plan(small_checkpoint(), format, precision)
    counts = {part.name: part.parameters for part in made.components}
    assert counts["unet"] == sum(p.numel() for p in pipe.unet.parameters())
    assert counts["text_encoder"] == sum(p.numel() for p in pipe.text_encoder.parameters())
    assert counts["vae_decoder"] == sum(p.numel() for p in pipe.vae.decoder.parameters())
    assert tuple(counts) == COMPONENTS
    assert made.export_bytes < made.disk_bytes < made.peak_memory_bytes


def test_every_precision_of_the_onnx_exporter_has_a_plan() -> None:
    assert {precision for format, precision in WIDTHS if format == "onnx"} == set(PRECISIONS)


def test_smaller_numbers_make_smaller_exports() -> None:
    def sizes(format: str, *precisions: str) -> list[int]:
        return [plan(small_checkpoint(), format, precision).export_bytes for precision in precisions]

    for found in (
        sizes("onnx", "fp32", "fp16", "int8", "int4-weights"),
        sizes("coreml", "fp16", "palettized-8bit", "palettized-6bit", "palettized-4bit"),
        sizes("openvino", "fp32", "fp16", "int8"),
    ):
        assert found == sorted(found, reverse=True)


def test_the_shipped_bundle_has_the_planned_size() -> None:
    """Within what the planner decides per layer and what a graph itself takes."""
    folder = ROOT / "runtime" / "bundles" / "sticker-128"
    precision = json.loads((folder / "manifest.json").read_text())["precision"]
    made = plan(resolve_checkpoint("sticker-128"), "onnx", precision)
    for part in made.components:
        size = sum(path.stat().st_size for path in (folder / part.name).glob("model.onnx*"))
        assert size == pytest.approx(part.export_bytes, rel=0.3, abs=300_000)  # a decoder's folded end also has strips
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert total == pytest.approx(made.export_bytes, rel=0.15)


def test_parts_that_are_written_twice_count_twice() -> None:
    once = {part.name: part.export_bytes for part in plan(small_checkpoint(), "coreml", "fp16").components}
    twice = {p.name: p.export_bytes for p in plan(small_checkpoint(), "coreml", "fp16", {"unet": 2}).components}
    assert twice == once | {"unet": 2 * once["unet"]}


def test_a_dry_run_prints_a_table_and_writes_nothing(tmp_path: Path, capfd) -> None:
    code, out, errors = command(capfd, small_checkpoint(), "--out", tmp_path / "out", "--dry-run")
    assert (code, errors) == (0, []) and not list(tmp_path.iterdir())
    for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder", "disk needed", "memory needed"):
        assert part in out


def test_a_dry_run_prints_json_and_loads_no_weights(tmp_path: Path) -> None:
    """In a process of its own, whose weights are not even there to be loaded."""
    checkpoint = shutil.copytree(small_checkpoint(), tmp_path / "checkpoint")
    path = checkpoint / UNET
    header = path.read_bytes()[: 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    size = path.stat().st_size
    with path.open("wb") as file:  # the header, then a hole
        file.write(header)
        file.truncate(size)
    argv = [str(checkpoint), "--out", str(tmp_path / "out"), "--precision", "int8", "--dry-run", "--json"]
    found = subprocess.run(
        [sys.executable, "-m", "export.onnx", *argv], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0 and found.stderr == "" and not (tmp_path / "out").exists()
    said = json.loads(found.stdout)
    assert (said["format"], said["precision"]) == ("onnx", "int8")
    assert {"components", "export_bytes", "disk_bytes", "temporary_bytes", "peak_memory_bytes"} <= said.keys()
    assert said["export_bytes"] == sum(p["export_bytes"] for p in said["components"]) + said["other_bytes"]


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_no_room_is_one_line_before_the_start(what: str, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(plans, f"free_{what}", lambda *_: 12_345)
    code, _, lines = command(capfd, small_checkpoint(), "--out", tmp_path / "new" / "out")
    assert code == 2 and len(lines) == 1 and not list(tmp_path.iterdir())
    assert re.search(rf"needs about [\d.]+ [MG]B of {what}, 0 MB are free", lines[0])
    assert "--no-room-check" in lines[0]


def test_the_room_check_can_be_left_out(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(plans, "free_disk", lambda _: 0)
    reached: list[Path] = []

    def open_folder(folder: Path, prompts: Path | None, variant: str | None) -> None:
        reached.append(folder)
        raise UserError("x")

    monkeypatch.setattr("export.source.open_folder", open_folder)
    looked: list[Path] = []
    monkeypatch.setattr("export.locate.check_folder", looked.append)
    code, _, lines = command(capfd, small_checkpoint(), "--out", tmp_path / "out", "--no-room-check")
    assert reached == [small_checkpoint()] and (code, lines) == (2, ["error: x"])
    assert looked == [small_checkpoint()]  # an export looks once


def test_what_the_system_does_not_tell_is_not_checked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plans, "free_memory", lambda: None)
    check_room(replace(plan(small_checkpoint(), "onnx", "fp32"), peak_memory_bytes=10**18), tmp_path / "out")


def test_two_disks_are_checked_apart(tmp_path: Path, monkeypatch) -> None:
    made = replace(plan(small_checkpoint(), "coreml", "fp16"), temporary_bytes=10**9)
    monkeypatch.setattr(plans, "free_memory", lambda: None)
    monkeypatch.setattr(plans, "same_disk", lambda *_: False)
    monkeypatch.setattr(plans, "free_disk", lambda path: 5 * 10**8)
    with pytest.raises(UserError, match="TMPDIR"):
        check_room(made, tmp_path)
    monkeypatch.setattr(plans, "same_disk", lambda *_: True)
    with pytest.raises(UserError, match="--out"):
        check_room(made, tmp_path)


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


def test_memory_is_what_the_system_and_its_control_groups_leave(tmp_path: Path, monkeypatch) -> None:
    for name in ("MEMINFO", "GROUP", "GROUPS"):
        monkeypatch.setattr(machine, name, tmp_path / name)
    assert machine.free_memory() is None
    (tmp_path / "MEMINFO").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\nSwapFree: 1000 kB\n")
    assert machine.free_memory() == 5000 * 1024
    (tmp_path / "GROUP").write_text("4:memory:/job\n0::/job\n")
    group(tmp_path / "GROUPS" / "job", memory__max="max", memory__current=7)
    assert machine.free_memory() == 5000 * 1024
    group(tmp_path / "GROUPS" / "job", memory__max=900, memory__current=700, memory__stat="inactive_file 150\n")
    assert machine.free_memory() == 350
    old = tmp_path / "GROUPS" / "memory" / "job"
    group(old, memory__limit_in_bytes=300, memory__usage_in_bytes=100, memory__stat="total_inactive_file 0\n")
    assert machine.free_memory() == 200


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    there = shutil.disk_usage(tmp_path).free
    assert machine.free_disk(tmp_path / "a" / "b" / "c") == pytest.approx(there, rel=0.2)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


def no_header(path: Path) -> None:
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, "is cut short at"),
        (pointer, "is a Git LFS pointer"),
        (no_header, "has a damaged header"),
        (lambda path: path.write_bytes(b"\xff" * 4), "is not a safetensors file"),
        (lambda path: path.unlink(), "holds no weights"),
    ],
)
def test_damaged_weights_are_one_line(damage: Callable[[Path], None], said: str, tmp_path: Path, capfd) -> None:
    checkpoint = shutil.copytree(small_checkpoint(), tmp_path / "checkpoint")
    damage(checkpoint / UNET)
    code, _, lines = command(capfd, checkpoint, "--out", tmp_path / "out", "--dry-run")
    assert code == 2 and len(lines) == 1 and said in lines[0] and str(checkpoint / "unet") in lines[0]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    unet = shutil.copytree(resolve_checkpoint("sticker-128-teacher") / "unet", tmp_path / "unet")
    whole = stored_weights(unet)
    assert sum(weight.count for weight in whole.values()) > 23_000_000
    (unet / "diffusion_pytorch_model-00002-of-00004.safetensors").unlink()
    with pytest.raises(UserError, match="00002-of-00004.safetensors is missing"):
        stored_weights(unet)


def test_pytorch_files_are_read_too(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3, 4).half(), "ids": torch.arange(5)}, tmp_path / "pytorch_model.bin")
    (weight,) = stored_weights(tmp_path).values()
    assert (weight.shape, weight.bits, weight.count) == ((3, 4), 16, 12)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK broken")
    with pytest.raises(UserError, match="is not a PyTorch weight file"):
        stored_weights(tmp_path)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_a_traceback(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        try:
            stored_weights(Path(folder))
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "header", ['{"a": 1}', '{"a": {"dtype": "F32"}}', '{"a": {"dtype": "F32", "shape": 3, "data_offsets": []}}', "[]"]
)
def test_a_header_of_another_form_is_one_line(header: str, tmp_path: Path) -> None:
    data = header.encode()
    (tmp_path / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    with pytest.raises(UserError, match="has a damaged header"):
        stored_weights(tmp_path)


def test_the_table_says_gigabytes_of_large_models() -> None:
    made = replace(plan(small_checkpoint(), "onnx", "fp32"), other_bytes=3 * 10**9)
    assert "3.0" in show_plan(made) and "GB" in show_plan(made)


def kl_folder(folder: Path, side: int) -> Path:
    """The JSON files of a pipeline with Stable Diffusion's autoencoder."""
    vae = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    for part, values in (("vae", vae), ("unet", {"sample_size": side})):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(values))
    return folder


def test_pricing_a_kl_decoder_counts(tmp_path: Path) -> None:
    """2.0 GB were measured at 192 x 192; of a large model's picture a part is priced."""
    small = kl_folder(tmp_path / "small", 24)
    assert memory.priced_decoder(small, memory.HELD["int8"]) == pytest.approx(2.0e9, rel=0.05)
    turbo = kl_folder(tmp_path / "turbo", 64)
    weights = {"unet": {"w": Weight((866_000_000,), 16)}, "text_encoder": {"w": Weight((340_000_000,), 16)}}
    needed = {kind: memory.peak_memory(turbo, "onnx", kind, weights) for kind in ("fp32", "int8", "int8-weights")}
    assert needed["int8"] > needed["int8-weights"] > needed["fp32"]
    assert needed["int8"] == pytest.approx(9.3e9, rel=0.05)
    assert (memory.LARGE, memory.BATCH) == (LARGE, BATCH) and large.PRICED_SIDE == LARGE_SIDE


# Configuration, pictures' side, parameters by part and measured peaks in GB: random weights in fp16 files.
MEASURED = [
    (
        (128, 224, 448),
        128,
        {"text_encoder": 22e6, "text_encoder_2": 100e6, "unet": 316e6},
        {"fp32": 3.15, "int8-weights": 3.51},
    ),
    ((160, 320, 640), 512, {"text_encoder": 40e6, "text_encoder_2": 190e6, "unet": 643e6}, {"fp16": 5.51}),
]


@pytest.mark.parametrize(("widths", "side", "counts", "peaks"), MEASURED)
def test_the_estimate_for_sdxl_is_what_was_measured(
    widths: tuple[int, ...], side: int, counts: dict[str, float], peaks: dict[str, float], tmp_path: Path
) -> None:
    needed = {kind: memory.peak_memory(*sdxl_plan(tmp_path, widths, side, counts, kind)) for kind in peaks}
    assert needed == pytest.approx({kind: 1e9 * peak for kind, peak in peaks.items()}, rel=0.15)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8-weights"])
def test_sdxl_turbo_needs_less_than_twenty_gigabytes(kind: str, tmp_path: Path) -> None:
    counts = {"text_encoder": 123e6, "text_encoder_2": 695e6, "unet": 2567e6}
    assert 15e9 < memory.peak_memory(*sdxl_plan(tmp_path, (320, 640, 1280), 512, counts, kind)) < 20e9


def sdxl_plan(folder: Path, widths: tuple[int, ...], side: int, counts: dict[str, float], kind: str) -> tuple[Any, ...]:
    """The arguments of `peak_memory` for a model of SDXL's structure."""
    kl_folder(folder / kind, side // 8)
    unet = {"sample_size": side // 8, "block_out_channels": list(widths), "layers_per_block": 2}
    unet |= {
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "transformer_layers_per_block": [1, 2, 10],
    }
    (folder / kind / "unet" / "config.json").write_text(json.dumps(unet))
    parts = counts | {"vae_decoder": 49.5e6, "vae_encoder": 34.2e6}
    return folder / kind, "onnx", kind, {part: {"w": Weight((int(count),), 16)} for part, count in parts.items()}


def test_a_tiny_decoder_needs_no_more() -> None:
    assert memory.priced_decoder(small_checkpoint(), memory.HELD["int8"]) == 0
