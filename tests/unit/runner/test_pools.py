"""Max pools that are written as maxima: small graphs, written out, which ONNX Runtime computes both ways."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, checker, helper, parser

from inferbench_runner import graphs, pools


def a_pool(shape, opset=22, outputs=("y",), **attributes):
    """A model that pools images of a shape, which has its first two numbers free."""
    node = helper.make_node("MaxPool", ["x"], list(outputs), **attributes)
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, *shape])
    shown = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, *(None for _ in shape)])]
    graph = helper.make_graph([node], "pool", [images], shown)
    return graphs.tidy(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def written(model):
    made = pools.as_maxima(model)
    checker.check_model(made, full_check=True)
    return made


def operators(model):
    return [node.op_type for node in model.graph.node]


def computed(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def numbers(shape, seed=0):
    """Below zero for the most part, so that a padding of zeros would be found out."""
    return np.random.default_rng(seed).standard_normal((2, 2, *shape), np.float32) - 3


@st.composite
def axes(draw):
    """One axis of a pool: how long it is, and how the pool looks along it."""
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    span = dilation * (kernel - 1) + 1
    pads = draw(st.tuples(*[st.integers(0, kernel - 1)] * 2))
    return draw(st.integers(span, span + 9)), kernel, draw(st.integers(1, 4)), dilation, pads


@given(st.lists(axes(), min_size=1, max_size=3), st.booleans(), st.integers(0, 9))
def test_maxima_are_what_the_pool_makes_bit_for_bit(chosen, ceil_mode, seed):
    lengths, kernels, strides, dilations, pads = zip(*chosen, strict=True)
    both = [before for before, _ in pads] + [after for _, after in pads]
    model = a_pool(
        lengths, kernel_shape=kernels, strides=strides, dilations=dilations, pads=both, ceil_mode=int(ceil_mode)
    )
    x = numbers(lengths, seed)

    made = written(model)

    assert "MaxPool" not in operators(made)
    np.testing.assert_array_equal(computed(made, x), computed(model, x))


@given(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), st.integers(3, 9), st.integers(1, 3), st.data())
def test_a_kind_of_padding_is_understood_as_onnx_runtime_does(kind, length, kernel, data):
    """Of windows that leave nothing out between them: others ONNX Runtime refuses."""
    stride = data.draw(st.integers(1, kernel))
    model = a_pool([length, length], kernel_shape=[kernel] * 2, strides=[stride] * 2, auto_pad=kind)
    x = numbers([length, length])

    made = written(model)

    assert "MaxPool" not in operators(made)
    np.testing.assert_array_equal(computed(made, x), computed(model, x))


def test_a_pool_of_three_by_three_compares_three_rows_then_three_columns():
    made = written(a_pool([6, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))

    assert operators(made) == [*["Gather"] * 3, "Max"] * 2
    assert [node.attribute[0].i for node in made.graph.node if node.op_type == "Gather"] == [2, 2, 2, 3, 3, 3]


def test_a_place_in_the_padding_is_replaced_by_one_of_the_same_window():
    windows = pools.Windows(kernel=3, stride=2, dilation=1, before=1)

    np.testing.assert_array_equal(windows.places(length=4, count=2), [[0, 1], [0, 2], [1, 3]])


def test_a_window_without_a_number_has_no_maximum():
    assert pools.Windows(kernel=2, stride=4, dilation=1, before=0).places(length=3, count=2) is None


TWO_POOLS = """
<ir_version: 9, opset_import: ["" : 19]>
graph (float[N,2,8,8] x) => (float[N,2,h,w] y) {
    a = AveragePool<kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1>(x)
    y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
}
"""


def test_sizes_are_those_of_the_opset_that_is_needed():
    """Below 22 ONNX infers a row more for the first pool than ONNX Runtime makes: places would lie outside."""
    model = parser.parse_model(TWO_POOLS)
    x = numbers([8, 8])

    made = written(graphs.tidy(model, 22))

    assert "MaxPool" not in operators(made)
    np.testing.assert_array_equal(computed(made, x), computed(model, x))


def test_sizes_that_were_written_down_of_other_images_are_not_believed():
    """As they are left in files whose inputs somebody enlarged."""
    pooled = "r = Relu(x) p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r) y = Relu(p)"
    head = '<ir_version: 10, opset_import: ["" : 22]> graph (float[N,2,16,16] x) => (float[N,2,8,8] y)'
    model, fresh = (parser.parse_model(f"{head} {{ {pooled} }}") for _ in range(2))
    for name, size in (("r", 8), ("p", 4)):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, size, size]))

    made = pools.as_maxima(model)

    del made.graph.value_info[:]
    np.testing.assert_array_equal(computed(made, numbers([16, 16])), computed(fresh, numbers([16, 16])))


def test_new_tensors_have_names_that_no_other_has():
    """The text form of ONNX has no such names, so they are given afterwards."""
    nodes = "one = Relu(x) two = Relu(one) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(two)"
    head = '<ir_version: 10, opset_import: ["" : 22]> graph (float[N,2,4,4] x) => (float[N,2,2,2] y)'
    model = parser.parse_model(f"{head} {{ {nodes} }}")
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [{"one": "y/axis0", "two": "y/place0"}.get(name, name) for name in field]

    made = written(graphs.tidy(model))

    np.testing.assert_array_equal(computed(made, numbers([4, 4])), computed(model, numbers([4, 4])))


LEFT_ALONE = {
    "an image of any size": a_pool(["height", "width"], kernel_shape=[2, 2]),
    "one whose width is free": a_pool([4, "width"], kernel_shape=[2, 2]),
    "a pool that tells where its maxima are": a_pool([4, 4], outputs=("y", "where"), kernel_shape=[2, 2]),
    "another pool": graphs.tidy(
        parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 20]> graph (float[1,2,4,4] x) => (float[1,2,2,2] y) '
            "{ y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x) }"
        )
    ),
}


@pytest.mark.parametrize("model", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_stays_as_it_is(model):
    assert pools.as_maxima(model) == model


def test_the_model_that_came_in_is_not_changed():
    model = a_pool([4, 4], kernel_shape=[2, 2])
    before = model.SerializeToString(deterministic=True)

    written(model)

    assert model.SerializeToString(deterministic=True) == before
