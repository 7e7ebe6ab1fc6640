"""manifest.json: its fields, read strictly and written back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from runtime.errors import BundleError
from runtime.schedule import CLEAN, PREDICTION_TYPES, ddim_weights
from runtime.tokenizer import Tokens
from runtime.tokenizer.conditioning import SD, Conditioning
from runtime.untrusted import shown
from runtime.variation import Variation

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights", "int4-weights")
REQUIRED = SD.required  # the networks of a bundle of Stable Diffusion 1 or 2, in the order of a call
COMPONENTS = SD.components  # and the one that image to image needs
MARKER = "export.json"  # what Core ML and OpenVINO exports have in the place of a manifest
# Far beyond every one-step model there is, and small enough that nothing computed from them fills the memory.
MOST_SIDE, MOST_PIXELS = 4096, 2048 * 2048
MOST_LATENTS = 2**24  # values
MOST_TOKENS = 4096
MOST_TIMESTEP = 10_000  # in magnitude
MOST_WEIGHT = 1e6  # of a step
MOST_MEMORY = 8  # steps that a step may look back, and draws of noise
MOST_SIZES = 100  # of pictures
MOST_FILES, MOST_FILE_BYTES = 1000, 16 * 10**9
MOST_NAME = 200
LEVEL = {"timestep", "alpha", "sigma"}  # that every step of a manifest has
OPTIONAL = (
    "tokenizer",
    "tokenizer_2",
    "conditioning",
    "sizes",
    "variation",
)  # fields that are written where they say something


@dataclass(frozen=True)
class Step:
    """One call of the U-Net and what the scheduler makes of its output.

    The latents after the step are a sum of `latents[k]` times the U-Net's input k steps ago, `outputs[k]` times its
    output k steps ago, and `noise` times the seed's fresh noise number `draw`. Latents are in the U-Net's own scale:
    alpha * picture + sigma * noise.
    """

    timestep: float  # that the U-Net is given: 999 is pure noise for most models
    alpha: float  # weight of the picture in the noised latents
    sigma: float  # weight of the noise; alpha**2 + sigma**2 = 1
    latents: tuple[float, ...] = ()  # newest first
    outputs: tuple[float, ...] = ()  # newest first
    noise: float = 0.0
    draw: int = 0  # 1 is the first after the noise that the run starts from
    noise_scale: float = 1.0  # of the noise that a run starts from here with


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
    tokenizer: Tokens | None = None  # padding and added tokens; None in bundles of older versions
    sizes: tuple[tuple[int, int], ...] = ()  # that calls may choose from, image_size among them; (): image_size alone
    tokenizer_2: Tokens | None = None  # the same of a second text encoder's tokenizer
    conditioning: Conditioning = SD  # what the U-Net is told
    variation: Variation | None = None  # what prompts leave open; None: they are drawn as they are typed

    @classmethod
    def from_dict(cls, data: Any) -> Manifest:
        """Checks and converts parsed JSON; BundleError on an unknown or missing field or a bad value."""
        if not isinstance(data, Mapping):
            raise BundleError(f"{MANIFEST} holds no JSON object")
        _check_version(data)
        _check_keys(MANIFEST, data, {field.name for field in fields(cls)} - (set(OPTIONAL) - set(data)))
        values = {name: _converted(MANIFEST, name, data[name]) for name in data}
        _check_sizes(values)
        values["steps"] = {n: with_weights(steps, values["prediction_type"]) for n, steps in values["steps"].items()}
        made = cls(**values)
        made._check_files()
        return made

    def _check_files(self) -> None:
        """The networks and tokenizers that every call needs must be among the files."""
        tokenizers = [one.tokenizer for one in self.conditioning.text_encoders]
        wanted = [f"{part}/model.onnx" for part in self.conditioning.required]
        wanted += [f"{folder}/{name}" for folder in tokenizers for name in ("vocab.json", "merges.txt")]
        if missing := [name for name in wanted if name not in self.files]:
            raise BundleError(f"{MANIFEST}: files lacks {', '.join(missing)}")

    def tokens(self, tokenizer: str) -> Tokens | None:
        """Padding and added tokens of a tokenizer's folder."""
        found: Tokens | None = getattr(self, tokenizer)
        return found

    def latents_of(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of (height, width) pixels."""
        channels, *sides = self.latent_shape
        height, width = (side * own // whole for side, own, whole in zip(size, sides, self.image_size, strict=True))
        return channels, height, width

    def pixels_of(self, latents: tuple[int, ...]) -> tuple[int, int]:
        """(height, width) in pixels of the picture of latents (C, h, w)."""
        sides = zip(latents[1:], self.latent_shape[1:], self.image_size, strict=True)
        height, width = (side * whole // own for side, own, whole in sides)
        return height, width

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which `from_dict` reads back."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        data["steps"] = {str(n): [step_entry(step) for step in steps] for n, steps in self.steps.items()}
        data["files"] = {name: asdict(facts) for name, facts in self.files.items()}
        for name in ("tokenizer", "tokenizer_2"):
            data[name] = (tokens := self.tokens(name)) and tokens.to_dict()
        data["conditioning"] = None if self.conditioning == SD else self.conditioning.to_dict()
        data["sizes"] = [list(size) for size in self.sizes]
        data["variation"] = self.variation and self.variation.to_json()
        return {name: value for name, value in data.items() if name not in OPTIONAL or value}


def step_entry(step: Step) -> dict[str, Any]:
    """A step as manifest.json has it: without the fields that say nothing."""
    defaults = {field.name: field.default for field in fields(Step)}
    return {name: value for name, value in asdict(step).items() if value != defaults[name]}


def with_weights(steps: Sequence[Step], prediction_type: str) -> tuple[Step, ...]:
    """The steps; those of a manifest that gives levels alone (addkit 0.2 and before) are DDIM's from level to level."""
    levels = [(step.alpha, step.sigma) for step in steps] + [CLEAN]
    made = []
    for step, level, after in zip(steps, levels, levels[1:], strict=False):
        if step.outputs:
            made.append(step)
            continue
        of_latents, of_output = ddim_weights(prediction_type, level, after)
        made.append(replace(step, latents=(of_latents,), outputs=(of_output,)))
    return tuple(made)


def _check_sizes(values: Mapping[str, Any]) -> None:
    """Every size has whole latents, and one is the size of a call that names none."""
    sizes, own, latents = values.get("sizes", ()), values["image_size"], values["latent_shape"][1:]
    for size in sizes:
        if any(side * small % whole for side, small, whole in zip(size, latents, own, strict=True)):
            raise BundleError(f"{MANIFEST}: sizes: {list(size)} is no multiple of a latent's pixels")
    if sizes and own not in sizes:
        raise BundleError(f"{MANIFEST}: sizes lacks image_size, {list(own)}")


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


def _several_sizes(value: Any) -> tuple[tuple[int, ...], ...]:
    """[[height, width], ...], each once."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MOST_SIZES:
        raise ValueError(f"a list of 1 to {MOST_SIZES} sizes is needed")
    found = tuple(_sizes(2, MOST_PIXELS)(size) for size in value)
    if len(set(found)) != len(found):
        raise ValueError("a size appears twice")
    return found


def _steps(value: Any) -> dict[int, tuple[Step, ...]]:
    """{"1": [{timestep, alpha, sigma}], ...}: as many entries as the key says, noisiest first."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("at least one number of steps is needed")
    table = {_count(key): tuple(_step(entry) for entry in entries) for key, entries in value.items()}
    if len(table) != len(value):
        raise ValueError("a number of steps appears twice")
    for count, steps in table.items():
        _check_run(count, steps)
    return table


def _check_run(count: int, steps: Sequence[Step]) -> None:
    """A solver of second order evaluates the U-Net up to twice a step, the second time at the same timestep."""
    timesteps = [step.timestep for step in steps]
    if timesteps != sorted(timesteps, reverse=True) or len(set(timesteps)) != count or len(steps) > 2 * count:
        raise ValueError(f"{count} falling timesteps are needed under {count}")
    for i, step in enumerate(steps):
        if len(step.latents) > i + 1 or len(step.outputs) > i + 1:
            raise ValueError(f"step {i + 1} of {count} needs more steps before it than there are")


def _count(key: Any) -> int:
    """The number of steps that a key names: an int, or its decimal digits as JSON has them."""
    if not re.fullmatch("[1-9][0-9]{0,3}", str(key)):
        raise ValueError(f"{shown(repr(key))} is not a number of steps")
    return int(key)


def _step(entry: Any) -> Step:
    if isinstance(entry, Step):
        return entry
    _check_keys(f"{MANIFEST}: steps", entry, LEVEL | (set(entry) & {field.name for field in fields(Step)}))
    step = Step(
        timestep=_plain(_real(entry["timestep"], -MOST_TIMESTEP, MOST_TIMESTEP)),
        alpha=_real(entry["alpha"], 0, 1),
        sigma=_real(entry["sigma"], 0, 1),
        latents=_weights(entry.get("latents", ())),
        outputs=_weights(entry.get("outputs", ())),
        noise=_real(entry.get("noise", 0.0), -MOST_WEIGHT, MOST_WEIGHT),
        draw=_whole(entry.get("draw", 0), 0, MOST_MEMORY),
        noise_scale=_real(entry.get("noise_scale", 1.0), 0, MOST_WEIGHT),
    )
    if bool(step.latents) != bool(step.outputs) or bool(step.noise) != bool(step.draw):
        raise ValueError("latents goes with outputs, and noise with draw")
    if abs(step.alpha**2 + step.sigma**2 - 1) > 1e-3:
        raise ValueError(f"alpha**2 + sigma**2 is not 1 at timestep {step.timestep}")
    return step


def _weights(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MOST_MEMORY:
        raise ValueError(f"a list of at most {MOST_MEMORY} numbers is needed")
    return tuple(_real(weight, -MOST_WEIGHT, MOST_WEIGHT) for weight in value)


def _plain(number: float) -> float:
    """A whole number where it is one, as messages show it."""
    return int(number) if number == int(number) else number


def _files(value: Any) -> dict[str, FileFacts]:
    """{"unet/model.onnx": {sha256, bytes}, ...}; a path that leaves the folder is refused."""
    if len(value) > MOST_FILES:
        raise ValueError(f"{len(value)} files are too many, {MOST_FILES} at most are allowed")
    return {_inside(name): _facts(facts) for name, facts in value.items()}


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
    "tokenizer": Tokens.from_dict,
    "sizes": _several_sizes,
    "tokenizer_2": Tokens.from_dict,
    "conditioning": Conditioning.from_dict,
    "variation": Variation.from_json,
}
