"""Small graphs, written out, and what becomes of them in halves. ONNX's own evaluator says what they compute."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, checker, numpy_helper, parser, reference

from inferbench_contract.words import Precision
from inferbench_runner import halves
from inferbench_runner.backends import Unsupported

DTYPES = {Precision.FP16: np.float16, Precision.BF16: ml_dtypes.bfloat16}
ELEMENTS = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}
EACH_HALF = pytest.mark.parametrize("precision", DTYPES)

TOLERANCE = {Precision.FP16: 5e-3, Precision.BF16: 5e-2}
"""Of the norm. One rounding is 2^-11 of a number in fp16 and 2^-8 in bf16; ten operators in a row stay below these."""


def a_graph(body, weights="", inputs="float[N,4] x", outputs="float[N,4] y", opset=20):
    """A model from ONNX's text form."""
    declared = f"<{weights}>" if weights else ""
    head = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    return parser.parse_model(f"{head}\ngraph ({inputs}) => ({outputs}) {declared} {{ {body} }}")


def convert(model, precision=Precision.FP16, *kept):
    """Convert, and let ONNX check what came out."""
    converted = halves.convert(model, precision, frozenset(kept))
    checker.check_model(converted, full_check=True)
    return converted


def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(model):
    return [node.op_type for node in model.graph.node]


def evaluate(model, **arrays):
    return reference.ReferenceEvaluator(model).run(None, arrays)[0].astype(np.float32)


