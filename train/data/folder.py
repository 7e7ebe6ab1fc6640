"""A user's own folder of captioned pictures, as Hugging Face's imagefolder has them, and what is amiss in it."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from runtime.decoding import BadPicture
from runtime.errors import UserError
from runtime.reading import text_of
from train.data.metadata import Said, caption_of, is_metadata, read_metadata
from train.data.pictures import decode
from train.data.shards import UNIT, Record

_RASTER = (
    "png apng jpg jpeg jpe jfif webp gif bmp dib tif tiff avif avifs jp2 j2k jpx tga ppm pgm pbm pnm ico psd dds qoi"
)
_NAMED = "heic heif jxl svg"  # what the decoder may not know, but says what to do about
PICTURE_SUFFIXES = frozenset(f".{name}" for name in f"{_RASTER} {_NAMED}".split())
CAPTION_SUFFIXES = (".txt", ".caption")
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".ods")
METADATA_FACT = "metadata"  # a record's fact: the other columns of its row
TRAINING = {"train", "training"}
HELD_OUT = {"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
NO_CAPTION, NO_PICTURE, NO_PICTURE_BESIDE, REPEATED, OVERRULED = (
    "pictures without a caption",
    "rows without a picture",
    "caption files without a picture",
    "repeated rows",
    "caption files that a row overrules",
)


class FolderPicture:
    """One file of a user's folder."""

    def __init__(self, record: Record, path: Path, relative: str) -> None:
        self.record = record
        self.path = path
        self.relative = relative

    def draw(self, size: int) -> np.ndarray:
        try:
            if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
                raise BadPicture("it is a pipe or a device, not a file")
            return decode(self.path.read_bytes(), size)
        except OSError as error:
            raise BadPicture(f"cannot be read: {error.strerror}") from error

    @property
    def split(self) -> str | None:
        """The side that a folder's name puts it on, as Hugging Face reads train/, validation/ and test/."""
        for part in PurePosixPath(self.relative).parts[:-1]:
            if part.casefold() in TRAINING:
                return "train"
            if part.casefold() in HELD_OUT:
                return "held_out"
        return None

    @property
    def mark(self) -> str:
        """Changes when the file or what is said of it does."""
        try:
            found = self.path.stat()
        except OSError:  # a link to nothing: `draw` says so
            return ""
        return f"{found.st_size} {found.st_mtime_ns} {json.dumps(self.record.facts)}"


@dataclass(frozen=True)
class Unmatched:
    """A file or row that no picture comes from."""

    kind: str
    name: str
    why: str


@dataclass
class Folder:
    """What a folder holds: its captioned pictures, and all that found no partner."""

    path: Path
    sources: list[FolderPicture] = field(default_factory=list)
    unmatched: list[Unmatched] = field(default_factory=list)
    found: int = 0  # picture files

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind are unmatched."""
        kinds = (NO_CAPTION, NO_PICTURE, NO_PICTURE_BESIDE, REPEATED, OVERRULED)
        return {kind: sum(one.kind == kind for one in self.unmatched) for kind in kinds}


def read_folder(folder: Path) -> Folder:
    """The captioned pictures of a folder in Hugging Face's `imagefolder` convention.

    `metadata.csv`, `.jsonl` or `.parquet` in the folder or below it, with `file_name` (from where the file is) and
    `text` (or caption, captions, prompt); the folder of a batch; or a `.txt` beside a picture without a row. Names
    agree in Unicode's form NFC. Raises UserError when there is no captioned picture, or a file cannot be understood.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    listing = _Listing(folder)
    read = Folder(folder, found=len(listing.pictures))
    rows = _match_rows(read, listing)
    beside = _match_files(read, listing)
    for relative, path in listing.pictures.items():
        said, text = rows.get(relative), beside.get(relative, "")
        captions = tuple(dict.fromkeys(text for one in said or () for text in one.captions)) or (
            (text,) if text else ()
        )
        if not captions:
            why = f"{said[0].where} gives it no text" if said else "no row and no .txt names it"
            read.unmatched.append(Unmatched(NO_CAPTION, relative, why))
            continue
        if text and text not in captions:
            read.unmatched.append(Unmatched(OVERRULED, relative, "the .txt beside it and its row differ"))
        facts: dict[str, object] = {}
        for one in said or ():
            facts |= one.facts
        read.sources.append(FolderPicture(_folder_record(relative, captions, facts), path, relative))
    if not read.sources:
        raise UserError(_nothing(folder, read, listing))
    return read


