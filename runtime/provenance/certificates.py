"""An installation's own certificate: a root that signs once and is forgotten, and the leaf that signs pictures.

C2PA 2.x, "Certificate profile": a signer's certificate is not self-signed, is no authority, has the key usage
digitalSignature and an extended key usage; readers report one that leads to no trusted root as valid but untrusted.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runtime.provenance.errors import NotSigned

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

YEARS = 10
SLACK = timedelta(days=1)  # before now, for a reader whose clock is behind
NAME, ROOT = "ADDKit installation", "ADDKit installation root"


def load_packages() -> None:
    """Imports what signing needs; NotSigned where it is not installed."""
    try:
        import c2pa  # noqa: F401
        import cryptography  # noqa: F401
    except ImportError as error:
        what = f"signatures need {error.name or error}, which is not installed"
        raise NotSigned(f'{what}: pip install "addkit[provenance]"') from error
    except (OSError, RuntimeError) as error:  # as on a system for which its native library was not built
        raise NotSigned(f"c2pa's native library cannot be loaded here: {' '.join(str(error).split())}") from error


def new_identity(now: datetime) -> bytes:
    """PEM of a new P-256 key, its certificate and that of the root which issued it; nobody keeps the root's key.

    now: with a time zone; the certificates are valid from a day before it, for YEARS.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    issued = [_issued(NAME, leaf.public_key(), root, now), _issued(ROOT, root.public_key(), root, now)]
    return key + b"".join(one.public_bytes(serialization.Encoding.PEM) for one in issued)


def _issued(
    name: str, key: ec.EllipticCurvePublicKey, root: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    """A certificate that the root signs; the root's own where `name` is ROOT."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = name == ROOT
    made = x509.CertificateBuilder().subject_name(_named(name)).issuer_name(_named(ROOT)).public_key(key)
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - SLACK).not_valid_after(now + timedelta(days=365 * YEARS))
    made = made.add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
    made = made.add_extension(_usage(authority), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    of_root = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    made = made.add_extension(of_root, critical=False)
    if not authority:  # the one purpose among C2PA's default list that any signer may state
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(root, hashes.SHA256())


def _named(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    names = {NameOID.ORGANIZATION_NAME: "ADDKit", NameOID.COMMON_NAME: name}
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in names.items()])


def _usage(authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
