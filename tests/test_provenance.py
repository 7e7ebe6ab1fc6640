"""Signed pictures: read back by C2PA's own reader, unchanged otherwise, and written whatever is wrong with a key."""

from __future__ import annotations

import hashlib
import io
import json
import random
import socket
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from runtime.__main__ import main
from runtime.batch import __main__ as batch
from runtime.image_files import SOURCE_TYPE, SUFFIXES, encode, is_whole, read_parameters
from runtime.provenance import __main__ as command
from runtime.provenance import identity
from runtime.provenance.certificates import new_identity
from runtime.provenance.claim import LABEL, Facts
from runtime.provenance.errors import NotSigned
from runtime.provenance.identity import identity_of, now, user_identity
from runtime.provenance.measure import measured, table
from runtime.provenance.options import Wish
from runtime.provenance.pictures import Signing
from runtime.provenance.sign import Signer, media_type, read_manifest
from tests.support.certificates import pem_of, root_of, signer_files
from tests.support.mistakes import refused
from tests.support.one_process import OneProcess

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"
PROMPT = "a red fox on a bicycle"
FACTS = Facts("tiny", "ab" * 32, PROMPT)
UNTRUSTED = ["signingCredential.untrusted"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, with signatures on and keys kept below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADDKIT_PROVENANCE")
    monkeypatch.setenv("ADDKIT_CONFIG", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(identity_of(new_identity(now()), "test"))


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 40, 3), np.uint8))


def file_of(format: str) -> bytes:
    return encode(picture(), f"{PROMPT}\nSteps: 1, Seed: 7", format)


def checked(data: bytes, anchors: str = "") -> dict[str, Any]:
    """What the library's own reader says, asked directly and with no settings of ours."""
    settings = {"trust": {"user_anchors": anchors}} if anchors else {}
    with c2pa.Reader(
        media_type(data), io.BytesIO(data), context=c2pa.Context(c2pa.Settings.from_dict(settings))
    ) as reader:
        said: dict[str, Any] = json.loads(reader.json())
        return said


def active(said: dict[str, Any]) -> dict[str, Any]:
    manifest: dict[str, Any] = said["manifests"][said["active_manifest"]]
    return manifest


def claims(said: dict[str, Any]) -> dict[str, Any]:
    return {one["label"]: one["data"] for one in active(said)["assertions"]}


def codes(said: dict[str, Any], what: str = "failure") -> list[str]:
    return [one["code"] for one in said["validation_results"]["activeManifest"][what]]


def without_manifest(data: bytes, format: str) -> bytes:
    """The file without the parts that hold a C2PA manifest, cut out by the rules of its format."""
    if format == "png":
        kept, at = data[:8], 8
        while at < len(data):
            size = 12 + struct.unpack(">I", data[at : at + 4])[0]
            kept += b"" if data[at + 4 : at + 8] == b"caBX" else data[at : at + size]
            at += size
        return kept
    if format == "webp":
        kept, at = b"", 12
        while at < len(data):
            size = struct.unpack("<I", data[at + 4 : at + 8])[0]
            size += 8 + size % 2
            kept += b"" if data[at : at + 4] == b"C2PA" else data[at : at + size]
            at += size
        return b"RIFF" + struct.pack("<I", len(kept) + 4) + b"WEBP" + kept
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:  # start of scan: the rest is the picture
        size = 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        kept += b"" if data[at + 1] == 0xEB else data[at : at + size]
        at += size
    return kept + data[at:]


