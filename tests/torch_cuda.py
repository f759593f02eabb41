"""A library that stands in for NVIDIA's where PyTorch and Triton load them: both then do as on a GPU, but for running.

PyTorch, Inductor, Triton and NVIDIA's assembler are the real ones: what they refuse, compile and call is their own
answer for such a card. Nothing is computed, and no number of it means anything. tests/native_cuda.py does the same for
ONNX Runtime.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests import native_cuda

SOURCE: Final = Path(__file__).with_suffix(".c")

DRIVER: Final = "libcuda.so.1"

LIBRARIES: Final = (
    "libtorch_cuda.so",
    "libc10_cuda.so",
    "libtorch_cuda_linalg.so",
    "libtorch_python.so",
    "libcaffe2_nvrtc.so",
)
"""Of PyTorch's those that call NVIDIA's."""

FINDS: Final = "libc10_cuda.so"
"""The one that finds functions of the driver by their names."""

CALLED: Final = re.compile(r"\bcu[A-Z]\w+")
"""A function of the driver, in C."""

DEFINED: Final = re.compile(r"^(?:MAKE\(|\w[\w *]*?\b)((?:__)?cu[a-zA-Z]\w+)[()]", re.MULTILINE)
"""What the source defines."""

NAMED: Final = re.compile(rb"\0(cu[A-Z]\w+)(?=\0)")


def build(torch: Path, triton: Path, folder: Path) -> Mapping[str, str]:
    """Build the library for a PyTorch and a Triton, and return the environment in which it stands in for NVIDIA's."""
    written, nvidia = SOURCE.read_text(), triton / "backends/nvidia"
    names = {*_of_torch(torch / "lib"), *CALLED.findall((nvidia / "driver.c").read_text())}
    stubs = folder / "stubs.c"
    stubs.write_text("\n".join(["#define NULL 0", "enum { OK };", *_stubs(names - set(DEFINED.findall(written)))]))
    options = ("-shared", "-fPIC", "-O1", f"-Wl,-soname,{DRIVER}", f"-I{nvidia / 'include'}")
    subprocess.run(["gcc", *options, "-o", folder / DRIVER, SOURCE, stubs], check=True)
    found = {"LD_PRELOAD": str(folder / DRIVER), "LD_LIBRARY_PATH": str(folder), "TRITON_LIBCUDA_PATH": str(folder)}
    return {**os.environ, **found, "TRITON_CACHE_DIR": str(folder / "triton")}


def _of_torch(folder: Path) -> Iterator[str]:
    files = [folder / name for name in LIBRARIES]
    yield from (name for file in files for name in native_cuda.undefined(file))
    yield from (name.decode() for name in NAMED.findall((folder / FINDS).read_bytes()))


def _stubs(names: set[str]) -> Iterator[str]:
    return (native_cuda.stub(name) for name in sorted(names) if not name.startswith("cuFile"))
