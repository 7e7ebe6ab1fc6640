"""Ways to corrupt a bundle's files, its manifest and its tokenizer: a table of named mutators.

A mutator takes a random generator and the folder of a fresh copy, and damages the copy. Those in RESIGNED are
followed by a manifest that lists what is there, as an attacker's would.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from runtime.manifest import COMPONENTS

Mutator = Callable[[Random, Path], None]
HOSTILE: list[Any] = [
    10**9,
    10**18,
    -1,
    0,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    2**31,
    2**63,
    2**64,
    None,
    True,
    "",
    "x" * 100_000,
    "\ud800",
    "\x00",
    "\x1b[2J",
    "../../etc/passwd",
    [],
    {},
    [[]],
    [10**9] * 3,
    {"a": {"b": []}},
    "1e9",
    "NaN",
]
PATHS = [
    "/etc/passwd",
    "../outside/canary",
    "unet/../../outside/canary",
    "unet/./model.onnx",
    "unet//model.onnx",
    "./unet/model.onnx",
    "unet/model.onnx/",
    "unet\\model.onnx",
    "C:/windows",
    "unet/model.onnx\x00.txt",
    "unet/\ud800",
    "",
    ".",
    "..",
    "unet/..",
    "manifest.json",
    "a" * 5000,
    "CON:",
    "unet/model.onnx ",
    "~/x",
    "/dev/zero",
    "unet/\n",
    "file:///etc/passwd",
]


def listed(folder: Path) -> list[Path]:
    """The files that the manifest lists, in its order."""
    names = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    return [folder / name for name in names]


def outside(folder: Path) -> Path:
    """The folder beside the bundle that nothing may read."""
    return folder.parent / "outside"


def models(folder: Path) -> list[Path]:
    """Every model.onnx."""
    return [folder / part / "model.onnx" for part in COMPONENTS]


def truncated(random: Random, folder: Path) -> None:
    """A file cut anywhere."""
    path = random.choice(listed(folder))
    os.truncate(path, random.randrange(max(1, path.stat().st_size)))


def bits_flipped(random: Random, folder: Path) -> None:
    """One to eight bits of one file."""
    flip(random, random.choice(listed(folder)))


def model_bits_flipped(random: Random, folder: Path) -> None:
    """One to eight bits of a model: half of the time near its end, where the names are and not the weights."""
    flip(random, random.choice(models(folder)), random.random() < 0.5)


def flip(random: Random, path: Path, late: bool = False) -> None:
    """Flips one to eight bits of a file, `late` within its last 300 bytes."""
    data = bytearray(path.read_bytes())
    for _ in range(random.randint(1, 8) if data else 0):
        first = max(0, len(data) - 300) if late else 0
        data[random.randrange(first, len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def swapped(random: Random, folder: Path) -> None:
    """Two files in each other's place."""
    exchange(*random.sample(listed(folder), 2))


def exchange(one: Path, other: Path) -> None:
    """Puts each file's bytes into the other."""
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def missing(random: Random, folder: Path) -> None:
    """Removes a file."""
    random.choice(listed(folder)).unlink()


def extended(random: Random, folder: Path) -> None:
    """Bytes after a file's end."""
    path = random.choice(listed(folder))
    path.write_bytes(path.read_bytes() + random.randbytes(random.choice([1, 100, 100_000])))


