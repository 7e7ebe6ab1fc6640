"""An optional hook that looks at every picture before the caller sees it, in diffusers' convention.

A safety checker is called as `safety_checker(images=f32[1, H, W, 3] in [0, 1], clip_input=...)` and returns (images,
one bool per picture: whether it found something). `clip_input` is what its `feature_extractor` gives, where the checker
has one (`feature_extractor(pil_images, return_tensors="np").pixel_values`), else None. The images that it returns, for
instance blackened, replace the picture.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime import pixels

F32 = npt.NDArray[np.float32]


class SafetyChecker(Protocol):
    """What `runtime.load(safety_checker=...)` takes."""

    def __call__(self, *, images: F32, clip_input: Any) -> tuple[Any, Any]: ...


def checked(checker: SafetyChecker, picture: F32) -> tuple[F32, bool]:
    """f32[3, H, W] in [-1, 1] -> the same or what replaces it, and whether the checker found something.

    Raises ValueError when the checker does not follow its convention.
    """
    images = pixels.to_unit(picture).transpose(1, 2, 0)[None]
    extract = getattr(checker, "feature_extractor", None)
    seen = None if extract is None else extract([pixels.to_image(picture)], return_tensors="np").pixel_values
    try:
        returned, found = checker(images=images.copy(), clip_input=seen)
        array, flags = np.asarray(returned, np.float32), [bool(flag) for flag in found]
    except (TypeError, ValueError) as error:
        raise ValueError(f"safety_checker must return (images, one bool per picture): {error}") from error
    if array.shape != images.shape or len(flags) != 1:
        raise ValueError(f"safety_checker must return images of {images.shape} and one bool, not {array.shape}")
    if np.array_equal(array, images):
        return picture, flags[0]
    return np.ascontiguousarray(array[0].transpose(2, 0, 1)) * np.float32(2) - np.float32(1), flags[0]
