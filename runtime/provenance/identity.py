"""Who signs: the user's key and certificate, or those that an installation makes for itself at first use."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import OutputError
from runtime.files import write_whole
from runtime.provenance.certificates import load_packages, new_identity
from runtime.provenance.errors import NotSigned
from runtime.provenance.place import installation_file

if TYPE_CHECKING:
    from cryptography import x509

MOST = 200_000  # bytes of a PEM file that are read; a chain of four certificates has 8,000
FIRST = datetime(2026, 11, 1, tzinfo=UTC)  # no clock that is right shows an earlier time
NO_PASSWORD = "give a key without a password"


@dataclass(frozen=True)
class Identity:
    """A private key and its certificates, the signer's own first, both in PEM."""

    key: bytes = field(repr=False)
    chain: bytes
    algorithm: str  # C2PA's name: es256, es384, es512, ed25519 or ps256
    kind: str  # installation, certificate (the user's) or passing (of this process alone)
    note: str = ""  # what the user should know of it, one line


def now() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


def own_identity() -> Identity:
    """The installation's identity, made at first use.

    Where it cannot be kept it is a passing one, with a note. NotSigned where the file is damaged or out of date, or
    the clock is wrong.
    """
    load_packages()
    path = installation_file()
    remedy = f"delete {path} to get a new key"
    try:
        return _checked(_read(path), str(path), "installation", remedy)
    except FileNotFoundError:
        pass
    if now() < FIRST:
        raise NotSigned(f"no key can be made while this machine's clock says {now():%Y-%m-%d}: set the clock")
    made = new_identity(now())
    note = _kept(path, made)
    return _checked(made, str(path), "passing" if note else "installation", remedy, note)


def user_identity(cert: str | Path, key: str | Path | None = None) -> Identity:
    """The identity in the user's PEM files: `cert` with the chain, signer first, and `key`, or both in `cert`.

    NotSigned where a file is missing or damaged, the two do not belong together, or the certificate is out of date.
    """
    load_packages()
    pem = b""
    for path in [cert] if key is None else [cert, key]:
        try:
            pem += _read(Path(path)) + b"\n"
        except FileNotFoundError as error:
            raise NotSigned(f"there is no file {path}: give a certificate and its key as PEM files") from error
    return _checked(pem, str(cert), "certificate", "give a certificate that is valid now", key=key)


def identity_of(pem: bytes, name: str) -> Identity:
    """The identity in PEM text that was just made; `name` for errors. Raises NotSigned."""
    return _checked(pem, name, "passing", "try again")


def _read(path: Path) -> bytes:
    """A PEM file; FileNotFoundError, NotSigned where it cannot be read or is no PEM file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NotSigned(f"{path} is not a file: give a PEM file")
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise NotSigned(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MOST:
        raise NotSigned(f"{path} has more than {MOST:,} bytes: give a PEM file")
    return data


def _kept(path: Path, pem: bytes) -> str:
    """Keeps a new key for its owner alone; returns a note where that is not possible."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # no one else sees the file while it is written
        write_whole(path, pem)
        path.chmod(0o600)
    except (OSError, OutputError) as error:
        why = getattr(error, "strerror", None) or str(error).removeprefix(f"cannot write {path}: ")
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return f"no key can be kept in {path} ({why}): signed with a key of this run alone"
    return ""


def _checked(pem: bytes, name: str, kind: str, remedy: str, note: str = "", key: str | Path | None = None) -> Identity:
    """The identity in PEM text, once key and certificate are sound, belong together and are valid now."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    private = _private(pem, name if key is None else str(key), kind, remedy)
    try:
        chain = x509.load_pem_x509_certificates(pem)
        if len(chain) != pem.count(b"-----BEGIN CERTIFICATE"):
            raise ValueError("the last one has no end")
    except ValueError as error:
        raise NotSigned(f"{name} holds no certificate, or is damaged: {_other(kind, remedy)}") from error
    if _public(private.public_key()) != _public(chain[0].public_key()):
        raise NotSigned(f"the key does not belong to the first certificate of {name}: {_other(kind, remedy)}")
    _check_time(chain[0], name, remedy)
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificates = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
    return Identity(text, certificates, _algorithm(private), kind, note)


def _private(pem: bytes, name: str, kind: str, remedy: str) -> Any:
    """The private key in PEM text."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    start = next((at for at in _begins(pem) if b"PRIVATE KEY-----" in pem[at : at + 50]), None)
    if start is None:
        what = "holds no private key, or is damaged"
        raise NotSigned(f"{name} {what}: {remedy if kind != 'certificate' else 'give the key as --key FILE'}")
    try:
        return serialization.load_pem_private_key(pem[start:], None)
    except TypeError as error:
        raise NotSigned(f"the key in {name} has a password: {NO_PASSWORD}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotSigned(f"the key in {name} is damaged or of an unknown kind: {_other(kind, remedy)}") from error


def _begins(pem: bytes) -> list[int]:
    return [at for at in range(len(pem)) if pem.startswith(b"-----BEGIN ", at)]


def _other(kind: str, remedy: str) -> str:
    return "give a certificate and its key as PEM files" if kind == "certificate" else remedy


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    made: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return made


def _check_time(certificate: x509.Certificate, name: str, remedy: str) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now() > end:
        raise NotSigned(f"the certificate in {name} expired on {end:%Y-%m-%d}: {remedy}")
    if now() < begin:
        clock = f"this machine's clock says {now():%Y-%m-%d}"
        raise NotSigned(f"the certificate in {name} is valid from {begin:%Y-%m-%d} on, and {clock}: set the clock")


def _algorithm(key: Any) -> str:
    """C2PA's name of what a key signs with; NotSigned where it allows none."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        name = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}.get(key.curve.name)
        if name is not None:
            return name
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise NotSigned(
        "C2PA has no use for this kind of key: give one of P-256, P-384, P-521, Ed25519 or RSA of 2048 bits"
    )


def named_identity(cert: str | None = None, key: str | None = None) -> Identity:
    """The identity that the arguments name, else ADDKIT_CERT and ADDKIT_KEY, else the installation's own."""
    if cert is None and key is None:
        cert, key = os.environ.get("ADDKIT_CERT") or None, os.environ.get("ADDKIT_KEY") or None
    if cert is None:
        if key is not None:
            raise NotSigned(f"the key {key} has no certificate: give it as --cert FILE")
        return own_identity()
    return user_identity(cert, key)