def replaced(random: Random, path: Path) -> None:
    """Something that is not a file in a file's place: a pipe, a folder, a socket's or a device's name, a loop."""
    path.unlink()
    kind = random.choice(["pipe", "folder", "zero", "random", "loop", "dangling", "tty", "fd"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        targets = {
            "zero": "/dev/zero",
            "random": "/dev/random",
            "loop": path.name,
            "tty": "/dev/tty",
            "fd": "/proc/self/fd/0",
        }
        path.symlink_to(targets.get(kind, "nowhere"))


def no_file(random: Random, folder: Path) -> None:
    """See `replaced`, for any file, the manifest too."""
    replaced(random, random.choice([*listed(folder), folder / "manifest.json"]))


def linked_out(random: Random, folder: Path) -> None:
    """A link to a file outside, which holds the very same bytes, or to one of the system's."""
    path = random.choice(listed(folder))
    target = outside(folder) / path.name
    shutil.copy(path, target)
    path.unlink()
    relative = Path("../..") / "outside" / path.name
    path.symlink_to(random.choice([target, relative, Path("/etc/passwd"), Path("/proc/self/environ")]))


def folder_linked_out(random: Random, folder: Path) -> None:
    """A component's folder that is a link to an equal one outside."""
    part = folder / random.choice([*COMPONENTS, "tokenizer"])
    shutil.move(part, outside(folder) / part.name)
    part.symlink_to(outside(folder) / part.name)


def hard_linked(random: Random, folder: Path) -> None:
    """Another file's second name: a file like any other, with other content."""
    path = random.choice(listed(folder))
    other = folder.parent / "other"
    other.write_bytes(random.randbytes(1000))
    path.unlink()
    os.link(other, path)


def sparse(random: Random, folder: Path) -> None:
    """A file of many gigabytes that takes no space."""
    os.truncate(random.choice(listed(folder)), random.choice([2**28, 2**31, 10**10, 20 * 10**9]))


def garbage(random: Random, folder: Path) -> None:
    """Something else in a model's place: noise, nothing, an archive, a pickle, another format's head."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../evil", bytes(10**6))
    kinds = [
        b"",
        b"\x00",
        random.randbytes(random.randrange(1, 5000)),
        archive.getvalue(),
        b"PK\x03\x04" + random.randbytes(100),
        b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.",
        b"\x08\x00\x00\x00ORTM" + bytes(100),
        b"\x7fELF" + bytes(1000),
        b"\xff" * 5000,
        b"version https://git-lfs.github.com/spec/v1\n",
    ]
    random.choice(models(folder)).write_bytes(random.choice(kinds))


def models_swapped(random: Random, folder: Path) -> None:
    """Two components in each other's place."""
    exchange(*random.sample(models(folder), 2))


def settings_spoilt(random: Random, folder: Path) -> None:
    """A configuration that only other loaders read."""
    path = random.choice(
        [path for path in listed(folder) if path.suffix == ".json" and path.parent.name != "tokenizer"]
    )
    path.write_text(random.choice(["", "[" * 10_000, "null", '{"vocab_size": -1}']))


def manifest_bytes(random: Random, folder: Path) -> None:
    """A manifest with flipped bits, cut off, or with bytes put in."""
    path = folder / "manifest.json"
    data = path.read_bytes()
    place = random.randrange(len(data))
    junk = random.choice(
        [b"\xff", b"\x00", b"{", b'"', b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000, b"\\ud800", b"NaN"]
    )
    if random.random() < 0.3:
        flip(random, path)
    else:
        path.write_bytes(
            data[:place] + junk + data[place + random.randrange(3) :] if random.random() < 0.8 else data[:place]
        )


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in parsed JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deep for key, one in inner for deep in _places(one, (*place, key)))]


def manifest_value(random: Random, folder: Path) -> None:
    """One value of the manifest replaced by an absurd one."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    *way, last = random.choice(_places(data)[1:])
    inner = data
    for key in way:
        inner = inner[key]
    inner[last] = random.choice(HOSTILE)
    path.write_text(json.dumps(data))


def manifest_field(random: Random, folder: Path) -> None:
    """A whole field of the manifest replaced, left out, or there twice."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    key = random.choice(list(data))
    if random.random() < 0.5:
        data[key] = random.choice([*HOSTILE, {str(i): [] for i in range(10_000)}, [[[]] * 1000]])
        path.write_text(json.dumps(data))
    elif random.random() < 0.5:
        del data[key]
        path.write_text(json.dumps(data))
    else:
        text = json.dumps({key: data[key]})[:-1] + ", "
        path.write_text(text + json.dumps(data)[1:])


def manifest_size(random: Random, folder: Path) -> None:
    """Huge sizes that would be allocated, or countless steps."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    big = random.choice([4096, 2048, 10**5, 10**9, 2**63])
    step = data["steps"]["1"][0]
    change = random.choice(
        [
            {"image_size": [big, big]},
            {"image_size": [32, big]},
            {"latent_shape": [big, big, big]},
            {"latent_shape": [5, 4, big]},
            {"max_tokens": big},
            {"steps": {str(i): [step] for i in range(1, 30_000)}},
            {"steps": {"20000": [step] * 20_000}},
            {"steps": {" 1": [step]}},
            {"steps": {"1": [step], "01": [step]}},
            {"scaling_factor": 1e-300},
            {"format_version": 1.0},
            {"files": {f"x/{i}": data["files"]["unet/model.onnx"] for i in range(20_000)}},
            {"training": [[]] * 10**6},
        ]
    )
    path.write_text(json.dumps(data | change))


def manifest_path(random: Random, folder: Path) -> None:
    """A file's name that is absolute, climbs, or reads differently elsewhere."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    name = random.choice(list(data["files"]))
    facts = data["files"].pop(name) if random.random() < 0.5 else data["files"][name]
    data["files"][random.choice(PATHS)] = facts
    path.write_text(json.dumps(data))


