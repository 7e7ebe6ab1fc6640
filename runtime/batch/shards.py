"""WebDataset shards: one tar per thousand samples, each sample a picture and a JSON file with the same key."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.batch.ledger import to_line


def shard_name(row: int, shard_size: int) -> str:
    """The file that a row goes to: 000000.tar holds the rows from 0 to shard_size - 1."""
    return f"{row // shard_size:06d}.tar"


def tar_bytes(samples: Iterable[tuple[dict[str, Any], bytes]]) -> bytes:
    """A shard of (facts, picture) pairs; facts["member"] names the picture. Equal samples give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for facts, picture in samples:
            name = facts["member"]
            sample = {key: value for key, value in facts.items() if key not in ("member", "path")}
            _add(tar, name, picture)
            _add(tar, str(PurePosixPath(name).with_suffix(".json")), to_line(sample))
    return buffer.getvalue()


def read_samples(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """The (facts, picture) pairs of a shard, as `tar_bytes` took them.

    Raises ValueError unless the file is exactly what `tar_bytes` makes of them.
    """
    try:
        data = path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = iter(tar)
            samples = [_sample(tar, picture, next(members), path.name) for picture in members]
    except (tarfile.TarError, OSError, KeyError, TypeError, StopIteration, RuntimeError) as error:
        raise ValueError(f"{path} is not a shard, or is damaged") from error
    if tar_bytes(samples) != data:
        raise ValueError(f"{path} is not as it was written")
    return samples


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # its owner and time are zero
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _sample(
    tar: tarfile.TarFile, picture: tarfile.TarInfo, sample: tarfile.TarInfo, shard: str
) -> tuple[dict[str, Any], bytes]:
    file, text = tar.extractfile(picture), tar.extractfile(sample)
    if file is None or text is None:
        raise ValueError("a member is not a file")
    data = file.read()
    facts: dict[str, Any] = json.loads(text.read())
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise ValueError("a picture is not the one that was written")
    return {"row": facts.pop("row"), "path": shard, "member": picture.name, **facts}, data
