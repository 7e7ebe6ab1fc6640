"""Where the mark is: frequencies of the brightness of a picture that is brought to 256x256.

The 256x256 are 1,024 blocks of 8x8, each with two cosines whose mean over the block is zero. In a picture of 512x512
they are waves of 8 by 16 pixels, which halving keeps, and each is one frequency of JPEG's own 8x8 blocks, so that
JPEG keeps it whole or not at all.
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
_WAVES = ((2, 4), (4, 2))  # half periods in a block, down and across
_NEAR = 5  # waves below this order, but for the mean, tell how busy a block is
_KEY = 0x5EED  # of the order of the signs and of what they are multiplied by; no secret
BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B (ITU-R BT.601), as JPEG has it


def brightness(rgb: npt.NDArray[np.uint8] | F32) -> F32:
    """[H, W, 3] of 0 to 255 -> f32[256, 256], from the picture's own size by area."""
    gray = Image.fromarray(np.ascontiguousarray(rgb @ BRIGHTNESS, np.float32))
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def waves(gray: F32) -> tuple[F32, F32]:
    """f32[256, 256] -> the waves' heights f32[1024, 2], and how busy each block is otherwise, f32[1024, 1]."""
    blocks = gray.reshape(_ROW, _BLOCK, _ROW, _BLOCK).transpose(0, 2, 1, 3)
    frequencies = _cosines() @ blocks @ _cosines().T
    near = frequencies[..., :_NEAR, :_NEAR].reshape(-1, _NEAR * _NEAR).copy()
    ours = [down * _NEAR + across for down, across in _WAVES]
    heights = near[:, ours]
    near[:, [0, *ours]] = 0
    busy: F32 = np.sqrt((near**2).mean(axis=1, keepdims=True))
    return heights, busy


def drawn(heights: F32) -> F32:
    """f32[1024, 2] -> f32[256, 256]: the sum of the waves."""
    frequencies = np.zeros((_ROW, _ROW, _BLOCK, _BLOCK), np.float32)
    for i, (down, across) in enumerate(_WAVES):
        frequencies[..., down, across] = heights[:, i].reshape(_ROW, _ROW)
    blocks = _cosines().T @ frequencies @ _cosines()
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(SIDE, SIDE)


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
    return table.astype(np.float32)
