"""Operations that make, shape, cut, join and index tensors, against numpy and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_fixtures import Case, T, mb, values, wholes

X, ROWS, TABLE = values(1, 4, 6, 6), values(2, 3, 8), values(5, 7)
DEEP = values(2, 8, 3, 2)
IDS, NEGATIVE = np.array([[3, 0, 4]], np.int32), np.array([-1, 0, -5], np.int32)
ALONG = np.array([[[0, 2], [1, 1]]], np.int32)
CELLS = np.array([[0, 1], [4, 6], [2, 2]], np.int32)
UPDATES, FACTORS = values(3, 7), np.abs(values(3, 7)) + np.float32(0.5)
PLACES = np.array([[1, 0, 3, 4, 4, 2, 0], [4, 2, 0, 4, 1, 2, 3]], np.int32)  # two columns index a row twice


def with_axes(x, y):
    return mb.sub(x=x, y=y)


SHAPES = [
    Case("reshape", [X], lambda x: mb.reshape(x=x, shape=[0, 2, -1, 3]), lambda x: x.reshape(1, 2, 24, 3)),
    Case("reshape", [ROWS], lambda x: mb.reshape(x=x, shape=[4, -1]), lambda x: x.reshape(4, 12), note="rank"),
    Case(
        "reshape",
        [TABLE],
        lambda x: mb.reshape(x=x, shape=[1, 0, -1, 0]),
        lambda x: x.reshape(1, 1, 5, 7),
        "iOS17",
        note="zeros from the end",
    ),
    Case(
        "reshape",
        [X],
        lambda x: mb.reshape(x=x, shape=mb.shape(x=mb.transpose(x=x, perm=[1, 0, 2, 3]))),
        lambda x: x.reshape(4, 1, 6, 6),
        note="computed",
    ),
    Case(
        "reshape_like",
        [values(6, 5), values(2, 3), values(1, 5)],
        lambda x, a, b: mb.reshape_like(
            x=x,
            ref_tensors=(a, b),
            begins=(0, 1),
            ends=(2, 0),
            end_masks=(False, True),
        ),
        lambda x, a, b: x.reshape(2, 3, 5),
    ),
    Case("transpose", [X], lambda x: mb.transpose(x=x, perm=[0, -2, 3, 1]), lambda x: x.permute(0, 2, 3, 1)),
    Case("expand_dims", [ROWS], lambda x: mb.expand_dims(x=x, axes=[0, 3]), lambda x: x.unsqueeze(0).unsqueeze(3)),
    Case(
        "expand_dims",
        [ROWS],
        lambda x: mb.expand_dims(x=x, axes=[-1, -3]),
        lambda x: x.reshape(2, 3, 1, 8, 1),
        note="negative",
    ),
    Case("squeeze", [X], lambda x: mb.squeeze(x=x, axes=[0]), lambda x: x.squeeze(0)),
    Case("squeeze", [values(1, 3, 1)], lambda x: mb.squeeze(x=x), lambda x: x.squeeze(), note="all"),
    Case("flatten2d", [X], lambda x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(4, 36)),
    Case("flatten2d", [ROWS], lambda x: mb.flatten2d(x=x, axis=-1), lambda x: x.reshape(6, 8), note="negative"),
    Case("shape", [X], lambda x: mb.shape(x=x), lambda x: np.array(x.shape)),
    Case("identity", [ROWS], lambda x: mb.identity(x=x), lambda x: x, note="moved"),
]
JOINING = [
    Case("concat", [X], lambda x: mb.concat(values=(x, mb.relu(x=x)), axis=1), lambda x: torch.cat([x, F.relu(x)], 1)),
    Case(
        "concat",
        [ROWS],
        lambda x: mb.concat(values=(x, mb.relu(x=x)), axis=-2, interleave=True),
        lambda x: torch.stack([x, F.relu(x)], 2).reshape(2, 6, 8),
        note="interleaved",
    ),
    Case(
        "stack", [ROWS], lambda x: mb.stack(values=(x, mb.relu(x=x)), axis=1), lambda x: torch.stack([x, F.relu(x)], 1)
    ),
    Case("split", [X], lambda x: with_axes(*mb.split(x=x, num_splits=2, axis=1)), lambda x: x[:, :2] - x[:, 2:]),
    Case(
        "split", [X], lambda x: mb.split(x=x, split_sizes=[1, 3], axis=-3), lambda x: [x[:, :1], x[:, 1:]], note="sizes"
    ),
    Case("tile", [ROWS], lambda x: mb.tile(x=x, reps=[1, 2, 3]), lambda x: np.tile(x, (1, 2, 3))),
    Case("reverse", [ROWS], lambda x: mb.reverse(x=x, axes=[0, -1]), lambda x: x.flip(0, 2)),
    Case("reverse", [ROWS], lambda x: mb.reverse(x=x), lambda x: x.flip(0, 1, 2), note="all"),
    Case(
        "reverse_sequence",
        [values(3, 4, 2)],
        lambda x: mb.reverse_sequence(x=x, lengths=[2, 4, 1], seq_axis=1, batch_axis=0),
        lambda x: torch.stack([x[0][[1, 0, 2, 3]], x[1][[3, 2, 1, 0]], x[2]]),
    ),
]
MAKING = [
    Case("fill", [ROWS], lambda x: mb.add(x=x, y=mb.fill(shape=mb.shape(x=x), value=1.5)), lambda x: x + 1.5),
    Case("fill_like", [ROWS], lambda x: mb.fill_like(ref_tensor=x, value=2.5), lambda x: torch.full_like(x, 2.5)),
    Case(
        "range_1d",
        [np.float32([2.0])],
        lambda x: mb.range_1d(start=mb.squeeze(x=x), end=9.0, step=1.5),
        lambda x: np.arange(2, 9, 1.5),
    ),
    Case(
        "range_1d",
        [np.int32([7])],
        lambda x: mb.range_1d(start=mb.squeeze(x=x), end=-2, step=-3),
        lambda x: np.arange(7, -2, -3),
        note="int",
    ),
    Case(
        "one_hot",
        [np.int32([3, 0, 1])],
        lambda x: mb.one_hot(indices=x, one_hot_vector_size=4),
        lambda x: F.one_hot(x.long(), 4),
    ),
    Case(
        "one_hot",
        [np.int32([3, 0, 1])],
        lambda x: mb.one_hot(indices=x, one_hot_vector_size=4, axis=0, on_value=2.5, off_value=-1.0),
        lambda x: F.one_hot(x.long(), 4).mT * 3.5 - 1,
        note="axis",
    ),
    Case(
        "band_part",
        [values(2, 4, 5)],
        lambda x: mb.band_part(x=x, lower=1, upper=2),
        lambda x: np.triu(np.tril(x, 2), -1),
    ),
    Case("band_part", [values(4, 4)], lambda x: mb.band_part(x=x, lower=-1, upper=0), np.tril, note="lower"),
    Case(
        "pad",
        [ROWS],
        lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="constant", constant_val=1.5),
        lambda x: np.pad(x, [(0, 0), (1, 2), (0, 3)], constant_values=1.5),
    ),
    Case(
        "pad",
        [X],
        lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"),
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (3, 0)], "reflect"),
        note="reflect",
    ),
    Case(
        "pad",
        [X],
        lambda x: mb.pad(x=x, pad=[0, 0, 0, 0, 1, 2, 3, 0], mode="replicate"),
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (3, 0)], "edge"),
        note="replicate",
    ),
    Case("non_zero", [wholes(3, 4, low=0, high=2)], lambda x: mb.non_zero(x=x), lambda x: np.argwhere(x.numpy())),
]
PIXELS = [
    Case("pixel_shuffle", [DEEP], lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), lambda x: F.pixel_shuffle(x, 2)),
    Case(
        "pixel_unshuffle",
        [X],
        lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    Case(
        "depth_to_space",
        [DEEP],
        lambda x: mb.depth_to_space(x=x, block_size=2),
        lambda x: F.pixel_shuffle(x.reshape(2, 4, 2, 3, 2).transpose(1, 2).reshape(2, 8, 3, 2), 2),
    ),
    Case(
        "space_to_depth",
        [X],
        lambda x: mb.space_to_depth(x=x, block_size=2),
        lambda x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
    ),
    Case(
        "sliding_windows",
        [ROWS],
        lambda x: mb.sliding_windows(x=x, axis=-1, size=3, stride=2),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, 3, 2)[:, :, ::2],
    ),
    Case("crop", [X], lambda x: mb.crop(x=x, crop_height=[0, 1], crop_width=[2, 1]), lambda x: x[..., :5, 2:5]),
]
MASKS = {"end_mask": [False, False, True, False], "squeeze_mask": [False, False, False, True]}
CUTS = [
    Case(
        "slice_by_index",
        [X],
        lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0, 2], end=[1, 3, 0, 3], stride=[1, 1, 2, 1], **MASKS),
        lambda x: x[:, 1:3, ::2, 2],
    ),
    Case(
        "slice_by_index",
        [ROWS],
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, -2, -1],
            end=[0, -1, 0],
            begin_mask=[True, False, False],
            end_mask=[True, False, False],
            squeeze_mask=[False, False, True],
        ),
        lambda x: x[:, -2:-1, -1],
        note="negative",
    ),
    Case(
        "slice_by_index",
        [ROWS],
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, 0, 6],
            end=[2, 0, 1],
            stride=[1, -1, -2],
            begin_mask=[False, True, False],
            end_mask=[False, True, False],
        ),
        lambda x: x.numpy()[:, ::-1, 6:1:-2],
        note="backwards",
    ),
    Case(
        "slice_by_size",
        [ROWS],
        lambda x: mb.slice_by_size(x=x, begin=[1, 0, 2], size=[1, 2, -1]),
        lambda x: x[1:, :2, 2:],
    ),
    Case(
        "slice_by_size",
        [ROWS],
        lambda x: mb.slice_by_size(x=x, begin=[-1, -2, 0], size=[1, 2, 4]),
        lambda x: x[1:, 1:, :4],
        note="negative",
    ),
    Case(
        "slice_update",
        [ROWS, values(2, 2, 4)],
        lambda x, y: mb.slice_update(x=x, update=y, begin=[0, 1, 0], end=[2, 3, 8], stride=[1, 1, 2]),
        lambda x, y: torch.cat([x[:, :1], torch.stack([y, x[:, 1:, 1::2]], -1).flatten(2)], 1),
        "iOS18",
    ),
    Case(
        "slice_update",
        [ROWS, values(2, 3)],
        lambda x, y: mb.slice_update(
            x=x,
            update=y,
            begin=[0, 0, -1],
            end=[2, 3, 0],
            stride=[1, -1, 1],
            begin_mask=[False, True, False],
            end_mask=[False, True, False],
            squeeze_mask=[False, False, True],
        ),
        lambda x, y: torch.cat([x[..., :-1], y.flip(1)[..., None]], 2),
        "iOS18",
        note="backwards",
    ),
]
BATCHED = np.array([[1, 0], [3, 3]], np.int32)
GATHERS = [
    Case("gather", [TABLE], lambda x: mb.gather(x=x, indices=IDS, axis=0), lambda x: x[T(IDS).long()]),
    Case(
        "gather",
        [ROWS],
        lambda x: mb.gather(x=x, indices=np.int32([2, 0]), axis=-2),
        lambda x: x[:, [2, 0]],
        note="axis",
    ),
    Case("gather", [TABLE], lambda x: mb.gather(x=x, indices=np.int32(3), axis=1), lambda x: x[:, 3], note="one"),
    Case(
        "gather", [TABLE], lambda x: mb.gather(x=x, indices=NEGATIVE, axis=0), lambda x: x[[4, 0, 0]], note="negative"
    ),
    Case(
        "gather",
        [values(2, 3, 4)],
        lambda x: mb.gather(x=x, indices=BATCHED, axis=2, batch_dims=1),
        lambda x: torch.stack([x[i][:, BATCHED[i].tolist()] for i in range(2)]),
        note="batch",
    ),
    Case(
        "gather",
        [TABLE],
        lambda x: mb.gather(x=x, indices=IDS, axis=0, validate_indices=True),
        lambda x: x[T(IDS).long()],
        "iOS17",
        note="iOS17",
    ),
    Case(
        "gather_along_axis",
        [values(1, 3, 2)],
        lambda x: mb.gather_along_axis(x=x, indices=ALONG, axis=1),
        lambda x: x.gather(1, T(ALONG).long()),
    ),
    Case(
        "gather_along_axis",
        [values(1, 3, 2)],
        lambda x: mb.gather_along_axis(x=x, indices=ALONG - 2, axis=-2),
        lambda x: np.take_along_axis(x.numpy(), ALONG - 2, 1),
        note="negative",
    ),
    Case("gather_nd", [TABLE], lambda x: mb.gather_nd(x=x, indices=CELLS), lambda x: x[CELLS[:, 0], CELLS[:, 1]]),
    Case(
        "gather_nd",
        [ROWS],
        lambda x: mb.gather_nd(x=x, indices=np.int32([[[1, 2], [0, 0]]])),
        lambda x: x[[1, 0], [2, 0]][None],
        note="rows",
    ),
    Case(
        "gather_nd",
        [ROWS],
        lambda x: mb.gather_nd(x=x, indices=np.int32([[[2], [0]], [[1], [1]]]), batch_dims=1),
        lambda x: torch.stack([x[0][[2, 0]], x[1][[1, 1]]]),
        note="batch",
    ),
]


def scattered(mode, data, rows, updates):
    """Row by row, as the reference says it."""
    out = data.numpy().copy()
    steps: dict[str, Callable[..., Any]] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "max": np.maximum,
        "min": np.minimum,
        "update": lambda _, new: new,
    }
    for place, new in zip(rows, updates, strict=True):
        out[place] = steps[mode](out[place], new)
    return out


def scatters(mode, updates):
    rows = [3, 0, 3] if mode != "update" else [3, 0, 4]
    cells = CELLS if mode == "update" else np.int32([[0, 1], [4, 6], [0, 1]])
    cell_updates = updates[:, 0]
    return [
        Case(
            "scatter",
            [TABLE, updates],
            lambda x, y: mb.scatter(data=x, indices=np.int32(rows), updates=y, axis=0, mode=mode),
            lambda x, y: scattered(mode, x, rows, y.numpy()),
            note=mode,
        ),
        Case(
            "scatter_nd",
            [TABLE, cell_updates],
            lambda x, y: mb.scatter_nd(data=x, indices=cells, updates=y, mode=mode),
            lambda x, y: scattered(mode, x, list(map(tuple, cells)), y.numpy()),
            note=mode,
        ),
        Case(
            "scatter_along_axis",
            [TABLE, updates[:2]],
            lambda x, y: mb.scatter_along_axis(data=x, indices=PLACES, updates=y, axis=0, mode=mode),
            lambda x, y: scattered(
                mode, x, [(PLACES[i, j], j) for i in range(2) for j in range(7)], y.numpy().reshape(-1)
            ),
            note=mode,
        ),
    ]


SCATTERS = [
    *(case for mode in ("add", "sub", "max", "min", "update") for case in scatters(mode, UPDATES)),
    *(case for mode in ("mul", "div") for case in scatters(mode, FACTORS)),
    Case(
        "scatter",
        [TABLE, values(5, 2, 2)],
        lambda x, y: mb.scatter(data=x, indices=np.int32([[1, 4], [0, 6]]), updates=y, axis=-1, mode="update"),
        lambda x, y: x.index_copy(1, torch.tensor([1, 4, 0, 6]), y.reshape(5, 4)),
        note="two axes of indices",
    ),
]
CASES = [*SHAPES, *JOINING, *MAKING, *PIXELS, *CUTS, *GATHERS, *SCATTERS]
