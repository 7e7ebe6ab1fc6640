"""The rooms of the source tree and the arrows between them: `python -m scripts.rooms` redraws docs/ARCHITECTURE.md.

A room is a folder of Python; an arrow means that a file of one room imports a file of another, wherever in the file.
tests/test_imports.py compares what is drawn with what is measured here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from runtime.files import write_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "ARCHITECTURE.md"
OURS = ("addkit", "runtime", "train", "export")
PICTURE = re.compile(r"```mermaid\n(.*?)```", flags=re.DOTALL)


def sources(package: str) -> dict[str, Path]:
    """Module name -> file, of a package; a room's `__init__` has the room's name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = {name: path for package in OURS for name, path in sources(package).items()}
ROOMS = {name for name, path in MODULES.items() if path.name == "__init__.py"}
RECIPE = {name for name in MODULES if name.startswith(("train.sticker.", "train.world."))}  # of the shipped model
# Modules that need more than their room: the doors of rooms, which may open others.
WIDER: dict[str, set[str]] = {"train.data.__main__": RECIPE}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; "a.b" for `from a import b` too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> str:
    """The module of ours that a dotted name is, or is part of; "" for what is not ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def room_of(module: str) -> str:
    """The folder that a module is in, dotted."""
    return module if module in ROOMS else module.rpartition(".")[0]


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, type checking's imports too."""
    return {
        module: {found for name in imported(path) if (found := module_of(name))} - {module}
        for module, path in MODULES.items()
    }


def drawn_edges() -> dict[str, set[str]]:
    """Room -> rooms that it may import, as the picture in docs/ARCHITECTURE.md has it."""
    (picture,) = PICTURE.findall(PAGE.read_text(encoding="utf-8"))
    edges: dict[str, set[str]] = {}
    for start, ends in re.findall(r"^\s*([\w.]+) --> ([\w. &]+)$", picture, flags=re.MULTILINE):
        edges.setdefault(start, set()).update(ends.split(" & "))
    return edges


def measured_edges() -> dict[str, set[str]]:
    """Room -> rooms that its files import."""
    edges: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        for target in targets - WIDER.get(module, set()):
            if room_of(target) != room_of(module):
                edges.setdefault(room_of(module), set()).add(room_of(target))
    return edges


def drawing(edges: dict[str, set[str]]) -> str:
    """The picture as Mermaid's text, a line per room."""
    lines = [f"    {room} --> {' & '.join(sorted(ends))}" for room, ends in sorted(edges.items())]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, PICTURE.sub(lambda _: drawing(measured_edges()), page))


if __name__ == "__main__":
    main()
