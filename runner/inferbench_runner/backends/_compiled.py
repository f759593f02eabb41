"""torch.compile, for the two backends that are modes of it.

Shapes are static and each batch size has its process: in one process a second size would get dynamic shapes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts, environment
from inferbench_runner.backends import Session, Unsupported, _int8_static, _torch
from inferbench_runner.task import CellTask

LIBRARIES: Final = (*_torch.LIBRARIES, "triton")

MODULES: Final = tuple(
    f"inferbench_runner.backends.{name}"
    for name in ("_compiled", "_int8_static", "_layout", "_linear", "_torch", "torch_compile")
)
"""What of our own code decides what is compiled and how, flags among it that the library's own keys leave out."""

COMPLETE: Final = "complete"
"""File in a cache folder that has been filled by a whole compilation."""

VECTORS: Final = "vectors"
"""The kind of cache entry that holds what a compiler was found to know of this processor's vectors."""

FOLDER: Final = "TORCHINDUCTOR_CACHE_DIR"
"""The variable in which Inductor looks, each time that it writes or reads something, for where to do so."""

GRAPHED_MODES: Final = ("reduce-overhead", "max-autotune")
"""On a GPU these replay CUDA graphs."""


def missing(precision: Precision, device: Device) -> str | None:
    """Say which package or program is not installed: Inductor compiles C++ for a CPU, Triton C for a GPU."""
    if (reason := _torch.missing(precision, device)) is not None:
        return reason
    if (reason := missing_compiler(device)) is not None:
        return reason
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "NotInstalled: torch.compile needs Python.h, which is not here. Install it: apt-get install python3-dev"
    return None


def missing_compiler(device: Device) -> str | None:
    """Say that the compiler is not here in whose language Inductor writes what runs on a device, or calls it."""
    variable, usual = ("CXX", "g++") if device is Device.CPU else ("CC", "gcc")
    compiler = os.environ.get(variable, usual)
    if shutil.which(compiler) is not None:
        return None
    return f"NotInstalled: torch.compile needs a compiler, and {compiler} is not here. Install it: apt-get install g++"


def settings(task: CellTask, mode: str) -> dict[str, Any]:
    """Return how a model is compiled, as JSON holds it."""
    return {"mode": mode, "freezing": is_frozen(task)}


def is_frozen(task: CellTask) -> bool:
    """Tell whether weights become constants. Without that Inductor computes quantised layers in floats."""
    return task.precision is Precision.INT8_STATIC or bool(task.options.get("freezing", False))


def require_freezing(task: CellTask) -> None:
    """Refuse 8 bits where the benchmark says that nothing is to be frozen."""
    if task.precision is Precision.INT8_STATIC and task.options.get("freezing") is False:
        raise Unsupported(
            "NeedsFreezing: Inductor computes quantised layers in floats unless weights become constants. Leave "
            f"backendOptions.{task.backend}.freezing out."
        )


def learn_vectors(task: CellTask) -> None:
    """Let Inductor find out which vector instructions of this processor it can use, before anything is timed.

    It does so by compiling and loading small programs, wherever it finds none: in each cell whose cache is cold. Their
    answer is about processor and compiler and not about a model, so a cache holds it once, as an entry: half a program,
    left by a cell that was killed, would pass for a compiler that knows less, and later cells get slower code unsaid.
    """
    from torch._inductor import config, cpp_builder, cpu_vec_isa

    def ask(folder: Path) -> None:
        os.environ[FOLDER] = str(folder)
        cpu_vec_isa.valid_vec_isa_list()  # it keeps the answer for as long as the process lives

    decisive = {
        "compiler": cpp_builder.get_compiler_version_info(cpp_builder.get_cpp_compiler()),
        "isTaken": config.cpp.vec_isa_ok,
        "versions": dict(_torch.versions()),
        "processor": environment.describe().cpu_model,
        "flags": environment.cpu_flags(),
    }
    ask(artifacts.publish(task.cache, VECTORS, artifacts.key(decisive), ask))


@contextmanager
def as_asked(task: CellTask, module: Any) -> Iterator[None]:
    """Raise FellBack where a model that is compiled in this block does not compute in what was asked for."""
    if task.precision is not Precision.INT8_STATIC:
        yield
        return
    with _int8_static.all_lowered(module):
        yield


def load(task: CellTask, mode: str) -> Session:
    """Build the model, compile it with one call, and bind the first batch."""
    require_freezing(task)
    folder = cache_folder(task, mode)
    notes: dict[str, int | str] = {"compileCache": "warm" if (folder / COMPLETE).exists() else "cold"}
    _torch.set_up(task)
    if task.device is Device.CPU:
        learn_vectors(task)
    os.environ[FOLDER] = str(folder)
    inputs, module = _torch.bound(task), _torch.module(task)
    session = _torch.session(task, _compiled(task, mode, module, inputs), inputs, notes)
    begin_ns = time.perf_counter_ns()
    with as_asked(task, module):
        session.enqueue()
        session.synchronize()
    notes["compileNanoseconds"] = time.perf_counter_ns() - begin_ns
    (folder / COMPLETE).touch()
    return session


def cache_folder(task: CellTask, mode: str) -> Path:
    """Return the folder that holds what this very cell compiles, so that it is either empty or complete.

    Raises EnvironmentFault where it has yet to be filled and the disk is full.
    """
    folder = task.cache / "inductor" / _folder_name(task, mode)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / COMPLETE).exists():
        artifacts.require_space(task.cache, 0)
    return folder


def _folder_name(task: CellTask, mode: str) -> str:
    decisive = {
        **_torch.content(task),
        "cell": str(task.cell),
        "mode": mode,
        "options": dict(task.options),
        "threads": task.threads,
        "device": task.device,
        "hardware": environment.describe().hardware,
        **environment.makers(MODULES, LIBRARIES),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]


def _compiled(task: CellTask, mode: str, module: Any, inputs: Mapping[str, Any]) -> Any:
    import torch
    from torch._inductor import config

    config.freezing = is_frozen(task)
    if task.device is Device.GPU and mode in GRAPHED_MODES:
        for tensor in inputs.values():
            torch._dynamo.mark_static_address(tensor)  # noqa: SLF001 (else each replay copies the inputs first)
    return torch.compile(module, dynamic=False, fullgraph=False, mode=mode)
