"""What all pictures of one batch have in common, as it travels to the workers and into run.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """One batch's settings; two starts with equal ones and equal rows make the same folder."""

    bundle: str  # name in its manifest
    bundle_sha256: str  # of its manifest.json, which holds the hash of every other file
    provider: str  # cpu, cuda, coreml or openvino
    num_inference_steps: int
    format: str  # a key of runtime.encoding.SUFFIXES
    quality: int | None  # 1 to 100; None: the format's own
    seed: int  # from which rows without a seed get theirs
    shard_size: int | None  # samples of a WebDataset shard; None: plain files
    addkit: str  # version, which stands in every picture

    def to_dict(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)
