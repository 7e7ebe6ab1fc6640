"""What an export must reach, per precision; imports nothing, so that commands can name it in their help."""

from __future__ import annotations

MOST_STEPS = 4  # that an export can be asked for
SEVERAL = (2, MOST_STEPS)  # numbers of steps whose pictures are looked at beside one step's
# The worst one-step picture must be at least this close to PyTorch's, in dB of PSNR.
THRESHOLDS_DB = {
    "fp32": 50.0,
    "fp16": 35.0,
    "int8": 30.0,
    "int8-weights": 30.0,
    "int4-weights": 20.0,
    "w8a8": 28.0,
    "palettized-8bit": 28.0,
    "palettized-6bit": 20.0,
    "palettized-4bit": 12.0,
}
MOST_RATIO = 1.03  # of the export's FD-Lite0 to real pictures to the checkpoint's
