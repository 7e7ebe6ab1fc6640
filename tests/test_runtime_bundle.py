"""Bundles: every file is verified, every fault named."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime import BundleError
from runtime.bundle import Manifest, describe_files, open_bundle, resolve_bundle, write_manifest

TINY = Path(__file__).parent / "golden" / "tiny_bundle"
FILES = sorted(json.loads((TINY / "manifest.json").read_text())["files"])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the tiny bundle that may be damaged."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


def test_the_manifest_lists_every_file() -> None:
    described = set(describe_files(TINY)) - {"end_to_end.json"}
    assert described == set(FILES) and len(FILES) == 14
    assert "manifest.json" not in FILES


def test_reading_and_writing_give_the_same(copy: Path) -> None:
    bundle = open_bundle(copy)
    write_manifest(copy, bundle.manifest)
    written, given = (json.loads((one / "manifest.json").read_text()) for one in (copy, TINY))
    assert written | {"steps": given["steps"]} == given  # the steps are written with their weights
    assert open_bundle(copy).manifest == bundle.manifest
    assert open_bundle(copy) == bundle
    assert bundle.manifest.steps[2][1].timestep == 499 and bundle.manifest.latent_shape == (5, 4, 5)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    expected = open_bundle(copy, verify=False).manifest.files[name].sha256
    with pytest.raises(BundleError) as error:
        runtime.load(copy)
    line = str(error.value)
    assert str(copy / name) in line and expected in line and "missing" in line and "\n" not in line


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["truncated", "altered"])
def test_a_damaged_file_is_named_with_both_hashes(copy: Path, name: str, fault: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data if fault == "altered" else data[:-1])
    expected = open_bundle(copy, verify=False).manifest.files[name].sha256
    found = describe_files(copy)[name]["sha256"]
    with pytest.raises(BundleError) as error:
        runtime.load(copy)
    line = str(error.value)
    assert fault in line and str(copy / name) in line and expected in line and found in line
    assert expected != found and "\n" not in line


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format_version": 1}', "\udcff", "[" * 100_000],
    ids=["empty", "open", "list", "null", "version only", "no text", "deep"],
)
def test_a_damaged_manifest_is_named(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match="manifest.json") as error:
        open_bundle(copy)
    assert str(copy) in str(error.value)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="manifest.json is missing"):
        open_bundle(tmp_path)


def test_a_folder_in_the_place_of_a_file(copy: Path) -> None:
    (copy / "unet" / "model.onnx").unlink()
    (copy / "unet" / "model.onnx").mkdir()
    with pytest.raises(BundleError, match="unet/model.onnx"):
        open_bundle(copy)


def test_verification_can_be_left_out(copy: Path) -> None:
    with open(copy / "unet" / "config.json", "a") as file:
        file.write(" ")
    assert runtime.load(copy, verify=False)("a fox", seed=1)


def test_names_and_paths(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_bundle(copy) == copy and resolve_bundle(str(copy)) == copy
    assert resolve_bundle("sticker-128").parent.name == "bundles" and resolve_bundle() == resolve_bundle("sticker-128")
    monkeypatch.chdir(copy.parent)
    assert resolve_bundle("bundle") == Path("bundle")
    for wrong in ("no-such-bundle", "/no/such/folder", ""):
        with pytest.raises(BundleError):
            open_bundle(resolve_bundle(wrong))
    with pytest.raises(BundleError, match="is a file"):
        resolve_bundle(copy / "manifest.json")


def test_an_absent_component_is_named(copy: Path) -> None:
    bundle = open_bundle(copy)
    files = {name: facts for name, facts in bundle.manifest.files.items() if not name.startswith("vae_encoder")}
    write_manifest(copy, replace(bundle.manifest, files=files))
    shutil.rmtree(copy / "vae_encoder")
    pipe = runtime.load(copy)
    picture = pipe("a fox", seed=1)[0]
    with pytest.raises(BundleError, match="vae_encoder"):
        pipe("a fox", seed=1, image=picture)


def test_a_picture_of_another_size_than_the_manifests_is_an_error(copy: Path) -> None:
    write_manifest(copy, replace(open_bundle(copy).manifest, image_size=(64, 48)))
    for part in ("vae_decoder", "vae_encoder"):
        with pytest.raises(BundleError, match=r"sample has the shape \?x3x32x40, by the manifest it is 1x3x64x48"):
            open_bundle(copy).model(part)


def test_reading_changes_nothing(copy: Path) -> None:
    for folder, _, names in os.walk(copy, topdown=False):
        for name in names:
            os.chmod(Path(folder) / name, 0o444)
        os.chmod(folder, 0o555)
    before = describe_files(copy)
    assert runtime.load(copy)("a fox", seed=1)
    assert describe_files(copy) == before
    for folder, _, _ in os.walk(copy):
        os.chmod(folder, 0o755)


def test_errors_inside_a_list_of_steps_are_one_line() -> None:
    data = json.loads((TINY / "manifest.json").read_text())
    faulty: list[Any] = ["x", [], {"one": []}, {"1": [5]}, {"1": None}, {"1": [{"timestep": 1}]}, None]
    for steps in faulty:
        with pytest.raises(BundleError) as error:
            Manifest.from_dict({**data, "steps": steps})
        assert "steps" in str(error.value) and "\n" not in str(error.value)
