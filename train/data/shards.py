"""WebDataset shards of captioned pictures: written whole or not at all, read as records, ours or other people's."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image

from runtime.decoding import BadPicture, on_white, opened
from runtime.errors import UserError
from runtime.files import whole_stream
from runtime.pixels import to_uint8
from runtime.reading import text_of

T = TypeVar("T")
SHARD_SIZE = 1000
PICTURE_MEMBERS = ("png", "jpg", "jpeg", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm")
FIELDS = ("captions", "caption", "text", "weight")  # of a json member; every other key is a fact
UNIT = "concept"  # the fact that says what a picture is of
URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
EXIT_CODES = {
    6: "no such host",
    7: "no connection",
    18: "the transfer was cut",
    22: "the server refuses it or has no such file",
    127: "no such command",
}


@dataclass(frozen=True)
class Record:
    """One captioned picture."""

    key: str
    captions: tuple[str, ...]  # the plainest first
    weight: float = 1.0  # how often it is drawn in training, relative to 1
    facts: Mapping[str, Any] = field(default_factory=dict)  # further facts from its maker, JSON-ready

    @property
    def unit(self) -> str:
        """What it is a picture of, if known: pictures of one unit stay on one side of a split."""
        return str(self.facts.get(UNIT, self.key))

    def to_json(self) -> dict[str, Any]:
        """The record without its key, as a shard's json member: the facts stand beside captions and weight."""
        return {**self.facts, "captions": list(self.captions), "weight": self.weight}

    @classmethod
    def from_json(cls, key: str, said: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`. Raises BadPicture when there is no caption or the weight is not a number >= 0."""
        texts = said.get("captions")
        several = texts if isinstance(texts, list | tuple) else [texts]
        captions = tuple(text.strip() for text in several if isinstance(text, str) and text.strip())
        if not captions:
            raise BadPicture("it has no caption: a txt member, or json with captions, caption or text")
        facts = {name: value for name, value in said.items() if name not in FIELDS}
        return cls(key, captions, _weight(said), facts)


class DamagedShard(Exception):
    """A shard that cannot be read to its end; the message says why."""


def write_shard(path: Path, records: Iterable[tuple[Record, bytes]]) -> int:
    """Write (record, PNG bytes) pairs as one .tar shard, whole or not at all. Returns how many were written."""
    count = 0
    with whole_stream(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for record, png in records:
            add_member(archive, f"{record.key}.json", json.dumps(record.to_json()).encode())
            add_member(archive, f"{record.key}.png", png)
            count += 1
    return count


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without a date or an owner: equal pictures give equal shards."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    archive.addfile(member, io.BytesIO(data))


def shard_paths(folder: Path, split: str) -> list[Path]:
    """The shards of a split ("train", "composed" or "held_out"), in order. Raises UserError if there are none."""
    paths = sorted(Path(folder).glob(f"{split}-*.tar"))
    if not paths and split == "train":
        raise UserError(
            f"{folder}: no train-*.tar shards there; make them of your own pictures with `python -m train.data import "
            f"PICTURES --out {folder}`, or the shipped model's with `python -m train.data prepare --out {folder}`"
        )
    if not paths:
        raise UserError(f"{folder}: no {split}-*.tar shards there; this data set was made without that split")
    return paths


def set_of(folder: Path) -> str | None:
    """The name of the data set that a folder holds, or a part of; None for a user's own pictures. Raises UserError."""
    name = dataset_facts(folder).get("set")
    return name if isinstance(name, str) else None


def dataset_facts(folder: Path) -> dict[str, Any]:
    """What dataset.json of a folder says; {} where there is none. Raises UserError."""
    path = Path(folder) / "dataset.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def has_split(folder: Path, split: str) -> bool:
    """Whether a folder has shards of a split."""
    return any(Path(folder).glob(f"{split}-*.tar"))


def splits_of(folder: Path, wanted: Sequence[str]) -> list[str]:
    """Those of the splits that a folder has, and always the first: reading it reports that it is missing."""
    return [split for split in wanted if split == wanted[0] or has_split(folder, split)]


