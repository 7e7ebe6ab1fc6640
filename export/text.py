"""What the U-Net is told: a checkpoint's texts as diffusers' pipelines encode them, and as an export's encoders do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.source import Ids, Source
from runtime.tokenizer.conditioning import SD, Conditioning, TextEncoder

Array = Any  # a numpy array or a torch tensor


@dataclass(frozen=True)
class Text:
    """Texts of N pictures: the states f32[N,77,width] of each encoder, and pooled f32[N,width] if the U-Net takes it.

    sizes: the U-Net's time_ids of a picture, see `Conditioning.sizes`.
    """

    states: tuple[Array, ...]
    pooled: Array | None = None

    def inputs(self, sizes: Sequence[int]) -> dict[str, Array]:
        """The inputs of an exported U-Net besides sample and timestep, by name."""
        first, *others = self.states
        library = torch if isinstance(first, Tensor) else np
        given = {"encoder_hidden_states": library.concatenate(self.states, -1) if others else first}
        if self.pooled is None:
            return given
        rows = [list(sizes)] * len(self.pooled)
        return given | {"text_embeds": self.pooled, "time_ids": library.asarray(rows, dtype=library.float32)}

    def arguments(self, sizes: Sequence[int]) -> dict[str, Any]:
        """The same as diffusers' U-Net takes them."""
        given = self.inputs(sizes)
        states = given.pop("encoder_hidden_states")
        return {"encoder_hidden_states": states, **({"added_cond_kwargs": given} if given else {})}

    def row(self, i: int) -> Text:
        """The text of one picture."""
        return self.each(lambda array: array[i : i + 1])

    def each(self, change: Callable[[Array], Array]) -> Text:
        """Every array changed, such as from numpy to torch."""
        return Text(tuple(map(change, self.states)), None if self.pooled is None else change(self.pooled))


@dataclass(frozen=True)
class Told:
    """How a U-Net is conditioned. factor: pixels per latent, along a side."""

    conditioning: Conditioning = SD
    factor: int = 8

    def sizes(self, latents: Array) -> tuple[int, ...]:
        """The time_ids of pictures of these latents [N,C,h,w]; () where the U-Net takes none."""
        height, width = (int(side) * self.factor for side in latents.shape[2:])
        return self.conditioning.sizes((height, width))

    def text(self, ids: Ids, run: Callable[[TextEncoder, Ids], Sequence[Array]]) -> Text:
        """The Text of token ids i64[N, 77 per encoder]. run: gives the used outputs of one encoder."""
        encoders = self.conditioning.text_encoders
        parts = np.split(np.asarray(ids), len(encoders), axis=1)
        given = [run(one, part) for one, part in zip(encoders, parts, strict=True)]
        pooled = next((pooled for _, *rest in given for pooled in rest), None)
        return Text(tuple(states for states, *_ in given), pooled)


PLAIN = Told()  # Stable Diffusion 1 and 2


def told(source: Source) -> Told:
    """How a checkpoint's U-Net is conditioned."""
    return Told(source.conditioning, source.image_size[0] // source.latent_shape[1])


def encoded(source: Source, ids: Tensor) -> Text:
    """The Text, of tensors, of token ids i64[N, 77 per encoder]; differentiable."""

    def run(one: TextEncoder, part: Ids) -> Sequence[Tensor]:
        model, given = getattr(source.pipe, one.component), torch.from_numpy(part)
        if not source.kind.second_text:
            return (model(given)[0],)
        made = model(given, output_hidden_states=True)  # the last states but one, without the final norm
        return (made.hidden_states[-2],) if one.pooled is None else (made.hidden_states[-2], made.text_embeds)

    return told(source).text(ids.numpy(), run)
