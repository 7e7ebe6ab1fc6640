"""The one writer of files and folders: each appears whole under its name or not at all, whatever stops the program.

A file or folder is made under a hidden temporary name beside its target, flushed to the disk and renamed. What fails
is one OutputError, and leaves nothing behind; what a killed process leaves, the next writer in that place removes.
"""

from runtime.files.caches import kept_folder
from runtime.files.folders import check_folder, check_free, whole_folder
from runtime.files.locks import Lock, locked, take_lock
from runtime.files.partial import is_partial, remove_partial
from runtime.files.passing import passing_folder
from runtime.files.signals import signals_held
from runtime.files.whole import check_writable, whole_file, whole_stream, write_json, write_text, write_whole

__all__ = [
    "Lock",
    "check_folder",
    "check_free",
    "check_writable",
    "is_partial",
    "kept_folder",
    "locked",
    "passing_folder",
    "remove_partial",
    "signals_held",
    "take_lock",
    "whole_file",
    "whole_folder",
    "whole_stream",
    "write_json",
    "write_text",
    "write_whole",
]
