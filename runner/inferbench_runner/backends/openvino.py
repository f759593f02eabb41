"""OpenVINO on Intel, AMD and Arm CPUs. Its process imports no PyTorch.

The precision is a hint that OpenVINO follows as it likes: without one it computes fp32 models in bf16 wherever the
processor has AMX or AVX512_BF16, and says nothing. So each session is told its precision, and what its layers really
compute in is read from the compiled graph before anything is timed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_contract.errors import how_to_install
from inferbench_contract.words import Device, Precision
from inferbench_runner import environment, gate, privacy
from inferbench_runner.backends import Arrays, Artifact, FellBack, Session, fixed_batch
from inferbench_runner.backends._host import HostSession, as_answer
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARTIFACTS = frozenset({Artifact.ONNX, Artifact.INPUTS, Artifact.REFERENCE})

DISTRIBUTIONS: Final = ("openvino",)

NEEDED_FLAGS: Final = {
    Precision.BF16: frozenset({"avx512_bf16", "amx_bf16"}),
    Precision.FP16: frozenset({"avx512_fp16"}),
}
"""Any of these is enough for OpenVINO's kernels; without one it computes halves in fp32."""

HINTS: Final = {
    Precision.FP32: "f32",
    Precision.FP16: "f16",
    Precision.BF16: "bf16",
    Precision.INT8_STATIC: "f32",
}
"""What floats are computed in. Where 8-bit layers end, fp32 begins, as in ONNX Runtime's cells of the same graph."""

HEAVY: Final = frozenset({"Convolution", "FullyConnected", "MatMul", "Deconvolution"})
"""The layers that hold nearly all the arithmetic, by OpenVINO's names for them in a compiled graph."""

ALLOWED: Final = {
    Precision.FP32: frozenset({"f32"}),
    Precision.FP16: frozenset({"f16"}),
    Precision.BF16: frozenset({"bf16"}),
    Precision.INT8_STATIC: frozenset({"i8", "u8", "f32"}),
}
"""What heavy layers may compute in. In a quantised graph products of two activations stay in floats."""

EIGHT_BITS: Final = frozenset({"i8", "u8"})


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a compiled graph."""

    name: str
    kind: str
    precision: str
    """As OpenVINO calls it: f32, f16, bf16, i8, u8."""


def missing(precision: Precision, device: Device) -> str | None:
    """Say that OpenVINO is not installed, or that this processor has no kernels for the precision."""
    if device is not Device.CPU:
        return "NeedsCpu: OpenVINO is measured on CPUs only; its GPUs are Intel's."
    if importlib.util.find_spec("openvino") is None:
        return f"NotInstalled: openvino is not installed. {how_to_install('openvino')}"
    flags = NEEDED_FLAGS.get(precision, frozenset())
    if flags and not environment.has_any(flags):
        named = " nor ".join(sorted(flags))
        return f"NoKernel: this processor has no {named}, so OpenVINO would compute {precision} in fp32."
    return None


def versions() -> Mapping[str, str]:
    """Return OpenVINO's version."""
    return {library.name: library.version for library in environment.installed(DISTRIBUTIONS)}


def load(task: CellTask) -> Session:
    """Compile the graph for this batch size, look what it computes in, and bind the first batch."""
    if task.artifacts.onnx is None:
        raise ValueError("The task names no graph: prepare it first.")
    compiled = _compiled(task, task.artifacts.onnx)
    require_device(compiled.get_property("EXECUTION_DEVICES"))
    require_precision(task.precision, layers(compiled))
    return CpuSession(compiled, gate.first_batch(task))


class CpuSession(HostSession):
    """A compiled graph that reads our arrays."""

    def __init__(self, compiled: Any, batch: Arrays) -> None:
        import openvino

        self._request = compiled.create_infer_request()
        bound: dict[str, NDArray[Any]] = {}
        for port in compiled.inputs:
            array = np.array(batch[port.any_name], port.get_element_type().to_dtype(), order="C")
            bound[port.any_name] = array
            self._request.set_tensor(port, openvino.Tensor(array, shared_memory=True))
        super().__init__(bound)
        self._outputs = {port.any_name: port for port in compiled.outputs}

    def enqueue(self) -> None:
        """Run the graph on the bound batch. The answers stay where they are: by default each call would copy them."""
        self._request.infer(share_outputs=True)

    def outputs(self) -> Arrays:
        """Return copies of what the graph answered."""
        return {name: as_answer(self._request.get_tensor(port).data) for name, port in self._outputs.items()}


def settings(task: CellTask) -> dict[str, str]:
    """Return what OpenVINO is told when it compiles: whoever runs the graph elsewhere tells it the same."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[task.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(task.threads),
    }


def layers(compiled: Any) -> Sequence[Layer]:
    """Read from a compiled graph what its layers are and what each computes in."""
    operations = compiled.get_runtime_model().get_ordered_ops()
    told = [(operation.get_friendly_name(), operation.get_rt_info()) for operation in operations]
    return [Layer(name, _text(info, "layerType"), _text(info, "runtimePrecision")) for name, info in told]


def require_device(found: Sequence[str]) -> None:
    """Refuse a session that runs elsewhere than on the CPU."""
    if list(found) != ["CPU"]:
        raise FellBack(f"Device: the CPU was asked for, and OpenVINO took {', '.join(found)}")


def require_precision(precision: Precision, found: Sequence[Layer]) -> None:
    """Refuse a session whose heavy layers compute in something else than was asked for."""
    heavy = [layer for layer in found if layer.kind in HEAVY]
    strange = [layer for layer in heavy if layer.precision not in ALLOWED[precision]]
    if strange:
        example = f"{strange[0].kind} {strange[0].name} in {strange[0].precision}"
        raise FellBack(
            f"Precision: {precision} was asked for, and OpenVINO computes {len(strange)} of {len(heavy)} heavy layers "
            f"in something else ({example})"
        )
    if precision is Precision.INT8_STATIC and not any(layer.precision in EIGHT_BITS for layer in heavy):
        raise FellBack(f"Precision: {precision} was asked for, and OpenVINO computes no layer in 8 bits")


def _compiled(task: CellTask, file: Path) -> Any:
    """Compile a graph with its batch dimension fixed, for the shortest time of one call after the other."""
    privacy.keep_openvino_quiet()
    import openvino

    core = openvino.Core()
    model = core.read_model(str(file))
    model.reshape({port: _shape(port, task.batch_size) for port in model.inputs})
    return core.compile_model(model, "CPU", settings(task))


def _shape(port: Any, batch_size: int) -> list[int]:
    """Return an input's shape with the batch size in it. Raises Unsupported where the graph has another one."""
    first, *rest = port.get_partial_shape()
    if first.is_static and first.get_length() != batch_size:
        raise fixed_batch(port.any_name, first.get_length())
    return [batch_size, *(size.get_length() for size in rest)]


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else ""
