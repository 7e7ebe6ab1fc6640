"""Progress bars on stderr, one way for every command of train/."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Items per second, where one step of the bar is `each` items."""

    def __init__(self, unit: str, each: int) -> None:
        super().__init__()
        self.unit, self.each = unit, each

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * self.each:.1f} {self.unit}/s" if task.speed else "")


@contextmanager
def progress(
    title: str, total: int, unit: str = "", each: int = 1, done: int = 0, enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields `advance(n)`. Silent where stderr is no terminal.

    unit, each: also show items per second, `each` of them a step. done: steps that were finished before.
    """
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *([RateColumn(unit, each)] if unit else []),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and enabled)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
