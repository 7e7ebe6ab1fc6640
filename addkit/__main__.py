"""`python -m addkit VERB ...`, as the console script `addkit`."""

import sys

from addkit.command import main

if __name__ == "__main__":
    sys.exit(main())
