"""`python -m train.data prepare|import`: captioned pictures to WebDataset shards with a held-out split.

The sticker set is joined from pinned packages; `import` takes a user's own folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from train.captions import is_held_out
from train.errors import UserError, run_command
from train.packages import PACKAGES
from train.pictures import BadPicture, decode, encode_png
from train.progress import progress
from train.shards import SHARD_SIZE, Record, write_shard

if TYPE_CHECKING:
    from train.sticker_sources import Source

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class Drawable(Protocol):
    """A record and the means to draw its picture."""

    @property
    def record(self) -> Record: ...

    def draw(self, size: int) -> np.ndarray: ...


class FolderPicture:
    """One file of a user's folder."""

    def __init__(self, record: Record, path: Path) -> None:
        self.record = record
        self.path = path

    def draw(self, size: int) -> np.ndarray:
        try:
            return decode(self.path.read_bytes(), size)
        except OSError as error:
            raise BadPicture(f"cannot be read: {error.strerror}") from error


def write_dataset(
    sources: Sequence[Drawable], out: Path, size: int, facts: dict[str, object], composed: Sequence[Drawable] = ()
) -> dict[str, object]:
    """Draw the sources and write `train-*.tar`, `held_out-*.tar`, `skipped.jsonl` and `dataset.json`.

    composed: pictures made of training concepts alone, which go to `composed-*.tar`.

    A shard that is already there is kept, so that an interrupted run goes on where it stopped; a folder made
    of other sources is refused. Returns what dataset.json holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, [*sources, *composed], size)
    splits: dict[str, list[Drawable]] = {"train": [], "held_out": []}
    for source in sources:
        splits["held_out" if is_held_out(source.record.concept) else "train"].append(source)
    if composed:
        splits["composed"] = list(composed)
    counts = {split: _write_split(members, out, split, size) for split, members in splits.items()}
    skipped = _collect_skipped(out)
    summary: dict[str, object] = {"pictures": counts, "skipped": skipped, "image_size": size, **facts}
    _write_text(out / "dataset.json", json.dumps(summary, indent=2) + "\n")
    return summary


def folder_sources(folder: Path) -> list[FolderPicture]:
    """The captioned pictures of a folder in Hugging Face's `imagefolder` convention.

    `metadata.jsonl` with `file_name` and `text` (or `caption`), or a `.txt` beside each picture. Raises
    UserError when there is no captioned picture at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    captions = _metadata(folder)
    sources = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES):
        relative = path.relative_to(folder).as_posix()
        text = captions.get(relative) or _text_beside(path)
        if text:
            sources.append(FolderPicture(_folder_record(relative, text), path))
    if not sources:
        raise UserError(
            f"{folder}: no captioned pictures; add metadata.jsonl (file_name, text) or NAME.txt beside NAME.png"
        )
    return sources


def _folder_record(relative: str, text: str) -> Record:
    key = hashlib.sha256(relative.encode()).hexdigest()[:16]
    concept = "caption:" + hashlib.sha256(text.lower().encode()).hexdigest()[:16]
    return Record(key=key, captions=(text,), style="", concept=concept, group="", weight=1.0)


def _metadata(folder: Path) -> dict[str, str]:
    path = folder / "metadata.jsonl"
    captions: dict[str, str] = {}
    if not path.is_file():
        return captions
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[row["file_name"]] = str(row.get("text") or row["caption"]).strip()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected JSON with file_name and text") from error
    return captions


