"""A batch started from the command's arguments: they are checked, the rows read, the pictures made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime import __version__, arguments
from runtime.batch.folder import open_folder
from runtime.batch.names import Distinct
from runtime.batch.prompts_file import KNOWN, STDIN, format_of, opened, records
from runtime.batch.ray_pool import quiet, require
from runtime.batch.rows import SHARD_SIZE, Row, Rules, Settings, rows
from runtime.batch.run import Run
from runtime.bundle import Bundle, open_bundle, resolve_bundle
from runtime.image_files import check_format
from runtime.noise import check_seed
from runtime.ort.providers import choose_provider
from runtime.provenance.options import usual_wish
from runtime.provenance.pictures import Signing
from runtime.variation.options import variation_of


def start(args: argparse.Namespace) -> dict[str, Any]:
    """Makes what is left to make, and returns the report for `--json`. Refuses bad arguments before any work."""
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be 1 or more, not {args.workers}")
    bundle = open_bundle(resolve_bundle(args.bundle))
    settings, rules = settings_of(args, bundle)
    with quiet(args.debug):
        require()
        with open_folder(Path(args.out)) as folder:
            started = Run(folder, settings, args.bundle)
            try:
                started.prepare(lambda: rows_of(args, rules))
            except BaseException:
                folder.discard_if_new()
                raise
            Signing(usual_wish()).open()  # makes the key before the workers look for it, and says what is wrong with it
            started.go(args.ray_address, args.workers, args.debug)
    return started.report()


def settings_of(args: argparse.Namespace, bundle: Bundle) -> tuple[Settings, Rules]:
    """The arguments, checked against each other and the bundle."""
    check_format(args.format, args.quality)
    variation = variation_of(args)
    arguments.steps(bundle.manifest, args.num_inference_steps, 1.0, False)
    if args.shard_size is not None and (not args.webdataset or args.shard_size < 1):
        raise ValueError("--shard-size needs --webdataset, and must be 1 or more")
    if set(args.keep) & set(KNOWN):
        raise ValueError(f"--keep is for extra columns; {', '.join(KNOWN)} are read anyway")
    settings = Settings(
        bundle=bundle.manifest.name,
        bundle_sha256=bundle.sha256,
        provider=provider_of(args),
        num_inference_steps=args.num_inference_steps,
        format=args.format,
        quality=args.quality,
        seed=check_seed(args.seed),
        shard_size=(args.shard_size or SHARD_SIZE) if args.webdataset else None,
        addkit=__version__,
        watermark=args.watermark,
    )
    return settings, Rules(bundle.manifest, args.format, args.seed, tuple(args.keep), args.webdataset, variation)


def provider_of(args: argparse.Namespace) -> str:
    """The provider that all pictures are made with: on a cluster what was asked for, here what there is."""
    if args.ray_address is None:
        return choose_provider(args.provider)
    if args.provider == "auto":
        raise ValueError("--ray-address needs --provider cpu or cuda: this machine cannot tell what the others have")
    return str(args.provider)


def rows_of(args: argparse.Namespace, rules: Rules) -> Iterator[Row]:
    """The rows of the prompts file, each checked, and at the end that no two share a name."""
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
