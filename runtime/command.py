"""What every command of the runtime does alike: one line for an error, warnings as lines, results on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from runtime import Error, OutputError, ProviderWarning, TruncationWarning, __version__

INTERRUPTED = 130  # the exit code after Ctrl-C


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage: the house's form for every error."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def command_parser(module: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser of `python -m MODULE` with --json, --debug and --version."""
    made = _Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    made.add_argument("--version", action="version", version=f"addkit {__version__}")
    return made


def run_command(work: Callable[[], None], debug: bool) -> int:
    """Does the work and returns the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    try:
        with warnings_as_lines():
            work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (Error, ValueError, OSError) as error:
        if debug:
            traceback.print_exc()
        else:
            tell(f"error: {error}")
        return 2
    return 0


def tell(message: str) -> None:
    """One line on stderr, if there is one: `print` would fall back to stdout, which is for results."""
    if sys.stderr is not None:
        print(" ".join(message.split()), file=sys.stderr)


def print_result(text: str) -> None:
    """The result on stdout. The files are written by now, so a closed or odd stdout loses none."""
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a path that stdout's encoding lacks is shown with escapes
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except BrokenPipeError:  # the reader closed stdout, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = f"cannot write to standard output: {error.strerror}"
        raise OutputError(f"{reason}; the pictures themselves are written") from error


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within the block our warnings are one line each on stderr, once; other packages' as Python shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncationWarning)
        warnings.simplefilter("always", ProviderWarning)
        shown: set[str] = set()
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not category.__module__.startswith("runtime."):
                usual(message, category, filename, lineno, file, line)
            elif str(message) not in shown:
                shown.add(str(message))
                tell(f"warning: {message}")

        warnings.showwarning = show
        yield
