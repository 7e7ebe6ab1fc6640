"""A signature file -> the statement that was signed: a Sigstore bundle with a DSSE envelope and a public key's hint.

DSSE: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from runtime.untrusted import read_json, shown

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class BadSignature(ValueError):
    """A signature file or key is not what it should be; the text says what is wrong, without the file's name."""


class WrongKey(BadSignature):
    """The signature is another key's."""


def read_key(pem: bytes) -> Any:
    """An elliptic public key of P-256, P-384 or P-521. Raises BadSignature."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in pem:
        raise BadSignature("it is a private key: give the public one, which the bundle's maker published")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadSignature("it is not a public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise BadSignature("model signatures are made with keys of P-256, P-384 or P-521, and it is another kind")
    return key


def signed_statement(data: bytes, key: Any) -> dict[str, Any]:
    """The statement in a signature file, once the key's signature of it was verified. Raises BadSignature, WrongKey."""
    try:
        bundle = read_json(data)
        kind, envelope = bundle["mediaType"], bundle["dsseEnvelope"]
        payload_type, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        signed = base64.b64decode(signature["sig"], validate=True)
        material = bundle["verificationMaterial"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSignature(f"it is damaged, or no model signature ({shown(error)})") from error
    if kind != MEDIA_TYPE or payload_type != PAYLOAD_TYPE:
        raise BadSignature(f"it is of another kind ({shown(kind)}, {shown(payload_type)})")
    if not isinstance(material, dict) or "publicKey" not in material:
        raise BadSignature(
            "it was made with a certificate or by Sigstore, not with a key: verify it with model_signing"
        )
    _verify(key, signed, payload_type, payload)
    try:
        statement = read_json(payload)
    except (ValueError, RecursionError) as error:
        raise BadSignature(f"what it signs is not JSON ({shown(error)})") from error
    if not isinstance(statement, dict):
        raise BadSignature("what it signs is not a statement")
    return statement


def fingerprint(key: Any) -> str:
    """The sha256 of a public key in PEM, by which signatures name it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _verify(key: Any, signed: bytes, payload_type: str, payload: bytes) -> None:
    """Compares the signature with DSSE's encoding of what was signed; ECDSA with the hash of the curve's size."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    encoded = f"DSSEv1 {len(payload_type)} {payload_type} {len(payload)} ".encode() + payload
    of_curve = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    try:
        key.verify(signed, encoded, ec.ECDSA(of_curve[key.curve.key_size]))
    except InvalidSignature as error:
        raise WrongKey("the signature is not of this key, or was altered") from error
