"""Arguments as people guess them: each mistake is a sentence of ours, never the name of an exception."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime.batch import ray_pool
from runtime.batch.names import named_path
from runtime.errors import Error
from runtime.generation import Job
from runtime.output_names import output_paths
from tests.support.mistakes import refused
from train.data.__main__ import main as data_command

TINY = Path(__file__).parent / "golden" / "tiny_bundle"


@pytest.fixture(scope="module")
def pipe() -> Any:
    with runtime.load(TINY, "cpu") as opened:
        yield opened


EVENT = threading.Event()
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "no height": ({"height": 0}, "height must be a whole number of 1 or more, not 0"),
    "a text as height": ({"height": "32"}, "height must be a whole number of 1 or more, not '32'"),
    "a negative width": ({"width": -1}, "width must be a whole number of 1 or more, not -1"),
    "true as width": ({"width": True}, "width must be a whole number of 1 or more, not True"),
    "another height": ({"height": 128}, "a picture of 40x128 is not possible: bundle tiny makes width 40, height 32"),
    "an event as cancel": ({"cancel": EVENT}, "cancel must be a runtime.CancelToken, not Event"),
    "true as cancel": ({"cancel": True}, "cancel must be a runtime.CancelToken, not bool"),
    "zero as cancel": ({"cancel": 0}, "cancel must be a runtime.CancelToken, not int"),
    "no function": ({"callback_on_step_end": "x"}, "callback_on_step_end must be a function, not str"),
    "bytes as prompt": ({"prompt": b"a"}, "prompt must be a string, or a list of one string or more"),
    "text as embeds": ({"prompt": None, "prompt_embeds": "x"}, "prompt_embeds must be an array of numbers, not str"),
    "ragged": ({"prompt": None, "prompt_embeds": [[1], []]}, "prompt_embeds must be an array of numbers, not list"),
    "wide embeds": (
        {"prompt": None, "prompt_embeds": np.zeros((77, 16), np.float32)},
        "prompt_embeds must be 8 wide for bundle tiny, not 16: give what its own encoders give",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_says_what_is_allowed(pipe: Any, name: str) -> None:
    options, says = CALLS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        pipe(**{"prompt": "a fox", "seed": 0, **options})


@pytest.mark.parametrize("returned", ["x", "latents", 1, True, [1], (None,), np.zeros(3)])
def test_a_callback_returns_a_dict_or_nothing(pipe: Any, returned: Any) -> None:
    with pytest.raises(ValueError, match="callback_on_step_end must return None or a dict, not"):
        pipe("a fox", seed=0, callback_on_step_end=lambda *_: returned)


@pytest.mark.parametrize("returned", [None, {}, {"other": 1}])
def test_what_a_callback_may_return(pipe: Any, returned: Any) -> None:
    made = pipe("a fox", seed=0, output_type="latent", callback_on_step_end=lambda *_: returned)
    assert (made == pipe("a fox", seed=0, output_type="latent")).all()


@pytest.mark.parametrize("method", ["encode_prompt", "encode_pooled_prompt"])
@pytest.mark.parametrize("prompt", [["a fox", "a pizza"], None, 7])
def test_one_prompt_is_encoded(pipe: Any, method: str, prompt: Any) -> None:
    with pytest.raises(ValueError, match="prompt must be one string, not .*: call it for each prompt"):
        getattr(pipe, method)(prompt)
    with pytest.raises(ValueError, match="cancel must be a runtime.CancelToken, not str"):
        getattr(pipe, method)("a fox", cancel="x")


@pytest.mark.parametrize(("given", "says"), [({"prompts": 7}, "prompts"), ({"prompts": "a", "images": 7}, "images")])
def test_a_stream_needs_iterables(pipe: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"{says} must be an iterable, not int"):
        pipe.stream(**given)


# ---- names that Windows keeps ---------------------------------------------------------------------------------------

KEPT = ["con", "CON", "nul.png", "aux/x", "LPT1", "x/com9.tar/y", "prn.webp.png", "con.v2"]


@pytest.mark.parametrize("name", KEPT)
def test_names_of_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name .* is not allowed: Windows keeps .* for a device"):
        named_path(name, "png")


@pytest.mark.parametrize("name", ["icon", "console", "com", "lpt", "nul-1", "a con"])
def test_names_like_them_are_not(name: str) -> None:
    assert named_path(name, "png") == f"{name}.png"


@pytest.mark.parametrize(
    ("pattern", "prompt", "name"),
    [
        ("{prompt}.png", "Con", "con-picture.png"),
        ("{prompt}.png", "LPT1!", "lpt1-picture.png"),
        ("out/{prompt}.png", "aux", "out/aux-picture.png"),
        ("{prompt}-{seed}.png", "nul", "nul-7.png"),
        ("{prompt}.png", "icon", "icon.png"),
        ("con.png", "a fox", "con.png"),  # somebody's own wish
    ],
)
def test_a_prompt_that_is_a_device(pattern: str, prompt: str, name: str) -> None:
    assert output_paths(pattern, [Job(prompt, None, 7, False)]) == [Path(name)]


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["0", "-1", "7", "100000"])
def test_sizes_that_cannot_be(size: str, tmp_path: Path, capsys: Any) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a")
    for command in (["import", tmp_path], ["prepare"]):
        line = refused(capsys, data_command, *command, "--out", tmp_path / "out", "--size", size)
        assert f"argument --size: must be 8 to 4096, not {size}" in line
    assert "invalid int value: '1.5'" in refused(
        capsys, data_command, "import", tmp_path, "--out", "x", "--size", "1.5"
    )


def test_what_is_skipped_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in {"a.png": b"no picture", "b.png": b"", "c.jpg": b"\xff\xd8\xff\xe0" + bytes(40)}.items():
        (tmp_path / "in" / name).write_bytes(data)
        (tmp_path / "in" / name).with_suffix(".txt").write_text(name)
    Image.new("RGB", (16, 16)).save(tmp_path / "in/d.png")
    (tmp_path / "in/d.txt").write_text("d")
    assert data_command(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--held-out", "0"]) == 0
    said = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert [row["file"] for row in said] == ["a.png", "b.png", "c.jpg"]
    assert not any("<" in row["why"] or "0x" in row["why"] or "Error" in row["why"] for row in said)


def test_without_docstrings_ray_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    with pytest.raises(Error, match="Ray needs the docstrings that python -OO removes"):
        ray_pool.require()


def test_a_long_folder_for_temporary_files_has_a_remedy() -> None:
    def init(**_: Any) -> None:
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/xxx")

    pool = ray_pool.Pool.__new__(ray_pool.Pool)
    pool._ray, pool._address, pool._asked, pool._debug = SimpleNamespace(init=init), None, None, False
    with pytest.raises(Error, match="AF_UNIX path length .*; the name of TMPDIR is too long: set RAY_TMPDIR=/tmp"):
        pool._start()


# ---- what is not used of a picture ----------------------------------------------------------------------------------


def test_what_is_cut_or_left_of_a_start_picture_is_told(tmp_path: Path, capsys: Any) -> None:
    from runtime.__main__ import main

    exif = Image.Exif()
    exif[0x0112] = 6
    pictures: dict[str, tuple[Image.Image, dict[str, Any], list[str]]] = {
        "large.png": (Image.new("RGB", (80, 32)), {}, ["(80x32) is scaled and center-cropped to 40x32"]),
        "turned.jpg": (Image.new("RGB", (32, 40)), {"exif": exif}, []),  # upright it is 40x32
        "moving.gif": (
            Image.new("RGB", (40, 32)),
            {"save_all": True, "append_images": [Image.new("RGB", (40, 32), "red")]},
            ["has 2 pictures, of which the first is used"],
        ),
    }
    for name, (image, options, says) in pictures.items():
        image.save(tmp_path / name, **options)
        out = str(tmp_path / "out.png")
        assert main(["a fox", "--seed", "1", "--image", str(tmp_path / name), "--bundle", str(TINY), "-o", out]) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" pictures")]
        assert len(notes) == len(says), notes
        for note, said in zip(notes, says, strict=True):
            assert note.startswith("note: ") and said in note and name in note
