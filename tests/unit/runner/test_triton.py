"""The configuration of a model for Triton, as text and as Triton's own message type reads it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from google.protobuf import text_format

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


@pytest.fixture(scope="module")
def read():
    """Read a configuration as Triton does: by the message type of its client, which is loaded without the client."""
    file = Path(importlib.util.find_spec("tritonclient").origin).with_name("grpc") / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda text: text_format.Parse(text, module.ModelConfig())


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


HALF = Tensor("image", "float16", (3, 8, 8), None)

KINDS = {
    "a free batch": config(),
    "a batch of one": config(batch_size=1),
    "a fixed batch": config(inputs=[Tensor("image", "float32", (3, 8, 8), 4)], batch_size=4),
    "several inputs": config(inputs=[Tensor(name, "int64", (-1,), None) for name in ("ids", 'odd "name"')]),
    "no optimisation": config(graphOptimizationLevel="ORT_DISABLE_ALL"),
    "the layout's level": config(graphOptimizationLevel="ORT_ENABLE_LAYOUT"),
    "operators side by side": config(interOpThreads=2),
    "a gpu": config(provider="CUDAExecutionProvider", providerOptions={"device_id": "0", "use_tf32": "0"}),
    "a plan": triton.plan_config("resnet50", [HALF], [HALF], 2),
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)
def test_triton_reads_every_kind_of_configuration(text, read):
    found = read(text)

    assert (found.name, len(found.instance_group), len(found.output)) == ("resnet50", 1, 1)


def test_triton_reads_what_was_measured(read):
    found = read(KINDS["a gpu"])

    (accelerator,) = found.optimization.execution_accelerators.gpu_execution_accelerator
    assert (found.backend, found.max_batch_size, list(found.dynamic_batching.preferred_batch_size)) == (
        "onnxruntime",
        8,
        [8],
    )
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert found.parameters["intra_op_thread_count"].string_value == "4"


@pytest.mark.parametrize("dtype", triton.DTYPES)
def test_triton_knows_every_type(dtype, read):
    found = read(config(inputs=[Tensor("x", dtype, (1,), None)]))

    assert found.input[0].data_type != 0


def test_triton_refuses_a_type_that_it_does_not_know(read):
    with pytest.raises(text_format.ParseError, match="TYPE_FP8"):
        read(config().replace("TYPE_FP32", "TYPE_FP8"))
