"""In-between frames: the path, its timing, the command's folder, and its errors."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, PngImagePlugin

import runtime
from runtime.files.locks import hold_folder, let_go
from runtime.image_files import SOURCE_TYPE, read_parameters
from runtime.interpolate import folder as interpolate_folder
from runtime.interpolate import smoothness as measures
from runtime.interpolate.__main__ import EXAMPLES, main
from runtime.interpolate.animation import encode_animation
from runtime.interpolate.inputs import prompt_of, read_source
from runtime.interpolate.path import Start, Way, between, known_strength, strengths, uniform_places
from runtime.interpolate.slerp import slerp
from runtime.pixels import from_image, to_image

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
SIZE = (40, 32)  # width, height of the tiny bundle's pictures
PIPE = runtime.load(TINY, "cpu")
VECTORS = arrays(
    np.float32, (2, 3, 4), elements=st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
)
PLACES = st.floats(0, 1)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pictures(size: tuple[int, int] = SIZE) -> tuple[Image.Image, Image.Image]:
    """Two that differ much."""
    first = Image.new("RGB", size, "white")
    first.paste("red", (4, 4, size[0] // 2, size[1] // 2))
    return first, Image.merge("RGB", [Image.radial_gradient("L").resize(size)] * 2 + [Image.new("L", size, 90)])


def saved(size: tuple[int, int] = SIZE) -> list[str]:
    names = ["a.png", "b.png"]
    for name, picture in zip(names, pictures(size), strict=True):
        picture.save(name)
    return names


def run(*arguments: str, bundle: Path = TINY) -> int:
    return main([*arguments, "--bundle", str(bundle)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, bundle: Path = TINY) -> str:
    """The one line on stderr of a command that exits with 2 and writes nothing."""
    before = sorted(os.listdir())
    capsys.readouterr()
    assert run(*arguments, bundle=bundle) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: ")
    assert sorted(os.listdir()) == before
    return lines[0]


@given(VECTORS, VECTORS)
def test_slerp_ends_exactly(a: Any, b: Any) -> None:
    assert np.array_equal(slerp(a, b, 0.0), a) and np.array_equal(slerp(a, b, 1.0), b)


@given(VECTORS, VECTORS, PLACES)
def test_slerp_keeps_the_norm_between_those_of_the_ends(a: Any, b: Any, t: float) -> None:
    made = slerp(a, b, t)
    assert made.dtype == np.float32 and made.shape == a.shape and np.isfinite(made).all()
    norms = [float(np.linalg.norm(x.astype(np.float64))) for x in (a, b, made)]
    if norms[0] and norms[1]:
        assert norms[2] == pytest.approx((1 - t) * norms[0] + t * norms[1], rel=1e-5)


@given(VECTORS, VECTORS, PLACES)
def test_slerp_is_the_same_from_the_other_end(a: Any, b: Any, t: float) -> None:
    cosine = np.vdot(a, b) / max(float(np.linalg.norm(a)) * float(np.linalg.norm(b)), 1e-30)
    if abs(cosine) < 0.999:  # opposite directions go round on the side of the first
        scale = np.linalg.norm(a) + np.linalg.norm(b) + 1e-6
        np.testing.assert_allclose(slerp(a, b, t), slerp(b, a, 1 - t), atol=1e-5 * float(scale))


@given(VECTORS, st.floats(0.125, 8, width=32), PLACES)
def test_slerp_of_parallel_vectors_is_straight(a: Any, factor: float, t: float) -> None:
    b = a * np.float32(factor)
    np.testing.assert_allclose(slerp(a, b, t), (1 - t) * a + t * b, rtol=1e-4, atol=1e-4 * float(np.abs(a).max()))


@given(VECTORS, st.floats(0.05, 0.95))
def test_slerp_of_opposite_vectors_goes_round(a: Any, t: float) -> None:
    norm = float(np.linalg.norm(a))
    made = slerp(a, -a, t)
    assert float(np.linalg.norm(made)) == pytest.approx(norm, rel=1e-5)
    if norm:
        assert np.vdot(a, made) / norm**2 == pytest.approx(np.cos(np.pi * t), abs=1e-4)


@given(VECTORS, PLACES)
def test_slerp_from_and_to_zero_is_straight(a: Any, t: float) -> None:
    zero = np.zeros_like(a)
    np.testing.assert_allclose(slerp(zero, a, t), np.float32(t) * a, rtol=1e-6)
    np.testing.assert_allclose(slerp(a, zero, t), np.float32(1 - t) * a, rtol=1e-6)
    assert not slerp(zero, zero, t).any()


def test_slerp_of_two_axes_is_a_quarter_of_a_circle() -> None:
    a, b = np.array([2, 0], np.float32), np.array([0, 2], np.float32)
    np.testing.assert_allclose(slerp(a, b, 1 / 3), [2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)], rtol=1e-6)


def test_the_way_begins_and_ends_at_the_two_pictures() -> None:
    way, (first, last) = Way(PIPE, 0.75), pictures()
    a, b = way.end(Start(first, "a fox", 1)), way.end(Start(last, "a cat", 2))
    np.testing.assert_allclose(way.latents(a, b, 0.0), PIPE.encode(first), atol=1e-5)
    np.testing.assert_allclose(way.latents(a, b, 1.0), PIPE.encode(last), atol=1e-5)
    for t, picture in ((0.0, first), (1.0, last)):
        assert np.abs(np.asarray(way.picture(a, b, t), np.int16) - np.asarray(picture, np.int16)).max() <= 1
    assert a.image.tobytes() == first.tobytes()


def test_nothing_jumps_near_the_ends() -> None:
    way, (first, last) = Way(PIPE, 1.0), pictures()
    a, b = way.end(Start(first, "a fox", 1)), way.end(Start(last, "a cat", 2))
    whole = np.linalg.norm(b.latents - a.latents)
    assert np.linalg.norm(way.latents(a, b, 1e-3) - a.latents) < 0.02 * whole
    assert np.linalg.norm(way.latents(a, b, 0.999) - b.latents) < 0.02 * whole


def test_between_two_equal_pictures_nothing_happens() -> None:
    first, _ = pictures()
    for frame in between(PIPE, first, first, 3, prompt="a fox"):
        assert np.abs(np.asarray(frame.image, np.int16) - np.asarray(first, np.int16)).max() <= 1


def test_frames_come_as_they_are_made_and_depend_on_the_arguments_alone() -> None:
    first, last = pictures()
    frames = list(between(PIPE, first, last, 3, prompt="a fox", prompt_b="a cat", seed=5))
    assert len(frames) == 5 and frames[0].t == 0 and frames[-1].t == 1
    assert [frame.t for frame in frames] == sorted({frame.t for frame in frames})
    assert all(frame.image.size == SIZE for frame in frames)
    again = list(between(PIPE, first, last, 3, prompt="a fox", prompt_b="a cat", seed=5))
    assert [x.image.tobytes() for x in frames] == [x.image.tobytes() for x in again]
    for changed in ({"seed": 6}, {"seed_b": 6}, {"prompt_b": "a dog"}, {"strength": 0.5}, {"even": False}):
        options: dict[str, Any] = {"prompt": "a fox", "prompt_b": "a cat", "seed": 5, **changed}
        other = list(between(PIPE, first, last, 3, **options))
        assert other[2].image.tobytes() != frames[2].image.tobytes(), changed
    lone = between(PIPE, first, last, 3, even=False)
    assert [next(lone).t, next(lone).t] == [0.0, 0.25]


def test_even_timing_makes_steps_alike() -> None:
    """A way that hardly moves but in its middle: uniform weights would spend most frames on standing still."""

    class Jump(Way):
        def latents(self, a: Any, b: Any, t: float) -> Any:
            s = np.float32(1 / (1 + np.exp(-20 * (t - 0.5))))
            return (1 - s) * a.latents + s * b.latents

    way, (first, last) = Jump(PIPE, 0.75), pictures()
    a, b = way.end(Start(first, "", 0)), way.end(Start(last, "", 0))
    even = [0.0, *way.even_places(a, b, 8), 1.0]
    assert even == sorted(even) and len(even) == 10

    def longest(places: list[float]) -> float:
        codes = [a.latents, *(way.latents(a, b, t) for t in places[1:-1]), b.latents]
        steps = [float(np.linalg.norm(y - x)) for x, y in itertools.pairwise(codes)]
        return max(steps) / float(np.mean(steps))

    assert longest(even) < 1.25 and longest([0.0, *uniform_places(8), 1.0]) > 3
    assert way.even_places(a, a, 3) == uniform_places(3)  # no path, no length


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"count": 0}, "1 or more"),
        ({"count": 501}, "1 to 500"),
        ({"count": 2.5}, "whole number"),
        ({"strength": 0}, "strength must be above 0"),
        ({"strength": 1.5}, "at most 1"),
        ({"seed": 2**64}, "out of range"),
        ({"seed_b": -(2**64)}, "out of range"),
    ],
    ids=str,
)
def test_arguments_are_refused_before_the_first_frame(changed: dict[str, Any], says: str) -> None:
    first, last = pictures()
    options = {"count": 3, **changed}
    with pytest.raises(ValueError, match=says):
        between(PIPE, first, last, options.pop("count"), **options)


def test_another_thread_stops_it() -> None:
    token = runtime.CancelToken()
    frames = between(PIPE, *pictures(), 400, even=False, cancel=token)
    next(frames)
    threading.Timer(0.05, token.cancel).start()
    drawn = 1
    with pytest.raises(runtime.Cancelled):
        for _ in frames:
            drawn += 1
    assert drawn < 400
    with pytest.raises(runtime.Cancelled):
        list(between(PIPE, *pictures(), 1, cancel=token))


def test_a_flagged_picture_gets_nothing_of_the_two_back() -> None:
    def black(*, images: Any, clip_input: Any) -> tuple[Any, list[bool]]:
        return np.zeros_like(images), [True]

    pipe = runtime.load(TINY, "cpu", safety_checker=black)
    frames = list(between(pipe, *pictures(), 1))
    inside = np.asarray(frames[1].image)
    assert not inside.any()


def test_the_usual_strength_is_the_most_at_which_the_student_knows_both(monkeypatch: pytest.MonkeyPatch) -> None:
    known = strengths(PIPE.manifest)
    assert known == pytest.approx([0.25, 0.333, 0.5, 0.667, 0.75, 1.0])
    a, b = (Start(picture, "", 0) for picture in pictures())
    distance = float(np.linalg.norm(PIPE.encode(a.image) - PIPE.encode(b.image)))

    def student(most_a: float, most_b: float) -> float:
        """The strength for a student that loses the ends above these."""

        def lost(self: Way, latents: Any, start: Start) -> Any:
            most = most_a if start is a else most_b
            return np.array([distance * (0.49 if self.strength <= most else 0.51)])

        monkeypatch.setattr(Way, "lost", lost)
        return known_strength(PIPE, a, b)

    assert student(1.0, 1.0) == 1.0
    assert student(1.0, 0.7) == student(0.7, 1.0) == known[3]
    assert student(0.3, 1.0) == student(0.1, 0.1) == known[0]


def test_the_usual_strength_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    names = saved()
    a, b = (Start(picture, "a fox", 0) for picture in pictures())
    usual = known_strength(PIPE, a, b)
    assert run(*names, "--frames", "1", "--prompt", "a fox", "--out", "m", "--json") == 0
    assert json.loads(capsys.readouterr().out)["strength"] == usual
    by_hand = list(between(PIPE, a.image, b.image, 1, prompt="a fox", strength=usual))[1].image
    assert by_hand.tobytes() == list(between(PIPE, a.image, b.image, 1, prompt="a fox"))[1].image.tobytes()
    assert by_hand.tobytes() == Image.open("m/frame-0001.png").tobytes()


# The metrics


def test_a_cross_fade_is_straight_even_and_a_double_exposure() -> None:
    first, last = pictures((64, 48))
    found = measures.measure(measures.cross_fade(first, last, 5))
    assert 1 <= found["path_ratio"] < 1.1 and 1 <= found["step_ratio"] < 1.4 and found["flicker"] < 0.2
    assert found["crispness"] < 0.75 and found["double_exposure"] > 0.9


def test_a_shape_that_moves_is_crisp_and_no_double_exposure() -> None:
    def at(x: int) -> Image.Image:
        frame = Image.new("RGB", (96, 64), "white")
        frame.paste("black", (x, 20, x + 16, 44))
        return frame

    found = measures.compared([at(4 + 12 * i) for i in range(6)])
    assert found["ours"]["crispness"] == pytest.approx(1)
    assert found["ours"]["double_exposure"] < 0.2 and found["cross_fade"]["double_exposure"] > 0.9
    assert found["cross_fade"]["crispness"] < 0.6


def test_going_back_and_forth_is_flicker_and_a_jump_a_large_step() -> None:
    first, last = pictures((64, 48))
    fade = measures.cross_fade(first, last, 3)
    trembling = measures.measure([first, last, first, last])
    assert trembling["flicker"] == pytest.approx(1) and trembling["path_ratio"] == pytest.approx(3)
    jump = measures.measure([first, first, first, first, last])
    assert jump["step_ratio"] == pytest.approx(4) and jump["path_ratio"] == pytest.approx(1)
    assert measures.measure(fade)["step_ratio"] < 2


@settings(max_examples=25)
@given(st.lists(arrays(np.uint8, (16, 20, 3)), min_size=3, max_size=5))
def test_distance_is_one(values: list[Any]) -> None:
    x, y, z = (measures.bands(Image.fromarray(one)) for one in values[:3])
    assert measures.distance(x, x) == 0 and measures.distance(x, y) == measures.distance(y, x)
    assert measures.distance(x, z) <= measures.distance(x, y) + measures.distance(y, z) + 1e-12
    if not np.array_equal(values[0], values[1]):
        assert measures.distance(x, y) > 0


def test_what_cannot_be_measured() -> None:
    first, last = pictures()
    with pytest.raises(ValueError, match="frame between"):
        measures.measure([first, last])
    with pytest.raises(ValueError, match="the same"):
        measures.measure([first, last, first])
    assert measures.summary([]) == {}


# The command


def test_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    names = saved()
    assert (
        run(
            *names,
            "--frames",
            "3",
            "--out",
            "morph",
            "--prompt",
            "a fox",
            "--prompt-b",
            "a cat",
            "--strength",
            "0.75",
            "--json",
        )
        == 0
    )
    out, err = capsys.readouterr()
    report = json.loads(out)
    frames = [f"frame-{i:04d}.png" for i in range(5)]
    assert sorted(os.listdir("morph")) == sorted([*frames, "animation.webp", "interpolation.json"]) and err == ""
    assert sorted(os.listdir()) == ["a.png", "b.png", "morph"]
    assert report["out"] == "morph" and report["prompts"] == ["a fox", "a cat"] and report["strength"] == 0.75
    assert [frame["path"] for frame in report["frames"]] == frames and report["timestep"] == 749
    assert set(report["smoothness"]) == {"ours", "cross_fade"}
    assert set(report["smoothness"]["ours"]) == set(measures.MEASURES)
    for name, end in zip(names, (frames[0], frames[-1]), strict=True):
        assert Image.open(name).tobytes() == Image.open(f"morph/{end}").tobytes()
    made = list(between(PIPE, *pictures(), 3, prompt="a fox", prompt_b="a cat", strength=0.75))
    for frame, row in zip(made, report["frames"], strict=True):
        assert Image.open(f"morph/{row['path']}").tobytes() == frame.image.tobytes()
        assert row["t"] == round(frame.t, 6)
    kept = json.loads(Path("morph/interpolation.json").read_text())
    assert {**kept, "out": "morph"} == report


def test_the_files_say_how_they_were_made() -> None:
    assert (
        run(
            *saved(),
            "--frames",
            "1",
            "--out",
            "m",
            "--prompt",
            "a fox",
            "--prompt-b",
            'a "cat"',
            "--seed",
            "9",
            "--strength",
            "0.75",
        )
        == 0
    )
    _, text = read_parameters(Path("m/frame-0001.png").read_bytes())
    place = json.loads(Path("m/interpolation.json").read_text())["frames"][1]["t"]
    assert text.startswith("a fox\nSteps: 1, ") and "Seed: 9, " in text and "Denoising strength: 0.75" in text
    assert text.endswith(f'Interpolation: {place:.6f}, Prompt B: "a \\"cat\\""')
    assert SOURCE_TYPE in Image.open("m/frame-0001.png").info["XML:com.adobe.xmp"]
    assert "XML:com.adobe.xmp" not in Image.open("m/frame-0000.png").info  # a user's own picture stays as it is
    assert SOURCE_TYPE in str(Image.open("m/animation.webp").info["xmp"])


def test_pictures_of_ours_know_their_prompts_and_their_mark(capsys: pytest.CaptureFixture[str]) -> None:
    from runtime.__main__ import main as generate

    for name, prompt in (("a.png", "a fox, 3d style"), ("b.png", "a cat\nSteps: none")):
        assert generate([prompt, "--seed", "3", "-o", name, "--bundle", str(TINY)]) == 0
    capsys.readouterr()
    assert read_source("a.png").prompt == "a fox, 3d style"
    assert run("a.png", "b.png", "--frames", "1", "--out", "m", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompts"][0] == "a fox, 3d style"
    for end, name in (("m/frame-0000.png", "a.png"), ("m/frame-0002.png", "b.png")):
        assert Path(end).read_bytes() == Path(name).read_bytes()
    assert run("a.png", "b.png", "--frames", "1", "--prompt", "a dog", "--out", "n", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == ["a dog", "a dog"]


def test_the_text_of_other_programs_is_no_prompt_of_ours() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a <lora:x:1> fox\nSteps: 20, Seed: 1, Version: v1.9.0")
    pictures()[0].save("other.png", pnginfo=info)
    assert read_source("other.png").prompt == "" and not read_source("other.png").generated
    assert prompt_of("a\nb\nNegative prompt: c\nSteps: 1, Seed: 2") == "a\nb"
    assert prompt_of("only words") == "only words" and prompt_of("") == ""


def test_pictures_of_other_sizes_are_fitted_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = pictures((90, 50))
    first.save("a.png")
    last.resize((31, 77)).convert("L").save("b.jpg")
    assert run("a.png", "b.jpg", "--frames", "1", "--out", "m") == 0
    out, err = capsys.readouterr()
    assert [line.split(" is ")[0] for line in err.splitlines()] == ["note: a.png (90x50)", "note: b.jpg (31x77)"]
    assert all("to 40x32" in line for line in err.splitlines())
    assert out.splitlines() == [*(f"m/frame-{i:04d}.png" for i in range(3)), "m/animation.webp"]
    expected = to_image(from_image(Image.open("b.jpg"), (32, 40)))
    assert Image.open("m/frame-0002.png").tobytes() == expected.tobytes()


@pytest.mark.parametrize(("format", "name"), [("webp", "animation.webp"), ("png", "animation.png"), ("none", None)])
def test_animations(format: str, name: str | None) -> None:
    fps = [] if name is None else ["--fps", "20"]
    assert run(*saved(), "--frames", "2", "--out", "m", "--animation", format, *fps) == 0
    assert [one for one in os.listdir("m") if one.startswith("animation")] == [name][: name is not None]
    if name:
        with Image.open(f"m/{name}") as shown:
            assert (getattr(shown, "n_frames", 1), shown.size, shown.info["loop"]) == (4, SIZE, 0)
            for i in range(4):
                shown.seek(i)
                shown.load()
                assert shown.info["duration"] == 50
                if format == "png":
                    still = Image.open(f"m/frame-{i:04d}.png")
                    assert shown.convert("RGB").tobytes() == still.tobytes()


def test_an_animation_is_refused() -> None:
    with pytest.raises(ValueError, match="webp, png"):
        encode_animation(list(pictures()), "gif", 12)
    with pytest.raises(ValueError, match="fps must be"):
        encode_animation(list(pictures()), "png", 0)
    with pytest.raises(ValueError, match="needs a frame"):
        encode_animation([], "png", 12)


def test_a_picture_to_itself_has_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(saved()[0], "a.png", "--frames", "2", "--out", "m", "--json") == 0
    assert json.loads(capsys.readouterr().out)["smoothness"] is None


def test_a_folder_that_is_not_empty(capsys: pytest.CaptureFixture[str]) -> None:
    names = saved()
    Path("m").mkdir()
    assert run(*names, "--frames", "3", "--out", "m") == 0  # empty: taken
    assert "--overwrite" in refused(capsys, *names, "--frames", "1", "--out", "m")
    assert len(list(Path("m").glob("frame-*"))) == 5
    assert run(*names, "--frames", "1", "--animation", "none", "--out", "m", "--overwrite") == 0
    assert sorted(os.listdir("m")) == ["frame-0000.png", "frame-0001.png", "frame-0002.png", "interpolation.json"]
    Path("m/diary.txt").write_text("mine")
    assert "diary.txt" in refused(capsys, *names, "--frames", "1", "--out", "m", "--overwrite")
    assert Path("m/diary.txt").read_text() == "mine"
    assert "it is a file" in refused(capsys, *names, "--out", "a.png", "--overwrite")
    assert "no folder" in refused(capsys, *names, "--out", "no/such")


def test_what_fails_on_the_way_leaves_the_old_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = saved()
    assert run(*names, "--frames", "1", "--out", "m") == 0
    before = {path.name: path.read_bytes() for path in Path("m").iterdir()}
    real, calls = os.fsync, itertools.count()

    def full(file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode) and next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, *names, "--frames", "3", "--out", "m", "--overwrite")
    assert "cannot write m/frame-0002.png: no space left" in line
    assert {path.name: path.read_bytes() for path in Path("m").iterdir()} == before


def test_an_interrupt_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = saved()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.interpolate.pictures.write_report", interrupted)
    assert run(*names, "--frames", "1", "--out", "m") == 130
    assert sorted(os.listdir()) == names


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    names = saved()
    old, held, other = (
        Path(".m.addkit-0123abc0.tmp"),
        Path(".m.addkit-0123abc1.tmp"),
        Path(".n.addkit-0123abc2.tmp"),
    )
    for folder in (old, held, other):
        folder.mkdir()
        (folder / "frame-0000.png").write_bytes(b"")
    lock = hold_folder(held)
    assert run(*names, "--frames", "1", "--out", "m") == 0
    let_go(lock)
    assert not old.exists() and held.exists() and other.exists()


def test_a_folder_that_came_meanwhile_is_not_lost() -> None:
    with (
        pytest.raises(runtime.OutputError, match="not empty"),
        interpolate_folder.new_folder("m", overwrite=False) as folder,
    ):
        (folder / "frame-0000.png").write_bytes(b"ours")
        Path("m").mkdir()
        Path("m/theirs.txt").write_text("theirs")
    assert os.listdir() == ["m"] and os.listdir("m") == ["theirs.txt"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.png", "none.png"], "no such file"),
        (["a.png", "text.png"], "not a readable picture"),
        (["a.png", "half.png"], "damaged"),
        (["a.png", "."], "cannot read image"),
        (["a.png"], "one picture"),
        (["a.png", "b.png", "a.png"], "not 3 files"),
        ([], "A.png"),
        (["a.png", "b.png", "--frames", "0"], "1 or more"),
        (["a.png", "b.png", "--frames", "-3"], "1 or more"),
        (["a.png", "b.png", "--frames", "1000000"], "1 to 500"),
        (["a.png", "b.png", "--frames", "many"], "--frames"),
        (["a.png", "b.png", "--strength", "0"], "strength must be above 0"),
        (["a.png", "b.png", "--strength", "nan"], "strength"),
        (["a.png", "b.png", "--seed", str(2**65)], "out of range"),
        (["a.png", "b.png", "--fps", "0"], "fps must be"),
        (["a.png", "b.png", "--fps", "nan"], "fps must be"),
        (["a.png", "b.png", "--fps", "5", "--animation", "none"], "--fps is for the animation"),
        (["a.png", "b.png", "--animation", "gif"], "--animation"),
        (["a.png", "b.png", "--provider", "tpu"], "choose auto, cpu"),
        (["a.png", "b.png", "--out", ""], "current folder"),
        (["a.png", "b.png", "--out", "..", "--overwrite"], "current folder"),
        (["a.png", "b.png", "--out", "/proc/x"], "/proc"),
    ],
    ids=str,
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    saved()
    Path("text.png").write_text("no picture")
    Path("half.png").write_bytes(Path("b.png").read_bytes()[:-200])
    out = [] if "--out" in arguments else ["--out", "m"]
    assert says in refused(capsys, *arguments, *out)


def test_a_bundle_that_cannot_encode(capsys: pytest.CaptureFixture[str], tmp_path_factory: Any) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("b") / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: facts for name, facts in manifest["files"].items() if "vae_encoder" not in name}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(folder / "vae_encoder")
    assert "has no vae_encoder" in refused(capsys, *saved(), "--out", "m", bundle=folder)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a.png", "b.png", "--out", "m", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert EXAMPLES.strip().splitlines()[-1] in text and text.count("python -m runtime.interpolate") >= 4
    for option in ("--frames", "--prompt-b", "--strength", "--timing", "--animation", "--fps", "--overwrite", "--json"):
        assert option in text


def test_the_command_needs_no_torch_and_prints_one_path_a_line() -> None:
    saved()
    code = f"""
import sys
from runtime.interpolate.__main__ import main
assert "numpy" not in sys.modules
code = main(["a.png", "b.png", "--frames", "1", "--out", "m", "--bundle", {str(TINY)!r}])
assert not {{"torch", "av", "ray"}} & set(sys.modules)
sys.exit(code)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*(f"m/frame-{i:04d}.png" for i in range(3)), "m/animation.webp"]


def test_transparent_and_turned_pictures_are_read_as_seen() -> None:
    first, _ = pictures()
    layer = first.convert("RGBA")
    layer.putalpha(0)
    layer.save("clear.png")
    turned = Image.Exif()
    turned[0x0112] = 3
    buffer = io.BytesIO()
    first.save(buffer, "PNG", exif=turned)
    Path("turned.png").write_bytes(buffer.getvalue())
    assert run("clear.png", "turned.png", "--frames", "1", "--animation", "none", "--out", "m") == 0
    assert Image.open("m/frame-0000.png").getextrema() == ((255, 255),) * 3
    upright = first.transpose(Image.Transpose.ROTATE_180)
    assert Image.open("m/frame-0002.png").tobytes() == upright.tobytes()
