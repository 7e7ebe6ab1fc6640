"""Why a picture is written without a signature."""

from __future__ import annotations

from runtime.errors import Error


class NotSigned(Error):
    """A picture cannot be signed; the text is one line that says why, and what to do. The picture itself is fine."""
