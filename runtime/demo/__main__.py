"""`python -m runtime.demo`: serves the built web app, and says how a phone opens it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.command import Parser, command_parser, print_result, run_command, tell
from runtime.demo.address import lan_address, qr_code
from runtime.demo.server import DemoServer
from runtime.demo.tls import context, fingerprint, made_context
from runtime.errors import Error

BUILT = Path(__file__).parents[2] / "mobile_demo" / "web" / "dist"  # of a source tree
BUILD = "npm ci && npm run build"
EVERYWHERE = "0.0.0.0"
EXAMPLES = """examples:
  python -m runtime.demo                         this machine; an Android phone by USB: adb reverse tcp:8000 tcp:8000
  python -m runtime.demo --host 0.0.0.0 --tls    any phone on the same Wi-Fi, with a certificate made for this run
  python -m runtime.demo --host 0.0.0.0 --cert demo.pem --key demo-key.pem
  python -m runtime.demo --port 0 --json         a free port, named in one line of JSON

Browsers allow WebGPU, threads, the clipboard and offline use only on https and localhost: over plain http on another
address the app draws slowly and does not work offline. docs/mobile.md has the whole way to a phone's home screen.
"""


@dataclass(frozen=True)
class Addresses:
    """Where the app is served. `phone` is the address for a phone on the same network, if it listens there."""

    url: str
    phone: str | None
    port: int
    tls: bool
    certificate_sha256: str | None
    directory: str


def parser() -> Parser:
    """The command line."""
    made = command_parser("runtime.demo", "Serves the built web app to this machine and to phones.", EXAMPLES)
    add = made.add_argument
    add("--port", type=int, default=8000, metavar="N", help="default 8000; 0 finds a free one")
    add("--host", choices=("localhost", EVERYWHERE), default="localhost", help=f"{EVERYWHERE} opens it to the network")
    add("--directory", type=Path, metavar="DIR", help="the built app; default mobile_demo/web/dist of the source tree")
    add("--tls", action="store_true", help="https, with a certificate that the openssl command makes for this run")
    add("--cert", type=Path, metavar="FILE", help="https, with this PEM certificate")
    add("--key", type=Path, metavar="FILE", help="the certificate's key, PEM without a password")
    return made


def app_folder(given: Path | None) -> Path:
    """The built app's folder. Raises Error, one line that says how to build it."""
    folder = given or BUILT
    if (folder / "index.html").is_file():
        return folder
    if given:
        raise Error(f"there is no built app in {folder}, it has no index.html: run `{BUILD}` in mobile_demo/web")
    if BUILT.parent.is_dir():
        raise Error(f"the web app is not built: run `{BUILD}` in {BUILT.parent}")
    raise Error(f"the web app is not part of the package: run `{BUILD}` in mobile_demo/web of a source tree, "
                "and give mobile_demo/web/dist as --directory DIR")  # fmt: skip


def listen(args: argparse.Namespace) -> tuple[DemoServer, Addresses]:
    """A server that listens, and its addresses. Raises Error, ValueError."""
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port must be 0 to 65535, not {args.port}")
    if bool(args.cert) != bool(args.key):
        raise ValueError("--cert and --key belong together: give both files")
    folder = app_folder(args.directory)
    address = lan_address() if args.host == EVERYWHERE else None
    tls, sha256 = None, None
    if args.cert:
        tls, sha256 = context(args.cert, args.key), fingerprint(args.cert)
    elif args.tls:
        tls, sha256 = made_context(address)
    server = DemoServer(folder, "127.0.0.1" if args.host == "localhost" else args.host, args.port, tls)
    scheme, port = "https" if tls else "http", server.server_port
    phone = f"{scheme}://{address}:{port}/" if address else None
    return server, Addresses(f"{scheme}://localhost:{port}/", phone, port, bool(tls), sha256, str(folder))


def describe(known: Addresses, everywhere: bool, made: bool) -> str:
    """What the terminal shows: the addresses, a QR code of the phone's, and what the phone will say."""
    lines = [f"on this machine   {known.url}"]
    if known.phone:
        lines += [f"on a phone        {known.phone}", ""]
        lines += [qr_code(known.phone) or 'for a QR code of it: pip install "addkit[demo]", or pip install segno', ""]
    elif everywhere:
        lines.append("on a phone        no network was found: join the phone's Wi-Fi, and start again")
    else:
        lines.append("on a phone        on the same Wi-Fi: start with --host 0.0.0.0 --tls")
    lines.append(f"Android by USB    adb reverse tcp:{known.port} tcp:{known.port}, then {known.url} on the phone")
    if known.phone and not known.tls:
        lines.append("plain http        a phone's browser will not install or keep the app, nor use WebGPU or threads: "
                     "add --tls, or go by USB")  # fmt: skip
    if made:
        lines += [
            "certificate       made for this run, so the phone warns about it: continue by Show Details (Safari)",
            "                  or Advanced (Chrome). To keep the app offline, the browser wants a certificate that the",
            "                  phone trusts: --cert and --key",
            f"SHA-256           {known.certificate_sha256}",
        ]
    return "\n".join([*lines, "Press Ctrl-C to stop."])


def work(args: argparse.Namespace) -> None:
    """Serves until Ctrl-C."""
    server, known = listen(args)
    with server:
        made = known.tls and not args.cert
        report = json.dumps(asdict(known)) if args.json else describe(known, args.host == EVERYWHERE, made)
        print_result(report)
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # how a server is meant to end
            tell("ended")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
