"""A reference evaluator of Core ML programs, usable on its own: `Program(path).run(inputs)`; errors are `MilError`."""

from export.mil.package import MilError
from export.mil.program import Program

__all__ = ["MilError", "Program"]
