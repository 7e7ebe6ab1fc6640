"""Videos as people have them: cut, damaged, transparent, mirrored, with oblong pixels, or none at all but a GIF."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.interpolate import video_file
from runtime.interpolate.__main__ import main

av = pytest.importorskip("av")
TINY = Path(__file__).parent / "golden" / "tiny_bundle"
RATE, SIDE = 25, 64
RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def moving(count: int) -> list[np.ndarray]:
    frames = [np.full((SIDE, SIDE, 3), 255, np.uint8) for _ in range(count)]
    for number, frame in enumerate(frames):
        frame[8:40, number : number + 16] = RED
    return frames


def save(
    path: str,
    frames: list[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv444p",
    aspect: Fraction | None = None,
    **options: str,
) -> Path:
    with av.open(path, "w", options={"movflags": "faststart"} if path.endswith("mp4") else {}) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgba" if array.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def pictures(path: str | Path) -> list[Image.Image]:
    with video_file.opened(path) as video:
        return [picture for _, picture in video.frames()]


def extent(path: str | Path) -> Any:
    with video_file.opened(path) as video:
        return video.extent


def near(found: Any, colour: tuple[int, ...], tolerance: int = 6) -> bool:
    return bool(np.abs(np.asarray(found, int) - np.asarray(colour, int)).max() <= tolerance)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments, "--bundle", str(TINY), "--out", "v"])
    return code, *capsys.readouterr()


# ---- cut or damaged -------------------------------------------------------------------------------------------------

CONTAINERS = {"mkv": "libx264", "mp4": "libx264", "webm": "libvpx-vp9", "mov": "qtrle", "avi": "mpeg4"}


def clip(kind: str, count: int = 40) -> Path:
    codec = CONTAINERS[kind]
    noise = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)  # many bytes a frame
    return save(f"clip.{kind}", list(noise), codec, "rgb24" if codec == "qtrle" else "yuv420p", g="10")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_whole_one_is_whole(kind: str) -> None:
    found = extent(clip(kind))
    assert found.is_whole and found.frames == 40 and found.left_out == 0
    assert len(pictures(f"clip.{kind}")) == 40


@pytest.mark.parametrize("kind", ["mkv", "mp4", "webm"])
def test_one_cut_at_three_fifths(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = clip(kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    found = extent(path)
    assert not found.is_whole and 10 < found.frames < 39 and found.left_out == 40 - found.frames
    code, out, err = run(capsys, str(path))
    of = (
        f"{found.frames} of 40 frames"
        if kind == "mp4"
        else f"{found.frames} frames, 0.{found.frames * 4:02d} of 1.60 s,"
    )
    assert (code, out) == (2, "") and err.count("\n") == 1 and not Path("v").exists()
    assert f"damaged or cut: {of} can be read; --damaged goes on with them" in err.replace(f" ({found.fault})", "")


def test_one_with_a_hole(capsys: pytest.CaptureFixture[str]) -> None:
    path = clip("webm")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])
    found = extent(path)
    assert not found.is_whole and found.frames < 40 and found.fault
    code, _, err = run(capsys, str(path))
    assert code == 2 and f"({found.fault}): {found.frames} frames" in err and err.count("\n") == 1


def test_pictures_that_may_be_damaged_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    path = clip("avi")
    data = path.read_bytes()
    third = len(data) * 3 // 10
    path.write_bytes(data[:third] + bytes(200) + data[third + 200 :])
    found = extent(path)
    assert not found.is_whole and found.corrupt == 1 and "damaged" in found.doubt
    assert "40 of 40 frames (1 of them in part) can be read; --damaged" in run(capsys, str(path))[2]
    code, _, err = run(capsys, str(path), "--damaged")
    assert code == 0 and f"note: FFmpeg says of the video '{found.doubt}': some of its pictures may be" in err


def test_going_on_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    path = clip("mp4", 8)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    frames = extent(path).frames
    code, out, err = run(capsys, str(path), "--damaged", "--json")
    report = json.loads(out)
    assert code == 0 and f"note: the video is damaged or cut: {frames} of 8 frames can be read" in err
    assert (report["frames_read"], report["frames_left_out"]) == (frames, 8 - frames) and 1 < frames < 8


def test_one_frame_is_not_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    path = clip("mkv")
    path.write_bytes(path.read_bytes()[:2500])
    code, _, err = run(capsys, str(path), "--damaged")
    assert code == 2 and "--damaged goes on" not in err and err.count("\n") == 1


def test_damaged_is_for_videos(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--damaged is for a video" in run(capsys, "a.png", "b.png", "--damaged")[2]


# ---- transparency ---------------------------------------------------------------------------------------------------


def half_clear(count: int = 3) -> list[np.ndarray]:
    """Red on the left, transparent black on the right."""
    frame = np.zeros((SIDE, SIDE, 4), np.uint8)
    frame[:, : SIDE // 2] = (*RED, 255)
    return [frame.copy() for _ in range(count)]


ALPHA = {
    "prores.mov": ("prores_ks", "yuva444p10le"),
    "png.mov": ("png", "rgba"),
    "animation.mov": ("qtrle", "argb"),
    "vp9.webm": ("libvpx-vp9", "yuva420p"),
    "ffv1.mkv": ("ffv1", "yuva420p"),
}


@pytest.mark.parametrize("name", ALPHA)
def test_transparent_videos_stand_on_white(name: str) -> None:
    found = pictures(save(name, half_clear(), *ALPHA[name]))
    assert len(found) == 3
    for picture in found:
        assert near(picture.getpixel((10, 32)), RED) and near(picture.getpixel((54, 32)), WHITE)


def animation(name: str, frames: list[np.ndarray], duration: Any = 40, **options: Any) -> Path:
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(name, save_all=True, append_images=others, duration=duration, loop=0, **options)
    return Path(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.gif", {"disposal": 2}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.avif", {"quality": 95})],
)
def test_transparent_animations_stand_on_white(name: str, options: dict[str, Any]) -> None:
    frames = half_clear(2)
    frames[1][:20, :20] = (*BLUE, 255)
    for frame in frames if name == "a.webp" else ():  # libwebp takes what nothing was drawn on for opaque black
        frame[..., 3] |= 1
    first, second = pictures(animation(name, frames, **options))
    assert near(first.getpixel((10, 10)), RED, 25) and near(second.getpixel((10, 10)), BLUE, 25)
    assert all(near(picture.getpixel((54, 32)), WHITE) for picture in (first, second))


# ---- animations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_our_own_animations_come_back(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(animation(f"animation.{suffix}", moving(4))), "--json")
    report = json.loads(out)
    assert (code, report["frames_read"], report["fps_read"]) == (0, 4, 25), err
    with av.open("v/video.mp4") as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(number, 50) for number in range(7)]


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_frames_keep_their_own_times(suffix: str) -> None:
    path = animation(f"a.{suffix}", moving(4), [40, 120, 1000, 40])
    with video_file.opened(path) as video:
        assert [ticks * video.tick for ticks, _ in video.frames()] == [
            0,
            Fraction(4, 100),
            Fraction(16, 100),
            Fraction(116, 100),
        ]


def test_a_gif_without_times_is_shown_as_browsers_do() -> None:
    with video_file.opened(animation("a.gif", moving(3), 0)) as video:
        assert [ticks * video.tick for ticks, _ in video.frames()] == [0, Fraction(1, 10), Fraction(2, 10)]


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_a_cut_animation(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = animation(f"a.{suffix}", moving(8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    code, out, err = run(capsys, str(path))
    assert (code, out) == (2, "") and err.count("\n") == 1 and "cannot read video" in err


def pages() -> Iterator[Path]:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    first.save("pages.tif", save_all=True, append_images=[second])
    first.save("stereo.jpg", "MPO", save_all=True, append_images=[second])
    yield from (Path("pages.tif"), Path("stereo.jpg"))


def test_pages_are_no_video(capsys: pytest.CaptureFixture[str]) -> None:
    for path in pages():
        assert f"{path} is one picture: give a second one, or a video" in run(capsys, str(path))[2]


# ---- what the container says of the picture -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2), (128, 64)), (Fraction(1, 2), (64, 128)), (None, (64, 64))])
def test_oblong_pixels_are_drawn_out(kind: str, aspect: Fraction | None, size: tuple[int, int]) -> None:
    first, _ = pictures(save(f"a.{kind}", moving(2), aspect=aspect, qp="0"))
    assert first.size == size
    red = np.asarray(first)[..., 1] < 128
    assert (red.any(0).sum(), red.any(1).sum()) == (16 * size[0] // 64, 32 * size[1] // 64)


CORNERS = np.zeros((SIDE, SIDE, 3), np.uint8)
CORNERS[:32, :32], CORNERS[:32, 32:], CORNERS[32:, :32], CORNERS[32:, 32:] = RED, (0, 255, 0), BLUE, WHITE
MATRICES: dict[
    tuple[int, ...], Callable[[Any], Any]
] = {  # a step to the right goes to (a, b), a step down to (c, d): what numpy does to the picture
    (1, 0, 0, 1): lambda picture: picture,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_turned_and_mirrored_as_players_show_it(matrix: tuple[int, ...]) -> None:
    path = save("a.mp4", [CORNERS] * 2, qp="0")
    data = bytearray(path.read_bytes())
    a, b, c, d = (65536 * value for value in matrix)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    found = np.asarray(pictures(path)[0])
    expected = MATRICES[matrix](CORNERS)
    for row, column in ((16, 16), (16, 48), (48, 16), (48, 48)):
        assert near(found[row, column], expected[row, column]), matrix


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (1, "")])
def test_hdr_is_named(transfer: int, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with av.open("hdr.mkv", "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p10le"
        stream.codec_context.color_trc = transfer
        for array in moving(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    code, _, err = run(capsys, "hdr.mkv")
    assert code == 0 and (f"note: the video is HDR, {name}" in err) == bool(name)


def test_an_animation_in_memory_is_the_file_it_was(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(buffer, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)])
    Path("a.mp4").write_bytes(buffer.getvalue())  # whatever its name says
    assert [picture.getpixel((4, 4)) for picture in pictures("a.mp4")] == [RED, BLUE]
