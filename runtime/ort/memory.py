"""Memory: the bounds that ONNX Runtime itself keeps for a graph's values, and how to tell when there is none left.

`runtime.onnx_guard` refuses what a file shows to be absurd. A graph can still multiply two small arrays into a huge
one, or compute a shape; that only running it shows, and then ONNX Runtime's arena refuses what is beyond its limit.
"""

from __future__ import annotations

import threading
from typing import Any

# What ONNX Runtime, CUDA and the operating system say when there is none left. "Available memory of", which a graph
# gets at the limit below, is none of them: there the graph is at fault.
_STARVED = (
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "cannot allocate memory",
    "out of memory",
    "alloc_failed",
)
LEAST_BYTES = 1_500_000_000  # of values, whatever the model's size
# A model's values grow with its weights. Most of all in Stable Diffusion's decoder: 50 MB in int8, and 3 GB at
# 512 x 512 pixels.
BYTES_A_STORED_BYTE = 64
FOLDED_BYTES_A_STORED_BYTE = 8  # 4 bit to float
_lock = threading.Lock()
_registered = 0


def starved(error: BaseException) -> bool:
    """Whether an error says that the machine, or its GPU, has no memory left."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _STARVED)


def limit_memory(onnxruntime: Any, options: Any, stored: int) -> None:
    """Puts the limits for the CPU provider into a session's options.

    `stored`: bytes of model.onnx and the files beside it, its weights. The sessions of a process share one arena, which
    gives out as much as the largest model that was opened so far may use: a picture needs the memory of its
    largest stage, not of all. Beyond it a run raises; what was given out before stays with the arena.
    """
    _register(onnxruntime, LEAST_BYTES + BYTES_A_STORED_BYTE * stored)
    folded = max(2**20, FOLDED_BYTES_A_STORED_BYTE * stored)
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(folded))
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False  # a pattern's one large block would stay beside the arena's pieces


def _register(onnxruntime: Any, limit: int) -> None:
    """An arena of this limit for the sessions to come, unless the one in use is as large."""
    global _registered  # noqa: PLW0603 (one arena of a process, under the lock)
    with _lock:
        if limit <= _registered:
            return
        kinds, memory = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType.DEFAULT
        info = onnxruntime.OrtMemoryInfo("Cpu", kinds.ORT_ARENA_ALLOCATOR, 0, memory)
        # 1: grow by what is asked for; the default, the next power of two, would hold twice as much
        settings = onnxruntime.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": 1})
        onnxruntime.create_and_register_allocator(info, settings)
        _registered = limit
