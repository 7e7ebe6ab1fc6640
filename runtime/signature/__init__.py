"""Who made a bundle: the OpenSSF model signature beside its manifest, verified with `cryptography` alone.

The format is that of the package model-signing, which `python -m export.sign` signs with; importing that takes about
20 times as long and brings 19 MB, so that it stays on the signer's machine. See docs/security.md.
"""
