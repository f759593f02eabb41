"""The configuration of a model for Triton, as text."""

from __future__ import annotations

import pytest

from inferbench_runner import triton
from inferbench_runner.triton import Tensor

SESSION = {
    "provider": "CPUExecutionProvider",
    "providerOptions": {},
    "threads": 4,
    "interOpThreads": 1,
    "graphOptimizationLevel": "ORT_ENABLE_ALL",
}
IMAGE = Tensor("image", "float32", (3, 224, 224), None)
SCORES = Tensor("scores", "float32", (1000,), None)


def config(*, inputs=(IMAGE,), outputs=(SCORES,), batch_size=8, **session) -> str:
    return triton.onnx_config("resnet50", inputs, outputs, batch_size, {**SESSION, **session})


def test_a_graph_with_a_free_batch_may_be_filled_up_to_the_size_that_was_measured():
    assert (
        config()
        == """\
name: "resnet50"
backend: "onnxruntime"
max_batch_size: 8
input [
  { name: "image" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }
]
output [
  { name: "scores" data_type: TYPE_FP32 dims: [ 1000 ] }
]
dynamic_batching { preferred_batch_size: [ 8 ] }
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "4" } }
parameters { key: "inter_op_thread_count" value: { string_value: "1" } }
"""
    )


def test_a_batch_of_one_is_not_waited_for():
    assert "dynamic_batching" not in config(batch_size=1)


def test_a_graph_of_a_fixed_batch_size_has_it_among_its_dimensions():
    fixed = [Tensor(each.name, each.dtype, each.shape, 4) for each in (IMAGE, SCORES)]

    text = config(inputs=fixed[:1], outputs=fixed[1:], batch_size=4)

    assert "max_batch_size: 0\n" in text
    assert 'name: "image" data_type: TYPE_FP32 dims: [ 4, 3, 224, 224 ]' in text
    assert "dynamic_batching" not in text


def test_several_inputs_are_separated_and_keep_their_types():
    tokens = [Tensor(name, "int64", (-1,), None) for name in ("ids", "mask")]

    assert (
        'input [\n  { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] },\n  { name: "mask" data_type: TYPE_INT64'
        in config(inputs=tokens)
    )


@pytest.mark.parametrize(
    ("level", "number"), [("ORT_DISABLE_ALL", 2), ("ORT_ENABLE_BASIC", -1), ("ORT_ENABLE_EXTENDED", 1)]
)
def test_the_level_of_optimisation_is_told_in_tritons_numbers(level, number):
    assert f"optimization {{\n  graph {{ level: {number} }}\n}}\n" in config(graphOptimizationLevel=level)


def test_operators_side_by_side_are_told_too():
    assert 'key: "execution_mode" value: { string_value: "1" }' in config(interOpThreads=2)


def test_on_a_gpu_the_providers_options_come_along():
    options = {"device_id": "0", "use_tf32": "0"}

    text = config(provider="CUDAExecutionProvider", providerOptions=options)

    assert "kind: KIND_GPU" in text
    assert '[ { name: "cuda" parameters { key: "use_tf32" value: "0" } } ]' in text


def test_a_plan_of_tensorrt_takes_one_batch_size():
    image = Tensor("image", "float16", (3, 8, 8), None)

    text = triton.plan_config("m", [image], [image], 2)

    assert text.startswith('name: "m"\nbackend: "tensorrt"\nmax_batch_size: 0\n')
    assert "data_type: TYPE_FP16 dims: [ 2, 3, 8, 8 ]" in text
