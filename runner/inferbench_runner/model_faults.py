"""What keeps a model from being measured, as far as reading its files tells: nothing of it is run or imported.

An ONNX file is looked into by `onnx_faults`. Of a model that PyTorch builds, this finds whether there is such a
function; what the function makes of its arguments, only a run tells.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inferbench_contract.errors import EnvironmentFault, how_to_install
from inferbench_contract.spec import PythonModel, TorchvisionModel
from inferbench_runner import onnx_faults, sources
from inferbench_runner.onnx_faults import Faults, Request

MAKERS: Final = frozenset({"globals", "vars", "locals", "setattr", "exec"})
"""With these a module can make names that its source does not show."""

FACTORY: Final = ("spec", "model", "python", "factory")
NAME: Final = ("spec", "model", "torchvision", "name")

REGISTER: Final = "register_model"
"""The decorator of each function of torchvision's that makes a model."""


def find(request: Request) -> Faults:
    """Look at the model. Raises EnvironmentFault where the library is not here that knows it."""
    if request.model.python is not None:
        return _of_factory(request.model.python, request.model_folder)
    if request.model.torchvision is not None:
        return _of_torchvision(request.model.torchvision)
    return onnx_faults.find(request)


# ---- a Python factory ----------------------------------------------------------------------------


def _of_factory(model: PythonModel, folder: Path) -> Faults:
    module, _, function = model.factory.partition(":")
    found = sources.find(module, folder)
    if not found:
        return Faults(notes=((FACTORY, _not_here(module, folder)),))
    file = found[-1].origin
    if file is None or not file.endswith(".py"):
        return Faults()
    try:
        names = _names(Path(file))
    except SyntaxError as error:
        told = f'found "{model.factory}", expected Python in {file}: line {error.lineno}: {error.msg}.'
        return Faults(mistakes=((FACTORY, told),))
    if names is None or function in names:
        return Faults()
    told = f'found "{model.factory}", expected a function of {file}. {_near(function, names)}'
    return Faults(mistakes=((FACTORY, told),))


def _not_here(module: str, folder: Path) -> str:
    """Only note it: a cluster's pods look elsewhere."""
    return (
        f"there is no module {module} in {folder} or on PYTHONPATH, where a run on this machine looks. On a cluster it "
        "stands on the models volume or in the runner's image."
    )


def _names(file: Path) -> frozenset[str] | None:
    """Return every name that a file binds anywhere; None where it may have others. Raises SyntaxError."""
    with warnings.catch_warnings(action="ignore"):
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    names = frozenset(name for node in nodes for name in _bound(node))
    is_open = names & {"*", "__getattr__"} or any(isinstance(node, ast.Name) and node.id in MAKERS for node in nodes)
    return None if is_open else names


def _bound(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from (alias.asname or alias.name for alias in aliases)


# ---- torchvision ---------------------------------------------------------------------------------


def _of_torchvision(model: TorchvisionModel) -> Faults:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise EnvironmentFault(f"torchvision is not installed. {how_to_install('runner')}")
    names = registered(Path(found.origin).parent / "models")
    if not names or model.name in names:
        return Faults()
    told = f'found "{model.name}", expected a model of the torchvision that is installed. {_near(model.name, names)}'
    return Faults(mistakes=((NAME, told),))


def registered(folder: Path) -> frozenset[str]:
    """Return the names of the models in a folder of torchvision's sources: importing it takes seconds."""
    trees = (ast.parse(file.read_bytes()) for file in folder.rglob("*.py"))
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return frozenset(name for function in functions for name in _registered_as(function))


def _registered_as(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the name that a function's decorator gives it: the function's own unless it says another."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == REGISTER:
            given = [*decorator.args, *(keyword.value for keyword in decorator.keywords)]
            yield next((str(each.value) for each in given if isinstance(each, ast.Constant)), function.name)


def _near(word: str, names: frozenset[str]) -> str:
    near = difflib.get_close_matches(word, sorted(names))
    return f"Near it: {', '.join(near)}." if near else "None is spelt like it."
