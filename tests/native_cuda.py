"""Libraries that stand in for NVIDIA's where ONNX Runtime loads its CUDA provider: it then places a graph, as on a GPU.

The provider is the real one: which kernels it has, and what it leaves to the CPU, is its own answer. Nothing can be
run, and no number of it would mean anything. tests/fake_cuda.py stands in for what our own code calls; this is what
compiled code calls, and so it is compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")

PROVIDERS: Final = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so")
"""The second one is loaded by whoever asks for the definitions of all kernels."""

LOADED_LATER: Final = "libcudnn.so.9"
"""The provider opens it by its name, and finds the functions by theirs."""

OF_NVIDIA: Final = re.compile(r"(__)?cu(da|blas|dnn|rand|[A-Z])\w+|create(Infer|NvOnnx)\w+|get(Infer|Plugin)\w+")

NAMED: Final = re.compile(rb"\0(cudnn[A-Z]\w+)(?=\0)")

LIBRARY: Final = re.compile(r"\(NEEDED\).*\[(lib(cu|nv)\S+)\]")

MAKES: Final = re.compile(r"cu\w+Create")
"""Functions that write a handle to where their first argument points."""


def providers(folder: Path) -> list[Path]:
    """Return the providers that lie with an ONNX Runtime; none where it was built without CUDA."""
    return [file for name in PROVIDERS if (file := folder / "capi" / name).exists()]


def build(providers: list[Path], folder: Path) -> Mapping[str, str]:
    """Build the libraries that providers need, and return the environment in which they are found."""
    source, library = folder / "native_cuda.c", folder / "native_cuda.so"
    written = SOURCE.read_text()
    functions = sorted({name for provider in providers for name in _called(provider)})
    rest = "\n".join(stub(name) for name in functions if f" {name}(" not in written and f"*{name}(" not in written)
    source.write_text(f"{written}\n{rest}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    for name in {LOADED_LATER, *(name for provider in providers for name in _needed(provider))}:
        (folder / name).symlink_to(library)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def stub(name: str) -> str:
    """Write a function that succeeds and does nothing, for a source that has `OK` and `NULL`."""
    if MAKES.match(name):
        return f"int {name}(void **handle) {{ static int made; *handle = &made; return OK; }}"
    return f"void *{name}(void) {{ return NULL; }}"


def undefined(library: Path) -> Iterator[str]:
    """Yield the functions of NVIDIA's libraries that a library is linked to."""
    for line in _told("nm", "-D", "--undefined-only", library):
        name = line.split()[-1].partition("@")[0]
        if OF_NVIDIA.fullmatch(name):
            yield name


def _called(provider: Path) -> Iterator[str]:
    """Yield the functions of NVIDIA's libraries that a provider calls."""
    yield from undefined(provider)
    yield from (name.decode() for name in NAMED.findall(provider.read_bytes()))


def _needed(provider: Path) -> Iterator[str]:
    yield from (match[1] for line in _told("readelf", "-d", provider) if (match := LIBRARY.search(line)))


def _told(*command: str | Path) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