def an_array(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@EACH_HALF
def test_inputs_outputs_and_weights_become_halves_under_their_names(precision):
    model = a_graph("y = Add(x, w)", "float[4] w = {1, 2, 3, 4}")

    converted = convert(model, precision)

    tensors = (converted.graph.input[0], converted.graph.output[0])
    assert [(tensor.name, tensor.type.tensor_type.elem_type) for tensor in tensors] == [
        ("x", ELEMENTS[precision]),
        ("y", ELEMENTS[precision]),
    ]
    assert weights(converted)["w"].dtype == DTYPES[precision]
    assert operators(converted) == ["Add"]


@EACH_HALF
def test_what_is_no_fp32_stays_what_it_is(precision):
    model = a_graph("s = Reshape(x, shape) y = Cast<to=1>(i) z = Add(s, y)", "int64[2] shape = {-1, 4}",
                    "float[N,4] x, int32[N,4] i", "float[N,4] z")  # fmt: skip

    converted = convert(model, precision)

    assert weights(converted)["shape"].dtype == np.int64
    assert converted.graph.input[1].type.tensor_type.elem_type == TensorProto.INT32
    assert operators(converted) == ["Reshape", "Cast", "Add"]


def test_the_model_that_is_converted_stays_as_it_is():
    model = a_graph("y = Add(x, w)", "float[4] w = {1, 2, 3, 4}")
    before = model.SerializeToString()

    convert(model)

    assert model.SerializeToString() == before


@EACH_HALF
def test_the_same_graph_becomes_the_same_bytes(precision):
    model = a_graph("h = HardSwish(x) y = Add(h, w)", "float[4] w = {1, 2, 3, 4}")

    first, second = (convert(model, precision, "HardSwish").SerializeToString() for _ in range(2))

    assert first == second


@pytest.mark.parametrize(
    ("precision", "opset", "expected"),
    [
        pytest.param(Precision.FP16, 17, 17, id="fp16 is as old as the operators"),
        pytest.param(Precision.BF16, 17, 22, id="convolutions take bf16 from opset 22 on"),
        pytest.param(Precision.BF16, 23, 23, id="a newer opset stays"),
    ],
)
def test_the_opset_is_lifted_where_the_half_needs_it(precision, opset, expected):
    converted = convert(a_graph("y = Relu(x)", opset=opset), precision)

    assert converted.opset_import[0].version == expected


# ---- what stays fp32 -----------------------------------------------------------------------------


@EACH_HALF
def test_a_kept_operator_computes_in_fp32_between_two_casts(precision):
    model = a_graph("a = Relu(x) b = HardSwish(a) y = Relu(b)")

    converted = convert(model, precision, "HardSwish")

    assert operators(converted) == ["Relu", "Cast", "HardSwish", "Cast", "Relu"]


def test_between_two_kept_operators_is_no_cast():
    """What was computed in fp32 is not rounded on its way to who reads fp32."""
    model = a_graph("a = HardSwish(x) b = HardSigmoid(a) y = Relu(b)")

    converted = convert(model, Precision.BF16, "HardSwish", "HardSigmoid")

    assert operators(converted) == ["Cast", "HardSwish", "HardSigmoid", "Cast", "Relu"]


def test_a_kept_operator_at_the_end_answers_in_halves_too():
    converted = convert(a_graph("y = HardSwish(x)"), Precision.BF16, "HardSwish")

    assert operators(converted) == ["Cast", "HardSwish", "Cast"]
    assert converted.graph.output[0].type.tensor_type.elem_type == TensorProto.BFLOAT16


def test_a_weight_that_is_read_in_both_types_is_there_in_both():
    model = a_graph("a = Mul(x, w) y = Add(a, w)", "float[4] w = {0.1, 2, 3, 4}")

    converted = convert(model, Precision.FP16, "Mul")

    assert {name: array.dtype for name, array in weights(converted).items()} == {"w": np.float16, "w/fp32": np.float32}
    assert weights(converted)["w/fp32"][0] == np.float32(0.1)


def test_names_that_are_taken_are_not_given_again():
    model = a_graph('"x/fp32" = Relu(x) a = HardSwish(x) y = Add(a, "x/fp32")')

    converted = convert(model, Precision.BF16, "HardSwish")

    x = an_array(2, 4)
    assert evaluate(converted, x=x.astype(ml_dtypes.bfloat16)) == pytest.approx(evaluate(model, x=x), abs=0.05)


@EACH_HALF
def test_what_onnx_has_no_half_for_stays_fp32(precision):
    """The scales of Resize are fp32 by its definition, whatever the image is."""
    model = a_graph('y = Resize<mode = "nearest">(x, , s)', "float[4] s = {1, 1, 2, 2}",
                    "float[N,3,4,4] x", "float[N,3,8,8] y")  # fmt: skip

    converted = convert(model, precision)

    assert operators(converted) == ["Resize"]
    assert [array.dtype for array in weights(converted).values()] == [np.float32]


def test_operators_without_halves_compute_in_fp32():
    """Range has integers, fp32 and double."""
    model = a_graph("r = Range(a, b, c) y = Add(x, r)", "float a = {0}, float b = {4}, float c = {1}")

    converted = convert(model, Precision.FP16)

    assert operators(converted) == ["Range", "Cast", "Add"]


def test_numbers_made_of_nothing_stay_fp32_and_are_cast():
    model = a_graph("e = EyeLike<dtype = 1>(i) y = MatMul(x, e)", "", "float[N,4] x, int32[4,4] i")

    converted = convert(model, Precision.BF16)

    assert operators(converted) == ["EyeLike", "Cast", "MatMul"]


# ---- types that stand in attributes --------------------------------------------------------------


@EACH_HALF
def test_a_cast_to_fp32_becomes_a_cast_to_halves(precision):
    converted = convert(a_graph("y = Cast<to = 1>(i)", "", "int32[N,4] i"), precision)

    assert converted.graph.node[0].attribute[0].i == ELEMENTS[precision]


@EACH_HALF
@pytest.mark.parametrize("value", ["", "<value = float[1] {2.5}>"])
def test_a_constant_of_a_shape_becomes_halves_also_without_a_value(precision, value):
    """Without a value it makes fp32 zeros, which nothing in the graph says (Swin has one)."""
    converted = convert(a_graph(f"c = ConstantOfShape{value}(s) y = Add(x, c)", "int64[2] s = {1, 4}"), precision)

    (made,) = [attribute.t for attribute in converted.graph.node[0].attribute if attribute.name == "value"]
    assert made.data_type == ELEMENTS[precision]
    assert numpy_helper.to_array(made).astype(float) == (2.5 if value else 0)


@EACH_HALF
@pytest.mark.parametrize("constant", ["value = float[1] {0.5}", "value_float = 0.5", "value_floats = [0.5]"])
def test_constants_become_weights(precision, constant):
    converted = convert(a_graph(f"c = Constant<{constant}>() y = Add(x, c)"), precision)

    assert operators(converted) == ["Add"]
    assert weights(converted)["c"].dtype == DTYPES[precision]


def test_weights_that_older_files_list_among_the_inputs_are_weights():
    model = a_graph("y = Mul(x, w)", "float[4] w = {1, 2, 3, 4}", "float[N,4] x, float[4] w")

    converted = convert(model)

    assert [value.name for value in converted.graph.input] == ["x"]
    assert weights(converted)["w"].dtype == np.float16


def test_onnx_may_be_called_by_its_name():
    model = a_graph("y = HardSwish(x)")
    model.graph.node[0].domain = model.opset_import[0].domain = "ai.onnx"

    assert operators(convert(model, Precision.BF16, "HardSwish")) == ["Cast", "HardSwish", "Cast"]


# ---- what halves cannot hold ---------------------------------------------------------------------


def test_a_weight_that_fp16_cannot_hold_is_refused_by_name():
    model = a_graph("y = Mul(x, big)", "float[1] big = {70000}")

    with pytest.raises(Unsupported, match=r"OutOfRange: big holds 7e\+04, and the largest float16 is 65504. Use bf16"):
        halves.convert(model, Precision.FP16)

    assert weights(convert(model, Precision.BF16))["big"].astype(float) == pytest.approx(70000, rel=2**-8)


def test_a_large_weight_of_a_kept_operator_harms_nobody():
    model = a_graph("a = Mul(x, big) y = Relu(a)", "float[1] big = {70000}")

    assert weights(convert(model, Precision.FP16, "Mul"))["big/fp32"] == 70000


@EACH_HALF
def test_the_never_of_a_mask_becomes_the_largest_half(precision):
    """Masks hold fp32's smallest number where attention must not look; infinity stays infinity."""
    lowest = float(np.finfo(np.float32).min)
    model = a_graph("y = Add(x, m)", "float[4] m = {0, 0, 0, 0}")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([lowest, -np.inf, 0, 1], np.float32), "m"))

    mask = weights(convert(model, precision))["m"]

    assert mask[0] == ml_dtypes.finfo(DTYPES[precision]).min
    assert mask.astype(float)[1:].tolist() == [-np.inf, 0, 1]