def _text_beside(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return " ".join(beside.read_text(encoding="utf-8", errors="replace").split()) if beside.is_file() else ""


def _write_split(members: Sequence[Drawable], out: Path, split: str, size: int) -> int:
    total = 0
    with progress(f"drawing {split}", len(members)) as advance:
        for index in range(0, len(members), SHARD_SIZE):
            part = members[index : index + SHARD_SIZE]
            shard = out / f"{split}-{index // SHARD_SIZE:05d}.tar"
            if not shard.is_file():
                _write_part(part, shard, size, advance)
            else:
                advance(len(part))
            total += len(part) - _count_lines(_skip_file(shard))
    return total


def _write_part(part: Sequence[Drawable], shard: Path, size: int, advance: Callable[[int], None]) -> None:
    drawn: list[tuple[Record, bytes]] = []
    skipped: list[str] = []
    with multiprocessing.get_context("spawn").Pool(min(4, multiprocessing.cpu_count())) as pool:
        for source, png, why in pool.imap(_draw, ((source, size) for source in part), chunksize=16):
            advance(1)
            if png is None:
                skipped.append(json.dumps({"key": source.record.key, "file": _file_of(source), "why": why}))
            else:
                drawn.append((source.record, png))
    # The list of skipped files first: a shard that exists is complete, its list included.
    _write_text(_skip_file(shard), "".join(f"{line}\n" for line in skipped))
    write_shard(shard, drawn)


def _draw(job: tuple[Drawable, int]) -> tuple[Drawable, bytes | None, str]:
    source, size = job
    try:
        return source, encode_png(source.draw(size)), ""
    except BadPicture as error:
        return source, None, str(error)


def _file_of(source: Drawable) -> str:
    path = getattr(source, "path", None)
    return path.name if path is not None else source.record.key


def _skip_file(shard: Path) -> Path:
    return shard.with_suffix(".skipped")


def _count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _collect_skipped(out: Path) -> int:
    text = "".join(path.read_text() for path in sorted(out.glob("*.skipped")))
    _write_text(out / "skipped.jsonl", text)
    return len(text.splitlines())


def _claim(out: Path, sources: Sequence[Drawable], size: int) -> None:
    """Refuse to mix the shards of one set of sources with another's."""
    listing = "\n".join(f"{source.record.key} {source.record.captions}" for source in sources) + f"\n{size}"
    digest = hashlib.sha256(listing.encode()).hexdigest()
    mark = out / ".sources"
    if mark.is_file() and mark.read_text() != digest:
        raise UserError(f"{out} holds shards of other pictures; choose another --out, or delete that folder")
    if not mark.is_file():
        if any(out.glob("*.tar")):
            raise UserError(f"{out} holds shards of unknown origin; choose another --out")
        _write_text(mark, digest)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _prepare(args: argparse.Namespace) -> dict[str, object]:
    from train.compose import compositions
    from train.sticker_sources import PACKAGE_OF_STYLE, sticker_sources

    art = sticker_sources()
    composed = compositions(art, args.compositions)
    sources = _spread(art, args.limit) if args.limit else art
    licences = {name: PACKAGES[name].licence for name in PACKAGE_OF_STYLE.values()}
    return write_dataset(sources, args.out, args.size, {"set": "sticker", "licences": licences}, composed)


def _import(args: argparse.Namespace) -> dict[str, object]:
    return write_dataset(folder_sources(args.folder), args.out, args.size, {"set": args.folder.name})


def _spread(members: Sequence[Source], limit: int) -> list[Source]:
    """`limit` sources spread evenly over the sorted list."""
    step = max(1.0, len(members) / limit)
    return [members[int(index * step)] for index in range(min(limit, len(members)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m train.data prepare --out data/stickers\n"
        "  python -m train.data import my_pictures --out data/mine",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="the sticker set, from pinned npm packages")
    prepare.add_argument("--limit", type=int, default=0, help="only so many pictures, spread over the set")
    prepare.add_argument(
        "--compositions", type=int, default=5000, metavar="N",
        help="pictures composed of the art, for the words to compose (default 5000): colours, counts, two things",
    )
    imported = commands.add_parser("import", help="a folder of your own captioned pictures")
    imported.add_argument("folder", type=Path, metavar="FOLDER")
    for command in (prepare, imported):
        command.add_argument("--out", type=Path, required=True, metavar="DIR")
        command.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
        command.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def main(argv: list[str]) -> None:
    args = _parser().parse_args(argv)
    summary = _prepare(args) if args.command == "prepare" else _import(args)
    if args.json:
        print(json.dumps(summary))
        return
    counts = summary["pictures"]
    print(f"{args.out}: {counts}, {summary['skipped']} skipped (listed in skipped.jsonl)")


if __name__ == "__main__":
    run_command(main)
