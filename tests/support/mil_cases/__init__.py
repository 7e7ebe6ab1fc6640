"""Expected results of Core ML operations: a module of CASES per family of operations."""

from tests.support.mil_cases import elementwise, layers, shapes, weights

CASES = [case for table in (elementwise, layers, shapes, weights) for case in table.CASES]
