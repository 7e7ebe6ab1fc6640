"""Figures of real pictures, teacher and student as JSON and as a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluate.distributions.measure import Figures
from train.evaluate.distributions.networks import NAMES

SPLIT = "_held_out"
AGAINST_REAL = (*(f"{figure}_{name}" for figure in ("fd", "kid") for name in NAMES), "precision", "recall")
OF_EACH = {  # figures that have a number for each property -> the title of their table
    "stated_of": "words that the prompt says, right",
    "drawn_of": "words that complete it, right",
    "tv_of": "frequencies of open properties, distance to real (all prompts together)",
    "tv_within_of": "frequencies of open properties, distance to real (mean over prompts)",
}
TITLES = {
    "vendi": "Vendi of 8 seeds",
    "vendi_coarse": "  general prompts",
    "vendi_thing": "  prompts of a thing",
    "vendi_properties": "  prompts with properties",
    "stated": "words said, right",
    "drawn": "completing words right",
    "stated_held_out": "words right, held out",
    "tv": "distance of frequencies",
    "tv_within": "  within a prompt",
    "copies": "copies",
    "alignment": "text alignment",
    "retrieval_at_1": "own prompt first",
    "retrieval_at_5": "own prompt among 5",
}


def arranged(scores: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """{who: figures of each set} as the means {figure: {who: value}}, and "intervals".

    Those against real pictures are {figure: {"all" or "held_out": {who: value}}}. intervals: {who: {figure: [least,
    most]}} of who has more than one set.
    """
    means = {who: _mean(sets) for who, sets in scores.items()}
    names = dict.fromkeys(name for figures in means.values() for name in figures)
    rows = {name: {who: figures[name] for who, figures in means.items() if name in figures} for name in names}
    found: dict[str, Any] = {}
    for name in AGAINST_REAL:
        found[name] = {"all": rows.pop(name), "held_out": rows.pop(name + SPLIT)}
    for name in OF_EACH:
        each = rows.pop(name, {})
        properties = dict.fromkeys(key for values in each.values() for key in values)
        found[name] = {key: {who: each[who][key] for who in each if key in each[who]} for key in properties}
    found |= {name: row for name, row in rows.items() if name not in OF_EACH}
    found["intervals"] = {who: _intervals(sets) for who, sets in scores.items() if len(sets) > 1}
    return found


def _mean(sets: Sequence[Figures]) -> Figures:
    return {
        name: {key: float(np.mean([one[name][key] for one in sets if key in one[name]])) for key in value}
        if isinstance(value, dict)
        else float(np.mean([one[name] for one in sets]))
        for name, value in sets[0].items()
    }


def _intervals(sets: Sequence[Figures]) -> dict[str, list[float]]:
    return {
        name: [min(one[name] for one in sets), max(one[name] for one in sets)]
        for name, value in sets[0].items()
        if not isinstance(value, dict)
    }


def table(figures: Mapping[str, Any]) -> str:
    """All figures, a row each, with a column for who; where there are several sets, least to most below the mean."""
    whos = list(figures["vendi"])
    lines = [f"{'':<28}" + "".join(f"{who:>26}" for who in whos)]
    for name in AGAINST_REAL:
        for split, suffix in (("all", ""), ("held_out", SPLIT)):
            title = name.replace("_", " ", 1) + (", held out" if suffix else "")
            lines.append(_row(title, figures[name][split], whos, figures["intervals"], name + suffix))
    lines += [
        _row(title, figures[name], whos, figures["intervals"], name)
        for name, title in TITLES.items()
        if name in figures
    ]
    for name, title in OF_EACH.items():
        lines += ["", f"{title}:"] if figures[name] else []
        lines += [_row(f"  {key}", row, whos, {}, "") for key, row in figures[name].items()]
    return "\n".join(lines)


def _row(
    title: str,
    row: Mapping[str, float],
    whos: Sequence[str],
    intervals: Mapping[str, Mapping[str, Sequence[float]]],
    name: str,
) -> str:
    cells = []
    for who in whos:
        between = intervals.get(who, {}).get(name)
        value = f"{row[who]:.3f}" if who in row else "-"
        cells.append(f"{value} ({between[0]:.3f}-{between[1]:.3f})" if between and who in row else value)
    return f"{title:<28}" + "".join(f"{cell:>26}" for cell in cells)
