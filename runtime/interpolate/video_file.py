"""Video files through PyAV, which is imported when one is opened: pictures with their times in, H.264 out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from runtime.errors import Error, OutputError
from runtime.image_files import SOURCE_TYPE

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

ENCODER = "libx264"
_QUALITY = "18"  # x264's crf: hardly distinguishable from the original
_FINEST = 2**31 - 1  # ticks a second that an MP4 file can have
_USUAL_TICKS, _USUAL_RATE = 90_000, Fraction(25)


def require() -> Any:
    """The module of PyAV; Error when it is not installed."""
    try:
        import av
    except ImportError as error:
        raise Error(f"video needs PyAV, which cannot be imported ({error}): pip install 'addkit[video]'") from error
    return av


class Reader:
    """The first video stream of an open file."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        """Use `opened`, which makes one."""
        self._path, self._container, self._stream = path, container, stream
        base = stream.time_base
        exact = base is not None and base > 0 and base.denominator <= _FINEST
        self.tick: Fraction = base if exact and base is not None else Fraction(1, _USUAL_TICKS)  # seconds
        rate = stream.average_rate or stream.guessed_rate
        self.rate = Fraction(rate) if rate else _USUAL_RATE  # frames a second, on average
        self.count = stream.frames or None  # None where the file does not say
        self.sounds = len(container.streams.audio)

    def frames(self) -> Iterator[tuple[int, Image.Image]]:
        """(time in ticks, picture), upright, in rising order, whatever the rate does; ValueError when damaged."""
        av = require()
        last: int | None = None
        step = max(1, round(1 / (self.rate * self.tick)))
        try:
            for frame in self._container.decode(self._stream):
                time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
                ticks = None if time is None else round(time / self.tick)
                if ticks is None or (last is not None and ticks <= last):  # files without times, or wrong ones
                    ticks = 0 if last is None else last + step
                last = ticks
                yield ticks, _upright(frame)
        except av.error.FFmpegError as error:
            raise ValueError(f"cannot read video {self._path}: it is damaged ({_what(error)})") from error


@contextmanager
def opened(path: str | Path) -> Iterator[Reader]:
    """A video file, open for reading; ValueError when it is not one."""
    av = require()
    where = Path(path)
    if not where.is_file():
        what = "it is a folder" if where.is_dir() else "there is no such file"
        raise ValueError(f"cannot read video {path}: {what}")
    try:
        # A name with a colon is not an address, and a playlist fetches nothing.
        container = av.open(f"file:{where}", "r", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"cannot read video {path}: it is not a readable video ({_what(error)})") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"cannot read video {path}: it has no pictures")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f"cannot read video {path}: this build of PyAV cannot decode it")
        yield Reader(where, container, stream)


class Writer:
    """An H.264 video in an MP4 file, written picture by picture."""

    def __init__(self, path: Path, container: OutputContainer, stream: Any, tick: Fraction) -> None:
        """Use `created`, which makes one."""
        self._path, self._container, self._stream, self._tick = path, container, stream, tick

    def add(self, picture: Image.Image, ticks: int, duration: int) -> None:
        """Adds a picture shown from `ticks` on for `duration` ticks."""
        frame = require().VideoFrame.from_image(picture)
        frame.pts, frame.time_base, frame.duration = ticks, self._tick, duration
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        self._container.mux(self._stream.encode(None))


@contextmanager
def created(path: Path, size: tuple[int, int], tick: Fraction, rate: Fraction) -> Iterator[Writer]:
    """A new file for pictures of `size` (height, width). `rate` is given to players; OutputError when it fails."""
    av = require()
    if ENCODER not in av.codecs_available:
        raise Error(f"this build of PyAV has no {ENCODER} encoder: install the one of pip install 'addkit[video]'")
    try:
        with av.open(str(path), "w", format="mp4") as container:
            container.metadata["comment"] = f"made by ADDKit, {SOURCE_TYPE}"
            stream = container.add_stream(ENCODER, rate=rate.limit_denominator(1001), options={"crf": _QUALITY})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"  # halved colour needs even sides
            stream.codec_context.time_base = tick
            stream.codec_context.thread_count = 1  # the same file on every machine
            writer = Writer(path, container, stream, tick)
            yield writer
            writer.finish()
    except av.error.FFmpegError as error:
        raise OutputError(f"cannot write video {path.name}: {_what(error)}") from error


def _upright(frame: Any) -> Image.Image:
    """The picture as a player shows it: `rotation` is in degrees, counterclockwise."""
    picture: Image.Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation % 360 else picture


def _what(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
