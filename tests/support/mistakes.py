"""How every command answers a mistake: one line on stderr, nothing on stdout, exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

Main = Callable[[Sequence[str]], int]


def refused(capsys: pytest.CaptureFixture[str], main: Main, *arguments: object) -> str:
    """The one line on stderr of a command that refuses its arguments, without "error: "."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err.removeprefix("error: ").rstrip("\n")
