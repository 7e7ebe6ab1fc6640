"""The figures of exports as lines of text."""

from __future__ import annotations

from typing import Any


def table(facts: dict[str, Any]) -> str:
    """One export's report: a line for the whole, one per module, one for the worst picture."""
    head = f"{facts['path']}: {facts['format']} {facts['precision']}, {facts['size_mb']} MB"
    for name, unit in (("load_s", "s to load"), ("latency_ms", "ms per picture")):
        head += f", {facts[name]} {unit}" if facts.get(name) is not None else ""
    rows = [*facts["modules"].items(), ("picture", facts["picture"])]
    return "\n".join([head, *(line(name, measure) for name, measure in rows)])


def line(name: str, measure: dict[str, Any]) -> str:
    """One comparison."""
    parts = [f"  {name:<17} {measure['status']:<7}"]
    parts += [f"{measure['psnr_db']:7.2f} dB"] if measure.get("psnr_db") is not None else []
    parts += [f"max_abs {measure['max_abs']:.3g}"] if measure.get("max_abs") is not None else []
    return "  ".join([*parts, *([measure["why"]] if measure.get("why") else [])]).rstrip()
