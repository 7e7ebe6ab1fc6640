"""Prompts to calibrate and compare exports with: given ones, or the checkpoint's own, or everyday sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.prompts import PROMPTS, read_prompts

COMPARED = 4  # pictures per comparison, drawn from the seeds 0, 1, ...
LARGE_COMPARED = 1  # for a slow model; its four-step pictures are not compared
LEAST = 2 * COMPARED  # with fewer prompts, the compared ones are also used for calibration
# For a model that does not say what it draws: things, people, animals, places and pictures, in few words and in many.
EVERYDAY = (
    "a red bicycle leaning against a brick wall",
    "two cups of coffee on a wooden table",
    "portrait of an old man with a grey beard, smiling",
    "a lighthouse on a cliff at sunset",
    "a cat",
    "a photo of a mountain lake at sunrise, with mist over the water and pine trees on both sides",
    "a bowl of strawberries",
    "a woman reading a book by the window",
    "an empty street at night, wet with rain",
    "the old town of a European city, seen from above",
    "a golden retriever puppy playing with a ball",
    "oil painting of a ship in a storm",
    "a small house with a blue door",
    "a plate of pasta with tomatoes & basil",
    "children building a sandcastle on the beach",
    "pencil drawing of a hand",
    "a green train crossing a stone bridge",
    "a bouquet of white roses in a glass vase",
    "an astronaut riding a horse",
    "close-up of a bee on a sunflower",
    "snow-covered trees under a clear sky",
    "a chef cutting vegetables in a restaurant's kitchen",
    "a black-and-white photograph of a violin",
    "three hot air balloons over a valley",
    "a slice of chocolate cake, with a fork next to it",
    "a market stall full of oranges, lemons and apples",
    "an owl sitting on a branch at dusk",
    "watercolour of a garden in spring",
    "a motorcycle parked in front of a cafe",
    "a knight in shining armour holding a flag",
    "a robot watering plants",
    "waterfall",
    "a wooden chair and a lamp in an otherwise empty room, soft light coming in from the left",
    "a parrot with red, blue and yellow feathers",
    "what a city might look like in 2150",
    "a baker taking bread out of the oven",
    "an open laptop on a desk; beside it a notebook and a pen",
    "a fishing boat in a quiet harbour",
    "poster of a bicycle race, bold colours, 1960s",
    "a desert road leading to the horizon",
)


@dataclass(frozen=True)
class Prompts:
    """Prompts that suit a model, and where they come from."""

    texts: Sequence[str]
    origin: str  # "given", "checkpoint" or "everyday"

    @property
    def compared(self) -> tuple[str, ...]:
        """Those whose pictures are compared, the first ones."""
        return tuple(self.texts[:COMPARED])

    @property
    def calibration(self) -> tuple[str, ...]:
        """Those that give a model its usual inputs while its activation ranges are measured; "" is the last."""
        return (*(self.texts[COMPARED:] if len(self.texts) >= LEAST else self.texts), "")


GENERAL = Prompts(EVERYDAY, "everyday")


def prompts_for(checkpoint: Path, given: Path | None = None) -> Prompts:
    """The prompts of a file, else those in the checkpoint's folder, else EVERYDAY. Raises UserError for a bad file."""
    if given is not None:
        return Prompts(read_prompts(given), "given")
    if (checkpoint / PROMPTS).is_file():
        return Prompts(read_prompts(checkpoint / PROMPTS), "checkpoint")
    return GENERAL
