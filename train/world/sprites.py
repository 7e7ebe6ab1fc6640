"""The world's drawings as cut-out pictures: made once, kept in shards, read into memory."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from runtime.decoding import BadPicture
from runtime.errors import UserError
from runtime.files import whole_stream
from train.data.pictures import draw_svg
from train.data.shards import add_member
from train.world.art import Drawing
from train.world.avatars import draw_avatars
from train.world.portraits import PORTRAIT_STYLES
from train.world.scenes import Scene

SIDE = 128  # pixels of a cut-out's longer side
SHARD = 2000  # cut-outs in a shard


@dataclass(frozen=True)
class Portrait:
    """A portrait's drawing: what it is made of, without what its picture is varied by."""

    subject: str  # "person", "man" or "woman"
    words: Mapping[str, str] = field(hash=False)  # its style's word and those of its parts

    @property
    def key(self) -> str:
        """Its name among all drawings."""
        parts = [f"{name}={word}" for name, word in sorted(self.words.items())]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]

    @classmethod
    def of(cls, scene: Scene) -> Portrait:
        """What a scene of a portrait shows."""
        parts = ("style", *PORTRAIT_STYLES[scene.style].properties)
        return cls(scene.subjects[0], {name: scene.words[name] for name in parts if name in scene.words})


def portrait_svgs(portraits: Sequence[Portrait]) -> list[str]:
    """Their SVG texts. Raises UserError where Node is missing."""
    styles = [PORTRAIT_STYLES[portrait.words["style"]] for portrait in portraits]
    jobs = [(style.package, style.options(portrait.words)) for style, portrait in zip(styles, portraits, strict=True)]
    return draw_avatars(jobs)


class StoredSprites:
    """Cut-outs of a prepared folder, decoded as they are asked for. Raises UserError where one is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures: dict[str, bytes] = {}
        for path in sorted(folder.glob("art-*.tar")) + sorted(folder.glob("portraits-*.tar")):
            self.pictures |= dict(read_sprites(path))
        if not self.pictures:
            raise UserError(f"{folder}: no art-*.tar there; make it with `python -m train.data world --out {folder}`")

    def art(self, key: str) -> Image.Image:
        """RGBA, without a border."""
        return self._decoded(key)

    def portrait(self, scene: Scene) -> Image.Image:
        """RGBA, square."""
        return self._decoded(Portrait.of(scene).key)

    def _decoded(self, key: str) -> Image.Image:
        try:
            data = self.pictures[key]
        except KeyError:
            raise UserError(f"{self.folder}: no drawing {key} there") from None
        return Image.open(io.BytesIO(data)).convert("RGBA")


def read_sprites(path: Path) -> Iterator[tuple[str, bytes]]:
    """(key, WebP bytes) of a shard. Raises UserError where it is damaged."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    yield member.name.partition(".")[0], content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and prepare again") from error


def write_sprites(path: Path, pictures: Iterable[tuple[str, bytes]]) -> None:
    """A shard of (key, WebP bytes), whole or not at all."""
    with whole_stream(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, data in pictures:
            add_member(archive, f"{key}.webp", data)


def encoded(picture: Image.Image) -> bytes:
    """RGBA -> WebP bytes, in which the alpha is exact."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=94, method=4, alpha_quality=100)
    return buffer.getvalue()


def art_sprite(drawing: Drawing) -> tuple[str, bytes | None]:
    """(key, WebP bytes) of a drawing; None where it cannot be drawn."""
    try:
        return drawing.key, encoded(drawing.cutout(SIDE))
    except BadPicture:
        return drawing.key, None


def portrait_sprite(job: tuple[str, str]) -> tuple[str, bytes | None]:
    """(key, WebP bytes) of (key, SVG text)."""
    key, svg = job
    try:
        return key, encoded(draw_svg(svg, SIDE))
    except BadPicture:
        return key, None


def in_processes(
    work: Callable[[Any], tuple[str, bytes | None]], jobs: Sequence[Any]
) -> Iterator[tuple[str, bytes | None]]:
    """The work's results, in order, from as many processes as there are cores."""
    workers = min(8, multiprocessing.cpu_count())
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, jobs, chunksize=32)
