"""Static int8 in PyTorch, on x86 CPUs: PT2E quantises an exported program, and Inductor finds oneDNN's kernels for it.

Calibration sees the examples that ONNX Runtime's graphs are calibrated on, and ranges are chosen by the same code.
Everything else is torchao's recipe for Inductor as it comes. The program is made once, with a free batch dimension, by
a process of its own (`programs`), and kept in the cache. Only compiled it computes in integers, so eager PyTorch has no
cell of it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import add, attrgetter
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferbench_contract.errors import how_to_install
from inferbench_contract.spec import Calibration, Layout
from inferbench_runner import artifacts, calibration, environment, onnx_models
from inferbench_runner.backends import Arrays, FellBack, Unsupported, _layout
from inferbench_runner.calibration import Observer
from inferbench_runner.task import CellTask

if TYPE_CHECKING:
    from torch import nn

PROGRAMS: Final = "torch-programs"
"""The kind of cache entry."""

PROGRAM: Final = "quantised.pt2"

NEEDED_FLAGS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instructions that add up products of 8-bit numbers in 32 bits. The older ones do it in 16, which overflow."""

MIN_SHARE: Final = 0.5
"""Of a model's operations, as for int8-dynamic: with less in integers it would be fp32 under the name of int8."""

STEP: Final = 2**-12
"""The smallest step between two numbers, as torchao's recipe has it."""

EXPORTED_BATCH: Final = 2
"""With a batch of one the exporter might take it for a constant."""

MAX_BATCH: Final = 65_536
"""The largest batch size of the language."""

SOURCES: Final = {
    "conv1d": "Conv1d",
    "conv2d": "Conv2d",
    "gelu": "GELU",
    "hardswish": "Hardswish",
    "hardtanh": "Hardtanh",
    "leaky_relu": "LeakyReLU",
    "linear": "Linear",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "silu": "SiLU",
    "tanh": "Tanh",
}
"""The modules of `torch.nn` by which torchao's recipe finds its patterns, by the operators that they are made of."""

ATTENTION: Final = "torch.nn.modules.activation.MultiheadAttention"
"""Its projections stay fp32, as a strict export has it: with them in 8 bits ViT-B/16 is 3.4 % off instead of 2.9 %."""

HEAVY: Final = ("conv1d", "conv2d", "conv3d", "linear")
"""Operators that torchao's recipe quantises where it can, by their names in an exported program."""

LOWERED: Final = {
    "conv": tuple(f"q{kind}_{form}_lower_count" for kind in ("conv", "conv2d") for form in ("unary", "binary")),
    "linear": tuple(f"qlinear_{form}_lower_count" for form in ("unary", "binary")),
}
"""Inductor's counters of layers for which it took a kernel of oneDNN's, by the kind of layer."""

SMALL: Final = 16
"""For one input Inductor writes Linear layers with no more inputs and outputs than this, and those with one output, as
plain sums: they are no work to speak of."""

LIBRARIES: Final = ("numpy", "pillow", "scikit-image", "torch", "torchao")
MODULES: Final = tuple(
    f"inferbench_runner.{name}"
    for name in ("backends._int8_static", "backends._layout", "calibration", "inputs", "models", "photographs")
)
"""What decides a program besides the model: the installed versions of libraries, and our own code as it is."""


def missing_torchao() -> str | None:
    """Say that torchao is not installed."""
    if importlib.util.find_spec("torchao") is None:
        return f"NotInstalled: torchao is not installed. {how_to_install('runner')}"
    return None


def missing(flags: Sequence[str] | None = None) -> str | None:
    """Say that torchao is not installed, or that a processor (this one) has no instructions for it."""
    if (reason := missing_torchao()) is not None:
        return reason
    if not environment.has_any(NEEDED_FLAGS, flags):
        named = ", ".join(sorted(NEEDED_FLAGS))
        return (
            f"NoKernel: this processor has none of {named}, so 8-bit sums would overflow in PyTorch's kernels, or lose "
            "a bit. Use onnxruntime."
        )
    return None


def key(task: CellTask) -> str:
    """Hash everything that decides the program; the batch size does not."""
    if task.artifacts.weights is None or task.artifacts.inputs is None:
        raise ValueError("The task names no weights or no inputs: prepare them first.")
    return artifacts.key(
        {
            "weights": task.artifacts.weights.parent.name,
            "inputs": artifacts.digest(task.artifacts.inputs / artifacts.MANIFEST),
            "calibration": task.quantization.calibration,
            "layout": task.measurement.layout,
            **environment.makers(MODULES, LIBRARIES),
        }
    )


def locate(task: CellTask) -> Path | None:
    """Return the file of the quantised program if it is in the cache and sound."""
    entry = artifacts.open_entry(task.cache, PROGRAMS, key(task))
    return None if entry is None else entry / PROGRAM


