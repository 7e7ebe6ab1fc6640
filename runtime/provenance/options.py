"""--cert, --key, --no-provenance and --provenance-prompt, for every command that writes pictures."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

from runtime.cache import OFF

VARIABLE = "ADDKIT_PROVENANCE"  # off: as --no-provenance


@dataclass(frozen=True)
class Wish:
    """What a command was asked to do about signatures."""

    on: bool = True
    asked: bool = False  # a certificate was named, so that silence would mislead
    cert: str | None = None
    key: str | None = None
    tells_prompt: bool = False


def add_provenance(parser: argparse.ArgumentParser) -> None:
    """Adds the four options."""
    add = parser.add_argument
    add("--cert", metavar="FILE", help="sign pictures with this PEM certificate chain (default: ADDKIT_CERT, else one "
        "made for this installation at first use); needs addkit[provenance]")  # fmt: skip
    add("--key", metavar="FILE", help="the certificate's private key (default: ADDKIT_KEY, else in the --cert file)")
    add("--no-provenance", action="store_true", help=f"do not sign pictures; {VARIABLE}=off does the same")
    add("--provenance-prompt", action="store_true", help="put the prompt into the signed manifest, not only its hash")


def wish_of(args: argparse.Namespace) -> Wish:
    """What the options and the environment ask for. Raises ValueError where they contradict each other."""
    named = {"--cert": args.cert, "--key": args.key, "--provenance-prompt": args.provenance_prompt or None}
    given = [name for name, value in named.items() if value is not None]
    if args.no_provenance and given:
        raise ValueError(f"--no-provenance signs nothing: leave it or {given[0]} out")
    if args.key is not None and args.cert is None:
        raise ValueError("--key needs --cert, the certificate that the key belongs to")
    usual = usual_wish()
    on, asked = not args.no_provenance and (bool(given) or usual.on), bool(given) or usual.asked
    return Wish(on, asked, args.cert, args.key, args.provenance_prompt)


def usual_wish() -> Wish:
    """What the environment alone asks for."""
    off = os.environ.get(VARIABLE, "on").strip().lower() in OFF
    return Wish(not off, bool(os.environ.get("ADDKIT_CERT")))
