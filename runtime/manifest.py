"""manifest.json: its fields, read strictly and written back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from runtime.errors import BundleError
from runtime.schedule import PREDICTION_TYPES
from runtime.untrusted import shown

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights", "int4-weights")
REQUIRED = ("text_encoder", "unet", "vae_decoder")  # the networks of every bundle, in the order of a call
COMPONENTS = (*REQUIRED, "vae_encoder")  # and the one that image to image needs
MARKER = "export.json"  # what Core ML and OpenVINO exports have in the place of a manifest
# Far beyond every one-step model there is, and small enough that nothing computed from them fills the memory.
MOST_SIDE, MOST_PIXELS = 4096, 2048 * 2048
MOST_LATENTS = 2**24  # values
MOST_TOKENS = 4096
MOST_TIMESTEP = 999
MOST_FILES, MOST_FILE_BYTES = 1000, 16 * 10**9
MOST_NAME = 200


@dataclass(frozen=True)
class Step:
    """One call of the U-Net."""

    timestep: int  # 0..999, 999 is pure noise
    alpha: float  # weight of the picture in the noised latents
    sigma: float  # weight of the noise; alpha**2 + sigma**2 = 1


@dataclass(frozen=True)
class FileFacts:
    """What a file of the bundle must be."""

    sha256: str  # 64 hexadecimal digits
    bytes: int  # size


@dataclass(frozen=True)
class Manifest:
    """manifest.json, field by field; constants live here and nowhere else."""

    format_version: int  # 1
    name: str
    precision: str  # of the weights: one of PRECISIONS
    image_size: tuple[int, int]  # height, width in pixels
    latent_shape: tuple[int, int, int]  # channels, height, width
    prediction_type: str  # v_prediction or epsilon
    scaling_factor: float  # latents are divided by it before the decoder
    max_tokens: int  # that the text encoder reads, start and end marks included
    steps: Mapping[int, tuple[Step, ...]]  # number of steps -> the steps, noisiest first
    files: Mapping[str, FileFacts]  # every file but manifest.json, by its path with "/"
    licences: tuple[Mapping[str, Any], ...]  # {"what", "licence", "source"}
    training: Mapping[str, Any]  # free
    parity: Mapping[str, Any]  # free

    @classmethod
    def from_dict(cls, data: Any) -> Manifest:
        """Checks and converts parsed JSON; BundleError on an unknown or missing field or a bad value."""
        if not isinstance(data, Mapping):
            raise BundleError(f"{MANIFEST} holds no JSON object")
        _check_version(data)
        _check_keys(MANIFEST, data, {field.name for field in fields(cls)})
        values = {name: _converted(MANIFEST, name, data[name]) for name in data}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which `from_dict` reads back."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        data["steps"] = {str(n): [asdict(step) for step in steps] for n, steps in self.steps.items()}
        data["files"] = {name: asdict(facts) for name, facts in self.files.items()}
        return data


def _check_version(data: Mapping[str, Any]) -> None:
    version = data.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        known = f"this program reads {FORMAT_VERSION}"
        raise BundleError(f"{MANIFEST}: format_version {shown(repr(version))} is unknown, {known}")


def _check_keys(where: str, data: Mapping[str, Any], known: set[str]) -> None:
    """Exactly these keys: an unread one would be a hidden mistake."""
    for what, names in (("unknown", set(data) - known), ("missing", known - set(data))):
        if names:
            raise BundleError(f"{where}: {what} field {shown(', '.join(sorted(map(str, names))))}")


def _converted(where: str, name: str, value: Any) -> Any:
    """The value of one field in its Python form."""
    try:
        return _READERS[name](value)
    except BundleError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        found = shown(json.dumps(value))
        raise BundleError(f"{where}: {name} {found} is not allowed: {shown(error, 200)}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("text is needed")
    return value


def _name(value: Any) -> str:
    if not _text(value).isprintable() or len(value) > MOST_NAME:
        raise ValueError(f"{MOST_NAME} characters that can be printed are allowed")
    return str(value)


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} is needed")
        return str(value)

    return read


def _whole(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"a whole number from {least} to {most} is needed")
    return value


def _real(value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"a number from {least} to {most} is needed")
    return float(value)


def _sizes(count: int, most: int) -> Callable[[Any], tuple[int, ...]]:
    """Reads `count` sizes whose product is at most `most`."""

    def read(value: Any) -> tuple[int, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise ValueError(f"{count} whole numbers are needed")
        sizes = tuple(_whole(size, 1, MOST_SIDE) for size in value)
        if math.prod(sizes) > most:
            raise ValueError(f"they multiply to {math.prod(sizes)}, {most} at most is allowed")
        return sizes

    return read


def _steps(value: Any) -> dict[int, tuple[Step, ...]]:
    """{"1": [{timestep, alpha, sigma}], ...}: as many entries as the key says, noisiest first."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("at least one number of steps is needed")
    table = {_count(key): tuple(_step(entry) for entry in entries) for key, entries in value.items()}
    if len(table) != len(value):
        raise ValueError("a number of steps appears twice")
    for count, steps in table.items():
        timesteps = [step.timestep for step in steps]
        if len(steps) != count or timesteps != sorted(set(timesteps), reverse=True):
            raise ValueError(f"{count} falling timesteps are needed under {count}")
    return table