def manifest_large(random: Random, folder: Path) -> None:
    """A manifest of megabytes, or of a gigabyte that takes no space."""
    path = folder / "manifest.json"
    if random.random() < 0.5:
        os.truncate(path, random.choice([10**7, 10**9]))
    else:
        path.write_text(random.choice(["[", '{"a":', " ", "1", '"']) * random.choice([10**5, 10**6, 3 * 10**6]))


def vocabulary_spoilt(random: Random, folder: Path) -> None:
    """Ids of wrong types, out of range or twice; tokens missing, added or twice."""
    path = folder / "tokenizer" / "vocab.json"
    ids = json.loads(path.read_text(encoding="utf-8"))
    keys = list(ids)
    token = random.choice([*keys[:: len(keys) // 50], "<|startoftext|>", "<|endoftext|>"])
    choice = random.randrange(8)
    if choice < 3:
        ids[token] = random.choice([*HOSTILE, -5, 913, 914, 5000, 1_999_999])
    elif choice == 3:
        del ids[token]
    elif choice == 4:
        ids[random.choice(["new", "\ud800", "\x00", "x" * 10_000])] = random.randrange(-2, 2000)
    elif choice == 5:
        values = random.sample(list(ids.values()), len(ids))
        ids = dict(zip(ids, values, strict=True))
    text = json.dumps(ids, ensure_ascii=random.random() < 0.5 or choice == 4 or token in HOSTILE)
    if choice == 6:
        text = '{"a": 1, ' + text[1:]
    elif choice == 7:
        text = random.choice(["", "[]", "null", "{}", "[" * 100_000, json.dumps(list(ids)), json.dumps({"vocab": ids})])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def merges_spoilt(random: Random, folder: Path) -> None:
    """Merges without a space, of unknown tokens, twice, in another order, or none."""
    path = folder / "tokenizer" / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    place = random.randrange(1, len(lines))
    odd = random.choice(
        ["", "ab", "a b c", " a", "a ", "\u2028 x", "unknown token", "x" * 100_000, lines[5], "a\tb", "\x00 \x00"]
    )
    choice = random.randrange(5)
    if choice == 0:
        lines[place] = odd
    elif choice == 1:
        lines.insert(place, odd)
    elif choice == 2:
        lines = random.sample(lines, len(lines))
    elif choice == 3:
        lines = random.choice([[], [""], ["#version: 0.2"], lines[:place], lines * 50])
    text = ("\r\n" if choice == 4 else "\n").join(lines)
    path.write_text(text, encoding="utf-8", newline="")


def tokenizer_junk(random: Random, folder: Path) -> None:
    """Binary noise, nothing, or a huge amount of data instead of a tokenizer's file."""
    path = folder / "tokenizer" / random.choice(["vocab.json", "merges.txt"])
    choice = random.randrange(4)
    if choice == 0:
        path.write_bytes(
            random.choice([b"", b"\x00" * 1000, random.randbytes(3000), b"\xff\xfe", b"\n" * 10**6, b"a b\n" * 10**6])
        )
    elif choice == 1:
        flip(random, path)
    elif choice == 2:
        os.truncate(path, random.choice([10**8, 10**10]))
    else:
        path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


AS_LISTED: dict[str, Mutator] = {
    one.__name__: one
    for one in (
        truncated,
        bits_flipped,
        swapped,
        missing,
        extended,
        no_file,
        linked_out,
        folder_linked_out,
        hard_linked,
        sparse,
        manifest_bytes,
        manifest_value,
        manifest_field,
        manifest_size,
        manifest_path,
        manifest_large,
    )
}
RESIGNED: dict[str, Mutator] = {
    one.__name__ + "_resigned": one
    for one in (
        truncated,
        bits_flipped,
        model_bits_flipped,
        swapped,
        models_swapped,
        extended,
        no_file,
        linked_out,
        folder_linked_out,
        hard_linked,
        sparse,
        garbage,
        settings_spoilt,
        vocabulary_spoilt,
        merges_spoilt,
        tokenizer_junk,
    )
}
