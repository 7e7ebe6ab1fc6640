"""One thread per test process: toy networks gain nothing from two, and lose a lot when the machine is busy."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ADDKIT_CACHE"] = "off"  # tests of the cache set their own folder; nobody's home folder is written to
