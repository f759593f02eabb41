"""A model timed by the few lines that libraries' documentations give, and by nothing of inferbench: see own_script.py.

    python benchmarks/plain.py torch-compile/bf16 vit_b_16 8 2 3    # strategy, model, batch size, threads, seconds

Prints the median of its calls in nanoseconds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

Call = Callable[[], Any]

WARMUP_SECONDS, WARMUP_CALLS, CALLS = 4, 3, 5


def eager(model: str, precision: str, images: torch.Tensor) -> torch.nn.Module:
    """Make the model at its precision."""
    module = torchvision.models.get_model(model).eval()
    if precision == "int8-dynamic":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module.to(images.dtype)


def pytorch(how: str, model: str, precision: str, images: torch.Tensor, _: int) -> Call:
    """Take the model as it is, compile it, or package it ahead of time."""
    images = images.to(torch.bfloat16) if precision == "bf16" else images
    module: Any = eager(model, precision, images)
    if how == "torch-compile":
        module = torch.compile(module)
    if how == "torch-compile-max-autotune":
        module = torch.compile(module, mode="max-autotune")
    if how == "torch-aot-inductor":
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            package = str(Path(folder, "model.pt2"))
            inductor = torch._inductor  # noqa: SLF001 (it is public by its documentation)
            inductor.aoti_compile_and_package(torch.export.export(module, (images,)), package_path=package)
            module = inductor.aoti_load_package(package)

    def call() -> Any:
        with torch.inference_mode():
            return module(images)

    return call


def onnxruntime(_how: str, model: str, precision: str, images: torch.Tensor, threads: int) -> Call:
    """Open what PyTorch exports, in fp32."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        torch.onnx.export(eager(model, precision, images), (images,), file, dynamo=True, verbose=False)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, given)


def openvino(_how: str, model: str, precision: str, images: torch.Tensor, threads: int) -> Call:
    """Compile what OpenVINO reads of PyTorch, told its precision."""
    import openvino as ov

    converted = ov.convert_model(torch.export.export(eager(model, "fp32", images), (images,)))
    hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision), "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(converted, "CPU", {**hints, "INFERENCE_NUM_THREADS": threads})
    given = images.numpy()
    return lambda: compiled(given)


def median_ns(call: Call, seconds: float) -> int:
    """Call for some seconds after a warm-up."""
    latencies: list[int] = []
    for limit, least in ((WARMUP_SECONDS, WARMUP_CALLS), (seconds, CALLS)):
        begin, latencies = time.perf_counter(), []
        while len(latencies) < least or time.perf_counter() - begin < limit:
            before = time.perf_counter_ns()
            call()
            latencies.append(time.perf_counter_ns() - before)
    return round(statistics.median(latencies))


def main(strategy: str, model: str, *numbers: str) -> None:
    """Time one model."""
    batch_size, threads, seconds = map(int, numbers)
    torch.set_num_threads(threads)
    how, precision = strategy.split("/")
    make = {"onnxruntime": onnxruntime, "openvino": openvino}.get(how, pytorch)
    images = torch.randn(batch_size, 3, 224, 224)
    print(median_ns(make(how, model, precision, images, threads), seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
