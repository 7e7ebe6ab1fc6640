"""The report over several exports as a table for a reader."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = ("export", "computed by", "", "PSNR dB", "max_abs", "MB", "load s", "ms per picture", "peak MB")
COLOURS = {"passed": "green", "failed": "bold red", "not run": "yellow"}
MOST_WIDTH = 160


def shown(reports: list[dict[str, Any]]) -> str:
    """The table for stdout: coloured and as wide as the screen if it is a terminal."""
    page, stdout = io.StringIO(), Console()
    width = stdout.width if stdout.is_terminal else MOST_WIDTH
    print_reports(reports, Console(file=page, width=width, force_terminal=stdout.is_terminal))
    return page.getvalue().rstrip("\n")


def print_reports(reports: list[dict[str, Any]], console: Console) -> None:
    """One row per export and engine, its modules below it; then what was not run and why."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for index, title in enumerate(COLUMNS):
        table.add_column(title, justify="left" if index < 3 else "right", overflow="fold")
    for facts in reports:
        for row in rows(facts):
            table.add_row(*row)
        table.add_row()
    console.print(table)
    for line in notes(reports):
        console.print(line, highlight=False, soft_wrap=True)


def rows(facts: dict[str, Any]) -> Iterator[list[Text]]:
    """The lines of one export: each engine that was tried, followed by the modules on it."""
    name, size = f"{facts['path']}  {facts['precision']}", f"{facts['size_mb']:.2f}"
    for run in facts["runs"]:
        if run["status"] == "not run":
            continue
        figures = [run.get(key) for key in ("load_s", "latency_ms", "peak_rss_mb")]
        yield line(name, run["engine"], run["status"], (run.get("picture") or {}).get("psnr_db"), None, size, *figures)
        name = size = ""
        for module, measure in run.get("modules", {}).items():
            part = facts["modules_mb"].get(module)
            label, shown = f"  {module}", "" if part is None else f"{part:.2f}"
            yield line(label, "", measure["status"], measure["psnr_db"], measure["max_abs"], shown)


def line(
    name: str, engine: str, status: str, psnr: float | None, error: float | None, size: str, *figures: float | None
) -> list[Text]:
    """One row's cells; missing figures are left empty."""
    cells = [name, engine, status, "" if psnr is None else f"{psnr:.2f}", "" if error is None else f"{error:.3g}", size]
    cells += ["" if figure is None else f"{figure:.2f}" for figure in figures]
    cells += [""] * (len(COLUMNS) - len(cells))
    return [Text(cell, COLOURS[status] if index == 2 else "") for index, cell in enumerate(cells)]


def notes(reports: list[dict[str, Any]]) -> Iterator[str]:
    """Notes below the rows: recipes, failures, and what was not run."""
    missing: dict[tuple[str, str], list[str]] = {}  # (path, why) -> engines
    for facts in reports:
        if facts["recipe"]:
            yield f"{facts['path']}: {brief(facts['recipe'])}"
        for run in facts["runs"]:
            if run["status"] == "failed":
                yield f"{facts['path']} failed on {run['engine']}: {run['why']}"
            if run["status"] == "not run":
                missing.setdefault((facts["path"], run["why"]), []).append(run["engine"])
    alike: dict[str, list[str]] = {}
    for (path, why), names in missing.items():
        alike.setdefault(f"not run on {', '.join(names)} ({why})", []).append(path)
    yield from (f"{what}: {', '.join(paths)}" for what, paths in alike.items())
    yield "PSNR: the worst picture's, and each module's on the same inputs"
    yield "peak MB: of a process that loads the export and draws, interpreter and libraries included"


def brief(recipe: Any) -> str:
    """A recipe in one line: its simple entries, and the number of others."""
    plain = [f"{key} {value}" for key, value in recipe.items() if isinstance(value, str | int | float)]
    rest = [f"{key} ({len(value)})" for key, value in recipe.items() if isinstance(value, list | dict) and value]
    return ", ".join([*plain, *rest])
