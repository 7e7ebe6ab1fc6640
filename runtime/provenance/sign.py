"""The one file that names c2pa: puts a signed manifest into a picture's file, and reads what a file holds."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING, Any

from runtime.provenance.certificates import load_packages
from runtime.provenance.claim import START, Facts, definition, mime
from runtime.provenance.errors import NotSigned
from runtime.provenance.identity import Identity

if TYPE_CHECKING:
    import c2pa

# No thumbnail: 128x128 pixels are one. Nothing is fetched: no time stamp, no list of revoked certificates, no manifest
# that a start picture says to be elsewhere. What was signed is read back before it is written.
SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


class Signer:
    """Signs pictures of one process in the name of one identity; any number of threads may call it."""

    def __init__(self, identity: Identity) -> None:
        """Raises NotSigned where the packages are missing, or refuse the identity."""
        load_packages()
        import c2pa

        self.identity, self._lock = identity, threading.Lock()
        try:
            self._context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
            info = c2pa.C2paSignerInfo(identity.algorithm.encode(), identity.chain, identity.key, None)
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise NotSigned(f"the key or its certificate is refused: {_why(error)}") from error

    def signed(self, data: bytes, format: str, facts: Facts, start: bytes | None = None) -> bytes:
        """The file of a picture with a manifest in it; pixels and all other metadata stay as they are.

        data: the whole file, in `format`, a key of `runtime.image_files.SUFFIXES`. start: the file of the picture that
        the generation began with, whose manifest, if it has one, is kept. Raises NotSigned.
        """
        import c2pa

        kept = None if start is None else media_type(start)
        made = io.BytesIO()
        try:
            with self._lock, c2pa.Builder(definition(facts, format, kept is not None), self._context) as builder:
                if kept is not None:
                    assert start is not None
                    told = {"relationship": "inputTo", "label": START, "format": kept}
                    builder.add_ingredient(told, kept, io.BytesIO(start))
                builder.sign(self._signer, mime(format), io.BytesIO(data), made)
        except c2pa.C2paError as error:
            raise NotSigned(f"C2PA's library refuses: {_why(error)}") from error
        return made.getvalue()


def media_type(data: bytes) -> str | None:
    """The media type of a picture's file; None for those that hold no manifest."""
    kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"II*\0": "image/tiff", b"MM\0*": "image/tiff"}
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return {b"avif": "image/avif", b"heic": "image/heic", b"mif1": "image/heif"}.get(data[8:12])
    return next((kind for sign, kind in kinds.items() if data.startswith(sign)), None)


def read_manifest(data: bytes) -> dict[str, Any] | None:
    """What a picture's file says of itself, as the library reports it, and its "validation_state"; None if nothing.

    The state is Trusted, Valid (sound, but the signer leads to no root that is trusted here) or Invalid (altered).
    Raises NotSigned where the library is missing or the manifest cannot be read at all.
    """
    load_packages()
    import c2pa

    kind = media_type(data)
    if kind is None:
        return None
    try:
        reader = c2pa.Reader.try_create(kind, io.BytesIO(data), context=c2pa.Context(c2pa.Settings.from_dict(SETTINGS)))
        if reader is None:
            return None
        with reader:
            said: dict[str, Any] = json.loads(reader.json())
            return said
    except c2pa.C2paError as error:
        raise NotSigned(f"its manifest cannot be read: {_why(error)}") from error


def _why(error: c2pa.C2paError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