def list_shards(data: str, split: str) -> list[str]:
    """The shards that `data` stands for: paths and URLs, in order.

    data: a folder (its `{split}-*.tar`), or paths and URLs with braces, as webdataset expands them, joined by "::".
    `split` chooses among a folder's shards alone. Raises UserError when there is nothing.
    """
    from webdataset.shardlists import expand_urls

    if Path(data).is_dir():
        return [str(path.resolve()) for path in shard_paths(Path(data), split)]
    try:
        shards = list(expand_urls(data))
    except ValueError as error:
        raise UserError(f"data={data}: {error}; write braces like train-{{00000..00099}}.tar") from error
    for shard in shards:
        if not is_url(shard) and not Path(shard).is_file():
            raise UserError(f"data={data}: there is no folder, file or URL {shard}")
    return [shard if is_url(shard) else str(Path(shard).resolve()) for shard in shards]


def is_url(shard: str) -> bool:
    return URL.match(shard) is not None


def shard_name(shard: str) -> str:
    """A shard's name in messages: a file's name, or the whole URL."""
    return shard if is_url(shard) else Path(shard).name


def read_shard(shard: str) -> Iterator[dict[str, Any]]:
    """Yield a shard's samples: {"__key__": key, member: bytes}. Raises DamagedShard when it cannot be read further.

    shard: a path, or a URL that webdataset opens (http(s), gs, hf, `pipe:COMMAND`); s3:// goes through the `aws`
    command.
    """
    from webdataset.gopen import gopen, set_options
    from webdataset.tariterators import group_by_keys

    stream = None
    try:
        stream = gopen(_openable(shard))
        yield from group_by_keys(_members(stream, shard))
        _finish(stream)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DamagedShard(_reason(stream, error)) from error
    finally:
        if stream is not None:
            set_options(stream, ignore_errors=True)  # a reader that leaves early must not hear of a broken pipe
            stream.close()


def _openable(shard: str) -> str:
    from webdataset.gopen import gopen_schemes

    if shard.startswith("s3://") and "s3" not in gopen_schemes:
        return f"pipe:aws s3 cp {shlex.quote(shard)} -"
    return shard


class _StrictHeader(tarfile.TarInfo):
    """A header that must be valid: tarfile takes garbage, or a missing end mark, for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no tar header where one must be: {error}") from error


def _members(stream: IO[bytes], shard: str) -> Iterator[dict[str, Any]]:
    """The regular files of a tar stream, in the form that webdataset groups into samples."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictHeader) as archive:
        for member in archive:
            if not member.isreg() or Path(member.name).name.startswith((".", "__")):
                continue  # neither folders nor what a file system or webdataset itself leaves behind
            content = archive.extractfile(member)
            data = content.read() if content else b""
            if len(data) != member.size:
                raise tarfile.ReadError(f"{member.name} is cut short")
            yield {"fname": member.name, "data": data, "__url__": shard}
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory


def _finish(stream: IO[bytes]) -> None:
    """Read the rest and close: a failing command does so only when its output has been read."""
    while stream.read(1 << 20):
        pass
    stream.close()


def _reason(stream: Any, error: Exception) -> str:
    """Why a shard could not be read: the failed command's exit code where there is one, else the error."""
    if hasattr(stream, "proc"):
        with suppress(OSError, ValueError):  # what a failed command's pipe says, and one that is closed already
            _finish(stream)
        if (code := stream.proc.returncode or 0) > 0:  # below 0: its reader left early
            return f"exit code {code}" + (f", {EXIT_CODES[code]}" if code in EXIT_CODES else "")
    return str(getattr(error, "strerror", None) or (error.args or [error])[0])


def count_pictures(shard: str) -> int:
    """How many pictures a local shard seems to hold, for the progress bar; 0 where that would cost a download."""
    kinds = tuple(f".{kind}" for kind in (*PICTURE_MEMBERS, "npy"))
    try:
        with tarfile.open(shard) as archive:
            return sum(member.name.lower().endswith(kinds) for member in archive)
    except (OSError, tarfile.TarError, EOFError):
        return 0


def read_records(folder: Path, split: str) -> Iterator[tuple[Record, np.ndarray]]:
    """Yield (record, u8[H, W, 3]) of every picture of a split, in the order of writing.

    Raises UserError at a damaged shard or picture.
    """
    return _read_split(folder, split, lambda sample: (record_of(sample), _pixels_of(sample)))


def read_facts(folder: Path, split: str) -> Iterator[Record]:
    """Like `read_records`, but only the records: no picture is decoded."""
    return _read_split(folder, split, record_of)


