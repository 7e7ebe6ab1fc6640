"""Video files through PyAV, which is imported when one is opened: pictures with their times in, H.264 out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from runtime.errors import Error, OutputError
from runtime.image_files import SOURCE_TYPE
from runtime.interpolate import animated
from runtime.interpolate.extent import Extent
from runtime.interpolate.video_picture import HDR, shown

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

ENCODER = "libx264"
_QUALITY = "18"  # x264's crf: hardly distinguishable from the original
_FINEST = 2**31 - 1  # ticks a second that an MP4 file can have
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_USUAL_TICKS, _USUAL_RATE = 90_000, Fraction(25)


def require() -> Any:
    """The module of PyAV; Error when it is not installed."""
    try:
        import av
    except ImportError as error:
        raise Error(f"video needs PyAV, which cannot be imported ({error}): pip install 'addkit[video]'") from error
    return av


class Video(Protocol):
    """An open video, of whatever kind."""

    @property
    def tick(self) -> Fraction:
        """Seconds, the unit of times."""

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""

    @property
    def count(self) -> int | None:
        """Frames; None where it is not known."""

    @property
    def sounds(self) -> int:
        """Streams of sound."""

    @property
    def hdr(self) -> str:
        """The kind of HDR; "" for a usual video."""

    @property
    def extent(self) -> Extent:
        """How much of it can be read."""

    def frames(self) -> Iterator[tuple[int, Image.Image]]:
        """(time in ticks, picture as a player shows it), in rising order."""


class Reader:
    """The first video stream of an open file."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, extent: Extent | None) -> None:
        """Use `opened`, which makes one."""
        self._path, self._container, self._stream = path, container, stream
        base = stream.time_base
        exact = base is not None and base > 0 and base.denominator <= _FINEST
        self.tick: Fraction = base if exact and base is not None else Fraction(1, _USUAL_TICKS)  # seconds
        rate = stream.average_rate or stream.guessed_rate
        self.rate = Fraction(rate) if rate else _USUAL_RATE  # frames a second, on average
        self.sounds = len(container.streams.audio)
        self.hdr = HDR.get(int(stream.codec_context.color_trc or 0), "")
        self._packets, self._fault = 0, ""
        self._transparent = _decoder_with_alpha(stream)
        self.extent = extent or self._measured()
        self.count: int | None = self.extent.frames

    def frames(self) -> Iterator[tuple[int, Image.Image]]:
        """(time in ticks, picture as a player shows it), in rising order, whatever the rate does.

        What cannot be decoded is left out: see `extent`.
        """
        last: int | None = None
        step = max(1, round(1 / (self.rate * self.tick)))
        for frame in self._decoded():
            time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            ticks = None if time is None else round(time / self.tick)
            if ticks is None or (last is not None and ticks <= last):  # files without times, or wrong ones
                ticks = 0 if last is None else last + step
            last = ticks
            yield ticks, shown(frame, self._stream.sample_aspect_ratio)

    def _measured(self) -> Extent:
        """Decodes all frames once."""
        step, end, count, corrupt = 1 / self.rate, Fraction(0), 0, 0
        with _logged() as errors:
            for frame in self._decoded():
                count, corrupt = count + 1, corrupt + frame.is_corrupt
                if frame.pts is not None and frame.time_base is not None:
                    end = max(end, (frame.pts + (frame.duration or 0)) * frame.time_base)
        container = self._container.format.name
        self._fault = self._fault or next((text for name, text in errors if name == container), "")
        doubt = next((text for name, text in errors if name != container), "")
        announced = self._stream.frames or None
        seconds = None if announced else _announced_s(self._container, self._stream)
        return Extent(count, end, step, self._packets, announced, seconds, self._fault, corrupt, doubt)

    def _decoded(self) -> Iterator[Any]:
        """Frame after frame; a packet that cannot be decoded is left out, and the first one's error kept."""
        av = require()
        self._packets = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._fault = self._fault or _what(error)
                return
            if packet is None:
                return
            self._packets += packet.size > 0
            try:
                yield from (
                    self._transparent.decode(packet if packet.size else None) if self._transparent else packet.decode()
                )
            except av.error.FFmpegError as error:
                if packet.size:  # at the end, after an error, there may be nothing to hand out
                    self._fault = self._fault or _what(error)


@contextmanager
def opened(path: str | Path) -> Iterator[Video]:
    """A video file or an animated picture, measured and open for reading; ValueError when it is neither."""
    where = Path(path)
    if not where.is_file():
        what = "it is a folder" if where.is_dir() else "there is no such file"
        raise ValueError(f"cannot read video {path}: {what}")
    with animated.opened(where) as animation:
        if animation is not None:
            yield animation
            return
    with _reader(path, None) as reader:
        extent = reader.extent
    with _reader(path, extent) as reader:
        yield reader


def check_whole(path: str | Path, extent: Extent, damaged: bool) -> None:
    """ValueError when a part of a video cannot be read, unless the user goes on with what can (`damaged`)."""
    if extent.is_whole or (damaged and extent.frames > 1):
        return
    why = f" ({extent.fault})" if extent.fault else ""
    ahead = "; --damaged goes on with them" if extent.frames > 1 else ""
    raise ValueError(f"cannot read video {path}: it is damaged or cut{why}: {extent} can be read{ahead}")


@contextmanager
def _reader(path: str | Path, extent: Extent | None) -> Iterator[Reader]:
    av = require()
    where = Path(path)
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
        yield Reader(where, container, stream, extent)


@contextmanager
def _logged() -> Iterator[list[tuple[str, str]]]:
    """Collects the errors that FFmpeg logs as it reads on all the same: (the part of it, the error)."""
    from av import logging

    level, once, errors = logging.get_level(), logging.get_skip_repeated(), list[tuple[str, str]]()
    logging.set_level(logging.ERROR)
    logging.set_skip_repeated(False)  # else a file that is read twice is told of once
    try:
        with logging.Capture(local=False) as found:
            yield errors
        errors += [(name, " ".join(text.split())) for _, name, text in found]
    finally:
        logging.set_level(level)
        logging.set_skip_repeated(once)


def _decoder_with_alpha(stream: VideoStream) -> Any:
    """libvpx's decoder for a WebM with transparency, which FFmpeg's own does not see; None for all others."""
    av = require()
    name = {"vp9": "libvpx-vp9", "vp8": "libvpx"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return None
    return av.CodecContext.create(name, "r")


def _announced_s(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Seconds of video that a container announces: for the stream, else for all where there is no other."""
    if stream.duration is not None and stream.time_base is not None:
        return Fraction(stream.duration) * stream.time_base
    if found := _DURATION.fullmatch(stream.metadata.get("DURATION", "")):  # Matroska's tag
        hours, minutes, seconds = found.groups()
        return Fraction(int(hours) * 3600 + int(minutes) * 60) + Fraction(seconds)
    if container.duration is not None and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None


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


def _what(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
