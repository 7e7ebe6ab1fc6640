"""The demo's server: what it serves, what it does not reveal, and what the command prints."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.demo import __main__ as demo
from runtime.demo import address as demo_address
from runtime.demo import server as demo_server
from runtime.demo import tls as demo_tls
from runtime.demo.__main__ import EXAMPLES, main
from runtime.demo.files import accepts_gzip, byte_range, find_asset
from runtime.demo.server import DemoServer

ROOT = Path(__file__).parent.parent
FOREVER = "public, max-age=31536000, immutable"
SCRIPT = b"console.log('a fox');\n" * 100
WASM = bytes(range(256)) * 1024
FILES = {
    "index.html": b"<!doctype html><title>app</title>",
    "sw.js": b"self;",
    "manifest.webmanifest": b"{}",
    "assets/app-3f2a.js": SCRIPT,
    "assets/worker-77aa.mjs": SCRIPT,
    "assets/ort-91bc.wasm": WASM,
    "assets/style-12ab.css": b"body{}",
    "models/index.json": b"[]",
    "models/pieces/0a1b2c": WASM,
    "icons/icon-192.png": b"\x89PNG",
    "icons/icon.svg": b"<svg/>",
    "nested/index.html": b"nested",
    ".env": b"secret",
    "unknown.thing": b"?",
}
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command here")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder as the build leaves it, and a secret beside it."""
    folder = tmp_path / "dist"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return folder


