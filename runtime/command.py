"""What all commands of runtime, train and export share: its parser, one line for an error, results on stdout."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NoReturn, TextIO

from runtime import Error, OutputError, ProviderWarning, TruncationWarning, __version__

MISTAKE = 2  # the exit code of an error that the user can fix
INTERRUPTED = 130  # the exit code after Ctrl-C
OURS = ("runtime.", "train.", "export.")  # whose warnings are printed as one line


_name: ContextVar[str] = ContextVar("name", default="")


@contextmanager
def called_as(name: str) -> Iterator[None]:
    """Within the block a command's help and errors use this name, not "python -m MODULE"."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage: the house's form for every error."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        tell(f"error: {message} (see {self.prog} --help)")
        self.exit(MISTAKE)

    def print_help(self, file: Any = None) -> None:
        """Print the help as a result, so that a closed or unusual stdout causes no traceback."""
        print_result(self.format_help().rstrip("\n"))


def command_parser(module: str, description: str | None, examples: str, json: bool = True) -> Parser:
    """A parser of `python -m MODULE` with --debug and --version, and with --json where it reports figures.

    examples: the end of --help, "examples:" and whole command lines, one per line.
    """
    usual = f"python -m {module}"
    name = _name.get() or usual
    made = Parser(
        prog=name,
        description=description,
        epilog=examples.replace(f"{usual} ", f"{name} "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(made, json, default=False)
    made.add_argument("--version", action="version", version=f"addkit {__version__}")
    return made


def subcommand(
    commands: argparse._SubParsersAction[Parser], name: str, description: str, examples: str, json: bool = True
) -> Parser:
    """One of a command's sub-commands, added to what `add_subparsers` returned; --debug and --json as its parent's."""
    made: Parser = commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(made, json, default=argparse.SUPPRESS)  # what was said before the sub-command's name holds
    return made


def _add_common(parser: Parser, json: bool, default: bool | str) -> None:
    if json:
        parser.add_argument("--json", action="store_true", default=default, help="print the report as JSON")
    elif default is False:
        parser.set_defaults(json=False)  # of a sub-command that has --json
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type for `add_argument`: a whole number from `least` to `most`."""

    def read(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            allowed = f"{least} or more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"must be {allowed}, not {value}")
        return value

    read.__name__ = "int"  # by which argparse names what is no number
    return read


def run_command(
    parser: Parser, work: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None
) -> int:
    """Parse the arguments, do the work and return the exit code, `work`'s own or 0 when that went well.

    What the user can fix (Error, ValueError, OSError, MemoryError) is one line on stderr and exit code 2, with --debug
    a traceback; an interruption gives 130. Any other exception is a bug of ours and passes with its traceback.
    argv: without the program's name; None means this process's own.
    """
    debug = False
    _open_standard_descriptors()
    try:
        with warnings_as_lines():
            try:
                args = parser.parse_args(argv)
            except SystemExit as end:  # after --help, --version or a mistake, and all is said
                return int(end.code or 0)
            debug = args.debug
            return work(args) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (Error, ValueError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        else:
            tell(f"error: {text_of(error)}")
        return MISTAKE


def _open_standard_descriptors() -> None:
    """Opens what the caller closed of 0, 1 and 2 to nowhere, lest a file of ours gets the number of stderr.

    Python has no stream for them then; libraries expect one (Ray: "sys.stderr is None").
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115


def text_of(error: Exception) -> str:
    """An exception's text, without the system's number for a file error."""
    if isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno"):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory: free some, or ask for less at once"
    return str(error) or type(error).__name__


def tell(message: str) -> None:
    """One line on stderr."""
    tell_lines(" ".join(message.split()))


def tell_lines(text: str) -> None:
    """Lines on stderr as they are, if anybody reads it: `print` would fall back to stdout, which is for results."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a closed stderr must not stop the work
            print(text, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """The result on stdout. The files are written by now, so a closed or unusual stdout loses none."""
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a path that stdout's encoding lacks is shown with escapes
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except BrokenPipeError:  # the reader closed stdout, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = f"cannot write to standard output: {error.strerror}"
        raise OutputError(f"{reason}; all output files are written") from error


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
            if not category.__module__.startswith(OURS):
                usual(message, category, filename, lineno, file, line)
            elif str(message) not in shown:
                shown.add(str(message))
                tell(f"warning: {message}")

        warnings.showwarning = show
        yield
