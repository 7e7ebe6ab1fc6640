"""Put a trained teacher, student and bundle where the source tree ships them.

`python -m scripts.release TEACHER STUDENT BUNDLE` copies the two pipeline folders to `checkpoints/` and the ONNX
bundle to `runtime/bundles/sticker-128`. The two checkpoints share their text encoder, tokenizer and autoencoder: the
teacher's folder links to the student's, so that they are stored once. Refuses files that are too large to commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.command import Parser, command_parser, run_command
from runtime.errors import UserError
from runtime.files import whole_folder

ROOT = Path(__file__).resolve().parent.parent
NAME = "sticker-128"
SHARED = ("text_encoder", "tokenizer", "vae")
MAX_BYTES = 15_000_000


def too_large(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > MAX_BYTES]


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def copy_checkpoint(source: Path, target: Path, shared_with: Path | None) -> None:
    """Copy a pipeline folder; parts equal to `shared_with`'s become relative links to them."""
    card = target / "README.md"
    kept = card.read_bytes() if card.is_file() else None
    with whole_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        for part in SHARED if shared_with else ():
            assert shared_with is not None
            if same_files(folder / part, shared_with / part):
                shutil.rmtree(folder / part)
                os.symlink(Path("..") / shared_with.name / part, folder / part)
        if kept is not None:
            (folder / "README.md").write_bytes(kept)


EXAMPLES = """examples:
  python -m scripts.release runs/teacher/pipeline runs/student/pipeline out/bundle"""


def parser() -> Parser:
    """The command line."""
    made = command_parser("scripts.release", __doc__, EXAMPLES, json=False)
    for name in ("teacher", "student", "bundle"):
        made.add_argument(name, type=Path)
    return made


def work(args: argparse.Namespace) -> None:
    """Copy the three folders. Raises UserError where one is missing or too large to commit."""
    if missing := [folder for folder in (args.teacher, args.student, args.bundle) if not folder.is_dir()]:
        raise UserError(f"{missing[0]}: there is no such folder")
    found = [path for folder in (args.teacher, args.student, args.bundle) for path in too_large(folder)]
    if found:
        raise UserError(f"{found[0]} is larger than {MAX_BYTES / 1e6:.0f} MB: too large to commit")
    copy_checkpoint(args.student, ROOT / "checkpoints" / NAME, None)
    copy_checkpoint(args.teacher, ROOT / "checkpoints" / f"{NAME}-teacher", ROOT / "checkpoints" / NAME)
    with whole_folder(ROOT / "runtime" / "bundles" / NAME) as folder:
        shutil.copytree(args.bundle, folder, dirs_exist_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
