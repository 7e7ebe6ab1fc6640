"""`python -m export.mil`, and what it says about packages that are damaged or not for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import types
from coremltools.proto import Model_pb2

from export.mil import MilError, Program
from export.mil.__main__ import main
from export.mil.arrays import random_inputs
from tests.support.mil_fixtures import feed, mb, save, values
from tests.support.mistakes import refused

X = values(1, 4, 6, 6)
MODEL, WEIGHTS = Path("Data/com.apple.CoreML/model.mlmodel"), Path("Data/com.apple.CoreML/weights/weight.bin")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Two convolutions with an activation between them."""
    first, second = values(8, 4, 3, 3, scale=0.3), values(3, 8, 1, 1, scale=0.3)

    def build(x):
        hidden = mb.relu(x=mb.conv(x=x, weight=first, name="first"), name="hidden")
        return mb.conv(x=hidden, weight=second, name="second")

    return save(tmp_path_factory.mktemp("mil"), build, [X])


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", a=X)
    return tmp_path / "x.npz"


def copied(package: Path, folder: Path) -> Path:
    return Path(shutil.copytree(package, folder / "copy.mlpackage"))


def change_spec(package: Path, change) -> None:
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())


def change_blobs(package: Path, change) -> None:
    """Apply `change` to each reference to the weight file."""

    def every(spec) -> None:
        function = spec.mlProgram.functions["main"]
        for op in function.block_specializations[function.opset].operations:
            value = op.attributes["val"]
            if op.type == "const" and value.WhichOneof("value") == "blobFileValue":
                change(value)

    change_spec(package, every)


def manifest(package: Path, change) -> None:
    path = package / "Manifest.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def point_to(where: str):
    def change(facts) -> None:
        facts["itemInfoEntries"][facts["rootModelIdentifier"]]["path"] = where

    return change


def set_file(name: str):
    def change(value) -> None:
        value.blobFileValue.fileName = name

    return change


def set_offset(offset: int):
    def change(value) -> None:
        value.blobFileValue.offset = offset

    return change


def grow(value) -> None:
    value.type.tensorType.dimensions[0].constant.size *= 2


def set_opset(name: str):
    def change(spec) -> None:
        function = spec.mlProgram.functions["main"]
        block = function.block_specializations[function.opset]
        function.block_specializations[name].CopyFrom(block)
        function.opset = name

    return change


def truncate(size: int):
    def change(package: Path) -> None:
        os.truncate(package / WEIGHTS, size)

    return change


DAMAGES = {
    "not a Core ML package.*Manifest.json": lambda p: (p / "Manifest.json").unlink(),
    "damaged: Manifest.json.*Expecting": lambda p: (p / "Manifest.json").write_text("{"),
    "damaged: Manifest.json.*itemInfoEntries": lambda p: manifest(p, lambda facts: facts.clear()),
    "damaged.*outside": lambda p: manifest(p, point_to("../../../etc/hosts")),
    "damaged.*model.mlmodel is missing": lambda p: (p / MODEL).unlink(),
    "damaged: model.mlmodel": lambda p: (p / MODEL).write_bytes(b"\xff" * 99),
    "not an ML program but a model of no type": lambda p: (p / MODEL).write_bytes(b""),
    "weight.bin is missing": lambda p: (p / WEIGHTS).unlink(),
    "weight.bin is empty": truncate(0),
    "ends before": truncate(70),
    "ends within the weight": truncate(300),
    "passwd.* outside of it": lambda p: change_blobs(p, set_file("@model_path/../../../../etc/passwd")),
    "no weight is there": lambda p: change_blobs(p, set_offset(0)),
    "weight.bin at 1000000.*ends before": lambda p: change_blobs(p, set_offset(10**6)),
    "does not have the shape": lambda p: change_blobs(p, grow),
    "opset 'CoreML99' is not known": lambda p: change_spec(p, set_opset("CoreML99")),
    "no function main; it has: none": lambda p: change_spec(p, lambda spec: spec.mlProgram.functions.clear()),
}


@pytest.mark.parametrize("why", DAMAGES)
def test_a_damaged_package_is_one_clear_error(why: str, package: Path, tmp_path: Path, inputs: Path, capsys) -> None:
    damaged = copied(package, tmp_path)
    DAMAGES[why](damaged)
    assert re.search(why, refused(capsys, main, damaged, "--inputs", inputs))


