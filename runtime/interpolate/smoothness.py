"""How smooth a sequence of pictures is, and how much of it is double exposure: figures to compare with a cross-fade.

Distances are Laparra et al.'s (2016) normalized Laplacian pyramid in its simplest form, on each colour alone: every
band of the pyramid is divided by its own local amplitude plus 0.17 (their constant), so that a faint edge on white
counts as the eye sees it. With f_k the bands of a picture and n_k their sizes, d(x, y) = mean_k |f_k(x) - f_k(y)| /
sqrt(n_k): a norm of differences, for which the straight way is the shortest.

For frames x_0 .. x_n, of which x_0 and x_n are the two pictures themselves:

    step_ratio       max d(x_i, x_i+1) / mean d(x_i, x_i+1)                              1: even
    path_ratio       sum d(x_i, x_i+1) / d(x_0, x_n)                                     1: straight
    flicker          mean |f(x_i-1) - 2 f(x_i) + f(x_i+1)| / (d_i-1 + d_i), d_i = d(x_i, x_i+1)
                                                                                         0: straight, 1: to and fro
    crispness        mean over the middle third of G(x_i) / ((1 - t) G(x_0) + t G(x_n))  1: as crisp as the two
    double_exposure  mean over the middle third of R2 * 4ab / (a + b)^2                  1: the two, half and half

t = i / n; G is the mean square of the differences of neighbouring pixels; a, b >= 0 are the weights by which
a x_0 + b x_n + c comes nearest to x_i, and R2 is the share of its variance that this explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

F64 = npt.NDArray[np.float64]
MEASURES = ("step_ratio", "path_ratio", "flicker", "crispness", "double_exposure")
_FLOOR = 0.17
_LEVELS = 5
_LEAST_SIDE = 4  # of a band: smaller ones are left out
_TAPS = np.array([1, 4, 6, 4, 1]) / 16  # Burt and Adelson 1983


def measure(frames: Sequence[Image.Image]) -> dict[str, float]:
    """The figures of MEASURES for frames of one size; ValueError with fewer than three, or with equal ends."""
    if len(frames) < 3:
        raise ValueError("smoothness needs the two pictures and a frame between them")
    direct = distance(bands(frames[0]), bands(frames[-1]))
    if direct == 0:
        raise ValueError("the two pictures are the same: there is no way between them to measure")
    steps, turns = _steps_and_turns(map(bands, frames))
    middle = [_middle_figures(frames, i) for i in _middle(len(frames))]
    values: dict[str, Any] = {
        "step_ratio": max(steps) * len(steps) / sum(steps),
        "path_ratio": sum(steps) / direct,
        "flicker": np.mean(turns),
        "crispness": np.mean([crispness for crispness, _ in middle]),
        "double_exposure": np.mean([exposure for _, exposure in middle]),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def _steps_and_turns(features: Iterable[list[F64]]) -> tuple[list[float], list[float]]:
    """d of neighbours, and the flicker of every three: read one by one, as a frame's bands take 50 times its bytes."""
    steps: list[float] = []
    turns: list[float] = []
    last: list[list[F64]] = []
    for now in features:
        if last:
            steps.append(distance(last[-1], now))
        if len(last) == 2:
            ways = steps[-2] + steps[-1]
            turn = _norm([x - 2 * y + z for x, y, z in zip(*last, now, strict=True)])
            turns.append(turn / ways if ways > 0 else 0.0)
        last = [*last[-1:], now]
    return steps, turns


def cross_fade(first: Image.Image, last: Image.Image, count: int) -> list[Image.Image]:
    """`first`, `count` pixel blends at even distances, `last`."""
    return [Image.blend(first, last, i / (count + 1)) for i in range(count + 2)]


def compared(frames: Sequence[Image.Image]) -> dict[str, dict[str, float]]:
    """The figures of `frames` and of the cross-fade with as many frames, by "ours" and "cross_fade"."""
    fade = cross_fade(frames[0], frames[-1], len(frames) - 2)
    return {"ours": measure(frames), "cross_fade": measure(fade)}


def summary(figures: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """min, median and max of many `compared`, by who and measure; empty when there are none."""
    rows = list(figures)
    return {
        who: {name: _spread([row[who][name] for row in rows]) for name in MEASURES} for who in (rows[0] if rows else ())
    }


def bands(frame: Image.Image) -> list[F64]:
    """The divisively normalized Laplacian bands, f64[h, w, 3] each, finest first; the last is the remaining blur."""
    x: F64 = np.asarray(frame.convert("RGB"), np.float64) / 255
    made = []
    for _ in range(_LEVELS):
        if min(x.shape[:2]) < 2 * _LEAST_SIDE:
            break
        low = _blur(x)
        made.append(_normalized(x - low))
        x = low[::2, ::2]
    return [*made, x]


def distance(x: Sequence[F64], y: Sequence[F64]) -> float:
    """d of two pictures' bands; ValueError when they are of different sizes."""
    return _norm([a - b for a, b in zip(x, y, strict=True)])


def _norm(differences: Sequence[F64]) -> float:
    return float(np.mean([np.sqrt(np.mean(np.square(one))) for one in differences]))


def _normalized(band: F64) -> F64:
    divided: F64 = band / (_FLOOR + _blur(np.abs(band)))
    return divided


def _blur(x: F64) -> F64:
    """Burt and Adelson's five taps along both axes, the picture mirrored at its edges."""
    for axis in (0, 1):
        width = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = np.pad(x, width, "reflect")
        size = x.shape[axis]
        x = sum(tap * np.take(padded, range(i, i + size), axis) for i, tap in enumerate(_TAPS))
    return x


def _middle(count: int) -> list[int]:
    """The places of the middle third of `count` frames; at least one."""
    last = count - 1
    return [i for i in range(1, last) if last <= 3 * i <= 2 * last]


def _middle_figures(frames: Sequence[Image.Image], i: int) -> tuple[float, float]:
    """(crispness, double exposure) of one frame."""
    x, first, last = (
        np.asarray(frame.convert("RGB"), np.float64) / 255 for frame in (frames[i], frames[0], frames[-1])
    )
    t = i / (len(frames) - 1)
    expected = (1 - t) * _edges(first) + t * _edges(last)
    a, b, share = _fitted(x, first, last)
    exposure = share * 4 * a * b / (a + b) ** 2 if a > 0 and b > 0 else 0.0
    return _edges(x) / expected if expected > 0 else 1.0, exposure


def _edges(x: F64) -> float:
    """G, the mean square of the differences of neighbours."""
    return float(np.mean(np.square(np.diff(x, axis=0))) + np.mean(np.square(np.diff(x, axis=1))))


def _fitted(x: F64, first: F64, last: F64) -> tuple[float, float, float]:
    """(a, b, R2) of x ~ a first + b last + c, colours having a c each. Where a or b is negative, no double exposure."""
    columns = [(one - one.mean((0, 1))).ravel() for one in (first, last, x)]
    basis, target = np.stack(columns[:2], 1), columns[2]
    weights = np.linalg.lstsq(basis, target, rcond=None)[0]
    total = float(target @ target)
    left = float(np.sum(np.square(target - basis @ weights)))
    return float(weights[0]), float(weights[1]), 1 - left / total if total > 0 else 0.0


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}