@pytest.mark.parametrize("format", SUFFIXES)
def test_the_librarys_reader_accepts_a_signed_picture(format: str, signer: Signer) -> None:
    signed = signer.signed(file_of(format), format, FACTS)
    said = checked(signed)
    assert said["validation_state"] == "Valid" and codes(said) == UNTRUSTED
    assert {"assertion.dataHash.match", "claimSignature.validated"} <= set(codes(said, "success"))
    (action,) = claims(said)["c2pa.actions.v2"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", SOURCE_TYPE)
    assert SOURCE_TYPE.endswith("/trainedAlgorithmicMedia")
    sha256 = hashlib.sha256(PROMPT.encode()).hexdigest()
    assert claims(said)[LABEL] == {"model": "tiny", "bundle_sha256": "ab" * 32, "prompt_sha256": sha256}
    assert active(said)["claim_generator_info"][0]["name"] == "ADDKit"
    assert PROMPT not in json.dumps(said) and "title" not in active(said)


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_signature_adds_its_own_part_and_leaves_every_other_byte(format: str, signer: Signer) -> None:
    data = file_of(format)
    signed = signer.signed(data, format, FACTS)
    assert without_manifest(signed, format) == data
    assert is_whole(signed) and read_parameters(signed) == read_parameters(data)
    before, after = (np.asarray(Image.open(io.BytesIO(one))) for one in (data, signed))
    assert np.array_equal(before, after)
    assert b"trainedAlgorithmicMedia" in signed and len(signed) - len(data) < 6000


@pytest.mark.parametrize("format", SUFFIXES)
def test_an_altered_picture_is_found_out(format: str, signer: Signer) -> None:
    signed = bytearray(signer.signed(file_of(format), format, FACTS))
    pixels = {"png": b"IDAT", "webp": b"VP8 ", "jpeg": b"\xff\xda"}[format]
    for at in (bytes(signed).index(pixels) + 60, bytes(signed).index(b"CreatorTool")):
        altered = signed.copy()
        altered[at] ^= 1
        said = checked(bytes(altered))
        assert said["validation_state"] == "Invalid" and "assertion.dataHash.mismatch" in codes(said)
    altered = signed.copy()
    altered[bytes(signed).index(b"prompt_sha256") + 20] ^= 1
    assert checked(bytes(altered))["validation_state"] == "Invalid"


def test_a_reader_that_trusts_the_root_says_trusted(signer: Signer) -> None:
    said = checked(signer.signed(file_of("png"), "png", FACTS), anchors=root_of(signer.identity.chain))
    assert said["validation_state"] == "Trusted" and codes(said) == []


def test_the_prompt_is_told_when_asked(signer: Signer) -> None:
    facts = Facts("tiny", "ab" * 32, PROMPT, tells_prompt=True)
    assert claims(checked(signer.signed(file_of("png"), "png", facts)))[LABEL]["prompt"] == PROMPT


@pytest.mark.parametrize("key", ["p256", "p384", "p521", "ed25519", "rsa"])
def test_every_kind_of_key_that_c2pa_allows(key: str, home: Path) -> None:
    made: dict[str, Any] = {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }
    one = Signer(user_identity(*signer_files(home, key=made[key]())))
    assert checked(one.signed(file_of("png"), "png", FACTS))["validation_state"] == "Valid"


def test_many_threads_sign(signer: Signer) -> None:
    data = file_of("png")
    with ThreadPoolExecutor(4) as pool:
        signed = list(pool.map(lambda _: signer.signed(data, "png", FACTS), range(16)))
    assert {checked(one)["validation_state"] for one in signed} == {"Valid"}
    assert len({checked(one)["active_manifest"] for one in signed}) == 16


def drawn(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, Any] | None, list[str]]:
    """What the library reads in a picture that the command drew, and the lines on stderr; the picture is whole."""
    capsys.readouterr()
    assert main([PROMPT, "--bundle", str(TINY), "--seed", "7", "-o", "fox.png", "--json", *options]) == 0
    out, err = capsys.readouterr()
    data = Path("fox.png").read_bytes()
    assert is_whole(data) and b"trainedAlgorithmicMedia" in data and read_parameters(data)[1].startswith(PROMPT)
    signed = json.loads(out)["images"][0]["signed"]
    assert signed == (b"caBX" in data) and sorted(Path().glob("*.png")) == [Path("fox.png")]
    return checked(data) if signed else None, err.splitlines()


