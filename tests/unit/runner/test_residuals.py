"""Which operands of sums are quantised for TensorRT, on small graphs that are written out."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, parser, reference

from inferbench_runner import graphs, quantise, residuals

IMAGE = "float[N,2,4,4]"
HEAD = f'<ir_version: 10, opset_import: ["" : 20]> graph ({IMAGE} x) => ({IMAGE} y)'
WEIGHTS = (
    "<float[2,2,1,1] w = {0.5, -1, 0.25, 2}, float[2] v = {1, 2}, float[1,2,1,1] bias = {1, 2}, "
    f"float[4,4] square = {{{', '.join('1' * 16)}}}>"
)

RANGES = dict.fromkeys(("x", "before", "short", "s"), (-8, 8))

IDENTITY = "before = Relu(x) c = Conv(before, w) s = Add(c, before) y = Relu(s)"
DOWNSAMPLE = "before = Conv(x, w) long = Conv(before, w) short = Conv(x, w) y = Add(long, short)"
CHAIN = "before = Relu(x) c = Conv(before, w) s = Add(before, c) d = Conv(s, w) y = Add(d, s)"

FOUND = {
    "what was there before the block": (IDENTITY, {"s": 1}),
    "the same, as the first operand": ("c = Conv(x, w) y = Add(x, c)", {"y": 0}),
    "of two convolutions the one with the shorter way": (DOWNSAMPLE, {"y": 1}),
    "the same, the other way round": (DOWNSAMPLE.replace("long, short", "short, long"), {"y": 0}),
    "of two ways of one length the second": ("a = Conv(x, w) b = Conv(x, w) y = Add(a, b)", {"y": 1}),
    "a convolution that another one reads too": ("a = Conv(x, w) b = Conv(a, w) y = Add(b, a)", {"y": 1}),
    "what stands beside a folded batch norm": (
        "c = Conv(x, w) n = BatchNormalization(c, v, v, v, v) y = Add(n, x)",
        {"y": 1},
    ),
    "a sum in a sum": ("a = Conv(x, w) s = Add(a, x) b = Conv(x, w) y = Add(s, b)", {"s": 1, "y": 0}),
}

LEFT_ALONE = {
    "a bias": "c = Conv(x, w) y = Add(c, bias)",
    "a smaller operand": "p = GlobalAveragePool(x) c = Conv(x, w) y = Add(c, p)",
    "a convolution twice": "c = Conv(x, w) y = Add(c, c)",
    "two convolutions that others read too": (
        "a = Conv(x, w) b = Conv(x, w) s = Add(a, b) t = Mul(a, b) y = Mul(s, t)"
    ),
    "an operation between the two": "c = Conv(x, w) m = Sigmoid(c) y = Add(m, x)",
    "a product": "m = MatMul(x, square) y = Add(m, x)",
    "no convolution": "r = Relu(x) y = Add(r, x)",
    "another operation than a sum": "c = Conv(x, w) y = Mul(c, x)",
}


def a_model(nodes):
    return graphs.tidy(parser.parse_model(f"{HEAD} {WEIGHTS} {{ {nodes} }}"))


def explicit(model):
    quantised = quantise.explicit(model, RANGES, quantise.INT8)
    checker.check_model(quantised, full_check=True)
    return quantised


def chosen(model):
    """What the converter would quantise: here, all that has weights."""
    return {node.output[0] for node in model.graph.node if node.op_type in quantise.WEIGHTED}


def operators(model):
    return [node.op_type for node in model.graph.node]


def sums(model):
    return [list(node.input) for node in model.graph.node if node.op_type == "Add"]


@pytest.mark.parametrize(("nodes", "found"), FOUND.values(), ids=FOUND)
def test_a_sum_reads_as_its_residual(nodes, found):
    model = a_model(nodes)

    assert residuals.of(model, chosen(model)) == found


@pytest.mark.parametrize("nodes", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_no_operand_is_a_residual_beside(nodes):
    model = a_model(nodes)

    assert residuals.of(model, chosen(model)) == {}


@pytest.mark.parametrize("told", [None, ["N", 2, None, None]], ids=["nothing", "some dimensions"])
def test_operands_of_unknown_shape_may_differ_and_are_left_alone(told):
    model = parser.parse_model(f"{HEAD} {WEIGHTS} {{ r = Relu(x) c = Conv(x, w) y = Add(c, r) }}")
    model.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, told) for name in "rc")

    assert residuals.of(model, chosen=("c",)) == {}


def test_a_convolution_that_stays_in_floats_takes_no_sum_in():
    assert residuals.of(a_model(IDENTITY), chosen=()) == {}


def test_a_convolution_whose_answer_is_asked_for_takes_no_sum_in():
    """It has to be written anyhow, so no kernel can keep it for the sum."""
    model = a_model("c = Conv(x, w) y = Add(c, x)")
    output = model.graph.output.add()
    output.CopyFrom(model.graph.output[0])
    output.name = "c"

    assert residuals.of(model, chosen(model)) == {}


def test_what_a_convolution_and_a_sum_read_is_quantised_once():
    quantised = explicit(a_model(IDENTITY))

    assert operators(quantised).count("QuantizeLinear") == 1
    assert sums(quantised) == [["c", "before/dequantised"]]


def test_of_two_branches_one_is_quantised():
    quantised = explicit(a_model(DOWNSAMPLE))

    assert operators(quantised).count("QuantizeLinear") == 3  # for the convolutions x and before; and short
    assert sums(quantised) == [["long", "short/dequantised"]]


def test_what_is_quantised_in_one_sum_stays_as_it_is_in_another():
    quantised = explicit(a_model(CHAIN))

    assert sums(quantised) == [["before/dequantised", "c"], ["d", "s/dequantised"]]
    assert operators(quantised).count("QuantizeLinear") == 2


def test_the_ranges_of_residuals_are_asked_for():
    assert quantise.explicit_tensors(a_model(DOWNSAMPLE)) == ("x", "before", "short")
    assert quantise.explicit_tensors(a_model(LEFT_ALONE["a bias"])) == ("x",)


def test_a_residual_is_off_by_half_a_step_at_most():
    quantised = explicit(a_model("c = Conv(x, w) y = Add(c, x)"))
    floats = ModelProto.FromString(quantised.SerializeToString())
    floats.graph.node[-1].input[1] = "x"
    x = np.random.default_rng(0).uniform(-8, 8, (3, 2, 4, 4)).astype(np.float32)

    found, expected = (reference.ReferenceEvaluator(each).run(None, {"x": x})[0] for each in (quantised, floats))

    step = next(numpy_helper.to_array(each) for each in quantised.graph.initializer if each.name == "x/scale")
    off = np.abs(found - expected).max()
    assert 0.4 * step < off <= 0.5 * step + 1e-5