@contextmanager
def served(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[DemoServer]:
    """The server on a free port, in a thread."""
    with DemoServer(folder, "127.0.0.1", 0, tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(app: Path) -> Iterator[DemoServer]:
    with served(app) as running:
        yield running


def ask(server: DemoServer | SimpleNamespace, target: str, method: str = "GET", **headers: str) -> SimpleNamespace:
    """One request as it stands, without the tidying of clients: status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return SimpleNamespace(status=response.status, headers=response.headers, body=body)


@pytest.mark.parametrize("target", ["/", "/assets/app-3f2a.js", "/missing"])
def test_every_answer_isolates_the_page(server: DemoServer, target: str) -> None:
    headers = ask(server, target).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    ("name", "kind", "caching"),
    [
        ("", "text/html; charset=utf-8", "no-cache"),
        ("index.html", "text/html; charset=utf-8", "no-cache"),
        ("?source=home", "text/html; charset=utf-8", "no-cache"),
        ("nested/", "text/html; charset=utf-8", "no-cache"),
        ("sw.js", "text/javascript; charset=utf-8", "no-cache"),
        ("manifest.webmanifest", "application/manifest+json", "no-cache"),
        ("models/index.json", "application/json", "no-cache"),
        ("assets/app-3f2a.js", "text/javascript; charset=utf-8", FOREVER),
        ("assets/worker-77aa.mjs", "text/javascript; charset=utf-8", FOREVER),
        ("assets/ort-91bc.wasm", "application/wasm", FOREVER),
        ("assets/style-12ab.css", "text/css; charset=utf-8", FOREVER),
        ("models/pieces/0a1b2c", "application/octet-stream", FOREVER),
        ("icons/icon-192.png", "image/png", "no-cache"),
        ("icons/icon.svg", "image/svg+xml", "no-cache"),
        ("unknown.thing", "application/octet-stream", "no-cache"),
    ],
)
def test_types_and_caching(server: DemoServer, name: str, kind: str, caching: str) -> None:
    answer = ask(server, f"/{name}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert answer.headers["Cache-Control"] == caching
    file = name.partition("?")[0]
    assert answer.body == FILES[f"{file}index.html" if file in ("", "nested/") else file]


def test_head_has_the_headers_of_get_and_no_body(server: DemoServer) -> None:
    for target in ("/assets/ort-91bc.wasm", "/assets/app-3f2a.js", "/missing"):
        get, head = ask(server, target, Accept_Encoding="gzip"), ask(server, target, "HEAD", Accept_Encoding="gzip")
        assert head.body == b"" and head.status == get.status
        assert {k: v for k, v in head.headers.items() if k != "Date"} == {
            k: v for k, v in get.headers.items() if k != "Date"
        }


def test_text_is_compressed_for_those_who_accept_it(server: DemoServer, app: Path) -> None:
    plain, small = ask(server, "/assets/app-3f2a.js"), ask(server, "/assets/app-3f2a.js", Accept_Encoding="br, gzip")
    assert plain.headers["Content-Encoding"] is None and plain.body == SCRIPT
    assert small.headers["Content-Encoding"] == "gzip" and gzip.decompress(small.body) == SCRIPT
    assert len(small.body) < len(SCRIPT) / 5 and small.headers["Content-Length"] == str(len(small.body))
    assert plain.headers["Vary"] == small.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != small.headers["ETag"]
    assert ask(server, "/assets/ort-91bc.wasm", Accept_Encoding="gzip").headers["Content-Encoding"] is None
    (app / "assets/app-3f2a.js").write_bytes(b"changed")
    assert gzip.decompress(ask(server, "/assets/app-3f2a.js", Accept_Encoding="gzip").body) == b"changed"


def test_who_accepts_gzip() -> None:
    assert all(accepts_gzip(one) for one in ("gzip", "br, GZIP;q=0.5", "gzip; q=1.0", " deflate,gzip"))
    assert not any(accepts_gzip(one) for one in (None, "", "br", "gzip;q=0", "br, gzip; q=0.0", "x-gzip"))


def test_an_unchanged_file_is_not_sent_again(server: DemoServer, app: Path) -> None:
    first = ask(server, "/index.html")
    again = ask(server, "/index.html", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    (app / "index.html").write_bytes(b"another state")
    assert ask(server, "/index.html", If_None_Match=first.headers["ETag"]).body == b"another state"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=262143-", 262143, 262144),
        ("bytes=-5", 262139, 262144),
        ("bytes=262000-999999999", 262000, 262144),
        ("bytes=-999999999", 0, 262144),
    ],
)
def test_a_part_of_a_file(server: DemoServer, asked: str, start: int, stop: int) -> None:
    answer = ask(server, "/models/pieces/0a1b2c", Range=asked)
    assert (answer.status, answer.body) == (206, WASM[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(WASM)}"
    assert answer.headers["Accept-Ranges"] == "bytes" and answer.headers["Cache-Control"] == FOREVER
    head = ask(server, "/models/pieces/0a1b2c", "HEAD", Range=asked)
    assert (head.status, head.body, head.headers["Content-Length"]) == (206, b"", str(stop - start))


@pytest.mark.parametrize("asked", ["bytes=262144-", "bytes=999999-1000000", "bytes=-0"])
def test_a_part_that_a_file_has_not(server: DemoServer, asked: str) -> None:
    answer = ask(server, "/models/pieces/0a1b2c", Range=asked)
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */262144")
    assert answer.body == b"416 the file has 262144 bytes\n"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-3", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=٣-٤"])
def test_ranges_that_it_does_not_read_mean_the_whole_file(asked: str) -> None:
    assert byte_range(asked, 100) is None


def test_a_part_of_an_older_state_means_the_whole_file(server: DemoServer) -> None:
    tag = ask(server, "/models/pieces/0a1b2c").headers["ETag"]
    assert ask(server, "/models/pieces/0a1b2c", Range="bytes=1-2", If_Range=tag).body == WASM[1:3]
    assert ask(server, "/models/pieces/0a1b2c", Range="bytes=1-2", If_Range='"other"').body == WASM


def test_a_part_of_a_text_counts_its_own_bytes(server: DemoServer) -> None:
    answer = ask(server, "/assets/app-3f2a.js", Range="bytes=0-6", Accept_Encoding="gzip")
    assert (answer.status, answer.body, answer.headers["Content-Encoding"]) == (206, b"console", None)


@pytest.mark.parametrize(
    "target",
    [
        "/missing",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/assets/../../secret.txt",
        "/assets/%2e%2e%2f%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/C:/Windows/win.ini",
        "/index.html%00.js",
        "/.env",
        "/%2eenv",
        "/assets",
        "/assets/",
        "/index.html/more",
        "/" + "a" * 5000,
        "///[",
    ],
)
def test_what_is_not_the_apps_is_not_there(server: DemoServer, target: str) -> None:
    answer = ask(server, target)
    assert (answer.status, answer.body) == (404, b"404 the app has no such file\n")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_links_may_not_lead_out_of_the_folder(server: DemoServer, app: Path) -> None:
    (app / "out.txt").symlink_to(app.parent / "secret.txt")
    (app / "out").symlink_to(app.parent)
    (app / "within.html").symlink_to(app / "index.html")
    os.mkfifo(app / "pipe")
    for target in ("/out.txt", "/out/secret.txt", "/pipe"):
        assert ask(server, target).status == 404, target
    assert ask(server, "/within.html").body == FILES["index.html"]


def test_a_folder_that_is_a_link_itself_is_served(app: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(app)
    with served(tmp_path / "link") as server:
        assert ask(server, "/sw.js").body == FILES["sw.js"]
    assert find_asset(app.resolve(), "/sw.js") is not None


def test_other_methods_are_refused_in_one_line(server: DemoServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = ask(server, "/index.html", method)
        assert answer.status == 501 and answer.body.count(b"\n") == 1, method


def test_a_file_that_cannot_be_read_is_one_line(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(asset: Any) -> bytes:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(demo_server, "compressed", locked)
    assert ask(server, "/sw.js", Accept_Encoding="gzip").body == b"404 the file cannot be read\n"


def test_one_connection_takes_many_requests_and_many_connections_are_answered_at_once(server: DemoServer) -> None:
    idle = socket.create_connection(("127.0.0.1", server.server_port))  # would block a server without threads
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/index.html")
        assert connection.getresponse().read() == FILES["index.html"]
    connection.close()
    idle.close()


def test_a_client_that_leaves_is_not_worth_a_word(
    server: DemoServer, app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (app / "large").write_bytes(bytes(32 << 20))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.server_port)) as left:
            left.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            left.recv(1000)
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask(server, "/large").body == bytes(32 << 20)
    assert capsys.readouterr() == ("", "")


def run(*arguments: str) -> int:
    return main(list(arguments))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_an_app_that_is_not_built(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "npm ci && npm run build" in refused(capsys, "--directory", str(tmp_path))
    monkeypatch.setattr(demo, "BUILT", tmp_path / "dist")
    assert f"npm run build` in {tmp_path}" in refused(capsys)
    monkeypatch.setattr(demo, "BUILT", tmp_path / "no" / "web" / "dist")
    assert "--directory DIR" in refused(capsys)
    assert main(["--host", "example.org"]) == 2


def test_arguments_that_cannot_be(capsys: pytest.CaptureFixture[str], app: Path) -> None:
    given = ("--directory", str(app))
    assert "0 to 65535" in refused(capsys, *given, "--port", "65536")
    assert "belong together" in refused(capsys, *given, "--cert", "a.pem")
    assert "there is no file a.pem" in refused(capsys, *given, "--cert", "a.pem", "--key", "b.pem")
    page = str(app / "index.html")
    assert "PEM certificate" in refused(capsys, *given, "--cert", page, "--key", page)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], server: DemoServer, app: Path) -> None:
    line = refused(capsys, "--directory", str(app), "--port", str(server.server_port))
    assert f"port {server.server_port} is in use" in line and "--port" in line


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m runtime.demo` in a process of its own, killed at the end if it still runs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.demo", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_command_says_in_json_where_it_listens_and_ends_quietly(app: Path) -> None:
    with command("--directory", str(app), "--port", "0", "--json") as process:
        known = json.loads(first_line(process))
        assert known["url"] == f"http://localhost:{known['port']}/" and known["phone"] is None
        assert ask(SimpleNamespace(server_port=known["port"]), "/").body == FILES["index.html"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "ended\n")


def text_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command shows; it ends as soon as it serves."""

    def interrupted(self: Any, poll_interval: float = 0.5) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DemoServer, "serve_forever", interrupted)
    assert run("--port", "0", *arguments) == 0
    return capsys.readouterr().out


def test_localhost_names_the_ways_to_a_phone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: Path
) -> None:
    text = text_of(monkeypatch, capsys, "--directory", str(app))
    assert "http://localhost:" in text and "--host 0.0.0.0" in text and "adb reverse tcp:" in text and "█" not in text