@pytest.mark.parametrize("where", [0, 64, 65, 200, 400, 700])
def test_no_flipped_byte_of_the_model_ends_in_a_traceback(where: int, package: Path, tmp_path: Path) -> None:
    damaged = copied(package, tmp_path)
    data = bytearray((damaged / MODEL).read_bytes())
    data[where] ^= 0x55
    (damaged / MODEL).write_bytes(data)
    assert main([str(damaged), "--json"]) in (0, 2)


def test_what_is_no_package_is_named(package: Path, tmp_path: Path) -> None:
    with pytest.raises(MilError, match="no such package"):
        Program(tmp_path / "absent.mlpackage")
    compiled = tmp_path / "a.mlmodelc"
    compiled.mkdir()
    with pytest.raises(MilError, match="compiled: give the .mlpackage"):
        Program(compiled)
    spec = Model_pb2.Model()
    spec.neuralNetwork.SetInParent()
    (tmp_path / "a.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.raises(MilError, match='neuralNetwork: convert the model with convert_to="mlprogram"'):
        Program(tmp_path / "a.mlmodel")
    with pytest.raises(MilError, match="give the .mlpackage folder"):
        Program(package / MODEL)


def test_a_state_is_refused_by_name(tmp_path: Path) -> None:
    specs = [mb.TensorSpec((2, 3), dtype=types.fp16), mb.StateTensorSpec((2, 3), dtype=types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def program(x, cache):
        return mb.add(x=x, y=mb.read_state(input=cache))

    ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True).save(
        str(tmp_path / "s.mlpackage")
    )
    with pytest.raises(MilError, match=r"keeps a state between calls \(cache\)"):
        Program(tmp_path / "s.mlpackage")


def test_run_compare_and_trace(package: Path, inputs: Path, tmp_path: Path, capsys) -> None:
    out, kept = tmp_path / "y.npz", tmp_path / "v.npz"
    assert (
        main([str(package), "--inputs", str(inputs), "--out", str(out), "--trace", "h*", "--intermediates", str(kept)])
        == 0
    )
    printed = capsys.readouterr()
    assert printed.err == "" and "hidden" in printed.out and "1x3x4x4" in printed.out
    program = Program(package)
    expected = program.run(feed(program, [X]), keep=["hidden"])
    with np.load(out) as found:
        assert list(found) == ["second"] and np.array_equal(found["second"], expected["second"])
    with np.load(kept) as found:
        assert list(found) == ["hidden"] and np.array_equal(found["hidden"], expected["hidden"])
    assert main([str(package), "--inputs", str(inputs), "--compare", str(out)]) == 0
    assert "all above 35 dB" in capsys.readouterr().out


def test_the_first_value_that_is_too_far_is_named(package: Path, inputs: Path, tmp_path: Path, capsys) -> None:
    program = Program(package)
    found = program.run(feed(program, [X]), keep=["first", "hidden"])
    theirs = {"second": found["second"] + 1, "hidden": found["hidden"] * np.float32(1.1), "first": found["first"]}
    np.savez(tmp_path / "phone.npz", **theirs)
    arguments = [str(package), "--inputs", str(inputs), "--compare", str(tmp_path / "phone.npz")]
    assert main(arguments) == 1
    assert "first below 35 dB: hidden (relu)" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["compare"]
    assert [(row["name"], row["passed"]) for row in rows] == [("first", True), ("hidden", False), ("second", False)]
    assert rows[1]["psnr_db"] == pytest.approx(
        20 * np.log10(1.1 * found["hidden"].max() / (0.1 * np.sqrt(np.mean(found["hidden"] ** 2)))), abs=1e-3
    )
    assert main([*arguments, "--min-psnr-db", "-20"]) == 0


def test_all_float_values_are_written_without_a_trace(package: Path, inputs: Path, tmp_path: Path) -> None:
    assert main([str(package), "--inputs", str(inputs), "--intermediates", str(tmp_path / "v.npz")]) == 0
    with np.load(tmp_path / "v.npz") as found:
        assert list(found) == ["first", "hidden", "second"]


def test_random_inputs_are_seeded_and_said(package: Path, capsys) -> None:
    outputs = []
    for seed in ("3", "3", "4"):
        assert main([str(package), "--seed", seed, "--json"]) == 0
        printed = capsys.readouterr()
        assert f"note: random inputs, seed {seed}" in printed.err
        outputs.append(json.loads(printed.out)["outputs"])
    assert outputs[0] == outputs[1] != outputs[2]


def test_random_indices_fit_their_table(tmp_path: Path) -> None:
    table = values(5, 7)

    def build(x):
        return mb.gather(x=table, indices=mb.cast(x=mb.squeeze(x=x, axes=[0]), dtype="int32"), axis=0)

    program = Program(save(tmp_path, build, [values(1, 77)], "iOS17"))
    drawn = random_inputs(program, 0)["a"]
    assert drawn.dtype == np.float32 and set(np.unique(drawn)) == {0, 1, 2, 3, 4}
    program.run({"a": drawn})


def test_an_overflow_is_warned_of(tmp_path: Path, capsys) -> None:
    path = save(tmp_path, lambda x: mb.square(x=mb.mul(x=x, y=1e3), name="squared"), [X], half=True)
    assert main([str(path)]) == 0
    assert "warning: fp16 overflow first in square squared" in capsys.readouterr().err


def test_describe(package: Path, tmp_path: Path, capsys) -> None:
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(package), skip_model_load=True)
    config = cto.OptimizationConfig(
        global_config=cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=100),
    )
    cto.palettize_weights(model, config).save(str(tmp_path / "p.mlpackage"))
    assert main([str(tmp_path / "p.mlpackage"), "--describe"]) == 0
    printed = capsys.readouterr().out
    assert "a: fp32 1x4x6x6" in printed and "second: fp32 1x3x4x4" in printed
    assert "conv 2, " in printed and "every operation is known" in printed
    assert "palettized 4-bit: 1 tensors, 288 parameters" in printed and "fp32: 1 tensors, 24 parameters" in printed
    assert main([str(tmp_path / "p.mlpackage"), "--describe", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"]["palettized 4-bit"] == {"tensors": 1, "parameters": 288, "bytes": 144 + 16 * 4}
    assert facts["operations"] == {"conv": 2, "relu": 1, "constexpr_lut_to_dense": 1}
    assert facts["unknown"] == [] and facts["opset"] == "CoreML6"


def test_describe_says_what_is_unknown(tmp_path: Path, capsys) -> None:
    path = save(tmp_path, lambda x: mb.add(x=x, y=mb.random_normal(shape=[1, 4, 6, 6])), [X])
    assert main([str(path), "--describe"]) == 0
    assert "cannot run: case.mlpackage: the evaluator does not know random_normal" in capsys.readouterr().out


def test_a_picture_as_input(tmp_path: Path, capsys) -> None:
    x = values(1, 3, 6, 8)
    made = mb.program(input_specs=[mb.TensorSpec(shape=x.shape)])(lambda x: mb.relu(x=x))
    picture = ct.ImageType(name="x", shape=x.shape, scale=1 / 255, color_layout=ct.colorlayout.RGB)
    ct.convert(made, inputs=[picture], convert_to="mlprogram", skip_model_load=True).save(str(tmp_path / "i.mlpackage"))
    assert main([str(tmp_path / "i.mlpackage"), "--describe"]) == 0
    assert "x: fp32 1x3x6x8 (RGB 8x6, 0..255)" in capsys.readouterr().out
    np.savez(tmp_path / "x.npz", x=np.full(x.shape, 255.0))
    assert main([str(tmp_path / "i.mlpackage"), "--inputs", str(tmp_path / "x.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"][0]["max"] == pytest.approx(1, abs=1e-3)


WRONG = {
    "no value nothing": ["--trace", "nothing"],
    "no such file": ["--inputs", "absent.npz"],
    "no folder": ["--out", "absent/y.npz"],
    "needs --inputs": ["--compare", "y.npz"],
    "no function other": ["--function", "other"],
}


@pytest.mark.parametrize("why", WRONG)
def test_user_errors_are_one_line(why: str, package: Path, capsys) -> None:
    assert why in refused(capsys, main, package, *WRONG[why])


def test_files_that_are_no_arrays_are_refused(package: Path, tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    for name in ("one.npy", "text.npz", "objects.npz"):
        assert name in refused(capsys, main, package, "--inputs", tmp_path / name)


def test_nothing_is_left_when_a_run_fails(package: Path, inputs: Path, tmp_path: Path, capsys) -> None:
    damaged = copied(package, tmp_path)
    with (damaged / WEIGHTS).open("r+b") as file:
        file.seek(64)
        file.write(struct.pack("<I", 0))
    before = sorted(path.name for path in tmp_path.iterdir())
    refused(capsys, main, damaged, "--inputs", inputs, "--intermediates", tmp_path / "v.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_as_a_command_without_importing_coremltools(package: Path) -> None:
    code = (
        "import sys; from export.mil.__main__ import main; assert main() == 0; "
        "sys.exit(9 if 'coremltools' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "second" in done.stdout
