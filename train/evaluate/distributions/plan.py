"""How much is drawn for a table of figures."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import UserError
from train.evaluate.distributions.vendi import SEEDS


@dataclass(frozen=True)
class Plan:
    """Numbers of prompts and pictures. All draws follow from `seed`."""

    prompts: int = 100
    each: int = 20  # pictures of a prompt in a set
    repeats: int = 3  # sets, each of other seeds, of the data and of the student; the teacher has one
    training: int = 4000  # real pictures for classifiers, alignment and copies
    training_each: int = 10  # further ones of each prompt
    held_out: int = 400  # pictures of combinations that are not trained on
    teacher_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.each < SEEDS:
            raise UserError(
                f"--n: {self.n} pictures are too few, {SEEDS * self.prompts} are needed: "
                f"{SEEDS} for each of {self.prompts} prompts"
            )

    @property
    def n(self) -> int:
        """Pictures of a set."""
        return self.prompts * self.each

    def seeds(self, number: int) -> list[range]:
        """A range of seeds for each prompt of set `number`: no seed occurs twice in a table."""
        first = (self.seed * 1000 + number) * 1_000_000
        return [range(first + row * self.each, first + (row + 1) * self.each) for row in range(self.prompts)]


FULL = Plan()
QUICK = Plan(prompts=32, each=8, repeats=1, training=800, training_each=6, held_out=64, teacher_steps=10)
