"""What the PyTorch backends share: the model at its precision, the session, and fp32 that is fp32.

Layout is contiguous (planes first) in all of them, as a user's model is unless somebody changes it. The CUDA session
has run on an H100 (docs/results/2026-11-26-h100.md), but for the copies of end-to-end calls.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import cuda, environment, gate, models
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, _int8, _int8_static
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ARTIFACTS = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

NO_NOTES: Mapping[str, int | str] = {}


def missing(precision: Precision, device: Device) -> str | None:
    """Say which package is not installed. Raises EnvironmentFault where a GPU is wanted and there is none."""
    for package in ("torch", "torchvision"):
        if importlib.util.find_spec(package) is None:
            return f"NotInstalled: {package} is not installed. Install it: pip install 'inferbench[runner]'"
    if device is Device.GPU:
        cuda.require_driver()
    eight_bits = {Precision.INT8_DYNAMIC: _int8.missing, Precision.INT8_STATIC: _int8_static.missing}
    return eight_bits[precision]() if precision in eight_bits else None


def versions(*more: str) -> Mapping[str, str]:
    """Return the versions of PyTorch and of what works with it."""
    named = ("torch", "torchvision", "torchao", *more)
    return {library.name: library.version for library in environment.installed(named)}


def set_up(task: CellTask) -> None:
    """Set threads and arithmetic for the whole process, and look whether they are set."""
    import torch

    torch.set_num_threads(task.threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    # The flags of old: Inductor reads them, and PyTorch raises where somebody mixes them with the new ones.
    is_tf32 = task.precision is Precision.TF32
    torch.backends.cuda.matmul.allow_tf32 = is_tf32
    torch.backends.cudnn.allow_tf32 = is_tf32
    flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    if flags != (is_tf32, is_tf32) or torch.backends.mkldnn.conv.fp32_precision not in ("none", "ieee"):
        raise FellBack(f"Tf32: {task.precision} was asked for, and PyTorch's flags for TF32 are {flags}")
    if task.device is Device.GPU and not torch.cuda.is_available():
        raise EnvironmentFault("PyTorch does not see the GPU: its driver is older than this PyTorch needs, or hidden.")


def settings(task: CellTask) -> dict[str, Any]:
    """Return what `set_up` and `module` do, as JSON holds it: whoever runs the model elsewhere does the same."""
    return {
        "threads": task.threads,
        "device": _place(task),
        "dtype": str(_dtype(task.precision)).removeprefix("torch."),
        "tf32": task.precision is Precision.TF32,
        "int8Dynamic": task.precision is Precision.INT8_DYNAMIC,
    }


def module(task: CellTask) -> nn.Module:
    """Build the model at its precision, on its device."""
    if task.precision is Precision.INT8_STATIC:
        return _int8_static.load(program(task))
    if task.precision is Precision.INT8_DYNAMIC:
        first = {name: array[:1] for name, array in gate.first_batch(task).items()}
        return _int8.quantised(_built(task), first).to(_place(task))
    return _built(task).to(_place(task), _dtype(task.precision))


def program(task: CellTask) -> Path:
    """Return the file of the model with its layers quantised statically; make it where it is not in the cache."""
    return _int8_static.program(task, partial(_built, task))


def content(task: CellTask) -> Mapping[str, str | None]:
    """Return what decides the model that is compiled, for the keys of what compilers make."""
    weights = task.artifacts.weights.parent.name if task.artifacts.weights else None
    quantised = _int8_static.key(task) if task.precision is Precision.INT8_STATIC else None
    return {"weights": weights, "quantised": quantised}


def _built(task: CellTask) -> nn.Module:
    if task.artifacts.weights is None:
        raise ValueError("The task names no weights: prepare them first.")
    return models.build(task.model, task.model_folder, task.artifacts.weights)


def bound(task: CellTask) -> dict[str, Tensor]:
    """Return the batch that is timed, where the model will read it."""
    import torch

    batch = {name: torch.from_numpy(array) for name, array in gate.first_batch(task).items()}
    return {
        name: tensor.to(_place(task), _dtype(task.precision) if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in batch.items()
    }


def session(
    task: CellTask,
    call: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    notes: Mapping[str, int | str] = NO_NOTES,
) -> Session:
    """Return the session of a callable model on its device."""
    if task.device is Device.CPU:
        return CpuSession(call, inputs, notes)
    return CudaSession(call, inputs, notes, with_copies=task.measurement.contract is Contract.END_TO_END)


class CpuSession:
    """A model that has answered when its call returns."""

    def __init__(self, call: Callable[..., Any], inputs: Mapping[str, Tensor], notes: Mapping[str, int | str]) -> None:
        import torch

        self.notes = notes
        """What else is worth knowing of this session: how long it was compiled, and whether a cache helped."""
        self._call = call
        self._inputs = inputs
        self._arguments = tuple(inputs.values())
        self._inference_mode = torch.inference_mode
        self._outputs: Any = ()

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def enqueue(self) -> None:
        """Run the model on the bound batch."""
        with self._inference_mode():
            self._outputs = self._call(*self._arguments)

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def device_time_ns(self) -> int | None:
        """There are no events."""
        return None

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into the bound tensors."""
        _copy(inputs, self._inputs)

    def inputs(self) -> Arrays:
        """Return copies of the bound tensors."""
        return {name: models.to_host(tensor) for name, tensor in self._inputs.items()}

    def outputs(self) -> Arrays:
        """Return copies of what the model answered."""
        return {name: models.to_host(tensor) for name, tensor in models.named_outputs(self._outputs).items()}


