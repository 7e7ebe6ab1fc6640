"""Keys and certificates that tests sign with, right and wrong ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def key_pair(folder: Path, name: str = "me", curve: str = "p256") -> tuple[Path, Path]:
    """The files of a new private key and its public one."""
    key = ec.generate_private_key(CURVES[curve])
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(pem_of(key))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return private, public


def pem_of(key: Any, password: bytes | None = None) -> bytes:
    """A private key as a file's text."""
    how: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return pem


def signer_files(
    folder: Path, days: tuple[int, int] = (-1, 30), name: str = "A Studio", key: Any = None, purpose: bool = True
) -> tuple[Path, Path]:
    """The files of a certificate chain, signer first, and of its key; valid from and until so many days from now."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    chain = _issued(name, key, authority, days, purpose, False) + _issued(
        "Root", authority, authority, days, True, True
    )
    cert, private = folder / "chain.pem", folder / "chain.key"
    cert.write_bytes(chain)
    private.write_bytes(pem_of(key))
    return cert, private


def root_of(chain: bytes) -> str:
    """The last certificate of a chain."""
    return x509.load_pem_x509_certificates(chain)[-1].public_bytes(serialization.Encoding.PEM).decode()


def _issued(name: str, key: Any, authority: Any, days: tuple[int, int], purpose: bool, root: bool) -> bytes:
    now = datetime.now(UTC)
    names = [
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, one), x509.NameAttribute(NameOID.COMMON_NAME, one)])
        for one in (name, "Root")
    ]
    flags = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    flags |= dict.fromkeys(("encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, **flags)
    made = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now + timedelta(days=days[0]))
    made = made.not_valid_after(now + timedelta(days=days[1]))
    made = made.add_extension(x509.BasicConstraints(root, None), critical=True).add_extension(usage, critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    of_root = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    made = made.add_extension(of_root, critical=False)
    if purpose and not root:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
