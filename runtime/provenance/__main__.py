"""What pictures say of how they were made, and whether that was altered; what a signature costs here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.command import Parser, command_parser, print_result, run_command, whole

EXAMPLES = """examples:
  python -m runtime.provenance fox.png
  python -m runtime.provenance fox.png photo.jpg --json
  python -m runtime.provenance --measure --turns 200

states: Trusted (the signer leads to a root that is trusted here), Valid (sound, but nobody here vouches for the
signer: such is the key that an installation makes for itself), Invalid (altered after it was signed), none.
exit code: 0, 1 if a picture is Invalid, 2 if one cannot be read.
"""


def parser() -> Parser:
    """The arguments."""
    made = command_parser("runtime.provenance", __doc__, EXAMPLES)
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("files", nargs="*", default=[], metavar="FILE", help="pictures to look into")
    what.add_argument("--measure", action="store_true", help="bytes and time of marking and signing a picture here")
    made.add_argument("--turns", type=whole(1), default=100, metavar="N", help="pictures to measure with; default 100")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see EXAMPLES."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> int:
    """Prints what the files say, or the measurements."""
    if args.measure:
        from runtime.provenance.measure import measured, table

        figures = measured(args.turns)
        print_result(json.dumps(figures, indent=2) if args.json else table(figures))
        return 0
    reports = [report(path) for path in args.files]
    print_result(json.dumps({"pictures": reports}, indent=2) if args.json else "\n".join(map(_line, reports)))
    return int(any(one["state"] == "Invalid" for one in reports))


def report(path: str) -> dict[str, Any]:
    """What one file says: state, failures, signer, model, hashes; ValueError where it cannot be read."""
    from runtime.provenance.claim import LABEL
    from runtime.provenance.sign import read_manifest

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    said = read_manifest(data)
    if said is None:
        return {"path": path, "state": "none"}
    active = said["manifests"].get(said.get("active_manifest"), {})
    claims = {one["label"]: one.get("data") for one in active.get("assertions", [])}
    return {
        "path": path,
        "state": said["validation_state"],
        "failures": [one["code"] for one in said.get("validation_status", [])],
        "signer": active.get("signature_info", {}).get("common_name"),
        "generator": [one.get("name") for one in active.get("claim_generator_info", [])],
        "generation": claims.get(LABEL),
        "ingredients": len(active.get("ingredients", [])),
    }


def _line(one: dict[str, Any]) -> str:
    """A report as people read it; other people's text is printed as it is printable."""
    from runtime.untrusted import shown

    if one["state"] == "none":
        return f"{one['path']}: no manifest"
    said = [f"signed by {shown(one['signer'])}", *map(shown, one["failures"])]
    made = one["generation"] or {}
    said += [f"{name} {shown(made[name], 64)}" for name in ("model", "bundle_sha256", "prompt_sha256") if name in made]
    said += [f"{one['ingredients']} ingredient(s)"] if one["ingredients"] else []
    return f"{one['path']}: {one['state']}; {', '.join(said)}"


if __name__ == "__main__":
    sys.exit(main())