def test_a_scale_that_fp16_would_make_zero_stays_the_smallest_number():
    """Else the quantiser would answer with zeros or worse. EfficientNet-Lite0 has scales down to 9e-10."""
    model = a_graph("y = DequantizeLinear<axis = 1>(q, s)", "float[4] s = {1e-9, 1e-3, 1, 2}", "int8[N,4] q")

    scales = weights(convert(model, Precision.FP16))["s"]

    assert (scales > 0).all()
    assert scales[0] == np.finfo(np.float16).smallest_subnormal
    assert scales.astype(float)[1:] == pytest.approx([1e-3, 1, 2], rel=2**-11)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(
            a_graph("y = If(c) <then_branch = t () => (float[N,4] a) { a = Relu(x) }, "
                    "else_branch = e () => (float[N,4] b) { b = Neg(x) }>", "", "float[N,4] x, bool c"),
            "ControlFlow: If", id="a graph that branches"),
        pytest.param(
            parser.parse_model('<ir_version: 10, opset_import: ["" : 20, "house.of.ours" : 1]>'
                               "graph (float[N,4] x) => (float[N,4] y) { y = house.of.ours.Magic(x) }"),
            "UnknownOperator.*Magic of house.of.ours", id="an operator of somebody's own"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_soundly_is_refused(model, reason):
    with pytest.raises(Unsupported, match=reason):
        halves.convert(model, Precision.FP16)


# ---- any graph -----------------------------------------------------------------------------------

STEPS = {
    "Relu": "{y} = Relu({x})",
    "HardSwish": "{y} = HardSwish({x})",
    "Softmax": "{y} = Softmax({x})",
    "MatMul": "{y} = MatMul({x}, matrix)",
    "Gemm": "{y} = Gemm<transB = 1>({x}, matrix, row)",
    "Add": "{y} = Add({x}, {other})",
    "Mul": "{y} = Mul({x}, row)",
    "Clip": "{y} = Clip({x}, low, high)",
    "Concat": "{y}c = Concat<axis = 0>({x}, {other}) {y}, {y}d = Split<axis = 0, num_outputs = 2>({y}c)",
    "LayerNormalization": "{y} = LayerNormalization({x}, row)",
    "Cast": "{y}i = Cast<to = 6>({x}) {y} = Cast<to = 1>({y}i)",
    "ReduceMean": "{y}m = ReduceMean<keepdims = 1>({x}) {y} = Sub({other}, {y}m)",
}
"""Each with its inputs and its output left open; what two graphs disagree about most is added up in Add and Concat."""

MATRIX = ", ".join(f"{0.5 * np.cos(i):.3f}" for i in range(16))
SMALL_WEIGHTS = (
    f"float[4,4] matrix = {{{MATRIX}}}, float[4] row = {{0.5, -1, 0.25, 1}}, float low = {{-2}}, float high = {{2}}"
)

AMPLIFYING = frozenset({"Cast", "LayerNormalization"})
"""Rounding to integers and dividing by a small deviation make much of little: such graphs are checked, not compared."""


@st.composite
def graphs(draw):
    """Draw the steps of a graph; each reads the step before it and some earlier one."""
    names = draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8))
    lines = []
    for number, name in enumerate(names):
        earlier = ["x", *(f"v{i}" for i in range(number))]
        lines.append(STEPS[name].format(x=earlier[-1], other=draw(st.sampled_from(earlier)), y=f"v{number}"))
    return frozenset(names), a_graph(" ".join([*lines, f"y = Identity(v{len(names) - 1})"]), SMALL_WEIGHTS)


