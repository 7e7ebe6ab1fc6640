"""What a bundle's U-Net is told beside the latents and the timestep: texts by one encoder or two, and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

SECOND = "text_encoder_2"  # SDXL's larger encoder, and the folder of its tokenizer
SECOND_TOKENIZER = "tokenizer_2"
_COMPONENTS = {"text_encoder": "tokenizer", SECOND: SECOND_TOKENIZER}  # and the tokenizer of each
_STATES = re.compile(r"last_hidden_state|hidden_states\.[0-9]{1,3}")
_POOLED = "text_embeds"


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder. Names of ports are optimum's."""

    component: str = "text_encoder"
    tokenizer: str = "tokenizer"  # the folder of its tokenizer, and the manifest's field with padding and added tokens
    states: str = "last_hidden_state"  # the output with the states that the U-Net attends to
    pooled: str | None = None  # the output with the text as one row, where the U-Net takes it as text_embeds

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are used."""
        return (self.states,) if self.pooled is None else (self.states, self.pooled)


@dataclass(frozen=True)
class Conditioning:
    """How a U-Net is conditioned: Stable Diffusion 1 and 2 by default.

    The states of several encoders are joined along their width, in this order.
    """

    text_encoders: tuple[TextEncoder, ...] = (TextEncoder(),)
    time_ids: bool = False  # the U-Net takes original height and width, crop (0, 0), height and width of the picture
    zeros_without_negative_prompt: bool = False  # under guidance: else the empty prompt's states

    @classmethod
    def from_dict(cls, data: Any) -> Conditioning:
        """Checks and converts the JSON form; raises ValueError with what is wrong."""
        if isinstance(data, Conditioning):
            return data
        _check_keys(data, cls)
        if not isinstance(data["text_encoders"], (list, tuple)):
            raise ValueError("text_encoders must be a list")
        encoders = tuple(map(_encoder, data["text_encoders"]))
        if [one.component for one in encoders] not in ([*_COMPONENTS][:1], [*_COMPONENTS]):
            raise ValueError(f"text_encoders are {' and '.join(_COMPONENTS)}, in this order, or the first alone")
        flags = {name: data[name] for name in ("time_ids", "zeros_without_negative_prompt")}
        if not all(type(flag) is bool for flag in flags.values()):
            raise ValueError(f"{' and '.join(flags)} are true or false")
        if flags["time_ids"] != (sum(one.pooled is not None for one in encoders) == 1):
            raise ValueError("a U-Net that takes time_ids takes the pooled text of one encoder, and another takes none")
        return cls(encoders, **flags)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which `from_dict` reads back."""
        return asdict(self) | {"text_encoders": [asdict(one) for one in self.text_encoders]}

    @property
    def components(self) -> tuple[str, ...]:
        """The networks of the bundle, in the order of a call; the last, vae_encoder, may be missing."""
        return (*(one.component for one in self.text_encoders), "unet", "vae_decoder", "vae_encoder")

    @property
    def required(self) -> tuple[str, ...]:
        """Those that every call needs."""
        return self.components[:-1]

    @property
    def unet_inputs(self) -> tuple[str, ...]:
        """What the U-Net takes."""
        added = ("text_embeds", "time_ids") if self.time_ids else ()
        return ("sample", "timestep", "encoder_hidden_states", *added)

    def sizes(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """The time_ids for a picture of (height, width) that is not cropped; () where the U-Net takes none."""
        return (*image_size, 0, 0, *image_size) if self.time_ids else ()


SD = Conditioning()


def _encoder(entry: Any) -> TextEncoder:
    if isinstance(entry, TextEncoder):
        return entry
    _check_keys(entry, TextEncoder)
    if _COMPONENTS.get(entry["component"]) != entry["tokenizer"]:
        raise ValueError("a text encoder's component and tokenizer are known names that belong together")
    if not isinstance(entry["states"], str) or not _STATES.fullmatch(entry["states"]):
        raise ValueError("a text encoder's states are last_hidden_state or hidden_states.N")
    if entry["pooled"] not in (None, _POOLED):
        raise ValueError(f"a text encoder's pooled output is {_POOLED}, or null")
    return TextEncoder(**entry)


def _check_keys(data: Any, kind: type) -> None:
    names = [field.name for field in fields(kind)]
    if not isinstance(data, Mapping) or set(data) != set(names):
        raise ValueError(f"an object with {', '.join(names)} is needed")
