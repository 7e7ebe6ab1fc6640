"""Estimates an export's sizes, disk space and memory from the checkpoint's files, before anything is loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.plan.machine import existing, free_disk, free_memory, same_disk
from export.plan.memory import peak_memory
from export.plan.sizes import WIDTHS, Component, component, in_single, part_weights, parts_of, widths_of
from runtime.errors import UserError

TEMPORARY = {"coreml": 2.0}  # fp16 copies of the largest part that the converter keeps in the system's temporary folder
UNUSED = "tokenizer.json"  # not needed for exports
SPARE_DISK = 1.02  # graphs, configurations and file system overhead


@dataclass(frozen=True)
class Plan:
    """All sizes in bytes. other_bytes: tokenizer and configurations; temporary_bytes: in addition to the export."""

    checkpoint: Path
    format: str
    precision: str
    components: tuple[Component, ...]
    other_bytes: int
    temporary_bytes: int
    peak_memory_bytes: int

    @property
    def export_bytes(self) -> int:
        return sum(part.export_bytes for part in self.components) + self.other_bytes

    @property
    def disk_bytes(self) -> int:
        """New bytes on the disk at the peak; an export that is being replaced stays until then and is not counted."""
        return int(self.export_bytes * SPARE_DISK) + self.temporary_bytes

    def to_json(self) -> dict[str, Any]:
        """The plan, including totals, for JSON."""
        sums = {"export_bytes": self.export_bytes, "disk_bytes": self.disk_bytes}
        return asdict(self) | {"checkpoint": str(self.checkpoint)} | sums


def plan(
    folder: Path,
    format: str,
    precision: str,
    times: Mapping[str, int] | None = None,
    variant: str | None = None,
    pixels: int = 0,
) -> Plan:
    """What exporting the checkpoint `folder` needs.

    format: onnx, coreml or openvino; precision: one of `WIDTHS`. times: how often a part is written, 1 by default
    (Core ML's --chunk-unet and Resources/ write copies). variant: of the weight files. pixels: of the largest picture,
    where it is not the checkpoint's own. Raises UserError when weights are missing or damaged.
    """
    widths = WIDTHS[format, precision]
    weights = {part: part_weights(folder, part, variant) for part in parts_of(folder)}
    components = tuple(
        component(part, found, widths_of(format, part, widths, in_single(folder, part)), (times or {}).get(part, 1))
        for part, found in weights.items()
    )
    largest = max(part.parameters for part in components)
    tokenizer = sum(path.stat().st_size for path in folder.glob("tokenizer*/*") if path.name != UNUSED)
    return Plan(
        folder,
        format,
        precision,
        components,
        tokenizer,
        temporary_bytes=int(TEMPORARY.get(format, 0) * 2 * largest),
        peak_memory_bytes=peak_memory(folder, format, precision, weights, pixels),
    )


def check_room(needed: Plan, out: Path) -> None:
    """Raise UserError when the disk of `out` or the memory of this machine is too small; silent where unknown."""
    temporary = Path(tempfile.gettempdir())
    together = same_disk(temporary, out)
    check_disk(out, needed.disk_bytes if together else needed.disk_bytes - needed.temporary_bytes, "--out")
    if needed.temporary_bytes and not together:
        check_disk(temporary, needed.temporary_bytes, "TMPDIR")
    check_memory(needed.peak_memory_bytes, "the export")


def check_memory(needed: int, what: str) -> None:
    """Raise UserError when `needed` bytes exceed the free memory, where that is known."""
    free = free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"{what} needs about {gigabytes(needed)} of memory, {gigabytes(free)} are free: close other programs, "
            "add swap, or use a larger machine (--no-room-check tries anyway)"
        )


def check_disk(path: Path, needed: int, option: str) -> None:
    """Raise UserError when `needed` bytes do not fit on the disk of `path`, which `option` chooses."""
    free = free_disk(path)
    if needed > free:
        raise UserError(
            f"the export needs about {gigabytes(needed)} of disk, {gigabytes(free)} are free at {existing(path)}: "
            f"free some, or choose another disk by {option} (--no-room-check tries anyway)"
        )


def show_plan(made: Plan) -> str:
    """The plan as a table."""
    rows = [("part", "parameters", "checkpoint", "export")]
    rows += [
        (c.name, f"{c.parameters / 1e6:.2f} M", megabytes(c.checkpoint_bytes), megabytes(c.export_bytes))
        for c in made.components
    ]
    rows += [("tokenizer", "", megabytes(made.other_bytes), megabytes(made.other_bytes))]
    lines = [f"  {name:<14}{count:>12}{stored:>14}{written:>14}" for name, count, stored, written in rows]
    return "\n".join(
        [
            f"{made.checkpoint}: {made.format} {made.precision}",
            *lines,
            f"  disk needed    about {gigabytes(made.disk_bytes)} (of which the export {gigabytes(made.export_bytes)})",
            f"  memory needed  about {gigabytes(made.peak_memory_bytes)} at the peak",
        ]
    )


def megabytes(count: int) -> str:
    """Bytes as megabytes (10^6), formatted."""
    return f"{count / 1e6:.2f} MB"


def gigabytes(count: int) -> str:
    """Bytes as gigabytes (10^9), or megabytes below one, formatted."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
