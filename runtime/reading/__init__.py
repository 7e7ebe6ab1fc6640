"""Text and tables that people write, read as they meant them or refused with file and line: the one such reader."""

from runtime.reading.tables import UNNAMED, Row, csv_rows, json_rows
from runtime.reading.text import read_lines, text_lines, text_of

__all__ = ["UNNAMED", "Row", "csv_rows", "json_rows", "read_lines", "text_lines", "text_of"]
