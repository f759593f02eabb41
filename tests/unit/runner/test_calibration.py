"""Ranges of tensors, and the examples that they are found on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from inferbench_contract.spec import Calibration
from inferbench_runner import artifacts, calibration, graphs, inputs, models, photographs
from inferbench_runner.inputs import Colours, Input

IMAGE = (Input("image", (3, 40, 50)),)
COLOURS = Colours(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def a_chain(batch="N", width=2):
    shape = f"float[{batch},{width}]"
    text = f'<ir_version: 10, opset_import: ["" : 20]> graph ({shape} x) => ({shape} y)'
    return graphs.tidy(parser.parse_model(f"{text} {{ h = Neg(x) y = Relu(h) }}"))


def an_evaluation(folder, tensors, colours=COLOURS, count=3):
    artifacts.write_arrays(folder, models.examples(tensors, colours, photographs.EVALUATION, count))
    return folder


def found(values, method, model=None):
    """The ranges over values of one example each."""
    batch = {"x": np.array(values, np.float32)}
    return calibration.ranges(model or a_chain(), ["x", "h", "y"], batch, method)


def test_minmax_covers_every_value_of_inputs_outputs_and_what_lies_between():
    ranges = found([[1, -2], [3, 0.5], [-1, 0]], Calibration.MINMAX)

    assert ranges == {"x": (-2, 3), "h": (-3, 2), "y": (0, 2)}


def test_zero_is_in_every_range():
    """A quantiser has to have it: padding is zeros."""
    assert found([[1, 2], [3, 4]], Calibration.MINMAX)["x"] == (0, 4)


def test_the_input_may_be_all_that_is_asked_for():
    """A model of one layer quantises nothing else."""
    batch = {"x": np.array([[1, -2], [3, 0.5]], np.float32)}

    assert calibration.ranges(a_chain(), ["x"], batch, Calibration.MINMAX) == {"x": (-2, 3)}


def test_a_graph_of_a_fixed_batch_size_sees_every_example_too():
    assert found([[1, 1], [2, 2], [3, 9]], Calibration.MINMAX, a_chain(batch=2))["x"] == (0, 9)


@given(outliers=st.integers(0, 4))
def test_percentile_leaves_out_one_in_20_000_at_each_end(outliers):
    """Of 40,000 values two: what is covered is the third largest. A single larger one moves nothing."""
    values = np.linspace(-1, 1, 40_000, dtype=np.float32)
    values[:outliers] = 100
    ordered = np.sort(values)

    low, high = found(values.reshape(10, -1), Calibration.PERCENTILE, a_chain(width=4000))["x"]

    assert (low, high) == (ordered[2], ordered[-3])


@given(parts=st.lists(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_kept_does_not_depend_on_how_values_arrive(parts):
    tails = calibration._Tails(cut=0.3, total=sum(map(len, parts)))
    for part in parts:
        tails.add(np.array(part, np.float32))

    ordered = np.sort(np.concatenate([np.array(part, np.float32) for part in parts]))
    cut = int(0.3 * len(ordered))
    assert tails.range() == (min(0, ordered[cut]), max(0, ordered[-1 - cut]))


def a_bell(outlier=0.0):
    """A hundred thousand values as activations have them, and one more."""
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    return np.append(values, np.float32(outlier))


def entropy_of(*parts):
    observer = calibration.observer(Calibration.ENTROPY, sum(part.size for part in parts))
    for part in parts:
        observer.add(part)
    return observer.range()


def test_entropy_cuts_off_what_hardly_ever_occurs():
    """Minmax would give 98 % of its steps to one value."""
    low, high = entropy_of(a_bell(outlier=200))

    assert 3 < high < 20
    assert low == pytest.approx(a_bell().min())


def test_entropy_covers_what_occurs_everywhere():
    values = np.linspace(-1, 1, 50_001, dtype=np.float32)

    assert entropy_of(values) == pytest.approx((-1, 1), abs=0.01)


def test_entropy_does_not_look_at_zeros():
    """Half of what a ReLU gives is zeros, which any quantiser has exactly."""
    values = np.maximum(a_bell(outlier=50), 0)

    assert entropy_of(values) == pytest.approx(entropy_of(np.append(values, np.zeros(10**6, np.float32))))


def test_entropy_finds_the_same_when_the_largest_values_come_last():
    values = np.sort(np.abs(a_bell(outlier=50)))

    at_once, bit_by_bit = entropy_of(values), entropy_of(*np.array_split(values, 40))

    assert bit_by_bit == pytest.approx(at_once, rel=0.1)


@pytest.mark.parametrize("method", Calibration)
def test_a_tensor_of_zeros_has_a_range_of_zero(method):
    assert found([[0, 0], [0, 0]], method)["x"] == (0, 0)


def test_no_scene_is_in_both_sets():
    assert not set(photographs.CALIBRATION) & set(photographs.EVALUATION)


def test_examples_are_other_crops_in_the_same_size_and_colours(tmp_path):
    evaluation = an_evaluation(tmp_path, IMAGE)

    (made,) = calibration.examples(evaluation, 8).values()

    assert made.shape == (8, 3, 40, 50)
    expected = models.examples(IMAGE, COLOURS, photographs.CALIBRATION, 8)["image"]
    assert made == pytest.approx(expected, abs=1e-4)


def test_examples_that_are_no_images_come_from_another_seed(tmp_path):
    tensors = (Input("ids", (5,), "int64"), Input("features", (4,)))
    evaluation = an_evaluation(tmp_path, tensors, count=8)

    made = calibration.examples(evaluation, 8)

    assert {name: (array.shape, str(array.dtype)) for name, array in made.items()} == {
        "ids": ((8, 5), "int64"),
        "features": ((8, 4), "float32"),
    }
    evaluated = inputs.random_tensors(tensors, 8, models.SEED)
    assert not (made["features"] == evaluated["features"]).any()


def test_images_that_were_made_another_way_are_not_guessed_at(tmp_path):
    artifacts.write_arrays(tmp_path, inputs.random_tensors(IMAGE, 1, 0))

    with pytest.raises(ValueError, match="not made by this version"):
        calibration.examples(tmp_path)
