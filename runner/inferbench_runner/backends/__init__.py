"""The backends: one module each, satisfying `BackendModule`, listed in one table, imported when chosen.

A backend turns a `CellTask` into a `Session`. Its heavy imports stand inside its functions, so that asking which
backends there are costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from inferbench_contract.words import Backend, Device, Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inferbench_runner.clocks import Clock
    from inferbench_runner.task import CellTask

Arrays = Mapping[str, "NDArray[np.generic[Any]]"]
"""Tensors on the host by their name in the model."""


class Artifact(StrEnum):
    """A file that the prepare or convert process makes once for all cells that read it."""

    WEIGHTS = "weights"
    ONNX = "onnx"
    INPUTS = "inputs"
    REFERENCE = "reference"


class Unsupported(Exception):
    """The backend cannot do this cell, here or anywhere; the text says why and, where it helps, what to install."""


def fixed_batch(name: str, size: int) -> Unsupported:
    """Return why a graph cannot be measured at another batch size than its own, and both ways out."""
    return Unsupported(
        f"FixedBatch: input {name} of the graph takes batches of {size} and no other size. Export the model with a "
        f"free first dimension (torch.onnx.export: dynamic_shapes), or ask for batchSizes: [{size}]."
    )


class FellBack(Exception):
    """The library ran something else than what was asked for (another device, another precision)."""


class Session(Protocol):
    """A model loaded at one batch size with its inputs bound: the thing that is timed, and whose outputs are judged."""

    @property
    def clock(self) -> Clock:
        """The clock that its calls are timed with: the host's, or the script's of the fake backend."""
        ...

    def enqueue(self) -> None:
        """Start one inference of the bound batch. On a CPU it has finished when this returns."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was enqueued has finished."""
        ...

    def device_time_ns(self) -> int | None:
        """GPU event time of the last enqueued inference, after `synchronize`; None where there are no events."""
        ...

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into the bound inputs, in place, as fp32 host arrays (converted as the precision wants)."""
        ...

    def inputs(self) -> Arrays:
        """Host copies of the bound inputs as they are now."""
        ...

    def outputs(self) -> Arrays:
        """Host copies of the outputs of the last inference, floating ones as fp32."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A session whose model is code, which can change how the library computes."""

    def verify(self) -> None:
        """Look, after the calls, whether they were computed as was asked. Raises FellBack where they were not."""
        ...


class BackendModule(Protocol):
    """What a module of this package offers."""

    ARTIFACTS: frozenset[Artifact]

    def missing(self, precision: Precision, device: Device) -> str | None:
        """Say why this backend cannot work on this machine, with the line that installs it; None when it can.

        Cheap: looks for distributions and programs, imports no heavy library. Raises EnvironmentFault where the device
        is not there.
        """
        ...

    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that decide its speed, by distribution name; cheap."""
        ...

    def load(self, task: CellTask) -> Session:
        """Load the model and bind inputs.

        Raises Unsupported, FellBack, EnvironmentFault, MemoryError, or whatever the library raises.
        """
        ...


MODULES: Mapping[Backend, str] = {
    Backend.TORCH_EAGER: "torch_eager",
    Backend.TORCH_COMPILE: "torch_compile",
    Backend.TORCH_COMPILE_MAX_AUTOTUNE: "torch_compile_max_autotune",
    Backend.TORCH_AOT_INDUCTOR: "torch_aot_inductor",
    Backend.ONNXRUNTIME: "onnxruntime",
    Backend.TENSORRT: "tensorrt",
    Backend.OPENVINO: "openvino",
    Backend.FAKE: "fake",
}
"""Every backend of the contract has one."""


def find(backend: Backend) -> BackendModule:
    """Import the module of a backend."""
    return cast("BackendModule", importlib.import_module(f"{__name__}.{MODULES[backend]}"))
