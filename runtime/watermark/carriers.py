"""Where the mark is: waves of blue against yellow in a picture that is brought to 256x256.

The eye sees slow changes of this colour (JPEG's Cb) far worse than those of brightness, and halving keeps them. The
256x256 are 1,024 blocks of 8x8, which in a picture of 512x512 are the blocks of JPEG's halved colours; each has two
cosines of its lowest frequencies, whose mean is zero and which JPEG keeps best.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.watermark.words import SIGNS

F32 = npt.NDArray[np.float32]
SIDE = 256
_BLOCK = 8
_ROW = SIDE // _BLOCK
_WAVES = ((1, 0), (1, 1))  # half periods in a block, down and across
_NEAR = 5  # waves below this order, but for the mean, tell how busy a block is
_QUIET = 1.5  # a wave counts by its height over this and the block's busyness, and at most one
_BUSY = 0.5
_KEY = 0x5EED  # of the order of the signs and of what they are multiplied by; no secret
BLUENESS = np.array([-0.168736, -0.331264, 0.5], np.float32)  # Cb of R, G, B (ITU-T T.871), 0 for gray
ADDED = np.array([0, -0.344136, 1.772], np.float32)  # to R, G, B for one of Cb; the brightness stays


def blueness(rgb: npt.NDArray[np.uint8] | F32) -> F32:
    """[H, W, 3] of 0 to 255 -> f32[256, 256], -127.5 to 127.5."""
    colour = Image.fromarray(np.ascontiguousarray(rgb @ BLUENESS, np.float32))
    return np.asarray(colour.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def waves(colour: F32) -> tuple[F32, F32]:
    """f32[256, 256] -> the waves' heights f32[1024, 2], and how busy each block is otherwise, f32[1024, 1]."""
    blocks = colour.reshape(_ROW, _BLOCK, _ROW, _BLOCK).transpose(0, 2, 1, 3)
    frequencies = _cosines() @ blocks @ _cosines().T
    near = frequencies[..., :_NEAR, :_NEAR].reshape(-1, _NEAR * _NEAR).copy()
    ours = [down * _NEAR + across for down, across in _WAVES]
    heights = near[:, ours]
    near[:, [0, *ours]] = 0
    busy: F32 = np.sqrt((near**2).mean(axis=1, keepdims=True))
    return heights.astype(np.float32), busy


def limited(heights: F32, busy: F32) -> F32:
    """How much each wave counts, -1 to 1: a high one in a busy block is the picture's own."""
    counted: F32 = np.clip(heights / (_QUIET + _BUSY * busy), -1, 1)
    return counted


def drawn(heights: F32) -> F32:
    """f32[1024, 2] -> f32[256, 256]: the sum of the waves."""
    frequencies = np.zeros((_ROW, _ROW, _BLOCK, _BLOCK), np.float32)
    for i, (down, across) in enumerate(_WAVES):
        frequencies[..., down, across] = heights[:, i].reshape(_ROW, _ROW)
    blocks = _cosines().T @ frequencies @ _cosines()
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(SIDE, SIDE).astype(np.float32)


@cache
def order() -> tuple[npt.NDArray[np.int64], F32]:
    """For every wave, [1024, 2]: which of the 64 signs it carries, and what that is multiplied by, -1 or 1."""
    random = np.random.Generator(np.random.Philox(_KEY))
    count = _ROW * _ROW * len(_WAVES)
    which = random.permutation(np.arange(count) % SIGNS).reshape(-1, len(_WAVES))
    signs = (1 - 2 * random.integers(0, 2, which.shape)).astype(np.float32)
    return which, signs


@cache
def _cosines() -> F32:
    """f32[8, 8], the orthonormal cosine transform of a block (Ahmed, Natarajan and Rao 1974): frequency, place."""
    place = (np.arange(_BLOCK) + 0.5) * np.pi / _BLOCK
    table = np.cos(np.arange(_BLOCK)[:, None] * place) * np.sqrt(2 / _BLOCK)
    table[0] /= np.sqrt(2)
    made: F32 = table.astype(np.float32)
    return made
