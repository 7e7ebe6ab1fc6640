"""`python -m export.sign BUNDLE --key K`: signs a bundle by OpenSSF model signing, so that its users know the maker."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runtime.bundle import Bundle, open_bundle, resolve_bundle
from runtime.command import Parser, command_parser, print_result, run_command
from runtime.errors import UserError
from runtime.files import check_writable, write_whole
from runtime.signature.bundle import SIGNATURE

EXAMPLES = """examples:
  python -m export.sign out/sticker --key me.key
  python -m export.sign out/sticker --key me.key --json

a key, its public part, and who verifies with that:
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out me.key
  openssl pkey -in me.key -pubout -out me.pub
  python -m runtime "a fox" --bundle out/sticker --verify me.pub
"""


def parser() -> Parser:
    """The arguments."""
    made = command_parser("export.sign", __doc__, EXAMPLES)
    made.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder; its files must be what its manifest says")
    made.add_argument("--key", required=True, metavar="K", help="a private key of P-256, P-384 or P-521, a PEM file")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Signs, and prints the signature's path, or the report."""
    key = Path(args.key)
    folder = resolve_bundle(args.bundle)
    _check_key(key)
    bundle = open_bundle(folder)
    path = bundle.folder / SIGNATURE
    check_writable(path)
    write_whole(path, signature(bundle, key))
    report = {"path": str(path), "bundle": bundle.manifest.name, "manifest_sha256": bundle.sha256}
    print_result(json.dumps(report) if args.json else str(path))


def signature(bundle: Bundle, key: Path) -> bytes:
    """The signature file of a bundle that was verified, by a private key in PEM. Raises UserError.

    It covers every file in the folder but an older signature and git's own.
    """
    from model_signing import hashing, signing

    hashed = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=True)
    with tempfile.TemporaryDirectory(prefix="addkit-") as name:  # not in the folder, which is being hashed
        made = Path(name) / SIGNATURE
        try:
            signer = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashed)
            signer.sign(bundle.folder, made)
        except ValueError as error:
            raise UserError(f"{bundle.folder} cannot be signed: {error}") from error
        return made.read_bytes()


def _check_key(path: Path) -> None:
    """UserError unless model signing takes the key, and where its packages are missing."""
    try:
        import model_signing.signing  # noqa: F401
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        what = f"signing needs {error.name}, which is not installed"
        raise UserError(f'{what}: pip install "addkit[signing]"') from error
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UserError(f"cannot read key {path}: {error.strerror}") from error
    except TypeError as error:
        raise UserError(f"key {path} has a password: give one without") from error
    except ValueError as error:
        raise UserError(f"{path} is not a private key in PEM: make one as --help shows") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise UserError(f"{path} is another kind of key than model signing takes: make one as --help shows")


if __name__ == "__main__":
    sys.exit(main())
