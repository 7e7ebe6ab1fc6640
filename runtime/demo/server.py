"""A web server for the built app alone: the headers that isolation and caching need, files and nothing else."""

from __future__ import annotations

import errno
import os
import socketserver
import ssl
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from runtime import __version__
from runtime.command import tell
from runtime.demo.files import Asset, accepts_gzip, byte_range, compressed, find_asset
from runtime.errors import Error

# The first two isolate the page, without which a browser gives WebAssembly no threads.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
PIECE = 1 << 16  # bytes read and sent at once
IDLE_S = 60  # an idle connection is closed after this long


class DemoHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with one file of the app."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: DemoServer

    def version_string(self) -> str:
        return f"addkit/{__version__}"

    def do_GET(self) -> None:
        asset = find_asset(self.server.folder, self.path)
        try:
            if asset is None:
                self.send_error(HTTPStatus.NOT_FOUND, "the app has no such file")
            else:
                self._send_asset(asset)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
                raise
            self.send_error(HTTPStatus.NOT_FOUND, "the file cannot be read")

    do_HEAD = do_GET

    def _send_asset(self, asset: Asset) -> None:
        shrunk = asset.shrinks and accepts_gzip(self.headers["Accept-Encoding"]) and not self.headers["Range"]
        tag = f'"{asset.tag}-gzip"' if shrunk else f'"{asset.tag}"'
        headers = {"Cache-Control": asset.caching, "ETag": tag, "Accept-Ranges": "bytes"}
        if asset.shrinks:
            headers["Vary"] = "Accept-Encoding"
        if tag in (self.headers["If-None-Match"] or ""):
            self._start(HTTPStatus.NOT_MODIFIED, headers)
            return
        headers["Content-Type"] = asset.type
        if shrunk:
            data = compressed(asset)
            self._start(HTTPStatus.OK, headers | {"Content-Encoding": "gzip", "Content-Length": str(len(data))})
            self._write(data)
            return
        self._send_part(asset, tag, headers)

    def _send_part(self, asset: Asset, tag: str, headers: dict[str, str]) -> None:
        """The file, or the part that the request asks for, unless that part is of an older state of it."""
        wanted = self.headers["Range"] if self.headers["If-Range"] in (None, tag) else None
        try:
            part = byte_range(wanted, asset.size)
        except ValueError:
            headers = {"Content-Range": f"bytes */{asset.size}"}
            self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"the file has {asset.size} bytes", headers)
            return
        start, stop = part or (0, asset.size)
        headers["Content-Length"] = str(stop - start)
        with open(asset.path, "rb") as file:
            if part:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{asset.size}"
            self._start(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK, headers)
            if self.command != "HEAD":
                self._copy(file, start, stop)

    def _copy(self, file: BinaryIO, start: int, stop: int) -> None:
        """Bytes of an open file. If it shrank meanwhile, the connection ends: the promised length cannot be kept."""
        file.seek(start)
        while start < stop:
            data = file.read(min(PIECE, stop - start))
            if not data:
                self.close_connection = True
                return
            self.wfile.write(data)
            start += len(data)

    def _start(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (ISOLATION | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | dict[str, str] | None = None) -> None:
        """One line of text; `explain` may be further headers. Ends the connection, since a body may be unread."""
        line = f"{int(code)} {message or HTTPStatus(code).phrase}\n".encode("utf-8", "replace")
        extra = explain if isinstance(explain, dict) else {}
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(line)), "Connection": "close"}
        self._start(HTTPStatus(code), headers | {"Cache-Control": "no-store"} | extra)
        self._write(line)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the terminal shows the address and its QR code."""


class DemoServer(ThreadingHTTPServer):
    """Listens on construction; `serve_forever` answers. Every connection has a thread of its own.

    Raises Error, one line, where the port is unavailable.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would let two servers share a port

    def __init__(self, folder: Path, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder.resolve()
        self.tls = tls
        try:
            super().__init__((host, port), DemoHandler)
        except OSError as error:
            raise Error(_refusal(error, port)) from error

    def server_bind(self) -> None:
        """Without the parent's search for the host's full name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Within the connection's thread, where a slow handshake delays nobody else."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE_S)
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Phones leave, and try plain http on a port of https: neither is worth a message."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
            tell(f"warning: a request from {client_address[0]} failed: {error!r}")


def _refusal(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: choose another with --port N, or let --port 0 find a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to use port {port}: choose one above 1023 with --port N"
    return f"cannot listen on port {port}: {error.strerror or error}"
