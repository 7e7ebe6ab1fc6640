"""Where a phone finds this machine: its address in the local network, as text and as a QR code."""

from __future__ import annotations

import io
import ipaddress
import socket


def lan_address() -> str | None:
    """This machine's IPv4 address in the network that it reaches others by; None where it has no network.

    A datagram socket is connected, which picks the way out and sends nothing; 192.0.2.1 stands for any far host
    (RFC 5737).
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            found = [probe.getsockname()[0]]
    except OSError:
        found = []
    return next(filter(_reachable, found + _own_addresses()), None)


def _own_addresses() -> list[str]:
    """What the machine's own name stands for."""
    try:
        return socket.gethostbyname_ex(socket.gethostname())[2]
    except OSError:
        return []


def _reachable(address: str) -> bool:
    known = ipaddress.ip_address(address)
    return not (known.is_loopback or known.is_unspecified or known.is_link_local)


def qr_code(text: str) -> str | None:
    """The text as a QR code of half-height blocks, light on dark; None where segno, an extra, is not installed."""
    try:
        import segno
    except ImportError:
        return None
    drawn = io.StringIO()
    segno.make_qr(text, error="m").terminal(drawn, border=2, compact=True)
    return drawn.getvalue().rstrip("\n")
