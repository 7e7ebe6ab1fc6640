"""One thread a test process: toy networks gain nothing from two, and lose much where something else computes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ADDKIT_CACHE"] = "off"  # tests of the cache name a folder of their own; nobody's home is written to
