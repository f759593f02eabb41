"""What the PyTorch backends share: the model at its precision and in its layout, the session, and fp32 that is fp32.

The layout of images and weights is the benchmark's, one for all of them. The CUDA session has run on an H100
(docs/results/2026-11-26-h100.md), but for the copies of end-to-end calls, which only a stand-in has run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inferbench_contract.errors import EnvironmentFault, how_to_install
from inferbench_contract.spec import Contract
from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts, cuda, environment, gate, models
from inferbench_runner.backends import (
    Arrays,
    Artifact,
    FellBack,
    Session,
    Unsupported,
    _capability,
    _int8_static,
    _layout,
    _linear,
)
from inferbench_runner.clocks import HOST_CLOCK, Clock
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ARTIFACTS = frozenset({Artifact.WEIGHTS, Artifact.INPUTS, Artifact.REFERENCE})

LIBRARIES: Final = ("torch", "torchvision", "torchao")

NO_NOTES: Mapping[str, int | str] = {}

IEEE: Final = frozenset({"none", "ieee"})
"""What PyTorch says of oneDNN's fp32 while nobody has allowed it less: TF32, or bf16."""

FP16_FLAGS: Final = frozenset({"amx_fp16", "avx512_fp16"})
"""Any of these is enough for oneDNN's fp16 kernels. AVX-NE-CONVERT is not: it only converts, and fp32 is computed."""


def missing(precision: Precision, device: Device) -> str | None:
    """Say what this machine lacks. Raises EnvironmentFault where a GPU is wanted and there is none."""
    if device is Device.GPU:
        gpu = cuda.require_driver()
        if (reason := _capability.missing(precision, gpu.name, gpu.compute_capability)) is not None:
            return reason
    for package in ("torch", "torchvision"):
        if importlib.util.find_spec(package) is None:
            return f"NotInstalled: {package} is not installed. {how_to_install('runner')}"
    if precision in _linear.DYNAMIC:
        return _int8_static.missing_torchao()
    if precision is Precision.INT8_STATIC:
        return _int8_static.missing()
    return missing_fp16() if precision is Precision.FP16 and device is Device.CPU else None


def missing_fp16(flags: Sequence[str] | None = None) -> str | None:
    """Say that a processor (this one) has no instructions for fp16."""
    if environment.has_any(FP16_FLAGS, flags):
        return None
    named = " nor ".join(sorted(FP16_FLAGS))
    return f"NoKernel: this processor has no {named}, so PyTorch would compute fp16 without oneDNN's kernels. Use bf16."


def versions(libraries: Sequence[str] = LIBRARIES) -> Mapping[str, str]:
    """Return the versions of PyTorch and of what works with it."""
    return {library.name: library.version for library in environment.installed(libraries)}