def test_the_network_gets_an_address_and_its_qr_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: Path
) -> None:
    segno = pytest.importorskip("segno")
    monkeypatch.setattr(demo, "lan_address", lambda: "192.0.2.7")
    text = text_of(monkeypatch, capsys, "--directory", str(app), "--host", "0.0.0.0")
    url = next(line for line in text.splitlines() if "192.0.2.7" in line).split()[-1]
    assert "will not install or keep the app" in text and "--tls" in text
    drawn = [line for line in text.splitlines() if set(line) <= set("█▀▄ ") and line.strip()]
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}  # light blocks are a code's light modules
    modules = [[halves[block][half] for block in line] for line in drawn for half in (0, 1)]
    expected = [[int(dark) for dark in row] for row in segno.make_qr(url, error="m").matrix_iter(border=2)]
    assert modules[: len(expected)] == expected


def test_without_segno_one_line_says_how_to_get_the_qr_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: Path
) -> None:
    monkeypatch.setattr(demo, "lan_address", lambda: "192.0.2.7")
    monkeypatch.setitem(sys.modules, "segno", None)
    text = text_of(monkeypatch, capsys, "--directory", str(app), "--host", "0.0.0.0")
    assert "█" not in text and text.count("segno") == 1 and "http://192.0.2.7:" in text