def program(task: CellTask, build: Callable[[], nn.Module]) -> Path:
    """Return the file of the quantised program; quantise what `build` builds, where it is not in the cache.

    Raises Unsupported where PyTorch cannot export the model, or where quantisation reaches too little of it.
    """
    entry = artifacts.publish(task.cache, PROGRAMS, key(task), partial(_write, task, build))
    return entry / PROGRAM


def load(file: Path) -> nn.Module:
    """Return a program as a module to be compiled."""
    import torch

    _make_known()
    loaded: nn.Module = torch.export.load(file).module(check_guards=False)
    return loaded


def _make_known() -> None:
    """Import what tells PyTorch the operators of quantised programs, and Inductor the patterns of their layers.

    Without the patterns Inductor would compile a program from the cache in floats, and say nothing.
    """
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401


def quantised_layers(module: Any) -> Sequence[Any]:
    """Return the nodes of a program that multiply 8-bit numbers by 8-bit numbers."""
    heavy = [node for node in module.graph.nodes if operator_name(node) in HEAVY]
    return [node for node in heavy if all(operator_name(of).startswith("dequantize_per_") for of in node.args[:2])]


def operator_name(node: Any) -> str:
    """Return the plain name of a node's operator: `conv2d` of `aten.conv2d.default`."""
    target = getattr(node, "target", None)
    return getattr(getattr(target, "overloadpacket", target), "__name__", "")


@contextmanager
def all_lowered(module: Any) -> Iterator[None]:
    """Raise FellBack where Inductor, compiling a program in this block, left a quantised layer to floats."""
    from torch._dynamo.utils import counters

    wanted, before = _to_be_lowered(module), _lowered(counters)
    yield
    after = _lowered(counters)
    found = {kind: after[kind] - before[kind] for kind in LOWERED}
    if any(found[kind] < wanted[kind] for kind in LOWERED):
        told = " and ".join(f"{found[kind]} of {wanted[kind]} {kind} layers" for kind in LOWERED)
        raise FellBack(f"Precision: int8-static was asked for, and Inductor took 8-bit kernels for {told}")


def _to_be_lowered(module: Any) -> Mapping[str, int]:
    layers = [node for node in quantised_layers(module) if not _is_small(node)]
    return {kind: sum(operator_name(node).startswith(kind) for node in layers) for kind in LOWERED}


def _is_small(layer: Any) -> bool:
    outputs, *others = layer.args[1].meta["val"].shape
    return operator_name(layer) == "linear" and (outputs == 1 or max(outputs, *others) <= SMALL)


def _lowered(counters: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    return {kind: sum(counters["inductor"][name] for name in names) for kind, names in LOWERED.items()}


# ---- quantising ----------------------------------------------------------------------------------


def _write(task: CellTask, build: Callable[[], nn.Module], folder: Path) -> None:
    import torch

    if task.artifacts.inputs is None:
        raise ValueError("The task names no inputs: prepare them first.")
    examples, layout = calibration.examples(task.artifacts.inputs), task.measurement.layout
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = _tensors(examples, np.arange(EXPORTED_BATCH), layout)
        quantised = _quantised(_exported(build(), sample), examples, task.quantization.calibration, layout)
        _require_share(quantised, _tensors(examples, np.arange(1), layout))
        torch.export.save(_export(quantised, sample), folder / PROGRAM)


def _exported(module: nn.Module, sample: Sequence[Any]) -> Any:
    """Export a model as torchao's recipe understands it."""
    try:
        exported = _export(module, sample).module(check_guards=False)
    except Exception as error:
        raise Unsupported(f"ExportFailed: PyTorch cannot export this model: {error}") from error
    _tell_sources(exported)
    return exported


def _tell_sources(exported: Any) -> None:
    """Note where nodes come from, as a strict export does; that takes three times as long, and knows the same of it."""
    from torch import nn

    sources = {"add": add, **{name: getattr(nn, module) for name, module in SOURCES.items()}}
    for node in exported.graph.nodes:
        if (name := operator_name(node).removesuffix("_")) in sources and _innermost(node) != ATTENTION:
            node.meta["source_fn_stack"] = [(node.name, sources[name])]


def _innermost(node: Any) -> str:
    """Name the kind of module that a node was traced in; empty for none."""
    modules = node.meta.get("nn_module_stack") or {"": ("", "")}
    _, kind = list(modules.values())[-1]
    return str(kind)


def _export(module: nn.Module, sample: Sequence[Any]) -> Any:
    import torch

    batch = torch.export.Dim(onnx_models.BATCH, min=1, max=MAX_BATCH)
    shapes = tuple({0: batch} for _ in sample)
    return torch.export.export(module, tuple(sample), dynamic_shapes=shapes)


def _quantised(exported: Any, examples: Arrays, method: Calibration, layout: Layout) -> Any:
    """Let a program see the examples, and write its layers anew with 8-bit weights and quantisers."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(exported, _quantiser())
    _calibrate(prepared, examples, method, layout)
    converted = convert_pt2e(prepared)
    _forget_unused(converted)
    return converted


def _quantiser() -> Any:
    """Return torchao's recipe for Inductor, with observers whose ranges can be set."""
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    recipe = x86.get_default_x86_inductor_quantization_config()
    activation = replace(recipe.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=STEP))
    return x86.X86InductorQuantizer().set_global(
        replace(recipe, input_activation=activation, output_activation=activation)
    )