class _Listing:
    """The files below a folder by their names from there, sorted; without hidden ones, as Hugging Face reads it."""

    def __init__(self, folder: Path) -> None:
        self.pictures: dict[str, Path] = {}
        self.captions: dict[str, Path] = {}
        self.metadata: list[Path] = []
        self.shards: list[Path] = []
        self.tables: list[Path] = []  # of other names, which are not read
        for path, names in sorted(_files(folder)):
            relative, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
            if is_metadata(path.parent, path.name, names):
                self.metadata.append(path)
            elif suffix in PICTURE_SUFFIXES:
                self.pictures[relative] = path
            elif suffix in CAPTION_SUFFIXES:
                self.captions[relative] = path
            elif suffix == ".tar":
                self.shards.append(path)
            elif suffix in TABLE_SUFFIXES:
                self.tables.append(path)

    @cached_property
    def normal(self) -> dict[str, str]:
        """The pictures' names by their NFC form."""
        return {unicodedata.normalize("NFC", name): name for name in self.pictures}

    @cached_property
    def folded(self) -> dict[str, str]:
        """The pictures' names by what they are where case does not count."""
        return {name.casefold(): name for name in self.normal}

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """The pictures' names by their names without the ending."""
        found: dict[str, list[str]] = {}
        for normal, name in self.normal.items():
            found.setdefault(str(PurePosixPath(normal).with_suffix("")), []).append(name)
        return found


def _files(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every file with the names beside it. Links to folders are followed, each folder once."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    seen: set[str] = set()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        if (real := os.path.realpath(where)) in seen:
            folders[:] = []
            continue
        seen.add(real)
        yield from ((Path(where, name), names) for name in names if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _match_rows(read: Folder, listing: _Listing) -> Mapping[str, list[Said]]:
    """The rows by their picture; those without one, and repeated ones, are unmatched."""
    rows: dict[str, list[Said]] = {}
    for path in listing.metadata:
        for said in read_metadata(path):
            wanted = _from_folder(read.path, path.parent, said.name)
            picture = wanted if wanted in listing.pictures else listing.normal.get(wanted)
            if picture is None:
                read.unmatched.append(
                    Unmatched(NO_PICTURE, said.name, f"{said.where}: {_missing(read, listing, wanted)}")
                )
            elif said.captions and any(one.captions == said.captions for one in rows.get(picture, ())):
                read.unmatched.append(Unmatched(REPEATED, said.name, f"{said.where}: another row says the same"))
            else:
                rows.setdefault(picture, []).append(said)
    return rows


def _from_folder(folder: Path, base: Path, name: str) -> str:
    """A name in a metadata file at `base`, however it is written, as NFC and from `folder`."""
    slashed = name if (base / name).is_file() else name.replace("\\", "/")
    return unicodedata.normalize("NFC", Path(os.path.relpath(base / slashed, folder)).as_posix())


def _missing(read: Folder, listing: _Listing, wanted: str) -> str:
    if wanted.startswith("../"):
        return "it is outside of the folder"
    if (read.path / wanted).is_file():
        return "it is not a kind of picture that can be read"
    other = listing.folded.get(wanted.casefold())
    return f"there is {other}, but letters' case counts" if other else "there is no such file"


def _match_files(read: Folder, listing: _Listing) -> Mapping[str, str]:
    """The text beside each picture; files beside none are unmatched."""
    texts: dict[str, str] = {}
    for relative, path in listing.captions.items():
        stem = unicodedata.normalize("NFC", str(PurePosixPath(relative).with_suffix("")))
        whole = [listing.normal[stem]] if stem in listing.normal else []  # a.png.txt beside a.png
        pictures = listing.by_stem.get(stem, whole)
        if not pictures:
            read.unmatched.append(Unmatched(NO_PICTURE_BESIDE, relative, "no picture has its name"))
            continue
        text = _text(path)
        for picture in pictures:
            texts.setdefault(picture, text)
    return texts


def _text(path: Path) -> str:
    try:
        return " ".join(caption_of(text_of(path.read_bytes(), str(path)), str(path)).split())
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _folder_record(relative: str, captions: tuple[str, ...], facts: Mapping[str, object]) -> Record:
    key = hashlib.sha256(relative.encode(errors="surrogateescape")).hexdigest()[:16]
    concept = "caption:" + hashlib.sha256(captions[0].lower().encode()).hexdigest()[:16]
    return Record(key, captions, facts={UNIT: concept} | ({METADATA_FACT: dict(facts)} if facts else {}))


def _nothing(folder: Path, read: Folder, listing: _Listing) -> str:
    if listing.shards and not read.found:
        return f"{folder} holds shards ({listing.shards[0].name}), which need no import: train with data=NAME.tar"
    if listing.tables:
        name = listing.tables[0].relative_to(folder)
        return (
            f"{folder}: no captioned pictures; {name} is not read: save it as metadata.csv or .jsonl (file_name, text)"
        )
    first = f" ({read.unmatched[0].name}: {read.unmatched[0].why})" if read.unmatched else ""
    return f"{folder}: no captioned pictures{first}; add metadata.jsonl (file_name, text) or NAME.txt beside NAME.png"
