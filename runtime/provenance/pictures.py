"""A command's pictures: signed where that is possible, else written as they are, with one line on why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from runtime.command import tell
from runtime.provenance.errors import NotSigned
from runtime.provenance.options import Wish

if TYPE_CHECKING:
    from runtime.provenance.claim import Facts
    from runtime.provenance.sign import Signer

UNSIGNED = "pictures are not signed (the mark of generated media is in them all the same)"


class Signing:
    """Signs the files of one command. It never fails: what cannot be signed is returned as it came."""

    def __init__(self, wish: Wish, say: Callable[[str], None] = tell) -> None:
        """say: gets each warning or note, one line, once.

        Without the packages nothing is said, unless signing was asked for.
        """
        self._wish, self._say = wish, say
        self._signer: Signer | None = None
        self._opened = not wish.on or (not wish.asked and not installed())
        self._told: set[str] = set()

    def open(self) -> None:
        """Finds the key, or makes it; by itself with the first picture."""
        if self._opened:
            return
        self._opened = True
        try:
            from runtime.provenance.identity import named_identity
            from runtime.provenance.sign import Signer

            identity = named_identity(self._wish.cert, self._wish.key)
            self._signer = Signer(identity)
            if identity.note:
                self._once(f"note: {identity.note}")
        except NotSigned as error:
            self._once(f"warning: {UNSIGNED}: {error}")

    def signed(self, data: bytes, format: str, facts: Facts, start: bytes | None = None) -> tuple[bytes, bool]:
        """A picture's file to write, and whether it is signed; arguments as those of `Signer.signed`."""
        self.open()
        if self._signer is None:
            return data, False
        facts = replace(facts, tells_prompt=self._wish.tells_prompt)
        try:
            return self._signer.signed(data, format, facts, start), True
        except NotSigned as error:
            why = error
        if start is not None:  # its manifest may be what the library refuses
            try:
                made = self._signer.signed(data, format, facts)
                self._once(f"warning: signed without the start picture's own manifest: {why}")
                return made, True
            except NotSigned as error:
                why = error
        self._once(f"warning: {UNSIGNED}: {why}")
        return data, False

    def _once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._say(line)


def installed() -> bool:
    """Whether the extra is; nothing is imported."""
    return find_spec("c2pa") is not None
