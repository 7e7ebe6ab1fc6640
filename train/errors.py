"""The error that a command turns into one line and exit code 2, and the wrapper that does so."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from runtime.errors import UserError


def run_command(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Run a command's `main(argv)`; a UserError becomes one line on stderr and exit code 2.

    With `--debug` among the arguments the traceback is shown instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        main([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