class CudaSession:
    """A model on a stream of its own, with an event before and one behind each call."""

    def __init__(
        self,
        call: Callable[..., Any],
        inputs: Mapping[str, Tensor],
        notes: Mapping[str, int | str],
        *,
        with_copies: bool,
    ) -> None:
        import torch

        self.notes = notes
        self._call = call
        self._inputs = inputs
        self._arguments = tuple(inputs.values())
        self._stream = torch.cuda.Stream()
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._torch = torch
        self._pinned = {name: tensor.cpu().pin_memory() for name, tensor in inputs.items()} if with_copies else {}
        self._outputs: Any = ()
        self._answers: dict[str, torch.Tensor] = {}
        torch.cuda.synchronize()

    @property
    def clock(self) -> Clock:
        """The host's."""
        return HOST_CLOCK

    def enqueue(self) -> None:
        """Start the model on the bound batch; end to end with the copies in and out."""
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            self._begin.record()
            for name, host in self._pinned.items():
                self._inputs[name].copy_(host, non_blocking=True)
            self._outputs = self._call(*self._arguments)
            if self._pinned:
                self._copy_out()
            self._end.record()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def device_time_ns(self) -> int | None:
        """Return the time between the two events."""
        milliseconds: float = self._begin.elapsed_time(self._end)
        return round(milliseconds * cuda.NANOSECONDS_PER_MILLISECOND)

    def load_batch(self, inputs: Arrays) -> None:
        """Copy a batch into the bound tensors, and into the pinned ones that they are copied from."""
        _copy(inputs, self._inputs)
        _copy(inputs, self._pinned)
        self._torch.cuda.synchronize()

    def inputs(self) -> Arrays:
        """Return copies of the bound tensors."""
        self.synchronize()
        return {name: models.to_host(tensor) for name, tensor in self._inputs.items()}

    def outputs(self) -> Arrays:
        """Return copies of what the model answered: of what came to the host, end to end."""
        self.synchronize()
        named = self._answers if self._pinned else models.named_outputs(self._outputs)
        return {name: models.to_host(tensor) for name, tensor in named.items()}

    def _copy_out(self) -> None:
        named = models.named_outputs(self._outputs)
        if not self._answers:
            self._answers = {
                name: self._torch.empty_like(t, device="cpu", pin_memory=True) for name, t in named.items()
            }
        for name, tensor in named.items():
            self._answers[name].copy_(tensor, non_blocking=True)


def _copy(arrays: Arrays, tensors: Mapping[str, Tensor]) -> None:
    import torch

    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(arrays[name]))


def _place(task: CellTask) -> str:
    return "cuda" if task.device is Device.GPU else "cpu"


def _dtype(precision: Precision) -> torch.dtype:
    import torch

    kinds = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
    return kinds.get(precision, torch.float32)