def _pixels_of(sample: dict[str, Any]) -> np.ndarray:
    picture = picture_of(sample)
    return np.asarray(picture) if isinstance(picture, Image.Image) else to_uint8(picture)


def _read_split(folder: Path, split: str, read: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    for shard in map(str, shard_paths(folder, split)):
        count = 0
        try:
            for sample in read_shard(shard):
                try:
                    found = read(sample)
                except BadPicture as error:
                    raise bad_picture(shard, sample["__key__"], str(error)) from error
                yield found
                count += 1
        except DamagedShard as error:
            raise bad_shard(shard, count, str(error)) from error


def bad_picture(shard: str, key: str, why: str, choice: str = "") -> UserError:
    """The error for one picture; `choice`: the alternative to repairing it."""
    return UserError(f"{shard_name(shard)}, picture {key}: {why}; repair it or remove it{choice}")


def bad_shard(shard: str, count: int, why: str, choice: str = "") -> UserError:
    """The error for a shard of which only `count` pictures could be read."""
    return UserError(
        f"{shard_name(shard)} cannot be read beyond its first {count} pictures ({why}); prepare it again{choice}"
    )


def record_of(sample: dict[str, Any]) -> Record:
    """A sample's record: from our `json` member, or another WebDataset's `txt`, json "caption" or "text".

    Raises BadPicture when there is no caption or the weight is not a number >= 0.
    """
    facts = _facts(sample)
    if facts.get("captions") is None:
        beside = _member(sample, "txt")
        said = facts.get("caption") or facts.get("text") or facts.get("prompt")  # the last as runtime.batch writes it
        facts["captions"] = _text(beside) if beside else said
    return Record.from_json(sample["__key__"], facts)


def _text(data: bytes) -> str:
    try:
        return text_of(data, "its txt member")
    except ValueError as error:
        raise BadPicture(str(error)) from error


def _facts(sample: dict[str, Any]) -> dict[str, Any]:
    try:
        facts = json.loads(_member(sample, "json") or "{}")
    except ValueError as error:
        raise BadPicture(f"its json member cannot be read: {error}") from error
    return facts if isinstance(facts, dict) else {}


def _weight(facts: Mapping[str, Any]) -> float:
    weight = facts.get("weight", 1.0)
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise BadPicture(f"its weight is {weight}, not a number >= 0")
    return float(weight)


def picture_of(sample: dict[str, Any]) -> Image.Image | np.ndarray:
    """A sample's picture, RGB on white; or f32[H, W, 3] in [-1, 1], where it is stored as floats.

    Raises BadPicture.
    """
    array = _member(sample, "npy")
    if array is not None:
        return _from_array(array)
    plain, others = picture_names(sample)
    names = plain or others
    if not names:
        raise BadPicture(f"it has no picture: one of {', '.join(PICTURE_MEMBERS)}, npy")
    if len(names) > 1:
        first, second = (f"{sample['__key__']}.{name}" for name in names[:2])
        raise BadPicture(f"{first} and {second} are two pictures of one key, as WebDataset ends it at the first dot")
    return on_white(opened(sample[names[0]]))


def picture_names(sample: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The members that are pictures: plain ones ("png"), of which one is read before others ("mask.png")."""
    found = [name for name in sample if name.rpartition(".")[2] in PICTURE_MEMBERS]
    return [name for name in found if "." not in name], [name for name in found if "." in name]


def _from_array(data: bytes) -> Image.Image | np.ndarray:
    try:
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadPicture(f"its npy member cannot be read: {error}") from error
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise BadPicture(f"its npy member has shape {list(pixels.shape)}, not [height, width, 3]")
    if pixels.dtype == np.uint8:
        return Image.fromarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise BadPicture(f"its npy member is {pixels.dtype}: use uint8, or floats in [-1, 1]")
    if not np.isfinite(pixels).all():
        raise BadPicture("it has NaN or Inf pixels")
    if np.abs(pixels).max() > 1.001:
        raise BadPicture(f"its npy member reaches {np.abs(pixels).max():.4g}: floats must lie in [-1, 1]")
    return pixels.astype(np.float32)


def _member(sample: dict[str, Any], *kinds: str) -> bytes | None:
    """The first member whose name ends in one of `kinds`: "png", or "image.png"."""
    return next((sample[name] for name in sample if name.rpartition(".")[2] in kinds), None)
