"""Text and tables as people save them: the one reader of prompts, captions and metadata."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.batch.prompts_file import format_of, records
from runtime.batch.rows import Row, Rules, rows
from runtime.bundle import open_bundle
from runtime.errors import UserError
from runtime.reading import csv_rows, text_lines
from train.data.folder import read_folder
from train.data.shards import record_of
from train.prompts import read_prompts

TINY = open_bundle(Path(__file__).parent / "golden" / "tiny_bundle").manifest
BOM = "\ufeff"


def batch(text: str | bytes, format: str = "csv", keep: tuple[str, ...] = ()) -> list[Row]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(rows(records(io.BytesIO(data), "p", format, keep), "p", Rules(TINY, "png", keep=keep)))


def import_one(folder: Path, name: str, content: str | bytes) -> tuple[str, ...]:
    """The captions of a.png, said by a file."""
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (source,) = read_folder(folder).sources
    return source.record.captions


METADATA = '{"file_name": "a.png", "text": "a café"}\n'
TABLE = "file_name,text\na.png,a café\n"


@pytest.mark.parametrize(
    ("name", "text"), [("a.txt", "a café\r\n"), ("metadata.jsonl", METADATA), ("metadata.csv", TABLE)]
)
def test_captions_in_the_encodings_that_editors_save(name: str, text: str, tmp_path: Path) -> None:
    assert import_one(tmp_path, name, text) == ("a café",)
    assert import_one(tmp_path, name, BOM + text) == ("a café",)
    for encoding, why in (("latin-1", "it is not UTF-8"), ("utf-16", "it is UTF-16"), ("utf-16-le", "line 1|NUL")):
        with pytest.raises(UserError, match=why) as caught:
            import_one(tmp_path, name, text.encode(encoding))
        said = str(caught.value)
        assert "\n" not in said and str(tmp_path / name) in said
        if encoding == "latin-1":
            assert f"line {1 if name != 'metadata.csv' else 2}" in said


def test_utf16_without_a_mark_is_no_caption(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt: it holds NUL characters, as UTF-16 does: save it as UTF-8"):
        import_one(tmp_path, "a.txt", "a fox".encode("utf-16-le"))


def test_a_shards_text_is_read_alike() -> None:
    assert record_of({"__key__": "a", "txt": b"\xef\xbb\xbfa caf\xc3\xa9"}).captions == ("a café",)
    with pytest.raises(ValueError, match="its txt member, line 1: it is not UTF-8"):
        record_of({"__key__": "a", "txt": "a café".encode("latin-1")})


SEPARATORS = "\u2028\u2029\x85\x1c\x0b\x0c"  # where str.splitlines breaks lines, and JSON does not


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    text = f"a fox{SEPARATORS}on grass"
    row = json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=False)
    assert import_one(tmp_path, "metadata.jsonl", f"{row}\n") == (text,)
    assert [row.prompt for row in batch(json.dumps({"prompt": text}, ensure_ascii=False), "jsonl")] == [text]
    (tmp_path / "p.txt").write_text("a fox\u2028on grass\na pizza\n")
    assert read_prompts(tmp_path / "p.txt") == ("a fox\u2028on grass", "a pizza")
    assert [row.prompt for row in batch("a fox\u2028on grass\na pizza\n", "txt")] == ["a fox\u2028on grass", "a pizza"]


@pytest.mark.parametrize(("stored", "said"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_agree_whatever_form_their_accents_have(stored: Any, said: Any, tmp_path: Path) -> None:
    name = "café/é.png"
    path = tmp_path / unicodedata.normalize(stored, name)
    path.parent.mkdir()
    Image.new("RGB", (16, 16), "red").save(path)
    row = {"file_name": unicodedata.normalize(said, name), "text": "a disc"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    found = read_folder(tmp_path)
    assert [source.path for source in found.sources] == [path] and not found.unmatched
    (tmp_path / "metadata.jsonl").unlink()
    (path.parent / unicodedata.normalize(said, "é.txt")).write_text("a red disc")
    assert read_folder(tmp_path).sources[0].record.captions == ("a red disc",)


# ---- tables ---------------------------------------------------------------------------------------------------------

CSV = {
    "excel in Europe": BOM + "prompt;seed;name\r\na fox, red;7;fox\r\n",
    "excel's own mark": 'sep=;\r\nprompt;seed;name\r\n"a fox, red";7;fox\r\n',
    "tabs": "prompt\tseed\tname\na fox, red\t7\tfox\n",
    "bars": "prompt|seed|name\na fox, red|7|fox\n",
    "all quoted": '"prompt","seed","name"\n"a fox, red","7","fox"\n',
    "quoted semicolons": '"prompt";"seed";"name"\n"a fox, red";"7";"fox"\n',
    "pandas with gaps in a column of seeds": 'prompt,seed,name\n"a fox, red",7.0,fox\n',
    "empty rows at the end": 'prompt,seed,name\n"a fox, red",7,fox\n,,\n,,\n',
    "empty columns at the end": 'prompt,seed,name,,\n"a fox, red",7,fox,,\n',
    "spaces around names": ' prompt , seed , name \n"a fox, red",7,fox\n',
}


@pytest.mark.parametrize("text", CSV.values(), ids=CSV)
def test_tables_of_other_programs(text: str) -> None:
    (row,) = batch(text)
    assert (row.prompt, row.seed, row.path, row.extra) == ("a fox, red", 7, "fox.png", {})


def test_an_index_without_a_name_is_kept() -> None:
    table = ",prompt,seed\n10,a fox,7.0\n11,a pizza,\n"
    first, second = batch(table)
    assert (first.prompt, first.seed, first.extra) == ("a fox", 7, {"Unnamed: 0": "10"})
    assert second.extra == {"Unnamed: 0": "11"}
    saved_again = "Unnamed: 0,prompt\n10,a fox\n"  # as pandas writes what it has read
    assert batch(saved_again)[0].extra == {"Unnamed: 0": "10"}
    assert batch('{"Unnamed: 0": 10, "prompt": "a fox"}', "jsonl")[0].extra == {"Unnamed: 0": 10}


@pytest.mark.parametrize("seed", ["7", "7.0", "7.00 ", " 7"])
def test_seeds_that_are_whole(seed: str) -> None:
    assert batch(f"prompt,seed\na fox,{seed}\n")[0].seed == 7
    assert batch(json.dumps({"prompt": "a fox", "seed": float(seed)}), "jsonl")[0].seed == 7


@pytest.mark.parametrize("seed", ["7.5", "1e3", "1.2e19", "7,0", "nan", "0x7"])
def test_seeds_that_are_not(seed: str) -> None:
    with pytest.raises(ValueError, match="line 2: seed must be a whole number"):
        batch(f"prompt;seed\na fox;{seed}\n")


@pytest.mark.parametrize("seed", ["1e300", "NaN", "Infinity", "1.5", "true", "[7]", "9007199254740993.0"])
def test_json_seeds_that_are_not(seed: str) -> None:
    with pytest.raises(ValueError, match="line 1: seed must be a whole number"):
        batch(f'{{"prompt": "a fox", "seed": {seed}}}', "jsonl")


def test_line_ends_of_old_macs_are_named() -> None:
    with pytest.raises(ValueError, match="p, line 1: a lone carriage return is in it"):
        batch("a fox\ra pizza\r", "txt")
    with pytest.raises(ValueError, match="p, line 1: .*new-line character"):
        batch("prompt,seed\ra fox,1\ra pizza,2\r")


def test_the_line_is_counted_where_excel_marks_its_delimiter() -> None:
    with pytest.raises(ValueError, match="p, line 3: seed must be"):
        batch("sep=;\nprompt;seed\na fox;x\n")


def test_a_table_by_tabs_has_an_ending_of_its_own() -> None:
    assert format_of("p.tsv") == "csv"


NAMES = ["prompt", "seed", "name", "label", "caption of it"]


@settings(max_examples=60, deadline=None)
@given(
    delimiter=st.sampled_from(",;\t|"),
    header=st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True),
    cells=st.lists(st.text(st.characters(exclude_characters="\0\r", codec="utf-8")), min_size=5, max_size=40),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_any_table_that_python_writes_comes_back(
    delimiter: str, header: list[str], cells: list[str], quoting: Any, end: str, bom: bool
) -> None:
    width = len(header)
    table = [cells[start : start + width] for start in range(0, len(cells) - width + 1, width)]
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([header, *table])
    data = (BOM * bom + written.getvalue()).encode()
    read = csv_rows(text_lines(io.BytesIO(data), "p"), "p", lambda at, header: None)
    assert [list(row.values()) for _, row in read] == [row for row in table if any(row)]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), format=st.sampled_from(["csv", "jsonl", "txt"]))
def test_any_bytes_are_read_or_refused_in_a_line(data: bytes, format: str) -> None:
    try:
        found: Iterator[Row] | list[Row] = batch(data, format)
    except ValueError as error:
        assert str(error).startswith("p, line ") and "\n" not in str(error)
    else:
        assert all(row.prompt.strip() for row in found)
