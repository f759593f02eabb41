"""The graphs that TensorRT reads, on small models that are written out."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, checker, numpy_helper, parser, reference

from inferbench_contract.words import Precision
from inferbench_runner import graphs, halves, quantise
from inferbench_runner.backends import Unsupported

HEAD = '<ir_version: 10, opset_import: ["" : 20]> graph (float[N,4] x) => (float[N,4] y)'
WEIGHT = np.array([[1, 2, -4, 0], [0.5, 0, 0, 0], [0.1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
TWO_PRODUCTS = f"{HEAD} <float[4,4] w, float[4] b = {{0.1, 0.2, 0.3, 0.4}}> {{ h = MatMul(x, w) y = Gemm(x, w, b) }}"
RANGES = {"x": (-1.0, 2.0)}


def a_model(text=f"{HEAD} <float[4,4] w> {{ y = MatMul(x, w) }}", weight=WEIGHT):
    """A tidy model; the text declares the weight w, and the numbers are put in by hand."""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return graphs.tidy(model)


def explicit(model, ranges=None, grid=quantise.INT8):
    quantised = quantise.explicit(model, RANGES if ranges is None else ranges, grid)
    checker.check_model(quantised, full_check=True)
    return quantised


def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_quantisers_stand_before_what_multiplies_by_weights_and_nowhere_else():
    model = a_model(f"{HEAD} <float[4,4] w> {{ h = MatMul(x, w) r = Relu(h) y = Softmax(r) }}")

    expected = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Relu", "Softmax"]
    assert operators(explicit(model)) == expected


def test_a_tensor_that_several_nodes_read_has_one_quantiser_and_one_set_of_weights():
    quantised = explicit(a_model(TWO_PRODUCTS))

    assert operators(quantised).count("QuantizeLinear") == 1
    assert operators(quantised).count("DequantizeLinear") == 2
    assert [name for name in weights(quantised) if name.endswith("quantised")] == ["w/1/quantised"]


def test_biases_are_left_alone_and_fp32_weights_are_gone():
    """TensorRT rejects int32 biases, and a weight that is there twice is a file of five times the size."""
    quantised = weights(explicit(a_model(TWO_PRODUCTS)))

    assert quantised["b"].dtype == np.float32
    assert "w" not in quantised


def test_zero_points_are_signed_and_zero():
    zeros = [array for name, array in weights(explicit(a_model())).items() if name.endswith("zero")]

    assert len(zeros) == 2
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_the_scale_of_an_activation_covers_the_larger_end():
    scale = weights(explicit(a_model()))["x/scale"]

    assert scale == pytest.approx(2 / 127, rel=2**-10)
    assert scale * 127 >= 2


@pytest.mark.parametrize(
    ("operator", "axis"),
    [pytest.param("MatMul(x, w)", 1, id="MatMul"), pytest.param("Gemm(x, w)", 1, id="Gemm"),
     pytest.param("Gemm<transB = 1>(x, w)", 0, id="transposed Gemm")],
)  # fmt: skip
def test_weights_have_a_scale_for_each_output(operator, axis):
    quantised = explicit(a_model(f"{HEAD} <float[4,4] w> {{ y = {operator} }}"))

    expected = np.maximum(np.abs(WEIGHT).max(axis=1 - axis) / 127, 2**-24)
    assert weights(quantised)[f"w/{axis}/scale"] == pytest.approx(expected, rel=2**-10)


def test_a_convolution_has_a_scale_for_each_output_channel():
    head = HEAD.replace("[N,4]", "[N,3,8,8]", 1).replace("[N,4]", "[N,2,8,8]")
    weight = np.stack([np.full((3, 1, 1), 0.5, np.float32), np.full((3, 1, 1), 4, np.float32)])

    quantised = explicit(a_model(f"{head} <float[2,3,1,1] w> {{ y = Conv(x, w) }}", weight))

    assert weights(quantised)["w/0/scale"] == pytest.approx([0.5 / 127, 4 / 127], rel=2**-10)
    assert set(weights(quantised)["w/0/quantised"].ravel().tolist()) <= {126, 127}


def test_products_of_two_activations_are_left_alone():
    model = a_model(f"{HEAD} <float[4,4] w> {{ h = MatMul(x, w) t = Transpose(h) a = MatMul(h, t) y = MatMul(a, x) }}")

    assert operators(explicit(model)).count("QuantizeLinear") == 1


def test_a_graph_without_weights_is_refused():
    model = a_model(f"{HEAD} <float[4,4] w> {{ y = Add(x, w) }}")

    for function in (quantise.explicit_tensors, quantise.dynamic):
        with pytest.raises(Unsupported, match="NothingToQuantise"):
            function(model)


def test_only_the_ranges_that_are_needed_are_asked_for():
    model = a_model(f"{HEAD} <float[4,4] w> {{ h = MatMul(x, w) r = Relu(h) a = MatMul(r, w) y = Add(a, h) }}")

    assert quantise.explicit_tensors(model) == ("x", "r")


def test_fp8_has_one_scale_for_a_tensor_and_reaches_448():
    quantised = weights(explicit(a_model(), grid=quantise.E4M3))

    assert quantised["w/1/quantised"].dtype == ml_dtypes.float8_e4m3fn
    assert quantised["w/1/scale"].shape == ()
    assert quantised["w/1/quantised"].astype(float).min() == -448


@given(
    weight=arrays.arrays(np.float32, (4, 4), elements=st.floats(-1e3, 1e3, width=32)),
    x=arrays.arrays(np.float32, (3, 4), elements=st.floats(-2, 2, width=32)),
)
def test_the_error_is_what_rounding_explains(weight, x):
    """Half a step of each number: of 1/127 of the largest weight of its channel, and of 2/127 for activations."""
    model = a_model(weight=weight)
    quantised = explicit(model, {"x": (-2, 2)})

    found, expected = (reference.ReferenceEvaluator(each).run(None, {"x": x})[0] for each in (quantised, model))

    largest = np.maximum(np.abs(weight).max(axis=0), 127 * 2.0**-24)
    slack = 1.01 / 127 / 2  # and a little for scales, which are rounded up to halves
    bound = 4 * (2 * largest * slack + largest * 2 * slack + 2 * largest * slack * slack * 2)
    assert (np.abs(found - expected) <= bound + 1e-5).all()


@given(weight=arrays.arrays(np.float32, (4, 4), elements=st.floats(-1e3, 1e3, width=32)))
def test_in_halves_the_steps_stay_the_same(weight):
    """Scales are chosen among those that fp16 holds, so that what was rounded to one step is not read with another."""
    quantised = explicit(a_model(weight=weight))
    half = halves.convert(quantised, Precision.FP16)
    checker.check_model(half, full_check=True)

    before, after = weights(quantised), weights(half)

    for name in ("x/scale", "w/1/scale"):
        assert after[name].dtype == np.float16
        assert (after[name].astype(np.float32) == before[name]).all()
    assert (after["w/1/quantised"] == before["w/1/quantised"]).all()
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in half.graph.initializer}
