"""Whether the owner of a key signed a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import MANIFEST
from runtime.signature.envelope import BadSignature, WrongKey, read_key, signed_statement
from runtime.untrusted import read_inside, shown

SIGNATURE = "model.sig"  # beside manifest.json
PREDICATE = "https://model_signing/signature/v1.0"
MOST = 8_000_000  # bytes of a signature file; that of a bundle of 20 files has 5,000
MOST_KEY = 20_000


def check_signature(bundle: Bundle, key: str | Path) -> None:
    """BundleError, one line, unless the owner of the public key signed the manifest that was read, and its files.

    The files are compared with the manifest's hashes by `Bundle.verify`. Files that the manifest does not list are
    never read. key: a PEM file; ValueError where it is none, or cannot be read.
    """
    public = _key(Path(key))
    path = bundle.folder / SIGNATURE
    try:
        data = read_inside(bundle.folder, SIGNATURE, MOST)
    except FileNotFoundError as error:
        what = f"bundle {bundle.folder} is not signed: it has no {SIGNATURE}"
        raise BundleError(f"{what}; get a signed one from its maker, or open it without a key") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    try:
        found = _hashes(signed_statement(data, public))
    except WrongKey as error:
        raise BundleError(f"{path} does not fit {key}: {error}") from error
    except BadSignature as error:
        raise BundleError(f"{path} cannot be used: {error}") from error
    _compare(bundle, found)


def _key(path: Path) -> Any:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ValueError("to verify a signature, cryptography is needed: pip install cryptography") from error
    try:
        with path.open("rb") as file:
            return read_key(file.read(MOST_KEY))
    except OSError as error:
        raise ValueError(f"cannot read key {path}: {error.strerror}") from error
    except BadSignature as error:
        raise ValueError(f"cannot use key {path}: {error}") from error


def _hashes(statement: dict[str, Any]) -> dict[str, str]:
    """File -> sha256 of a statement, in the form that model-signing 1.x writes. Raises BadSignature."""
    if statement.get("predicateType") != PREDICATE:
        raise BadSignature(f"what it signs is no model but {shown(statement.get('predicateType'))}")
    try:
        how = statement["predicate"]["serialization"]
        if how["method"] != "files" or how["hash_type"] != "sha256":
            raise BadSignature(f"it signs {shown(how['method'])} by {shown(how['hash_type'])}: sign files by sha256")
        return {str(one["name"]): str(one["digest"]) for one in statement["predicate"]["resources"]}
    except (KeyError, TypeError) as error:
        raise BadSignature(f"its statement is incomplete ({shown(error)})") from error


def _compare(bundle: Bundle, signed: dict[str, str]) -> None:
    """The manifest that was read, and all that it lists, against what was signed."""
    listed = {MANIFEST: bundle.sha256} | {name: facts.sha256 for name, facts in bundle.manifest.files.items()}
    for name, sha256 in listed.items():
        if name not in signed:
            raise BundleError(f"{bundle.folder / name} is not part of the signature: sign the whole bundle")
        if signed[name] != sha256:
            what = f"{bundle.folder / name} was altered after it was signed"
            raise BundleError(f"{what}: expected sha256 {signed[name]}, found {sha256}; get the bundle again")
