"""https for the demo: a certificate of the user's, or one that `openssl` makes for this run."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from runtime.errors import Error

DAYS = 30  # a new certificate is made at every start
# A configuration of our own, because LibreSSL lacks -addext, and a system's file may add what browsers refuse.
REQUEST = """[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = ADDKit demo
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = {names}
"""


def made_context(address: str | None) -> tuple[ssl.SSLContext, str]:
    """A context with a certificate for localhost and `address`, and the certificate's SHA-256 in hexadecimal pairs.

    The key is on disk only while it is read. Raises Error where there is no openssl, or it fails.
    """
    tool = shutil.which("openssl")
    if tool is None:
        raise Error("--tls needs the openssl command to make a certificate: install it, or give --cert FILE --key FILE")
    with tempfile.TemporaryDirectory(prefix="addkit-demo-") as name:
        folder = Path(name)
        names = ["DNS:localhost", "IP:127.0.0.1", *([f"IP:{address}"] if address else [])]
        (folder / "request.cnf").write_text(REQUEST.format(names=", ".join(names)), encoding="ascii")
        what = f"req -x509 -newkey rsa:2048 -sha256 -nodes -days {DAYS}"
        files = "-config request.cnf -keyout key.pem -out cert.pem"
        done = subprocess.run([tool, *what.split(), *files.split()],
                              check=False, cwd=folder, capture_output=True, text=True, errors="replace")  # fmt: skip
        if done.returncode:
            raise Error(f"openssl made no certificate ({done.stderr.strip()[-200:]}): give --cert FILE --key FILE")
        return context(folder / "cert.pem", folder / "key.pem"), fingerprint(folder / "cert.pem")


def context(cert: Path, key: Path) -> ssl.SSLContext:
    """A server's context from two PEM files, the key without a password. Raises Error where they cannot be used."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (cert, key):
        if not path.is_file():
            raise Error(f"there is no file {path}: give a certificate and its key as PEM files")
    try:
        made.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise Error(f"{cert} and {key} are not a PEM certificate and its key, without a password ({error})") from error
    return made


def fingerprint(cert: Path) -> str:
    """The SHA-256 of a PEM file's first certificate, as browsers show it."""
    text = cert.read_text(encoding="ascii", errors="replace")
    first = text[text.index("-----BEGIN CERTIFICATE-----") :]
    first = first[: first.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).digest().hex(":").upper()
