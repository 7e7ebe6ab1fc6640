"""Operations of MIL programs, one module per family; importing this registers all in OPERATIONS and CONSTANTS."""

from export.mil.ops import conv, elementwise, gather, matrix, reduce, resize, slice, tensor, weights  # noqa: F401
from export.mil.ops.registry import CONSTANTS, OPERATIONS

__all__ = ["CONSTANTS", "OPERATIONS"]
