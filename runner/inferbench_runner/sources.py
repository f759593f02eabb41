"""Finds the Python sources that a factory is made of, by reading them: nothing is imported."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from inferbench_contract.errors import InferbenchError

INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
"""Folders that pip installs into, here or on Debian."""


def find(module: str, folder: Path) -> Sequence[ModuleSpec]:
    """Return the packages around a module and the module, outermost first; nothing where one of them is not there.

    Each is looked for by its own name in the folders of the one around it: asked for by its whole name, Python imports
    what is around it.
    """
    found: list[ModuleSpec] = []
    places = [*sys.path, str(folder)]
    for name in module.split("."):
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return ()
        found.append(spec)
        places = list(spec.submodule_search_locations or ())
    return found


def require(module: str, folder: Path) -> Sequence[ModuleSpec]:
    """Return what `find` does. Raises where the module is not there."""
    found = find(module, folder)
    if not found:
        raise InferbenchError(
            f"spec.model.python.factory names the module {module}, and there is none. "
            f"It has to stand in {folder} or on PYTHONPATH.",
        )
    return found


def files(module: str, folder: Path) -> Sequence[Path]:
    """Return the Python files of the package that a module stands in, and of what these import from beside it.

    Not seen is what stands elsewhere, and what a name made at run time imports or opens.
    """
    found = require(module, folder)
    place = _place(found)
    seen = {unit.origin: unit for unit in _units(found)}
    to_read = list(seen.values()) if _is_ours(place) else []
    while to_read:
        names = {name for file in _python_files(to_read.pop()) for name in _imported(file)}
        beside = {unit.origin: unit for name in sorted(names) for unit in _beside(place, name, folder)}
        to_read += [unit for origin, unit in beside.items() if origin not in seen]
        seen |= beside
    return [file for unit in seen.values() for file in _python_files(unit)]


def packages(files: Sequence[Path]) -> frozenset[str]:
    """Return the outermost names of what some files import; `from . import x` is no package's."""
    return frozenset(name.partition(".")[0] for file in files for name in _imported(file))


def _beside(place: Path, module: str, folder: Path) -> Sequence[ModuleSpec]:
    """Return what an import from a file in this place reads of the place itself."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return ()
    found = find(module, folder)
    return _units(found) if found and _place(found) == place else ()


def _units(found: Sequence[ModuleSpec]) -> Sequence[ModuleSpec]:
    """Return the outermost package, or the module; a folder without `__init__.py` is only on the way to it."""
    return [spec for spec in found if spec.origin is not None][:1]


def _place(found: Sequence[ModuleSpec]) -> Path:
    """Return the folder in which the outermost package stands."""
    outermost = found[0]
    return Path(next(iter(outermost.submodule_search_locations or [outermost.origin or ""]))).parent


def _is_ours(place: Path) -> bool:
    """Tell whether a person writes there: what pip installs is known by its version, and would be read for seconds."""
    return INSTALLED.isdisjoint(place.parts)


def _python_files(unit: ModuleSpec) -> Sequence[Path]:
    """Return the file of a module, or all Python files of a package."""
    if unit.submodule_search_locations is None:
        return (Path(unit.origin),) if unit.origin is not None else ()
    every = (file for folder in unit.submodule_search_locations for file in Path(folder).rglob("*.py"))
    return sorted(file for file in every if file.is_file())


def _imported(file: Path) -> Iterator[str]:
    """Yield what a file may import by name; nothing of what is no Python: importing it says so better."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