def test_the_command_signs_with_a_key_made_at_first_use(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, lines = drawn(capsys)
    assert first is not None and lines == [] and first["validation_state"] == "Valid" and codes(first) == UNTRUSTED
    manifest = hashlib.sha256((TINY / "manifest.json").read_bytes()).hexdigest()
    assert claims(first)[LABEL]["bundle_sha256"] == manifest
    path = home / "config" / "provenance" / "installation.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    second, _ = drawn(capsys)
    assert second is not None and second["active_manifest"] != first["active_manifest"]
    assert active(first)["signature_info"] == active(second)["signature_info"]


def test_the_users_certificate(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = signer_files(home)
    by_arguments, lines = drawn(capsys, "--cert", str(cert), "--key", str(key), "--provenance-prompt")
    assert by_arguments is not None and lines == []
    assert active(by_arguments)["signature_info"]["common_name"] == "A Studio"
    assert claims(by_arguments)[LABEL]["prompt"] == PROMPT
    monkeypatch.setenv("ADDKIT_CERT", str(cert))
    monkeypatch.setenv("ADDKIT_KEY", str(key))
    by_environment, _ = drawn(capsys)
    assert by_environment is not None and active(by_environment)["signature_info"]["common_name"] == "A Studio"
    cert.write_bytes(cert.read_bytes() + key.read_bytes())  # both in one file
    monkeypatch.delenv("ADDKIT_KEY")
    assert drawn(capsys)[0] is not None
    assert not (home / "config").exists()


def test_without_signatures_the_file_is_what_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drawn(capsys, "--no-provenance") == (None, [])
    plain = Path("fox.png").read_bytes()
    monkeypatch.setenv("ADDKIT_PROVENANCE", "off")
    assert drawn(capsys) == (None, []) and Path("fox.png").read_bytes() == plain
    monkeypatch.setenv("ADDKIT_PROVENANCE", "on")
    monkeypatch.setattr("runtime.provenance.pictures.find_spec", lambda name: None)  # the extra is not installed
    assert drawn(capsys) == (None, []) and Path("fox.png").read_bytes() == plain
    assert drawn(capsys)[0] is None and not Path("config").exists()
    monkeypatch.setitem(sys.modules, "c2pa", None)
    (line,) = drawn(capsys, "--cert", "c.pem")[1]
    assert line.endswith('signatures need c2pa, which is not installed: pip install "addkit[provenance]"')


def spoiled(home: Path, what: str) -> list[str]:
    """The options of a signature that cannot be made."""
    cert, key = signer_files(home, days={"expired": (-30, -2), "future": (2, 30)}.get(what, (-1, 30)))
    if what == "purpose":
        cert, key = signer_files(home, purpose=False)
    if what == "damaged key":
        key.write_bytes(key.read_bytes()[:100] + b"\n-----END PRIVATE KEY-----\n")
    if what == "password":
        key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    if what == "other key":
        key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    if what == "small curve":
        cert, key = signer_files(home, key=ec.generate_private_key(ec.SECP256K1()))
    if what == "no certificate":
        cert.write_text("no certificate")
    if what == "folder":
        return ["--cert", str(home)]
    if what == "absent":
        return ["--cert", "nowhere.pem"]
    if what == "no key":
        return ["--cert", str(cert)]
    return ["--cert", str(cert), "--key", str(key)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("expired", "expired on 20"),
        ("future", "clock says"),
        ("purpose", "the certificate is invalid"),
        ("damaged key", "damaged or of an unknown kind"),
        ("password", "has a password: give a key without"),
        ("other key", "does not belong to the first certificate"),
        ("small curve", "P-256, P-384, P-521, Ed25519"),
        ("no certificate", "holds no certificate"),
        ("folder", "is not a file"),
        ("absent", "there is no file nowhere.pem"),
        ("no key", "give the key as --key FILE"),
    ],
)
def test_what_cannot_be_signed_is_one_line_and_the_picture_is_written(
    what: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, lines = drawn(capsys, *spoiled(home, what))
    assert manifest is None and len(lines) == 1
    assert lines[0].startswith("warning: pictures are not signed") and said in lines[0]


def test_a_damaged_or_old_key_of_the_installation(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "config" / "provenance" / "installation.pem"
    drawn(capsys)
    sound = path.read_bytes()
    for damage in (b"", sound[:300], sound[:-300], sound.replace(b"A", b"B"), b"\0" * 300_000):
        path.write_bytes(damage)
        manifest, lines = drawn(capsys)
        assert manifest is None and len(lines) == 1 and str(path) in lines[0], damage[:50]
        assert path.read_bytes() == damage  # it is the user's to delete
    path.write_bytes(sound)
    for year, said in ((2001, "set the clock"), (2090, f"delete {path} to get a new key")):
        monkeypatch.setattr(identity, "now", lambda year=year: datetime(year, 1, 1, tzinfo=UTC))
        manifest, lines = drawn(capsys)
        assert manifest is None and len(lines) == 1 and said in lines[0]
    path.unlink()
    monkeypatch.setattr(identity, "now", lambda: datetime(1970, 1, 1, tzinfo=UTC))
    manifest, lines = drawn(capsys)
    assert manifest is None and "clock says 1970-01-01: set the clock" in lines[0] and not path.exists()


def test_where_no_key_can_be_kept_one_run_has_its_own(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("no folder can be made below it")
    monkeypatch.setenv("ADDKIT_CONFIG", str(home / "file" / "config"))
    manifest, lines = drawn(capsys)
    assert manifest is not None and manifest["validation_state"] == "Valid"
    assert len(lines) == 1 and lines[0].startswith("note: no key can be kept") and "run alone" in lines[0]
    monkeypatch.delenv("ADDKIT_CONFIG")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    manifest, lines = drawn(capsys)
    assert manifest is None and "set ADDKIT_CONFIG to a folder" in lines[0]


def test_a_failure_inside_the_library_leaves_the_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> bytes:
        raise c2pa.C2paError("out of\nluck")

    monkeypatch.setattr(c2pa.Builder, "sign", fails)
    manifest, lines = drawn(capsys)
    assert manifest is None and lines[0].endswith("C2PA's library refuses: out of luck") and len(lines) == 1


def camera_picture(home: Path) -> bytes:
    """A JPEG that another program signed, with another key."""
    who = user_identity(*signer_files(home, name="A Camera"))
    info = c2pa.C2paSignerInfo(who.algorithm.encode(), who.chain, who.key, None)
    capture = SOURCE_TYPE.replace("trainedAlgorithmicMedia", "digitalCapture")
    taken = {"action": "c2pa.created", "digitalSourceType": capture}
    said = {
        "claim_generator_info": [{"name": "Camera"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [taken]}}],
    }
    made = io.BytesIO()
    with c2pa.Builder(said) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign(signer, "image/jpeg", io.BytesIO(file_of("jpeg")), made)
    return made.getvalue()


def test_the_manifest_of_a_start_picture_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = camera_picture(home)
    Path("photo.jpg").write_bytes(photo)
    said, _ = drawn(capsys, "--image", "photo.jpg")
    assert said is not None and said["validation_state"] == "Valid" and codes(said) == UNTRUSTED
    (ingredient,) = active(said)["ingredients"]
    assert ingredient["relationship"] == "inputTo" and "title" not in ingredient
    kept = said["manifests"][ingredient["active_manifest"]]
    assert kept["claim_generator_info"][0]["name"] == "Camera" and kept["signature_info"]["common_name"] == "A Camera"
    assert checked(photo)["active_manifest"] == ingredient["active_manifest"]
    (action,) = claims(said)["c2pa.actions.v2"]["actions"]
    assert "c2pa.ingredient" in action["parameters"]["ingredients"][0]["url"]


def test_an_altered_or_unsigned_start_picture_is_said_to_be_that(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = bytearray(camera_picture(home))
    photo[-30] ^= 1
    Path("photo.jpg").write_bytes(photo)
    said, _ = drawn(capsys, "--image", "photo.jpg")
    assert said is not None and codes(said) == UNTRUSTED  # our own part is sound
    (ingredient,) = active(said)["ingredients"]
    found = ingredient["validation_results"]["activeManifest"]["failure"]
    assert "assertion.dataHash.mismatch" in [one["code"] for one in found]
    for name in ("start.png", "start.gif", "start.bmp"):
        picture().save(Path(name))
        start = Path(name).rename("start" + name[5:] + "-file")  # its name does not say what it is
        said, lines = drawn(capsys, "--image", str(start))
        assert said is not None and said["validation_state"] == "Valid", name
        assert not [line for line in lines if "manifest" in line]


def test_a_start_picture_whose_manifest_is_garbage(capsys: pytest.CaptureFixture[str]) -> None:
    from zlib import crc32

    data = file_of("png")
    body = b"caBX" + b"\0\0\0\x40jumbgarbage" + bytes(range(100))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", crc32(body))
    Path("start.png-file").write_bytes(data[:33] + chunk + data[33:])
    said, lines = drawn(capsys, "--image", "start.png-file")
    assert said is not None and said["validation_state"] == "Valid"
    assert len([line for line in lines if not line.startswith("note")]) <= 1


def test_a_start_picture_with_any_damage_stops_nothing(signer: Signer) -> None:
    chance, said = random.Random(3), list[str]()
    signing = Signing(Wish(), said.append)
    for number in range(60):
        format = ("png", "jpeg", "webp")[number % 3]
        start = bytearray(signer.signed(file_of(format), format, FACTS))
        begin = bytes(start).index(b"jumb")
        for _ in range(chance.choice((1, 3, 20))):
            start[begin + chance.randrange(3300)] = chance.randrange(256)
        if number % 5 == 0:
            del start[chance.randrange(len(start)) :]
        made, signed = signing.signed(file_of("png"), "png", FACTS, bytes(start))
        assert signed and checked(made)["validation_state"] == "Valid"
    assert said and all("\n" not in line and "start picture's own manifest" in line for line in said)


def test_a_manifest_elsewhere_is_not_fetched(signer: Signer) -> None:
    asked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        info = c2pa.C2paSignerInfo(b"es256", signer.identity.chain, signer.identity.key, None)
        made = io.BytesIO()
        with c2pa.Builder({"claim_generator_info": [{"name": "x"}]}) as builder, c2pa.Signer.from_info(info) as other:
            builder.set_remote_url(address)
            builder.set_no_embed()
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
            builder.sign(other, "image/jpeg", io.BytesIO(encode(picture(), "", "jpeg")), made)
        start = made.getvalue()
        assert address.encode() in start
        said = checked(signer.signed(file_of("png"), "png", FACTS, start))
        assert said["validation_state"] == "Valid"
        with suppress(NotSigned):
            assert read_manifest(start) is None
        with suppress(TimeoutError):
            asked.append(server.accept())
    assert asked == []


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_batch_signs_every_format(
    format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.batch.run.Pool", OneProcess)
    Path("p.txt").write_text(f"{PROMPT}\na pizza\n")
    assert batch.main(["p.txt", "--out", "o", "--bundle", str(TINY), "--format", format]) == 0
    for line in Path("o/manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        data = Path("o", row["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"] and len(data) == row["bytes"]
        said = checked(data)
        assert said["validation_state"] == "Valid"
        assert claims(said)[LABEL]["prompt_sha256"] == hashlib.sha256(row["prompt"].encode()).hexdigest()
    Path("config/provenance/installation.pem").write_text("damaged")
    capsys.readouterr()
    assert batch.main(["p.txt", "--out", "again", "--bundle", str(TINY), "--format", format]) == 0
    assert capsys.readouterr().err.count("warning: pictures are not signed") == 1
    assert len(list(Path("again").rglob(f"*{SUFFIXES[format]}"))) == 2


def test_options_that_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (
        ["--no-provenance", "--cert", "c.pem"],
        ["--key", "k.pem"],
        ["--no-provenance", "--provenance-prompt"],
    ):
        assert "--" in refused(capsys, main, PROMPT, "--bundle", TINY, *options)
    assert list(Path().glob("*.png")) == []


def test_the_command_that_reads(capsys: pytest.CaptureFixture[str], signer: Signer) -> None:
    signed = signer.signed(file_of("webp"), "webp", FACTS)
    Path("a.webp").write_bytes(signed)
    Path("b.png").write_bytes(file_of("png"))
    assert command.main(["a.webp", "b.png"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a.webp: Valid; signed by ADDKit installation") and "model tiny" in first
    assert second == "b.png: no manifest"
    Path("a.webp").write_bytes(signed.replace(b"CreatorTool", b"CreatorFool"))
    assert command.main(["a.webp", "--json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)["pictures"]
    assert one["state"] == "Invalid" and "assertion.dataHash.mismatch" in one["failures"]
    Path("a.webp").write_bytes(signed[:-2000])
    code = command.main(["a.webp"])
    out, err = capsys.readouterr()
    assert code in (1, 2) and (out + err).count("\n") == 1


def test_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measured(3)
    assert set(figures["formats"]) == set(SUFFIXES)
    for one in figures["formats"].values():
        assert 500 < one["marks_bytes"] < 6000 and 2000 < one["signature_bytes"] < 6000 and one["signature_ms"] > 0
    assert table(figures).count("\n") == 4
    assert command.main(["--measure", "--turns", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["turns"] == 2


def test_nothing_of_the_extra_is_imported_before_it_is_used(home: Path) -> None:
    code = f"""
import sys
from runtime.__main__ import main
assert main(["a fox", "--bundle", {str(TINY)!r}, "-o", "x.png", *sys.argv[1:]]) == 0
print([name for name in ("c2pa", "cryptography") if name in sys.modules])
"""
    for option, loaded in (("--no-provenance", "[]"), ("--seed=1", "['c2pa', 'cryptography']")):
        done = subprocess.run(
            [sys.executable, "-c", code, option], check=True, cwd=home, capture_output=True, text=True, timeout=120,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "ADDKIT_CONFIG": str(home / "c")},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == loaded, option


def test_files_that_hold_no_manifest() -> None:
    assert read_manifest(b"") is None and read_manifest(b"GIF89a") is None and read_manifest(file_of("jpeg")) is None
