"""Every kind of graph that goes to TensorRT, through NVIDIA's own parser and builder, which TensorRT-RTX has for CPUs.

It has TensorRT's ONNX parser and its rules of types, but other kernels: a pass is strong evidence and no proof.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from inferbench_contract.words import Precision
from inferbench_runner import graphs, halves, quantise
from inferbench_runner.targets import Target, kept_fp32
from tests.runner.zoo import NAMES, Zoo

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: see the extra `dev`.")

BATCH_SIZE = 2

PRECISIONS = [
    pytest.param(Precision.FP32, {}, id="fp32"),
    pytest.param(Precision.FP16, {}, id="fp16"),
    pytest.param(Precision.BF16, {}, id="bf16"),
    pytest.param(Precision.INT8_STATIC, {"rest": Precision.FP32}, id="int8"),
    pytest.param(Precision.INT8_STATIC, {"rest": Precision.FP16}, id="int8+fp16"),
    pytest.param(Precision.INT8_STATIC, {"rest": Precision.BF16}, id="int8+bf16"),
    pytest.param(Precision.FP8, {"rest": Precision.FP16}, id="fp8+fp16"),
]


@pytest.fixture(scope="session")
def zoo():
    """Real models."""
    return Zoo.shared()


class Log(rtx.ILogger):
    """Keeps what the library complains of, and all that it tells."""

    def __init__(self):
        super().__init__()
        self.complaints, self.told = [], []

    def log(self, severity, message):
        self.told.append(message)
        if severity <= rtx.ILogger.Severity.ERROR:
            self.complaints.append(message)


def complaints(model: bytes) -> list[str]:
    """Build an engine; return what was wrong with the graph, nothing if it was built."""
    return built(model)[0]


def built(model: bytes) -> tuple[list[str], str]:
    """Parse a graph and build an engine for one batch size; return the complaints, and what the builder told of it."""
    log = Log()
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    onnx_parser = rtx.OnnxParser(network, log)
    if not onnx_parser.parse(model):
        return [onnx_parser.get_error(i).desc() for i in range(onnx_parser.num_errors)], ""
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        shape = (BATCH_SIZE, *tuple(tensor.shape)[1:])
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    config.profiling_verbosity = rtx.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    return ([] if plan is not None else log.complaints or ["no engine, and no reason"]), "\n".join(log.told)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "options"), PRECISIONS)
def test_the_builder_takes_the_graph(zoo, name, precision, options):
    assert complaints(zoo.converted(name, Target.TENSORRT, precision, **options).read_bytes()) == []


@pytest.mark.parametrize("precision", [Precision.INT8_STATIC, Precision.INT8_DYNAMIC])
def test_the_builder_rejects_the_int8_files_of_the_cpu(zoo, precision):
    """So there are two static files, and no dynamic one. Where this fails, TensorRT has learnt to read them."""
    assert complaints(zoo.converted("resnet50", Target.CPU, precision).read_bytes()) != []


# ---- sums in 8 bits ------------------------------------------------------------------------------

KERNEL = re.compile(r"^Name: (?P<name>\S+), LayerType: kgen, Inputs: (?P<inputs>.*), Constants: ", re.MULTILINE)
"""A kernel that the builder generates, as it lists them: named after what it computes."""

RESIDUAL = """
<ir_version: 10, opset_import: ["" : 20]> graph (float[batch,32,8,8] x) => (float[batch,32,8,8] y)
<float[32,32,3,3] a, float[32,32,3,3] b, float[32,32,3,3] c> {
    first = Conv<pads = [1, 1, 1, 1]>(x, a)
    before = Relu(first)
    second = Conv<pads = [1, 1, 1, 1]>(before, b)
    sum = Add(second, before)
    after = Relu(sum)
    y = Conv<pads = [1, 1, 1, 1]>(after, c)
}
"""


def a_block():
    """Two convolutions with a sum between them, whose residual operand the first one makes."""
    model = parser.parse_model(RESIDUAL)
    random = np.random.default_rng(0)
    for name in "abc":
        weight = random.standard_normal((32, 32, 3, 3), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return graphs.tidy(model)


def with_floats_for_sums(quantised):
    """Return a graph whose sums read residuals before they are quantised."""
    model = onnx.ModelProto.FromString(quantised.SerializeToString())
    for node in model.graph.node:
        if node.op_type == "Add":
            node.input[:] = [name.removesuffix("/dequantised") for name in node.input]
    return model


def read_by_the_sum(model):
    """Return the types of what the kernel reads that adds."""
    faults, told = built(halves.convert(model, Precision.FP16).SerializeToString())
    assert faults == []
    (inputs,) = (found["inputs"] for found in KERNEL.finditer(told) if "Add" in found["name"])
    return set(re.findall(r"Datatype: (\w+)", inputs))


@pytest.mark.parametrize(("grid", "element"), [(quantise.INT8, "Int8"), (quantise.E4M3, "FP8")], ids=["int8", "fp8"])
def test_a_sum_reads_its_residual_in_8_bits(grid, element):
    """No more than that can be seen without a GPU: TensorRT-RTX fuses no convolution with a sum, TensorRT may."""
    model = quantise.explicit(a_block(), dict.fromkeys(("x", "before", "after"), (-8, 8)), grid)

    assert element in read_by_the_sum(model)
    assert element not in read_by_the_sum(with_floats_for_sums(model))


# ---- the list of what stays fp32 -----------------------------------------------------------------

IMAGE = "graph (float[batch,4,6,6] x) => (float[batch,4,s,t] y)"

KEPT = {
    "ConvTranspose": "y = ConvTranspose(x, w)",
    "HardSwish": "y = HardSwish(x)",
    "LpNormalization": "y = LpNormalization(x)",
    "LpPool": "y = LpPool<kernel_shape = [2, 2]>(x)",
    "MeanVarianceNormalization": "y = MeanVarianceNormalization(x)",
    "Mish": "y = Mish(x)",
}
"""One of each operator that the builder rejects in bf16."""


def a_graph_of(operator):
    weights = f"<float[4,4,1,1] w = {{{', '.join(['0.5'] * 16)}}}>" if "w)" in operator else ""
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> {IMAGE} {weights} {{ {operator} }}')


@pytest.mark.parametrize("operator", KEPT)
def test_what_is_kept_in_fp32_has_to_be_and_helps(operator):
    model = a_graph_of(KEPT[operator])
    kept = kept_fp32(Target.TENSORRT, Precision.BF16)
    assert operator in kept

    in_halves, between_casts = (halves.convert(model, Precision.BF16, each) for each in (frozenset(), kept))

    assert complaints(model.SerializeToString()) == []
    assert complaints(in_halves.SerializeToString()) != []
    assert complaints(between_casts.SerializeToString()) == []


def test_the_builder_rejects_a_zero_point_that_is_not_zero():
    """What its answers are worth: a graph that differs from a good one in one number is found."""
    text = '<ir_version: 10, opset_import: ["" : 20]> graph (float[batch,4] x) => (float[batch,4] y)'
    model = graphs.tidy(parser.parse_model(f"{text} <float[4,4] w = {{{', '.join('1' * 16)}}}> {{ y = MatMul(x, w) }}"))
    good = quantise.explicit(model, {"x": (-1, 1)}, quantise.INT8)
    bad = onnx.ModelProto.FromString(good.SerializeToString())
    for tensor in bad.graph.initializer:
        if tensor.name == "x/zero":
            tensor.CopyFrom(helper.make_tensor("x/zero", onnx.TensorProto.INT8, (), [3]))

    assert complaints(good.SerializeToString()) == []
    assert complaints(bad.SerializeToString()) != []
