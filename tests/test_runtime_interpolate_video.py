"""Video in and out: every frame is kept, frames in between, exact times at constant and variable rates."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime.interpolate import video_file, video_frames
from runtime.interpolate.__main__ import main
from runtime.interpolate.path import Start, Way, uniform_places

av = pytest.importorskip("av")
ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
SIZE = (40, 32)
RATE = 10


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def moving(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """A red square on its way to the right."""
    frames = [Image.new("RGB", size, "white") for _ in range(count)]
    for i, frame in enumerate(frames):
        frame.paste((200, 40, 40), (2 * i, 8, 2 * i + 12, 20))
    return frames


def clip(
    frames: Sequence[Image.Image],
    path: str = "clip.mp4",
    times: Sequence[int] | None = None,
    sound: bool = False,
    format: str | None = None,
) -> str:
    """A lossless clip; `times` in thousandths of a second, else RATE."""
    with av.open(path, "w", format=format) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"qp": "0"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv444p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_image(picture)
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
            silence.sample_rate = 16_000
            container.mux(audio.encode(silence))
            container.mux(audio.encode(None))
    return path


def read(path: str | Path) -> tuple[list[Fraction], list[Image.Image], Any]:
    """Times in seconds, pictures and the average rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return [f.pts * f.time_base for f in frames], [f.to_image() for f in frames], stream.average_rate