def set_up(task: CellTask) -> None:
    """Set threads and arithmetic for the whole process, and look whether they are set."""
    import torch

    torch.set_num_threads(task.threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    # The flags of old: Inductor reads them, and PyTorch raises where somebody mixes them with the new ones.
    torch.backends.cuda.matmul.allow_tf32 = is_tf32(task.precision)
    torch.backends.cudnn.allow_tf32 = is_tf32(task.precision)
    # Inductor's convolutions in Triton read this one, which cuDNN's flag of old leaves as it is.
    torch.backends.cudnn.fp32_precision = "tf32" if is_tf32(task.precision) else "ieee"
    require_arithmetic(task.precision, task.device)
    if task.device is Device.GPU and not torch.cuda.is_available():
        raise EnvironmentFault("PyTorch does not see the GPU: its driver is older than this PyTorch needs, or hidden.")
    if task.device is Device.GPU:
        _capability.require(task.precision, torch.cuda.get_device_name(), torch.cuda.get_device_capability())
    elif task.precision is Precision.FP16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():  # noqa: SLF001
        raise Unsupported("NoKernel: PyTorch takes no fp16 kernels of oneDNN's on this processor. Use bf16.")


def require_arithmetic(precision: Precision, device: Device) -> None:
    """Raise FellBack where PyTorch's flags let fp32 be computed in less, or tf32 in more.

    Asked once they are set, and again after the calls: a model, or the function that builds it, can set them too. The
    precisions without fp32 in them do not depend on them.
    """
    import torch

    if _dtype(precision) is not torch.float32:
        return
    try:
        wrong = [name for name, allows_less in _flags(device).items() if allows_less != is_tf32(precision)]
    except RuntimeError as error:  # somebody has mixed the flags of old with the new ones
        raise FellBack(
            f"Tf32: {precision} was asked for, and PyTorch's flags contradict each other: {error}"
        ) from error
    if wrong:
        raise FellBack(
            f"Tf32: {precision} was asked for, and PyTorch's {' and '.join(wrong)} say otherwise. If the model sets "
            "them, take that out of it; or ask for tf32."
        )


def is_tf32(precision: Precision) -> bool:
    """Tell whether products of fp32 may be rounded on their way."""
    return precision is Precision.TF32


def _flags(device: Device) -> Mapping[str, bool]:
    """Tell of each of PyTorch's flags for fp32 on a device whether it allows less."""
    import torch

    if device is Device.GPU:
        return {
            "cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    onednn = {"matmul": torch.backends.mkldnn.matmul, "conv": torch.backends.mkldnn.conv}
    return {f"mkldnn.{name}.fp32_precision": each.fp32_precision not in IEEE for name, each in onednn.items()}


def settings(task: CellTask) -> dict[str, Any]:
    """Return what `set_up` and `module` do, as JSON holds it: whoever runs the model elsewhere does the same."""
    return {
        "threads": task.threads,
        "device": _place(task),
        "dtype": str(_dtype(task.precision)).removeprefix("torch."),
        "tf32": is_tf32(task.precision),
        "layout": task.measurement.layout,
        "quantised": task.precision if _is_dynamic(task) else None,
    }


def module(task: CellTask) -> nn.Module:
    """Build the model at its precision, in its layout, on its device.

    Raises FellBack where weights lie in another layout, or are not in 8 bits, and Unsupported where too few would be.
    """
    if task.precision is Precision.INT8_STATIC:
        return _int8_static.load(program(task))
    built = _quantised(task) if _is_dynamic(task) else _moved(task, _built(task))
    _layout.require_of(built, task.measurement.layout)
    return built


def quantised_layers(task: CellTask) -> Sequence[str]:
    """Name the layers that `module` hands to torchao, for whoever builds the model elsewhere."""
    if not _is_dynamic(task):
        return ()
    found, _ = _products(task, _built(task))
    return sorted(_linear.chosen(found, task.precision, task.device))


def _quantised(task: CellTask) -> nn.Module:
    built = _built(task)
    found, total = _products(task, built)
    moved = _moved(task, built)
    _linear.quantise(moved, task.precision, _linear.chosen(found, task.precision, task.device))
    _linear.require_share(moved, found, total, task.precision)
    return moved


def _products(task: CellTask, built: nn.Module) -> tuple[Sequence[_linear.Product], int]:
    """Count one example, or as many of the batch as tell whether CUDA takes its products."""
    examples = _linear.FEWEST_ROWS if _linear.must_suit_cuda(task.precision, task.device) else 1
    return _linear.products(built, {name: array[:examples] for name, array in gate.first_batch(task).items()})


def _moved(task: CellTask, built: nn.Module) -> nn.Module:
    return built.to(_place(task), _dtype(task.precision))


def program(task: CellTask) -> Path:
    """Return the file of the model with its layers quantised statically; make it where it is not in the cache."""
    return _int8_static.program(task, partial(_built, task))


def content(task: CellTask) -> Mapping[str, str | None]:
    """Return what decides the model that is compiled, for the keys of what compilers make."""
    weights = task.artifacts.weights.parent.name if task.artifacts.weights else None
    return {"weights": weights, "quantised": _quantiser(task), "layout": task.measurement.layout}


def _quantiser(task: CellTask) -> str | None:
    """Hash what decides how a model is quantised. Dynamically that is the code which chooses layers, and torchao."""
    if task.precision is Precision.INT8_STATIC:
        return _int8_static.key(task)
    return artifacts.key(environment.makers((_linear.__name__,), ("torchao",))) if _is_dynamic(task) else None


def _is_dynamic(task: CellTask) -> bool:
    return task.precision in _linear.DYNAMIC


def _built(task: CellTask) -> nn.Module:
    if task.artifacts.weights is None:
        raise ValueError("The task names no weights: prepare them first.")
    built = models.build(task.model, task.model_folder, task.artifacts.weights)
    return _layout.arrange(built, task.measurement.layout)


def bound(task: CellTask) -> dict[str, Tensor]:
    """Return the batch that is timed, where the model will read it and as it will lie there."""
    import torch

    batch = {name: torch.from_numpy(array) for name, array in gate.first_batch(task).items()}
    moved = {
        name: tensor.to(_place(task), _dtype(task.precision) if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in batch.items()
    }
    return {name: _layout.arranged(tensor, task.measurement.layout) for name, tensor in moved.items()}


def session(
    task: CellTask,
    call: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    notes: Mapping[str, int | str] = NO_NOTES,
) -> Session:
    """Return the session of a callable model on its device. Raises FellBack where inputs lie in another layout."""
    _layout.require(inputs.values(), task.measurement.layout)
    verify = partial(require_arithmetic, task.precision, task.device)
    if task.device is Device.CPU:
        return CpuSession(call, inputs, notes, verify)
    import torch

    with_copies = task.measurement.contract is Contract.END_TO_END
    return CudaSession(torch, call, inputs, notes, verify, with_copies=with_copies)


class CpuSession:
    """A model that has answered when its call returns."""

    def __init__(
        self,
        call: Callable[..., Any],
        inputs: Mapping[str, Tensor],
        notes: Mapping[str, int | str],
        verify: Callable[[], None],
    ) -> None:
        import torch

        self.notes = notes
        """What else is worth knowing of this session: how long it was compiled, and whether a cache helped."""
        self.verify = verify
        """Looks after the calls whether the model has left PyTorch's flags alone."""
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
        library: Any,
        call: Callable[..., Any],
        inputs: Mapping[str, Tensor],
        notes: Mapping[str, int | str],
        verify: Callable[[], None],
        *,
        with_copies: bool,
    ) -> None:
        self.notes = notes
        self.verify = verify
        self._call = call
        self._inputs = inputs
        self._arguments = tuple(inputs.values())
        self._stream = library.cuda.Stream()
        self._begin, self._end = (library.cuda.Event(enable_timing=True) for _ in range(2))
        self._torch = library
        self._pinned = {name: tensor.cpu().pin_memory() for name, tensor in inputs.items()} if with_copies else {}
        self._outputs: Any = ()
        self._answers: dict[str, Tensor] = {}
        library.cuda.synchronize()

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

    kinds = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16, Precision.FP8: torch.bfloat16}
    return kinds.get(precision, torch.float32)
