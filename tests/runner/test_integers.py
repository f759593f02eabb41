"""Whether ONNX Runtime computes in integers what graphs in 8 bits for a CPU mean to be computed so."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import onnx_models, quantise
from inferbench_runner.backends import FellBack, onnxruntime
from inferbench_runner.targets import Target
from tests.runner import graph_tasks
from tests.runner.zoo import NAMES, Zoo

BATCH_SIZE = 4


@pytest.fixture(scope="module")
def zoo():
    """Real models."""
    return Zoo.shared()


@pytest.fixture
def a_task(zoo, tmp_path):
    """Makes the task of a cell of one of them, with its own graph or another one."""

    def make(name, precision=Precision.INT8_STATIC, graph=None, **options):
        told = {"device": Device.CPU, "batch_size": BATCH_SIZE, "contract": "device-resident", "options": options}
        task = graph_tasks.of_graph(tmp_path, Backend.ONNXRUNTIME, precision, **told)
        graph = graph or zoo.converted(name, Target.CPU, precision)
        return task.model_copy(update={"artifacts": zoo.prepared(name).model_copy(update={"onnx": graph})})

    return make


@pytest.mark.parametrize("precision", [Precision.INT8_STATIC, Precision.INT8_DYNAMIC])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_that_is_quantised_is_computed_in_integers(a_task, name, precision):
    session = onnxruntime.load(a_task(name, precision))

    assert next(iter(session.outputs().values())).shape[0] == BATCH_SIZE


def test_a_product_with_its_bias_would_be_computed_in_floats_and_is_found_out(a_task, zoo, tmp_path, monkeypatch):
    """Where the batch size is fixed, as in every cell; where it is free this ONNX Runtime takes 8 bits."""
    monkeypatch.setattr(quantise, "_set_biases_apart", lambda _: None)
    onnx_models.save(quantise.for_cpu(*zoo.calibrated("vit")), tmp_path)

    with pytest.raises(FellBack, match=r"ONNX Runtime computed \d+ layers in floats, where 0 are meant to be"):
        onnxruntime.load(a_task("vit", graph=tmp_path / onnx_models.FILE))


@pytest.mark.parametrize("level", ["disable", "basic"])
def test_a_session_that_is_not_to_optimise_computes_in_floats_and_is_found_out(a_task, level):
    with pytest.raises(FellBack, match="It finds 8 bits from graphOptimizationLevel extended on"):
        onnxruntime.load(a_task(NAMES[0], graphOptimizationLevel=level))


@pytest.mark.parametrize(("weights", "is_layer"), [([128, 1, 1, 1], False), ([128, 64, 1, 1], True)])
def test_a_batch_norm_that_became_a_convolution_is_no_layer(tmp_path, weights, is_layer):
    """Where no convolution stands before it, as in DenseNet, ONNX Runtime writes a batch norm so."""
    node = {"op_name": "Conv", "input_type_shape": [{"float": [4, 128, 28, 28]}, {"float": weights}, {"float": [128]}]}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps([{"cat": "Session", "args": {}}, {"cat": "Node", "args": node}]))
    told = SimpleNamespace(custom_metadata_map={onnx_models.LAYERS_IN_FLOATS: "0"})
    session = SimpleNamespace(end_profiling=lambda: str(profile), get_modelmeta=lambda: told)

    with pytest.raises(FellBack, match="1 layers in floats") if is_layer else nullcontext():
        onnxruntime.require_integers(session, Precision.INT8_STATIC, "ORT_ENABLE_ALL")


def test_the_profile_ends_with_the_first_run(a_task, tmp_path):
    onnxruntime.load(a_task(NAMES[0])).enqueue()

    [profile] = tmp_path.glob("first-run*.json")
    events = json.loads(profile.read_bytes())
    assert sum(event["name"] == "model_run" for event in events) == 1