def run(*arguments: str) -> int:
    return main([*arguments, "--bundle", str(TINY)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(os.listdir())
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: ")
    assert sorted(os.listdir()) == before
    return lines[0]


def psnr(x: Image.Image, y: Image.Image) -> float:
    difference = np.asarray(x, np.float64) - np.asarray(y, np.float64)
    return float(10 * np.log10(255**2 / max(np.mean(np.square(difference)), 1e-9)))


def test_the_rate_is_multiplied_and_every_frame_kept(capsys: pytest.CaptureFixture[str]) -> None:
    frames = moving(5)
    assert run(clip(frames), "--frames", "2", "--out", "v", "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == "" and sorted(os.listdir("v")) == ["interpolation.json", "video.mp4"]
    assert (report["frames_read"], report["frames_written"], report["pairs_measured"]) == (5, 13, 4)
    assert (report["fps_read"], report["fps_written"], report["strength"]) == (10, 30, 0.25)
    assert set(report["smoothness"]["ours"]["crispness"]) == {"min", "median", "max"}
    times, pictures, rate = read("v/video.mp4")
    assert times == [Fraction(i, 30) for i in range(13)] and rate == 30
    assert all(picture.size == SIZE for picture in pictures)
    way = Way(runtime.load(TINY, "cpu"), 0.25)
    ends = [way.end(Start(picture, "", 0)) for picture in read("clip.mp4")[1]]
    for i, (a, b) in enumerate(itertools.pairwise(ends)):
        expected = [a.image, *(way.picture(a, b, t) for t in uniform_places(2)), b.image]
        for j in range(len(expected)):
            likeness = [psnr(pictures[3 * i + j], other) for other in expected]
            assert likeness[j] == max(likeness) > 24, (i, j)  # some of which the encoder loses
    assert {**json.loads(Path("v/interpolation.json").read_text()), "out": "v"} == report


def test_the_same_clip_gives_the_same_file() -> None:
    for out in ("v", "w"):
        assert run(clip(moving(4)), "--out", out) == 0
    assert Path("v/video.mp4").read_bytes() == Path("w/video.mp4").read_bytes()


def test_at_a_variable_rate_frames_lie_at_equal_parts_of_every_gap(capsys: pytest.CaptureFixture[str]) -> None:
    at = [40, 50, 90, 91, 1500]
    assert run(clip(moving(5), "clip.mkv", at), "--frames", "3", "--out", "v") == 0
    expected = [Fraction(a + k * Fraction(b - a, 4) - at[0], 1000) for a, b in itertools.pairwise(at) for k in range(4)]
    assert read("v/video.mp4")[0] == [*expected, Fraction(at[-1] - at[0], 1000)]
    assert capsys.readouterr().out == "v/video.mp4\n"


def test_a_stream_without_times_has_its_rate() -> None:
    assert run(clip(moving(4), "clip.h264", format="h264"), "--out", "v") == 0
    times = read("v/video.mp4")[0]
    assert len(times) == 7
    steps = {b - a for a, b in itertools.pairwise(times)}
    assert len(steps) == 1 and steps.pop() > 0


def test_where_nothing_moves_nothing_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    frames = moving(1) * 4
    assert run(clip(frames), "--out", "v", "--prompt", "a fox", "--strength", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pairs_alike"], report["frames_written"], report["smoothness"]) == (3, 7, None)
    for picture in read("v/video.mp4")[1]:
        assert psnr(picture, frames[0]) > 30


def test_another_size_and_sound_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip(moving(3, (64, 48)), sound=True), "--out", "v") == 0
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2 and "sound" in notes[0] and "(64x48)" in notes[1] and "40x32" in notes[1]
    with av.open("v/video.mp4") as container:
        assert not container.streams.audio and len(list(container.decode(video=0))) == 5


def test_the_mark_is_in_the_file() -> None:
    assert run(clip(moving(2)), "--out", "v") == 0
    with av.open("v/video.mp4") as container:
        assert "trainedAlgorithmicMedia" in container.metadata["comment"]


def test_wrong_times_rise_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(moving(4))
    monkeypatch.setattr(video_file, "shown", lambda frame, aspect: moving(1)[0])
    with video_file.opened(path) as reader:
        frames = [SimpleNamespace(pts=pts, time_base=reader.tick) for pts in (0, None, 5, 5, 3, 90_000_000)]
        step = round(1 / (RATE * reader.tick))
        monkeypatch.setattr(reader, "_decoded", lambda: iter(frames))
        assert [ticks for ticks, _ in reader.frames()] == [0, step, 2 * step, 3 * step, 4 * step, 90_000_000]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("none.mp4", [], "no such file"),
        (".", [], "folder"),
        ("text.mp4", [], "not a readable video"),
        ("sound.mp4", [], "it has no pictures"),
        ("one.mp4", [], "one frame"),
        ("half.mp4", [], "damaged"),
        ("list.m3u8", [], "not a readable video"),
        ("still.png", [], "one picture"),
        ("clip.mp4", ["--frames", "0"], "1 or more"),
        ("clip.mp4", ["--frames", "64"], "1 to 63"),
        ("clip.mp4", ["--prompt-b", "a cat"], "--prompt-b is for two pictures"),
        ("clip.mp4", ["--animation", "webp"], "--animation is for two pictures"),
        ("clip.mp4", ["--fps", "5"], "--fps is for two pictures"),
        ("clip.mp4", ["--strength", "2"], "strength"),
        ("clip.mp4", ["--seed", str(2**70)], "out of range"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], name: str, options: list[str], says: str) -> None:
    clip(moving(3))
    clip(moving(1), "one.mp4")
    moving(1)[0].save("still.png")
    Path("text.mp4").write_text("no video")
    Path("list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    Path("half.mp4").write_bytes(_damaged(Path("clip.mp4").read_bytes()))
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert says in refused(capsys, name, "--out", "v", *options)


def _damaged(data: bytes) -> bytes:
    """An MP4 file whose pictures are noise, its tables intact."""
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    return data[:start] + noise + data[start + size :]


def test_without_pyav_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(moving(2))
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'addkit[video]'" in refused(capsys, "clip.mp4", "--out", "v")


def test_what_cannot_be_written_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(moving(3))

    def full(self: Any, *_: Any) -> None:
        raise av.error.OSError(28, "No space left on device", "video.mp4")

    monkeypatch.setattr(video_file.Writer, "finish", full)
    assert "cannot write video video.mp4: No space left" in refused(capsys, "clip.mp4", "--out", "v")


def test_only_some_pairs_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(video_frames, "_MEASURED", 2)
    assert run(clip(moving(5)), "--out", "v", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pairs_measured"] == 2