def _calibrate(prepared: Any, examples: Arrays, method: Calibration, layout: Layout) -> None:
    """Run the examples one by one, and set the range of each observer to what our own method finds.

    torchao's observers of activations do not look themselves: that took as long as the model, for ranges that are set
    to others in the end.
    """
    import torch
    from torchao.quantization.pt2e import MinMaxObserver

    total, done = len(next(iter(examples.values()))), _weights_seen(prepared)
    found: dict[Any, Observer] = {}
    one_looks = Lock()

    def observe(name: str, given: tuple[Any, ...], _: Mapping[str, Any]) -> Any:
        observer = prepared.get_submodule(name)
        with one_looks:
            if type(observer) is MinMaxObserver:
                values = given[0].detach().numpy().ravel()
                found.setdefault(observer, calibration.observer(method, values.size * total)).add(values)
            elif name not in done:
                observer(*given)
        return given[0]

    def run(row: int) -> None:
        interpreter: Any = torch.fx.Interpreter(prepared)
        interpreter.call_module = observe  # a program that is to be quantised has no other modules
        with torch.no_grad():
            interpreter.run(*_tensors(examples, np.arange(row, row + 1), layout))

    _run_each(run, range(total), 1 if method is Calibration.ENTROPY else calibration.AT_A_TIME)
    for observer, seen in found.items():
        low, high = seen.range()
        observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)


def _run_each(run: Callable[[int], None], rows: Iterable[int], at_a_time: int) -> None:
    """Do several runs at a time, each with its share of the threads.

    Threads of one run wait for each other at every layer, for ages where other work fills the machine; runs do not. But
    their order is nobody's, and the histogram of `entropy` depends on it.
    """
    import torch

    threads = torch.get_num_threads()
    at_a_time = min(at_a_time, threads)
    take_share = partial(torch.set_num_threads, threads // at_a_time)
    try:
        with ThreadPoolExecutor(at_a_time, initializer=take_share) as pool:
            deque(pool.map(run, rows), maxlen=0)
    finally:
        torch.set_num_threads(threads)


def _weights_seen(prepared: Any) -> Collection[str]:
    """Let observers of weights look at them, which are the same in every run; return the names of these observers."""
    weights = {
        node.target: attrgetter(node.args[0].target)(prepared)
        for node in prepared.graph.nodes
        if node.op == "call_module" and node.args[0].op == "get_attr"
    }
    for observer, weight in weights.items():
        prepared.get_submodule(observer)(weight)
    return weights.keys()


def _forget_unused(converted: Any) -> None:
    """Drop the fp32 weights that nothing reads any more: they would be most of the program's file."""
    read = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    held = [name for name, _ in (*converted.named_parameters(), *converted.named_buffers())]
    for name in set(held) - read:
        owner, _, attribute = name.rpartition(".")
        delattr(converted.get_submodule(owner), attribute)


def _require_share(quantised: Any, example: Sequence[Any]) -> None:
    """Refuse a model most of whose arithmetic stays in floats."""
    operations = _operations(quantised, example)
    reached = sum(operations.get(node, 0) for node in quantised_layers(quantised))
    share = reached / max(1, sum(operations.values()))
    if share < MIN_SHARE:
        raise Unsupported(
            f"Int8Share: PyTorch's int8 layers would do {share:.1%} of this model's arithmetic, and the rest would be "
            "fp32. Use onnxruntime."
        )


def _operations(quantised: Any, example: Sequence[Any]) -> Mapping[Any, int]:
    """Count what each node of a program does for an example."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted: dict[Any, int] = {}
    interpreter: Any = torch.fx.Interpreter(quantised)
    run = interpreter.run_node

    def run_counted(node: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            answer = run(node)
        counted[node] = int(counter.get_total_flops())
        return answer

    interpreter.run_node = run_counted
    interpreter.run(*example)
    return counted


def _tensors(examples: Arrays, rows: Any, layout: Layout) -> Sequence[Any]:
    import torch

    tensors = (torch.from_numpy(np.ascontiguousarray(array[rows])) for array in examples.values())
    return [_layout.arranged(tensor, layout) for tensor in tensors]
