"""CUDA's headers and the driver's library where AOTInductor looks for them: in the folder of a toolkit.

It compiles C++ for a GPU too, the calls of its kernels, and asks CUDA_HOME for what that takes. PyTorch's wheels bring
no toolkit, so on a machine that has a driver only, or in an image, it gives up. What it takes is there all the same:
Triton's wheel has CUDA's headers, NVIDIA's packages have the one that these include, and the driver is loaded.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inferbench_runner import circumstances

HEADER: Final = "include/cuda_runtime_api.h"
"""A toolkit that has this was installed to compile with; the images called `runtime` have its folder without it."""

USUAL: Final = Path("/usr/local/cuda")

OF_TRITON: Final = "backends/nvidia"
"""The folder of Triton's package that has CUDA's headers, all but CCCL's."""

OF_NVIDIA: Final = "include/nv/target"
"""The one of CCCL's headers that CUDA's own include (cuda_fp16.h)."""

DRIVER: Final = "libcuda.so"
"""As linkers look for it. Where nobody develops it is there by its versions' names only."""

MAPS: Final = Path("/proc/self/maps")

SEARCHED: Final = "LIBRARY_PATH"
"""The variable with folders in which compilers look for libraries, after all others."""


def missing() -> str | None:
    """Say that there is neither a toolkit here nor what it takes to do without."""
    if toolkit() is not None or (_of_triton() is not None and _of_nvidia() is not None):
        return None
    return (
        "NotInstalled: torch-aot-inductor compiles with CUDA's headers, and neither a CUDA toolkit is here nor the "
        "wheels that have them too (triton, nvidia-cuda-cccl). Set CUDA_HOME to the folder of a toolkit."
    )


def toolkit() -> Path | None:
    """Return the toolkit that PyTorch would take, if it can be compiled with."""
    compiler = shutil.which("nvcc")
    found = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or (compiler and Path(compiler).parents[1])
    folder = Path(found or USUAL)
    return folder if (folder / HEADER).exists() else None


def offer(scratch: Path) -> None:
    """Where there is no toolkit, tell this process what stands in for one, with the driver's library in a folder.

    To be called once the driver is loaded. The paths of headers are the same in every cell: what Inductor precompiles
    of them is found again by its command line.
    """
    triton, nvidia = _of_triton(), _of_nvidia()
    if toolkit() is not None or triton is None or nvidia is None:
        return
    os.environ["CUDA_HOME"], os.environ["CUDA_INC_PATH"] = str(triton), str(nvidia)
    libraries = scratch / "driver"
    libraries.mkdir()
    (libraries / DRIVER).symlink_to(driver())
    others = os.environ.get(SEARCHED)
    os.environ[SEARCHED] = f"{others}{os.pathsep}{libraries}" if others else str(libraries)


def driver(maps: Iterable[str] | None = None) -> Path:
    """Return the file of the driver's library that this process has loaded; linkers want it by another name."""
    lines = circumstances.read_text(MAPS).splitlines() if maps is None else maps
    files = (Path(line.split(maxsplit=5)[5]) for line in lines if DRIVER in line)
    found = next((file for file in files if file.name.startswith(DRIVER)), None)
    if found is None:
        raise RuntimeError(f"{MAPS} names no {DRIVER}: the driver has to be loaded before anything is compiled for it.")
    return found


def _of_triton() -> Path | None:
    found = [folder / OF_TRITON for folder in _folders("triton")]
    return next((folder for folder in found if (folder / HEADER).exists()), None)


def _of_nvidia() -> Path | None:
    found = (file for folder in _folders("nvidia") for file in sorted(folder.glob(f"*/{OF_NVIDIA}")))
    return next((file.parents[1] for file in found), None)


def _folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
