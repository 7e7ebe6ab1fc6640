"""Every page is sound: headings, tables, code blocks, links, and the commands and files that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACES = (
    "*.md",
    "docs/**/*.md",
    "checkpoints/*/*.md",
    "examples/**/*.md",
    ".github/**/*.md",
    "mobile_demo/shell/*/*.md",
)
PAGES = sorted(str(page.relative_to(ROOT)) for place in PLACES for page in ROOT.glob(place))
PACKAGES = ("runtime", "train", "export", "scripts", "addkit", "tests")
LONGEST_HEADING = 100  # a longer one is a paragraph that lost its line break
FENCE = re.compile(r" *(`{3,}|~{3,})(.*)")
HEADING = re.compile(r"(#+)( ?)(.*)")
# The log and the changelog are history: they may name what has moved or gone.
HISTORY = ("CHANGELOG.md", "docs/log/")


def blocks(text: str) -> tuple[list[tuple[int, str]], list[tuple[str, str]], str]:
    """A page's lines outside of code with their numbers, its code blocks as (language, code), the fence left open."""
    prose, code = [], []
    fence, language = "", ""
    held: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.fullmatch(line)
        if not fence and found:
            fence, language, held = found[1], found[2].strip(), []
        elif fence and found and found[1].startswith(fence) and not found[2].strip():
            code.append((language, "\n".join(held)))
            fence = ""
        elif fence:
            held.append(line)
        else:
            prose.append((number, line))
    return prose, code, fence


def read(page: str) -> tuple[list[tuple[int, str]], list[tuple[str, str]], str]:
    return blocks((ROOT / page).read_text(encoding="utf-8"))


def faulty_headings(prose: list[tuple[int, str]]) -> list[str]:
    """What is wrong with the headings: no space, no blank line above, too long, a level left out, two titles."""
    faults, depth, before = [], 0, ""
    for number, line in prose:
        found = HEADING.fullmatch(line)
        if found:
            level = len(found[1])
            wrong = {
                "no space after #": not found[2],
                "no blank line above": before != "",
                "a paragraph in the heading": len(line) > LONGEST_HEADING,
                "a level left out": level > depth + 1,
                "a second title": level == 1 and depth > 0,
            }
            faults += [f"line {number}: {what}" for what, is_so in wrong.items() if is_so]
            depth = level
        before = line.strip()
    return faults


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row.strip().strip("|")))) + 1


def faulty_tables(prose: list[tuple[int, str]]) -> list[str]:
    """Tables that no blank line parts from the text above, that have no rule, or rows with other numbers of cells."""
    faults = []
    table: list[tuple[int, str]] = []
    before = ""
    for number, line in [*prose, (0, "")]:
        if line.lstrip().startswith("|"):
            if not table and before.strip():
                faults.append(f"line {number}: no blank line above the table")
            table.append((number, line))
        elif table:
            if len(table) < 2 or not re.fullmatch(r"[|\s:-]+", table[1][1]):
                faults.append(f"line {table[0][0]}: a table without its rule")
            width = cells(table[0][1])
            faults += [f"line {n}: {cells(row)} cells of {width}" for n, row in table if cells(row) != width]
            table = []
        before = line
    return faults


def slug(heading: str) -> str:
    """The anchor that code hosts make of a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")


def faulty_links(page: Path, prose: list[tuple[int, str]]) -> list[str]:
    """Relative links to files that are not there, or to headings that the page has not."""
    text = "\n".join(re.sub(r"`[^`]*`", "", line) for _, line in prose)
    faults = []
    for target in re.findall(r"\]\(\s*<?([^)>\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            faults.append(target)
        elif anchor and file.suffix == ".md":
            headings = [HEADING.fullmatch(line) for _, line in blocks(file.read_text(encoding="utf-8"))[0]]
            if anchor not in [slug(found[3]) for found in headings if found]:
                faults.append(target)
    return faults


def module_exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def defined_names(module: str) -> set[str]:
    """What a module of ours defines or imports at its top, and a package's submodules."""
    path = ROOT.joinpath(*module.split("."))
    names = {file.stem for file in path.glob("*.py")} | {folder.name for folder in path.glob("*/")}
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # names that a package imports lazily
    return names