def _count(key: Any) -> int:
    """The number of steps that a key names: an int, or its decimal digits as JSON has them."""
    if not re.fullmatch("[1-9][0-9]{0,3}", str(key)):
        raise ValueError(f"{shown(repr(key))} is not a number of steps")
    return int(key)


def _step(entry: Any) -> Step:
    if isinstance(entry, Step):
        return entry
    _check_keys(f"{MANIFEST}: steps", entry, {"timestep", "alpha", "sigma"})
    step = Step(_whole(entry["timestep"], 0, MOST_TIMESTEP), _real(entry["alpha"], 0, 1), _real(entry["sigma"], 0, 1))
    if abs(step.alpha**2 + step.sigma**2 - 1) > 1e-3:
        raise ValueError(f"alpha**2 + sigma**2 is not 1 at timestep {step.timestep}")
    return step


def _files(value: Any) -> dict[str, FileFacts]:
    """{"unet/model.onnx": {sha256, bytes}, ...}; a path that leaves the folder is refused."""
    if len(value) > MOST_FILES:
        raise ValueError(f"{len(value)} files are too many, {MOST_FILES} at most are allowed")
    table = {_inside(name): _facts(facts) for name, facts in value.items()}
    missing = [f"{part}/model.onnx" for part in REQUIRED if f"{part}/model.onnx" not in table]
    missing += [name for name in ("tokenizer/vocab.json", "tokenizer/merges.txt") if name not in table]
    if missing:
        raise BundleError(f"{MANIFEST}: files lacks {', '.join(missing)}")
    return table


def _inside(name: str) -> str:
    """The path itself, when every system reads it as the same file below the folder, and not as a hidden one."""
    usual = name.isprintable() and len(name) <= MOST_NAME and not set(name) & set('\\:*?"<>|')
    if not usual or not all(part.strip(". ") == part != "" for part in name.split("/")) or name == MANIFEST:
        raise ValueError(f"{shown(name) or 'an empty name'} is not a path inside the bundle")
    return name


def _facts(facts: Any) -> FileFacts:
    if isinstance(facts, FileFacts):
        return facts
    _check_keys(f"{MANIFEST}: files", facts, {"sha256", "bytes"})
    if not re.fullmatch("[0-9a-f]{64}", _text(facts["sha256"])):
        raise ValueError("sha256 must be 64 hexadecimal digits")
    return FileFacts(facts["sha256"], _whole(facts["bytes"], 0, MOST_FILE_BYTES))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("an object is needed")
    return dict(value)


def _licences(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list is needed")
    for entry in value:
        _check_keys(f"{MANIFEST}: licences", entry, {"what", "licence", "source"})
    return tuple(dict(entry) for entry in value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "format_version": lambda value: _whole(value, FORMAT_VERSION, FORMAT_VERSION),
    "name": _name,
    "precision": _one_of(*PRECISIONS),
    "image_size": _sizes(2, MOST_PIXELS),
    "latent_shape": _sizes(3, MOST_LATENTS),
    "prediction_type": _one_of(*PREDICTION_TYPES),
    "scaling_factor": lambda value: _real(value, 1e-6, 1e6),
    "max_tokens": lambda value: _whole(value, 3, MOST_TOKENS),
    "steps": _steps,
    "files": _files,
    "licences": _licences,
    "training": _object,
    "parity": _object,
}
