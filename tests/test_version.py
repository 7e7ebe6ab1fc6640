"""The version is in runtime/__init__.py; the wheel reads it from there, and files that cannot do so agree with it."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

import runtime

ROOT = Path(__file__).parent.parent


def test_a_wheel_takes_it_without_an_import() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"] and "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "runtime.__version__"}
    tree = ast.parse((ROOT / "runtime" / "__init__.py").read_text())
    assigned = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert [ast.literal_eval(node.value) for node in assigned] == [runtime.__version__]  # or setuptools imports numpy


@pytest.mark.parametrize("app", ["web", "shell"])
def test_the_apps_have_it(app: str) -> None:
    for name in ("package.json", "package-lock.json"):
        assert json.loads((ROOT / "mobile_demo" / app / name).read_text())["version"] == runtime.__version__


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("CITATION.cff", r"^version: (.+)$"),
        ("mobile_demo/shell/android/app/build.gradle", r'versionName "(.+)"'),
        ("mobile_demo/shell/ios/App/App.xcodeproj/project.pbxproj", r"MARKETING_VERSION = (.+);"),
    ],
)
def test_files_of_other_languages_have_it(path: str, pattern: str) -> None:
    found = re.findall(pattern, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found) == {runtime.__version__}


def test_the_changelog_has_it_or_what_is_not_released() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading) for heading in released)
    assert released[0].startswith(f"{runtime.__version__} - ") and headings[0] in ("Unreleased", released[0])