def test_a_machine_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: Path
) -> None:
    class Nowhere(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", Nowhere)
    monkeypatch.setattr(demo_address, "_own_addresses", lambda: ["127.0.1.1", "169.254.3.4", "10.1.2.3"])
    assert demo_address.lan_address() == "10.1.2.3"
    monkeypatch.setattr(demo_address, "_own_addresses", lambda: ["127.0.1.1"])
    assert demo_address.lan_address() is None
    monkeypatch.undo()
    monkeypatch.setattr(demo, "lan_address", lambda: None)
    assert "no network was found" in text_of(monkeypatch, capsys, "--directory", str(app), "--host", "0.0.0.0")


@needs_openssl
def test_https_with_a_certificate_made_for_the_run(app: Path) -> None:
    made, sha256 = demo_tls.made_context("192.0.2.7")
    with served(app, made) as server:
        plain = socket.create_connection(("127.0.0.1", server.server_port))  # does not stop the server
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        pem = ssl.get_server_certificate(("127.0.0.1", server.server_port))
        pem_file = app.parent / "cert.pem"
        pem_file.write_text(pem)
        assert demo_tls.fingerprint(pem_file) == sha256 and len(sha256) == 95
        trusting = ssl.create_default_context(cafile=str(pem_file))
        for name in ("localhost", "127.0.0.1", "192.0.2.7"):
            raw = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
            with trusting.wrap_socket(raw, server_hostname=name) as secured:
                secured.sendall(b"GET /sw.js HTTP/1.0\r\n\r\n")
                answer = http.client.HTTPResponse(secured)
                answer.begin()
                assert answer.read() == FILES["sw.js"]
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        raw = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
        with pytest.raises(ssl.SSLCertVerificationError):
            trusting.wrap_socket(raw, server_hostname="192.0.2.8")
        raw.close()
        plain.close()


@needs_openssl
def test_the_key_does_not_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    demo_tls.made_context(None)
    assert list(tmp_path.iterdir()) == []


@needs_openssl
def test_the_command_serves_https(app: Path) -> None:
    with command("--directory", str(app), "--port", "0", "--json", "--tls", "--host", "0.0.0.0") as process:
        known = json.loads(first_line(process))
        assert known["tls"] and known["url"].startswith("https://localhost:")
        pem = ssl.get_server_certificate(("127.0.0.1", known["port"]))
        (app.parent / "cert.pem").write_text(pem)
        assert known["certificate_sha256"] == demo_tls.fingerprint(app.parent / "cert.pem")


def test_tls_without_openssl_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, app: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "--cert FILE --key FILE" in refused(capsys, "--directory", str(app), "--tls")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--directory", str(tmp_path), "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_help_has_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert EXAMPLES.strip() in capsys.readouterr().out
