"""Every operation of the evaluator, in each variant, against numpy and PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mil_cases import CASES
from tests.support.mil_fixtures import Case, check

IN_FP32 = [pytest.param(case, False, id=f"{case.label}-fp32") for case in CASES]
IN_FP16 = [pytest.param(case, True, id=f"{case.label}-fp16") for case in CASES if case.half]


@pytest.mark.parametrize(("case", "half"), [*IN_FP32, *IN_FP16])
def test_operation(case: Case, half: bool, tmp_path: Path) -> None:
    check(case, tmp_path, half)
