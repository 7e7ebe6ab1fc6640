"""What a run reports as it goes: metrics.jsonl, TensorBoard, log lines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from runtime.files import write_text


class Telemetry:
    """Rows of one run. Only the main process holds one with `enabled`; the others' calls do nothing."""

    def __init__(self, run_dir: Path, enabled: bool, from_step: int) -> None:
        """from_step: rows after it belong to steps that will be taken again, and are dropped."""
        self.path = run_dir / "metrics.jsonl"
        self.enabled = enabled
        self.board: Any = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            self.go_back(from_step)
            self.board = SummaryWriter(str(run_dir), purge_step=from_step + 1 if from_step else None)

    def go_back(self, step: int) -> None:
        """Drop the measurements of later steps, which will be taken again; events stay."""
        if self.enabled:
            rows = [row for row in read_rows(self.path) if row["step"] <= step or "event" in row]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def row(self, step: int, values: dict[str, float]) -> None:
        """One logged step: a line of metrics.jsonl and a point of each TensorBoard curve."""
        if not self.enabled:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def event(self, step: int, event: str, **facts: Any) -> None:
        """Something that is not a measurement: a restart, a restored state, a stop."""
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, "event": event, **facts}) + "\n")

    def pictures(self, step: int, sheet: np.ndarray) -> None:
        """A contact sheet u8[H, W, 3] in TensorBoard."""
        if self.enabled:
            self.board.add_image("samples", sheet, step, dataformats="HWC")

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without a last line that a kill cut short. Empty when there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class Window:
    """Means of what was measured since the last logged step, and the rate of the run."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.count = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, measured: dict[str, Tensor]) -> None:
        self.count += 1
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self.started)
