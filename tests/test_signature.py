"""Signed bundles: by `export.sign` and by model-signing, each verified by the other; and what is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import hashing, signing
from model_signing._cli import main as model_signing

import runtime
import runtime.bundle
from export import sign
from runtime.__main__ import main
from runtime.errors import BundleError
from runtime.signature.bundle import SIGNATURE
from tests.support.certificates import CURVES, key_pair, pem_of, signer_files
from tests.support.mistakes import refused

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_bundle"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of our own, in a working folder with the keys me.key and me.pub."""
    monkeypatch.chdir(tmp_path)
    key_pair(tmp_path)
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture
def signed(bundle: Path) -> Path:
    assert sign.main([str(bundle), "--key", "me.key"]) == 0
    return bundle


def other_program(*arguments: object) -> str:
    """What the command of model-signing prints; it must succeed."""
    done = CliRunner().invoke(model_signing, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def draws(bundle: Path, key: str | Path = "me.pub") -> bool:
    with runtime.load(bundle, verify=key) as pipe:
        return bool(pipe("a fox", seed=1).images[0].size == (40, 32))


def why_not(bundle: Path, key: str | Path = "me.pub") -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(BundleError) as error:
        runtime.load(bundle, verify=key)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_signed_bundle_opens(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draws(signed) and draws(signed, Path("me.pub"))
    assert main(["a fox", "--bundle", str(signed), "--verify", "me.pub", "-o", "x.png"]) == 0
    assert runtime.load(signed).manifest.name == runtime.load(TINY).manifest.name  # who does not ask need not know


def test_the_other_program_accepts_what_we_sign(signed: Path) -> None:
    said = other_program("verify", "key", signed, "--signature", signed / SIGNATURE, "--public_key", "me.pub")
    assert "Verification succeeded" in said


@pytest.mark.parametrize("curve", CURVES)
def test_we_accept_what_the_other_program_signs(curve: str, bundle: Path, tmp_path: Path) -> None:
    key, public = key_pair(tmp_path, "maker", curve)
    other_program("sign", "key", bundle, "--signature", bundle / SIGNATURE, "--private_key", key)
    assert draws(bundle, public)
    first = (bundle / SIGNATURE).read_bytes()
    assert sign.main([str(bundle), "--key", str(key)]) == 0  # again, over the old one
    assert (bundle / SIGNATURE).read_bytes() != first and draws(bundle, public)
    other_program("verify", "key", bundle, "--signature", bundle / SIGNATURE, "--public_key", public)


def test_the_statement_lists_every_file(signed: Path) -> None:
    envelope = json.loads((signed / SIGNATURE).read_bytes())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    listed = {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}
    files = {path.relative_to(TINY).as_posix() for path in TINY.rglob("*") if path.is_file()}
    assert set(listed) == files
    manifest = json.loads((TINY / "manifest.json").read_bytes())
    assert {name: listed[name] for name in manifest["files"]} == {
        name: facts["sha256"] for name, facts in manifest["files"].items()
    }


def test_an_unsigned_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not signed: it has no model.sig" in why_not(bundle)
    line = refused(capsys, main, "a fox", "--bundle", bundle, "--verify", "me.pub")
    assert "is not signed" in line and list(Path().glob("*.png")) == []


def test_a_bundle_that_another_signed(signed: Path, tmp_path: Path) -> None:
    _, public = key_pair(tmp_path, "other")
    assert "does not fit" in why_not(signed, public) and "not of this key" in why_not(signed, public)
    _, public = key_pair(tmp_path, "larger", "p384")
    assert "not of this key" in why_not(signed, public)


def test_an_altered_bundle(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = signed / "unet" / "model.onnx"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert "model.onnx is altered" in why_not(signed)  # the manifest's hash says so
    manifest = json.loads((signed / "manifest.json").read_bytes())
    facts = runtime.bundle.describe_files(signed)["unet/model.onnx"]
    manifest["files"]["unet/model.onnx"] = facts
    (signed / "manifest.json").write_text(json.dumps(manifest))
    assert runtime.load(signed)  # whoever changes a file can change the manifest
    assert "manifest.json was altered after it was signed" in why_not(signed)
    line = refused(capsys, main, "a fox", "--bundle", signed, "--verify", "me.pub")
    assert "altered after it was signed" in line


def test_an_altered_signature_is_refused_wherever_it_is(signed: Path) -> None:
    path = signed / SIGNATURE
    sound = path.read_bytes()
    for at in range(0, len(sound), 97):
        for damage in (sound[:at], sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]):
            path.write_bytes(damage)
            if json_without_hint(damage) != json_without_hint(sound):
                assert SIGNATURE in why_not(signed)
    for text in ("[]", "{}", "null", "[" * 100_000, '{"a": 1, "a": 1}', '{"mediaType": [], "dsseEnvelope": 5}'):
        path.write_text(text)
        assert "cannot be used: it is damaged" in why_not(signed)
    path.unlink()
    path.mkdir()
    assert "is not a file but a folder" in why_not(signed)


def json_without_hint(data: bytes) -> Any:
    """What matters in a signature file: all but the key's name and the list of logs."""
    try:
        said = json.loads(data)
        return said["mediaType"], base64.b64decode(said["dsseEnvelope"]["payload"]), said["dsseEnvelope"]["signatures"]
    except (ValueError, KeyError):
        return None


def test_signatures_of_other_kinds(bundle: Path, tmp_path: Path) -> None:
    key, path = tmp_path / "me.key", bundle / SIGNATURE
    for how, said in (
        (hashing.Config().use_file_serialization(hashing_algorithm="blake3"), "sign files by sha256"),
        (hashing.Config().use_shard_serialization(), "sign files by sha256"),
        (hashing.Config().set_ignored_paths(paths=["manifest.json"]), "manifest.json is not part of the signature"),
        (hashing.Config().set_ignored_paths(paths=["unet"]), "is not part of the signature: sign the whole bundle"),
    ):
        path.unlink(missing_ok=True)
        signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(how).sign(bundle, path)
        assert said in why_not(bundle)


def test_a_signature_by_certificate_is_named(signed: Path) -> None:
    said = json.loads((signed / SIGNATURE).read_bytes())
    said["verificationMaterial"] = {"x509CertificateChain": {}, "tlogEntries": []}
    (signed / SIGNATURE).write_text(json.dumps(said))
    assert "with a certificate or by Sigstore" in why_not(signed)


def test_keys_that_verify_nothing(signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pub").write_text("no key")
    _, private = signer_files(tmp_path, key=rsa.generate_private_key(65537, 2048))
    form = ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(tmp_path / "rsa.pub")]
    subprocess.run(form, check=True, capture_output=True)
    for key, said in (
        ("nowhere.pub", "No such file"),
        (".", "Is a directory"),
        ("text.pub", "not a public key in PEM"),
        ("me.key", "it is a private key: give the public one"),
        ("rsa.pub", "P-256, P-384 or P-521"),
        ("", "cannot read key"),
    ):
        assert said in refused(capsys, main, "a fox", "--bundle", signed, "--verify", key)
        with pytest.raises(ValueError, match="key"):
            runtime.load(signed, verify=key)


def test_verifying_needs_cryptography_alone(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import sys, runtime
runtime.load({str(signed)!r}, verify=sys.argv[1] if sys.argv[1:] else True)
print([name for name in ("cryptography", "model_signing", "sigstore", "c2pa") if name in sys.modules])
"""
    for key, loaded in (([], "[]"), (["me.pub"], "['cryptography']")):
        done = subprocess.run(
            [sys.executable, "-c", code, *key], check=True, cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "ADDKIT_CACHE": "off"},
        )  # fmt: skip
        assert done.stdout.strip() == loaded
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ValueError, match="pip install cryptography"):
        runtime.load(signed, verify="me.pub")


def test_what_export_sign_refuses(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.key").write_text("no key")
    (tmp_path / "locked.key").write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    (tmp_path / "rsa.key").write_bytes(pem_of(rsa.generate_private_key(65537, 2048)))
    for key, said in (
        ("nowhere.key", "cannot read key nowhere.key"),
        ("text.key", "not a private key in PEM"),
        ("me.pub", "not a private key in PEM"),
        ("locked.key", "has a password"),
        ("rsa.key", "another kind of key"),
    ):
        assert said in refused(capsys, sign.main, bundle, "--key", key)
    assert "no bundle nowhere" in refused(capsys, sign.main, "nowhere", "--key", "me.key")
    (bundle / "link").symlink_to(tmp_path / "me.key")
    assert "symlink" in refused(capsys, sign.main, bundle, "--key", "me.key")
    (bundle / "link").unlink()
    (bundle / "model_index.json").write_text("{}")
    assert "model_index.json is truncated" in refused(capsys, sign.main, bundle, "--key", "me.key")
    assert not (bundle / SIGNATURE).exists()


def test_the_report(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sign.main([str(bundle), "--key", "me.key", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(bundle / SIGNATURE) and len(report["manifest_sha256"]) == 64
