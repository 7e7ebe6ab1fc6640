"""The command line: what it writes, and its errors."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import runtime
from runtime import bundle, output_names
from runtime.__main__ import EXAMPLES, main
from runtime.errors import OutputError
from runtime.generation import Job
from runtime.output_names import output_paths, slug
from runtime.progress import Progress
from tests.support.counting import lines_run

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
PROMPT = "a red fox, 3d style"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, bundle: Path | None = TINY) -> int:
    """The exit code of the command in this process."""
    return main([*arguments, *(["--bundle", str(bundle)] if bundle else [])])


def python(*arguments: str, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m runtime` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, "-m", "runtime", *arguments, "--bundle", str(TINY)]
    return subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, **options
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, bundle: Path | None = TINY) -> str:
    """The one line on stderr of a command that exits with 2 and writes nothing."""
    before = sorted(os.listdir())
    assert run(*arguments, bundle=bundle) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert sorted(os.listdir()) == before
    return err


def test_the_same_seed_writes_the_same_file() -> None:
    for name in ("a.png", "b.png"):
        done = python(PROMPT, "--seed", "7", "-o", name)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert python(PROMPT, "--seed", "8", "-o", "c.png").returncode == 0
    assert Image.open("c.png").tobytes() != Image.open("a.png").tobytes()
    assert Image.open("a.png").tobytes() == runtime.generate(PROMPT, seed=7, bundle=TINY).tobytes()


def test_the_file_says_how_it_was_made() -> None:
    options = ("--num-inference-steps", "2", "--guidance-scale", "3", "--negative-prompt", "cats")
    assert run(PROMPT, "--seed", "7", "-o", "a.png", *options) == 0
    assert Image.open("a.png").info["parameters"] == (
        f"{PROMPT}\nNegative prompt: cats\nSteps: 2, Sampler: DDIM, CFG scale: 3.0, Seed: 7, Size: 40x32, "
        f"Model: tiny, Version: addkit {runtime.__version__}"
    )
    assert "trainedAlgorithmicMedia" in Image.open("a.png").info["XML:com.adobe.xmp"]


def test_json_reports_every_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a fox", "a pizza", "--num-images", "2", "--seed", "5", "-o", "x.png", "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["provider"] == "cpu" and report["bundle"] == "tiny"
    assert err == "2 prompts read, 4 of 4 pictures made\n"  # the last line counts
    rows = [(row["path"], row["prompt"], row["seed"]) for row in report["images"]]
    assert rows == [
        ("x-1.png", "a fox", 5),
        ("x-2.png", "a fox", 6),
        ("x-3.png", "a pizza", 5),
        ("x-4.png", "a pizza", 6),
    ]
    for row in report["images"]:
        assert set(row["ms"]) == {"text_encoder", "unet", "vae_decoder", "total"} and row["ms"]["total"] > 0
        assert Image.open(row["path"]).size == (40, 32)


def test_pictures_before_one_that_fails_are_kept_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime import files

    save = files.write_whole

    def until_the_disk_is_full(path: Path, *more: Any) -> None:
        if path.name == "x-3.png":
            raise OutputError(f"cannot write {path}: No space left on device")
        save(path, *more)

    monkeypatch.setattr(files, "write_whole", until_the_disk_is_full)
    assert run("a fox", "--num-images", "4", "--seed", "5", "-o", "x.png") == 2
    out, err = capsys.readouterr()
    assert out == "" and sorted(os.listdir()) == ["x-1.png", "x-2.png"]
    assert err == ("1 prompt read, 2 of 4 pictures made\nerror: cannot write x-3.png: No space left on device\n")


def test_without_a_seed_the_report_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a fox", "-o", "x.png", "--json") == 0
    seed = json.loads(capsys.readouterr().out)["images"][0]["seed"]
    assert run("a fox", "-o", "y.png", "--seed", str(seed)) == 0
    assert Path("x.png").read_bytes() == Path("y.png").read_bytes()


def test_image_to_image() -> None:
    Image.radial_gradient("L").save("start.jpg")
    for name, strength in (("a.png", ["--strength", "0.25"]), ("b.png", ["--strength", "1"]), ("c.png", [])):
        assert run("a fox", "--seed", "7", "--image", "start.jpg", *strength, "-o", name) == 0
    assert run("a fox", "--seed", "7", "-o", "d.png") == 0
    assert len({Image.open(f"{name}.png").tobytes() for name in "abcd"}) == 4
    assert "Denoising strength: 0.8" in Image.open("c.png").info["parameters"]
    python = runtime.generate("a fox", seed=7, image=Image.open("start.jpg"), bundle=TINY)
    assert Image.open("c.png").tobytes() == python.tobytes()


def test_the_examples_of_the_help_work_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    Image.radial_gradient("L").resize((40, 32)).save("sketch.jpg")
    lines = EXAMPLES.splitlines()[1:]
    assert len(lines) == 4
    for line in lines:
        *command, arguments = line.split(maxsplit=3)
        assert command == ["python", "-m", "runtime"] and run(*shlex.split(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == "2 prompts read, 8 of 8 pictures made\n" and len(out.splitlines()) == 1 + 8 + 1 + 1


def test_help_and_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("--help") == 0
    text = capsys.readouterr().out
    for flag in (
        "--seed",
        "--num-images",
        "--num-inference-steps",
        "--bundle",
        "--provider",
        "--image",
        "--strength",
    ):
        assert flag in text
    assert f"default {output_names.DEFAULT}\n" in text and f"default {bundle.DEFAULT}\n" in text
    assert "examples:" in text and text.count("python -m runtime") >= 4
    assert run("--version") == 0 and runtime.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
def test_an_empty_prompt(capsys: pytest.CaptureFixture[str], prompt: str) -> None:
    assert "prompt is empty" in refused(capsys, prompt, "-o", "x.png")


def test_a_prompt_of_ten_thousand_characters(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = " ".join("abcdefghijklmnopqrstuvwxyz"[i % 26] for i in range(5000)) + "z"
    assert len(prompt) == 10_000
    assert run(prompt, "--seed", "7", "--num-images", "2", "-o", "x.png") == 0
    out, err = capsys.readouterr()
    warning, counts = err.splitlines()
    assert out == "x-1.png\nx-2.png\n" and warning.startswith("warning: ")
    words = prompt.split()
    assert warning.endswith(f"dropped from its end: {' '.join(words[75:95])} and {5000 - 95} more")
    assert counts == "1 prompt read, 2 of 2 pictures made"
    assert run(" ".join(words[:75]), "--seed", "7", "-o", "y.png") == 0
    assert Image.open("x-1.png").tobytes() == Image.open("y.png").tobytes()
    assert Image.open("x-1.png").info["parameters"].startswith(prompt)


def test_one_word_of_ten_thousand_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("x" * 10_000, "--seed", "7", "-o", "x.png") == 0
    err = capsys.readouterr().err
    assert err.startswith("warning: ") and err.endswith(f"dropped from its end: {'x' * 40}...\n")
    assert err.count("\n") == 1 and len(err) < 200


@pytest.mark.parametrize("fault", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("name", ["unet/model.onnx", "tokenizer/vocab.json", "scheduler/scheduler_config.json"])
def test_a_damaged_bundle(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, fault: str, name: str
) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("b") / "bundle"))
    facts = json.loads((folder / "manifest.json").read_text())["files"][name]
    data = (folder / name).read_bytes()
    if fault == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data[:-5] if fault == "truncated" else b"X" + data[1:])
    line = refused(capsys, "a fox", "-o", "x.png", bundle=folder)
    assert fault in line and name in line and facts["sha256"] in line
    assert "found" in line


def test_a_missing_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no bundle nowhere" in refused(capsys, "a fox", "--bundle", "nowhere", bundle=None)
    line = refused(capsys, "a fox", "--bundle", ".", bundle=None)
    assert "manifest.json is missing" in line and "export.onnx" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a fox", "-o", "no/such/x.png"], "no folder"),
        (["a fox", "-o", "x.jpg"], "PNG"),
        (["a fox", "-o", "/proc/x.png"], "/proc/x.png"),
        (["a fox", "-o", "/dev/full"], "PNG"),
        (["a fox", "-o", "x" * 300 + ".png"], "long"),
        (["a fox", "a fox", "--seed", "7", "-o", "{seed}.png"], "several pictures"),
        (["a fox", "--seed", "one"], "--seed"),
        (["a fox", "--seed", str(2**64)], "out of range"),
        (["a fox", "--num-images", "0"], "1 or more"),
        (["a fox", "a cat", "--num-images", "5001"], "10000 at most"),
        (["a fox", "-o", ""], "such as fox.png, not ''"),
        (["a fox", "--guidance-scale", "inf"], "finite number, not inf"),
        (["a fox", "--num-inference-steps", "5"], "1, 2, 3, 4"),
        (["a fox", "--num-inference-steps", "0"], "1, 2, 3, 4"),
        (["a fox", "--negative-prompt", "cats"], "guidance_scale"),
        (["a fox", "--provider", "tpu"], "choose auto, cpu"),
        (["a fox", "--strength", "0.5"], "--image"),
        (["a fox", "--image", "none.png"], "no such file"),
        (["a fox", "--image", str(TINY / "manifest.json")], "not a readable picture"),
        (["a fox", "--image", str(TINY)], "cannot read image"),
        (["a fox", "--image", "half.png"], "damaged"),
        (["a fox", "--image", "start.png", "--strength", "7"], "strength"),
        (["a fox", "--frobnicate"], "--frobnicate"),
        ([], "PROMPT"),
        (["fox \udcff"], "UTF-8"),
    ],
    ids=str,
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    image = Image.effect_noise((64, 64), 50)
    image.save("start.png")
    Path("half.png").write_bytes(Path("start.png").read_bytes()[:2000])
    assert says in refused(capsys, *arguments)


def test_a_folder_and_a_special_file_are_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir("folder.png")
    os.symlink("/dev/full", "full.png")
    assert "device" in refused(capsys, "a fox", "-o", "full.png")
    assert run("a fox", "--seed", "7", "-o", "folder.png") == 0
    assert capsys.readouterr().out == "folder.png/a-fox-7.png\n"


def test_the_output_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from runtime import pipeline

    monkeypatch.setattr(pipeline, "load", lambda *_: pytest.fail("it loaded the bundle"))
    refused(capsys, "a fox", "-o", "no/such/x.png")
    refused(capsys, "", "-o", "x.png")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    Path("x.png").write_bytes(b"before")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    assert "x.png: no space left" in refused(capsys, "a fox", "-o", "x.png")
    assert Path("x.png").read_bytes() == b"before"


def test_a_file_system_that_takes_no_more(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    done = python("a fox", "--seed", "7", "-o", "x.png", cwd=tmp_path, preexec_fn=limit, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: cannot write x.png: ") and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "filler").write_bytes(bytes(4096))
        done = python("a fox", "--seed", "7", "-o", str(disk / "x.png"))
        assert done.returncode == 2 and "no space left" in done.stderr and done.stderr.count("\n") == 1
        assert os.listdir(disk) == ["filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a fox", "--bundle", "nowhere", "--debug"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Traceback") and "resolve_bundle" in err
    assert err.splitlines()[-1].startswith("runtime.errors.BundleError: there is no bundle nowhere")


def test_a_provider_that_is_not_there_is_one_line_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert python("a fox", "-o", "x.png", "--provider", "openvino").stderr.count("\n") == 1
    assert Path("x.png").exists()


def test_a_closed_stdout_is_no_error() -> None:
    command = f"{sys.executable} -m runtime 'a fox' --bundle {TINY} -o x.png | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "") and Path("x.png").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_stdout_is_one_line() -> None:
    command = f"{sys.executable} -m runtime 'a fox' --bundle {TINY} -o x.png > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and Path("x.png").exists()
    assert done.stderr.startswith("error: cannot write to standard output: No space left")


def test_a_name_that_stdout_cannot_show() -> None:
    done = python("狐", "--seed", "7", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u72d0-7.png\n", "")
    assert Path("狐-7.png").exists()


def test_without_a_stderr_nothing_else_changes() -> None:
    command = f"{sys.executable} -m runtime '{'a ' * 99}' --bundle {TINY} -o x.png 2>&-"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "x.png\n")


def test_a_package_that_cannot_be_written_to(tmp_path: Path) -> None:
    """As from a wheel: the package alone, in a folder that it must leave as it is."""
    site = tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__", "sticker-128")
    shutil.copytree(ROOT / "runtime", site / "runtime", ignore=ignored)
    shutil.copytree(TINY, site / "runtime" / "bundles" / "sticker-128", ignore=shutil.ignore_patterns("end*"))
    before = sorted(path for path in site.rglob("*"))
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "runtime", PROMPT, "--seed", "7", "-o", "fox.png"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path for path in site.rglob("*")) == before
    assert Image.open(tmp_path / "fox.png").tobytes() == runtime.generate(PROMPT, seed=7, bundle=TINY).tobytes()
    for path in before:
        path.chmod(0o755)


JOBS = [Job("A red fox!", None, 7), Job("pizza", None, 7)]


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (None, ["a-red-fox-7.png", "pizza-7.png"]),
        ("x.png", ["x-1.png", "x-2.png"]),
        ("{prompt}.PNG", ["a-red-fox.PNG", "pizza.PNG"]),
        ("{i}_{seed}_{other}.png", ["1_7_{other}.png", "2_7_{other}.png"]),
        ("out/", ["out/a-red-fox-7.png", "out/pizza-7.png"]),
    ],
)
def test_names(output: str | None, names: list[str]) -> None:
    assert [str(path) for path in output_paths(output, JOBS)] == names


def test_many_names_are_told_apart_by_as_much_work_each_as_a_few() -> None:
    def named(count: int) -> int:
        jobs = [Job("a fox", None, seed) for seed in range(count)]
        assert len(set(output_paths(None, jobs))) == count
        return lines_run(lambda: output_paths(None, jobs))

    assert named(4000) < 2.5 * named(2000)


def test_a_single_picture_keeps_its_name() -> None:
    assert output_paths("x.png", JOBS[:1]) == [Path("x.png")]


def test_slugs() -> None:
    assert slug("../../etc/passwd") == "etc-passwd" and slug("🦊!") == "picture" and slug("a" * 99) == "a" * 40
    assert slug("Été à Paris") == "été-à-paris"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_is_silent_at_first_and_then_tells(kind: type[io.StringIO]) -> None:
    quick, slow = kind(), kind()
    with Progress(3, quick) as progress:
        progress.done(3)
    assert quick.getvalue() == ""
    with Progress(3, slow, patience_s=0.01) as progress:
        progress.done(2)
        time.sleep(0.1)
    assert "2 of 3 pictures" in slow.getvalue()
    assert slow.getvalue().endswith("\r\x1b[K" if kind is Terminal else "\n")
