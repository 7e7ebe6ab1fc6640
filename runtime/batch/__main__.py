"""Bulk generation: `python -m runtime.batch prompts.csv --out pictures`. A killed run goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import __version__
from runtime.command import INTERRUPTED, command_parser, print_result, run_command, tell

if TYPE_CHECKING:
    from runtime.batch.rows import Row, Rules, Settings
    from runtime.bundle import Bundle

SHARD_SIZE = 1000  # samples: shards of some 20 MB
EXAMPLES = """examples:
  python -m runtime.batch prompts.txt --out pictures
  python -m runtime.batch prompts.csv --out pictures --workers 2 --format webp --quality 90 --json
  python -m runtime.batch prompts.jsonl --out shards --webdataset --shard-size 500
  python -m runtime.batch prompts.csv --out /shared/pictures --ray-address auto

prompts: .csv (a header; columns prompt, seed, width, height, name), .txt (a prompt a line), .jsonl (the same fields);
all but prompt may be left out. The same command goes on after an interruption; more rows may be added at the end.
exit code: 0 all made, 1 some rows failed (failed.jsonl), 2 nothing could be done, 130 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments; names and meaning as in `python -m runtime`."""
    made = command_parser(
        "runtime.batch", "Makes a picture of every row of a prompts file, on all cores or on a Ray cluster.", EXAMPLES
    )
    add = made.add_argument
    add("prompts", metavar="PROMPTS", help="a .csv, .txt or .jsonl file, or - for standard input")
    add("--out", required=True, metavar="DIR", help="a new folder, or that of the run to go on with")
    add("--workers", type=int, metavar="N", help="processes, a session of one thread each; default: one a core or GPU")
    add("--ray-address", metavar="A", help="a Ray cluster that shares DIR, such as auto or ray://head:10001")
    add("--bundle", metavar="DIR", help="a bundle's folder, or a shipped one's name; default sticker-128")
    add("--provider", default="auto", metavar="P", help="auto (the default), cpu, cuda, coreml or openvino")
    add("--num-inference-steps", type=int, default=1, metavar="N", help="1 (the default) to 4")
    add("--seed", type=int, default=0, metavar="N", help="rows without a seed get theirs from it and their number")
    add("--format", default="png", choices=("png", "webp", "jpeg"), help="default png, lossless")
    add("--quality", type=int, metavar="Q", help="1 to 100 for webp and jpeg; default 90")
    add("--webdataset", action="store_true", help="tar shards in place of files")
    add("--shard-size", type=int, metavar="N", help=f"pictures a shard, with --webdataset; default {SHARD_SIZE}")
    add("--keep", action="append", default=[], metavar="COLUMN", help="copy this further column into the manifest")
    add("--prompts-format", choices=("csv", "txt", "jsonl"), help="where the file's name does not say; txt for -")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see EXAMPLES."""
    args = parser().parse_args(argv)
    failed: list[int] = []

    def work() -> None:
        report = run(args)
        for line in report.pop("warnings"):
            tell(f"warning: {line}")
        print_result(json.dumps(report) if args.json else report["manifest"])
        failed.append(report["failed"])

    code = run_command(work, args.debug)
    if code == INTERRUPTED:
        tell(f"stopped: what is made stays in {args.out}; the same command goes on from there")
    return 1 if not code and any(failed) else code


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes what is left to make; the report for `--json`. Refuses before any work what it can."""
    from runtime.batch.folder import locked
    from runtime.batch.ray_pool import quiet, require
    from runtime.batch.run import Run
    from runtime.bundle import open_bundle, resolve_bundle

    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be 1 or more, not {args.workers}")
    bundle = open_bundle(resolve_bundle(args.bundle))
    settings, rules = _settings(args, bundle)
    with quiet(args.debug):
        require()
        with locked(Path(args.out)) as folder:
            started = Run(folder, settings, args.bundle)
            try:
                started.prepare(lambda: _rows(args, rules))
            except BaseException:
                folder.discard_if_new()
                raise
            started.go(args.ray_address, args.workers, args.debug)
    return started.report()


def _settings(args: argparse.Namespace, bundle: Bundle) -> tuple[Settings, Rules]:
    """The arguments, checked against each other and the bundle."""
    from runtime import arguments
    from runtime.batch.prompts_file import KNOWN
    from runtime.batch.rows import Rules, Settings
    from runtime.batch.worker import bundle_sha256
    from runtime.image_files import check_format
    from runtime.noise import check_seed
    from runtime.ort.providers import choose_provider

    check_format(args.format, args.quality)
    arguments.steps(bundle.manifest, args.num_inference_steps, 1.0, False)
    if args.shard_size is not None and (not args.webdataset or args.shard_size < 1):
        raise ValueError("--shard-size is for --webdataset, and 1 or more")
    if set(args.keep) & set(KNOWN):
        raise ValueError(f"--keep is for further columns; {', '.join(KNOWN)} are read anyway")
    settings = Settings(
        bundle=bundle.manifest.name,
        bundle_sha256=bundle_sha256(bundle.folder),
        provider=_provider(args, choose_provider),
        num_inference_steps=args.num_inference_steps,
        format=args.format,
        quality=args.quality,
        seed=check_seed(args.seed),
        shard_size=(args.shard_size or SHARD_SIZE) if args.webdataset else None,
        addkit=__version__,
    )
    return settings, Rules(bundle.manifest, args.format, args.seed, tuple(args.keep), args.webdataset)


def _provider(args: argparse.Namespace, choose: Callable[[str], str]) -> str:
    """The provider that all pictures are made with: on a cluster what was asked for, here what there is."""
    if args.ray_address is None:
        return choose(args.provider)
    if args.provider == "auto":
        raise ValueError("--ray-address needs --provider cpu or cuda: this machine cannot tell what the others have")
    return str(args.provider)


def _rows(args: argparse.Namespace, rules: Rules) -> Iterator[Row]:
    """The rows of the prompts file, each checked; in the end that no two have one name."""
    from runtime.batch.names import Distinct
    from runtime.batch.prompts_file import STDIN, format_of, opened, records
    from runtime.batch.rows import rows

    where = "standard input" if args.prompts == STDIN else args.prompts
    format, distinct, last = format_of(args.prompts, args.prompts_format), Distinct(), -1
    with opened(args.prompts) as file:
        for row in rows(records(file, where, format, tuple(args.keep)), where, rules):
            distinct.add(row.path, row.line)
            last = row.row
            yield row
    if last < 0:
        raise ValueError(f"{where} holds no prompts")
    distinct.check(where)


if __name__ == "__main__":
    sys.exit(main())
