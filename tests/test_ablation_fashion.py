"""The yardstick on Fashion-MNIST, on files of its form that are made here: data, figures, and the way to the table."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.errors import UserError
from tests.support.mistakes import refused
from train.ablation import classifier, fashion, figures, small
from train.ablation.__main__ import main
from train.ablation.classifier import Classifier, trained
from train.ablation.fashion_data import CAPTIONS, prepare, read_idx
from train.ablation.figures import Measure, RealSet
from train.data.shards import read_records
from train.presets import add


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def stripes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures u8[N, 28, 28] and labels u8[N]: class k has a bright band at rows 2k + 4, of random brightness."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    pictures = rng.integers(0, 40, (count, 28, 28)).astype(np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[2 * label + 4 : 2 * label + 7, 4:24] = rng.integers(120, 256)
    return pictures, labels


def write_files(folder: Path, each: int = 6, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in (("train", 0), ("t10k", 1)):
        pictures, labels = stripes(10 * each, seed)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            data = idx(array)
            path = folder / f"{name}-{kind}-ubyte"
            path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_the_files_become_shards(packed: bool, tmp_path: Path) -> None:
    files = write_files(tmp_path / "files", packed=packed)
    facts = prepare(files, tmp_path / "data")
    assert facts["pictures"] == {"train": 60, "held_out": 60} and facts["licences"] == {"Fashion-MNIST": "MIT"}
    pictures, labels = stripes(60, 1)
    for (record, found), picture, label in zip(
        read_records(tmp_path / "data", "held_out"), pictures, labels, strict=True
    ):
        assert found.shape == (32, 32, 3) and (found[2:30, 2:30, 1] == picture).all() and found[:2].max() == 0
        assert record.captions == (CAPTIONS[label],) and record.facts["class"] == label
    assert prepare(files, tmp_path / "data") == facts


def test_wrong_files_are_one_line(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--data", "fashion", "--out", str(tmp_path / "out"), "--files", str(tmp_path / "none")]
    assert "install Debian's dataset-fashion-mnist, or name the folder" in refused(capsys, main, *arguments)
    files = write_files(tmp_path / "files")
    path = files / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"no gzip", gzip.compress(gzip.decompress(whole)[:-1]), gzip.compress(b"")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            read_idx(files, "train-images-idx3-ubyte", 3)
    path.write_bytes(whole)
    (files / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(60, 10, np.uint8))))
    with pytest.raises(UserError, match="these are not Fashion-MNIST's pictures"):
        prepare(files, tmp_path / "data")


# ---- figures --------------------------------------------------------------------------------------------------------


def real(each: int, seed: int) -> RealSet:
    pictures, labels = stripes(10 * each, seed)
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2)))[..., None].repeat(3, 3)
    return RealSet(padded, labels.astype(np.int64)).of_each(each)


def test_a_classs_pictures_follow_one_another() -> None:
    found = real(8, 0)
    assert found.labels.tolist() == np.arange(10).repeat(8).tolist()
    assert found.of_each(3, 5).labels.tolist() == np.arange(10).repeat(3).tolist()
    assert (found.of_each(3, 5).pictures[:3] == found.pictures[5:8]).all()


def not_read() -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("it is read back, not trained again")


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    own = real(40, 0)
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "EPOCHS", 40)  # of 400 pictures
        network = trained(path, lambda: own.both, 10)
    again = trained(path, not_read, 10)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    return Measure(network, network.read(own.pictures)[0])


def test_the_figures_tell_real_pictures_from_one_mean_and_from_wrong_classes(measure: Measure) -> None:
    fresh = real(40, 1)
    floor = measure.of(fresh)
    assert floor["right"] > 0.95 and floor["precision"] > 0.5 and floor["recall"] > 0.5
    means = np.concatenate([part.mean(0, keepdims=True).repeat(40, 0) for part in np.split(fresh.pictures, 10)])
    mean = measure.of(RealSet(means.astype(np.uint8), fresh.labels))
    assert mean["vendi"] == pytest.approx(1, abs=1e-3) and mean["vendi_pixels"] == pytest.approx(1, abs=1e-3)
    assert mean["apart"] == pytest.approx(0, abs=1e-3) and floor["apart"] > 10 and floor["vendi_pixels"] > 1.02
    assert mean["fd"] > 2 * floor["fd"] and mean["kid"] > floor["kid"] and mean["recall"] < floor["recall"]
    assert measure.of(RealSet(fresh.pictures, np.roll(fresh.labels, 40)))["right"] < 0.05


def test_apart_is_the_mean_difference_of_two_pictures() -> None:
    pixels = torch.tensor([[0.0, 0.0], [10.0, 20.0], [10.0, 20.0]])
    assert figures._apart(pixels) == pytest.approx((15 + 15 + 0) / 3)


def test_the_features_are_the_penultimate_layers(measure: Measure) -> None:
    features, read = measure.classifier.read(real(2, 3).pictures)
    assert features.shape == (20, 128) and features.min() >= 0
    assert torch.equal(read, measure.classifier.last(features).argmax(1))


# ---- the way to the table -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_the_files_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    files, out = write_files(tmp_path / "files", each=20), tmp_path / "out"
    for name, value in {"WIDTHS": (16, 32), "DECODER_STEPS": 20, "TEACHER_STEPS": 4, "TEACHER_BATCH": 8}.items():
        monkeypatch.setattr(small, name, value)
    for name, value in {"EACH": 8, "REFERENCE": 20, "TEACHERS": ((1, 1.0), (2, 1.5))}.items():
        monkeypatch.setattr(fashion, name, value)
    monkeypatch.setattr(fashion, "add", lambda: replace(add(), batch=8, pair_batch=4))
    monkeypatch.setattr(small, "PAIRS", 20)
    command = f"--data fashion --files {files} --out {out} --rows default loss=adv --seeds 0 1 --steps 2 --threads 1"
    assert main([*command.split(), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [*results] == [fashion.REAL, "teacher, 1 step", "teacher, 2 guided steps", "default", "loss=adv"]
    assert results["default"]["seeds"] == 2 and results["default"]["kid"]["min"] <= results["default"]["kid"]["max"]
    assert "| loss=adv | 2 |" in (out / "table.md").read_text()
    with Image.open(out / "figures" / "default-seed-0.png") as sheet:
        assert sheet.width > 16 * 64
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert main(command.split()) == 0  # nothing is made twice
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_a_classifier_of_other_pictures_has_their_classes() -> None:
    assert Classifier(7)(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
