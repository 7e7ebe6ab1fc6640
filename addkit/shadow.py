"""Checks that Python finds our packages, not a user's file of that name: runtime.py and train.py are common."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent  # of all four packages


def check_package(name: str) -> None:
    """ImportError, in one line, unless the package of this name is the one that was installed with addkit.

    Nothing is imported to find out.
    """
    found = _spec(name)
    if found is None:
        raise ImportError(f"addkit's package {name} is missing beside {HOME / 'addkit'}: install addkit again")
    places = found.submodule_search_locations
    if places is not None and HOME / name in [Path(place).resolve() for place in places]:
        return
    where = found.origin or ", ".join(places or ()) or "another module"
    raise ImportError(f"{where} hides addkit's own package {name}: rename it, or start Python from another folder")


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ValueError:  # a module without a spec, as some programs make by hand
        return ModuleSpec(name, None)