@EACH_HALF
@given(graph=graphs(), kept=st.sets(st.sampled_from(sorted(STEPS))))
def test_any_graph_stays_valid_and_computes_the_same_as_well_as_halves_can(precision, graph, kept):
    names, model = graph
    x = an_array(6, 4)

    converted = convert(model, precision, *kept)

    answer, expected = evaluate(converted, x=x.astype(DTYPES[precision])), evaluate(model, x=x)
    assert answer.shape == expected.shape
    if not names & AMPLIFYING:
        distance = np.linalg.norm(answer - expected)
        assert distance <= TOLERANCE[precision] * max(np.linalg.norm(expected), np.linalg.norm(x))


@EACH_HALF
@given(graph=graphs(), kept=st.sets(st.sampled_from(sorted(STEPS))))
def test_each_node_reads_and_writes_types_that_it_has(precision, graph, kept):
    """No fp32 reaches an operator that is not kept, except through a cast; the checker proves that types agree."""
    _, model = graph

    converted = onnx.shape_inference.infer_shapes(convert(model, precision, *kept), strict_mode=True)

    types = {value.name: value.type.tensor_type.elem_type for value in converted.graph.value_info}
    for node in converted.graph.node:
        if node.op_type not in kept | {"Cast"}:
            assert TensorProto.FLOAT not in {types.get(name) for name in (*node.input, *node.output)}