def faulty_imports(code: str) -> list[str]:
    """Imports of our packages in an example that lead nowhere."""
    faults = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            missing = [alias.name for alias in node.names if alias.name not in defined_names(node.module)]
            faults += [f"from {node.module} import {name}" for name in missing]
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES]
            faults += [f"import {name}" for name in ours if not module_exists(name)]
    return faults


def faulty_names(text: str) -> list[str]:
    """What a page calls "`name` of `file`" though the file does not define it."""
    paths = rf"(?:{'|'.join(PACKAGES)})(?:/\w+)*(?:\.py)?"
    found = re.findall(rf"`([\w.]+)(?:[(\[][^`]*)?` (?:of|in)\s+`({paths})`", text)
    return [
        f"{name} of {path}"
        for name, path in found
        if not {*name.split(".")} <= defined_names(path.removesuffix(".py").replace("/", "."))
    ]


def test_there_are_pages() -> None:
    assert {"README.md", "CHANGELOG.md", "docs/ARCHITECTURE.md", "docs/log/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_headings_tables_and_code_blocks_are_whole(page: str) -> None:
    prose, _, fence = read(page)
    assert not fence, "a code block is not closed"
    assert faulty_headings(prose) + faulty_tables(prose) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert faulty_links(ROOT / page, read(page)[0]) == []


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(HISTORY)])
def test_commands_files_and_imports_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    modules = set(re.findall(rf"python3? -m ((?:{'|'.join(PACKAGES)})(?:\.\w+)*)", text))
    assert {name for name in modules if not module_exists(name)} == set()
    files = set(re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w./-]+\.(?:py|tsv|json|md))`", text))
    assert {name for name in files if not (ROOT / name).exists()} == set()
    assert faulty_names(text) == []
    for language, code in read(page)[1]:
        assert language != "python" or faulty_imports(code) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# A\n\n##B\n", "line 3: no space after #"),
        ("# A\n\ntext\n## B\n", "line 4: no blank line above"),
        (f"# A\n\n## B {'c ' * 60}\n", "line 3: a paragraph in the heading"),
        ("# A\n\n### B\n", "line 3: a level left out"),
        ("# A\n\n# B\n", "line 3: a second title"),
        ("# A\ntext\n| a | b |\n| --- | --- |\n", "line 3: no blank line above the table"),
        ("# A\n\n| a | b |\n| c | d |\n", "line 3: a table without its rule"),
        ("# A\n\n| a | b |\n| --- | --- |\n| c |\n", "line 5: 1 cells of 2"),
        ("# A\n\n| a `x|y` | b |\n| --- | --- |\n\n```sh\n# no heading\n##\n| no table\n```\n", ""),
    ],
)
def test_faults_of_a_page_are_found(text: str, says: str) -> None:
    prose, _, _ = blocks(text)
    assert faulty_headings(prose) + faulty_tables(prose) == ([says] if says else [])


def test_links_and_imports_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# The page\n\n[a](gone.md) [b](#the-page) [c](#no) [d](https://e.org/) ![f](page.md)\n")
    assert faulty_links(page, blocks(page.read_text())[0]) == ["gone.md", "#no"]
    code = "import runtime.nowhere\nfrom runtime import load, nothing\nfrom runtime.interpolate.path import between"
    assert faulty_imports(code) == ["import runtime.nowhere", "from runtime import nothing"]
    names = "`load` of `runtime/pipeline.py`, `no_such` of `runtime`, `Config.seed` in\n`train/config.py`"
    assert faulty_names(names) == ["no_such of runtime"]
    assert blocks("```sh\nls")[2] == "```"
