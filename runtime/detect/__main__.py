"""The command line: `python -m runtime.detect picture.png` says whether a picture holds our mark, and whose."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.command import Parser, command_parser, print_result, run_command

if TYPE_CHECKING:
    from runtime.watermark import Reading

EXAMPLES = """examples:
  python -m runtime.detect fox.png
  python -m runtime.detect pictures/*.webp --bundle path/to/bundle --json
"""


def parser() -> Parser:
    """The arguments."""
    made = command_parser(
        "runtime.detect", "Says of picture files whether they hold the invisible mark, and of which bundle.", EXAMPLES
    )
    made.add_argument("files", nargs="+", metavar="FILE", help="pictures of any format that Pillow reads")
    made.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="DIR",
        help="a bundle whose mark is named when found, beside the shipped ones; may be given several times",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 also where nothing is marked, 2 for an error, 130 interrupted."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Reads all files, then prints a line for each, or the report."""
    from runtime.image_files import read_picture
    from runtime.watermark import read_mark

    names = bundles(args.bundle)
    found = [(path, read_mark(read_picture(path)[0])) for path in args.files]
    rows = [_row(path, reading, names) for path, reading in found]
    print_result(json.dumps({"images": rows}) if args.json else "\n".join(map(_line, rows)))


def bundles(given: Sequence[str]) -> dict[int, list[str]]:
    """Code -> the names of the bundles that mark with it: the shipped ones and those given. Raises BundleError."""
    from runtime.bundle import open_bundle, resolve_bundle
    from runtime.shipped import shipped_names
    from runtime.watermark import code_of

    names: dict[int, list[str]] = {}
    for name in (*shipped_names(), *given):
        manifest = open_bundle(resolve_bundle(name), verify=False).manifest
        of_code = names.setdefault(code_of(manifest), [])
        if manifest.name not in of_code:
            of_code.append(manifest.name)
    return names


def _row(path: str | Path, reading: Reading, names: dict[int, list[str]]) -> dict[str, Any]:
    marked = reading.code is not None
    bundles = names.get(reading.code, []) if reading.code is not None else []
    return {
        "path": str(path), "marked": marked, "code": reading.code, "bundles": bundles, "score": reading.score
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    if not row["marked"]:
        return f"{row['path']}: not marked"
    whose = " or ".join(row["bundles"]) or "a bundle that is not known here (name yours with --bundle)"
    return f"{row['path']}: marked, {row['code']:04x}, by {whose}"


if __name__ == "__main__":
    sys.exit(main())
