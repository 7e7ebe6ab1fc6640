"""Operations of MIL programs, a module a family; importing this enters all of them into OPERATIONS and CONSTANTS."""

from export.mil.ops import conv, elementwise, gather, matrix, reduce, resize, slice, tensor, weights  # noqa: F401
from export.mil.ops.registry import CONSTANTS, OPERATIONS

__all__ = ["CONSTANTS", "OPERATIONS"]
