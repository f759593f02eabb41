"""Converted graphs of real models: valid, loaded by ONNX Runtime, and as near to fp32 as their precision allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from inferbench_contract.spec import Calibration
from inferbench_contract.words import Outcome, Precision
from inferbench_runner import (
    accuracy,
    answers,
    artifacts,
    convert,
    graphs,
    models,
    onnx_models,
    photographs,
    quantise,
)
from inferbench_runner.answers import Refusal
from inferbench_runner.backends import Unsupported
from inferbench_runner.convert import Request
from inferbench_runner.inputs import Colours, Input
from inferbench_runner.process import PROGRESS_FD
from inferbench_runner.targets import AS_PREPARED, IMPOSSIBLE, KEPT_FP32, Target
from tests.runner.zoo import NAMES, Zoo, run

PATIENCE_SECONDS = 120

MAX_RELATIVE_L2 = {
    Precision.FP16: 5e-3,  # seen: 0.0007 to 0.0033
    Precision.BF16: 5e-2,  # seen: 0.006 to 0.029
    Precision.INT8_DYNAMIC: 0.12,  # seen: 0.02 to 0.10
    Precision.INT8_STATIC: 0.15,  # seen: 0.02 to 0.12
    Precision.FP8: 0.20,  # seen: 0.07 to 0.19
}
"""Of random weights with calibrated batch norms, ten models of torchvision: MobileNets and EfficientNet are worst.

What a converter may cost, not what a cell may: by the contract's limits some of these would be Inaccurate at 8 bits.
"""

MIN_COSINE = 0.97
"""Of the worst example; MobileNetV3 in fp8 has 0.975."""

GRAPHS = [(target, precision) for target in Target for precision in Precision]
GRAPHS = [each for each in GRAPHS if each not in AS_PREPARED and each not in IMPOSSIBLE]


@pytest.fixture(scope="session")
def zoo():
    """Real models."""
    return Zoo.shared()


def elements(model):
    return {tensor.data_type for tensor in model.graph.initializer}


def operators(model):
    return [node.op_type for node in model.graph.node]


def rounded_in_fp32(model):
    """What a bf16 graph computes, for a runtime without bf16 kernels: in fp32, each result rounded to bf16."""
    typed = onnx.shape_inference.infer_shapes(model)
    halves = {name for name, element in graphs.types(typed).items() if element == TensorProto.BFLOAT16}
    nodes = []
    for node in typed.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.t.data_type == TensorProto.BFLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
        written = [name for name in node.output if name in halves]
        node.output[:] = [f"{name}/exact" if name in written else name for name in node.output]
        nodes.append(node)
        for name in written:
            nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.BFLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    weights = [numpy_helper.to_array(tensor) for tensor in typed.graph.initializer]
    names = [tensor.name for tensor in typed.graph.initializer]
    fp32 = [array.astype(np.float32) if name in halves else array for name, array in zip(names, weights, strict=True)]
    values = (typed.graph.input, typed.graph.output)
    graph = helper.make_graph(nodes, "rounded", *values, list(map(numpy_helper.from_array, fp32, names)))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return helper.make_model(graph, opset_imports=typed.opset_import, ir_version=typed.ir_version)


# ---- real models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("target", "precision"), GRAPHS)
def test_a_converted_graph_is_valid_and_near_to_fp32(zoo, name, target, precision, record_property):
    file = zoo.converted(name, target, precision)

    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    graph = rounded_in_fp32(model) if precision is Precision.BF16 else file
    found = zoo.judged(name, graph, optimised=target in {Target.CPU, Target.OPENVINO})
    for noted in ("examples", "relative_l2", "worst_cosine", "top1_agreement"):
        record_property(noted, getattr(found, noted))
    assert found.relative_l2 <= MAX_RELATIVE_L2[precision]
    assert found.worst_cosine >= MIN_COSINE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("target", "precision"), KEPT_FP32)
def test_no_operator_is_in_halves_that_the_library_has_no_half_for(zoo, name, target, precision):
    model = onnx.shape_inference.infer_shapes(onnx.load(zoo.converted(name, target, precision)), strict_mode=True)

    half = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}[precision]
    types = graphs.types(model)
    for node in model.graph.node:
        if node.op_type in KEPT_FP32[target, precision]:
            assert half not in {types[name] for name in (*node.input, *node.output) if name}


@pytest.mark.parametrize("name", NAMES)
def test_halves_go_in_and_come_out(zoo, name):
    model = onnx.load(zoo.converted(name, Target.CUDA, Precision.FP16))

    tensors = (*model.graph.input, *model.graph.output)
    assert {tensor.type.tensor_type.elem_type for tensor in tensors} == {TensorProto.FLOAT16}
    assert elements(model) <= {TensorProto.FLOAT16, TensorProto.INT64}
    assert "Cast" not in operators(model)


def test_the_max_pool_of_resnet_becomes_maxima_for_cuda_in_bf16_and_nothing_else_changes(zoo):
    exported = operators(onnx.load(zoo.prepared("resnet50").onnx))
    model = onnx.load(zoo.converted("resnet50", Target.CUDA, Precision.BF16))

    pool = exported.index("MaxPool")
    maxima = [*["Gather"] * 3, "Max"] * 2
    assert operators(model) == [*exported[:pool], *maxima, *exported[pool + 1 :]]


@pytest.mark.parametrize("name", NAMES)
def test_the_two_int8_files_are_what_their_readers_want(zoo, name):
    cpu = onnx.load(zoo.converted(name, Target.CPU, Precision.INT8_STATIC))
    tensorrt = onnx.load(zoo.converted(name, Target.TENSORRT, Precision.INT8_STATIC))

    assert {TensorProto.UINT8, TensorProto.INT8} <= elements(cpu)
    assert elements(tensorrt) <= {TensorProto.INT8, TensorProto.FLOAT16, TensorProto.INT64}
    assert "DynamicQuantizeLinear" not in operators(cpu) + operators(tensorrt)


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_quantisation_reaches_all_the_heavy_operators(zoo, name):
    found = operators(onnx.load(zoo.converted(name, Target.CPU, Precision.INT8_DYNAMIC)))

    assert "DynamicQuantizeLinear" in found
    assert not {"Conv", "Gemm"} & set(found)


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_products_have_signed_weights_and_convolutions_unsigned_ones(zoo, name):
    """The other way round the CPU provider is slower than fp32, with convolutions five times."""
    graph = onnx.load(zoo.converted(name, Target.CPU, Precision.INT8_DYNAMIC)).graph

    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {(node.op_type, types[node.input[1]]) for node in graph.node if node.op_type.endswith("Integer")} == {
        ("ConvInteger", TensorProto.UINT8),
        ("MatMulInteger", TensorProto.INT8),
    }


def test_sums_in_eight_bits_cost_accuracy(zoo, monkeypatch):
    """ONNX Runtime's own list of operators has them; ours does not."""
    fused, ranges = zoo.calibrated("vit")

    assert "Add" not in quantise.CPU_OPERATORS
    ours = quantise.for_cpu(fused, ranges)
    monkeypatch.setattr(quantise, "CPU_OPERATORS", ())
    theirs = quantise.for_cpu(fused, ranges)

    errors = [zoo.judged("vit", model, optimised=True).relative_l2 for model in (ours, theirs)]
    assert errors[1] > 4 * errors[0]  # seen: 0.029 and 0.221


def test_every_way_of_calibrating_finds_ranges_of_its_own(zoo):
    files = [
        zoo.converted("mobilenet_v3_small", Target.TENSORRT, Precision.INT8_STATIC, calibration=method)
        for method in Calibration
    ]

    assert len(set(files)) == len(Calibration)
    for file in files:
        assert zoo.judged("mobilenet_v3_small", file).relative_l2 <= MAX_RELATIVE_L2[Precision.INT8_STATIC]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_calibrated_for_cpus_serves_tensorrt_too_and_makes_the_same_graph(zoo, name, tmp_path):
    """The other way round there is less to be found: only some tensors are quantised for TensorRT."""
    convert.make(zoo.request(name, Target.CPU, Precision.INT8_STATIC, tmp_path / "both"))
    served, alone = (
        convert.make(zoo.request(name, Target.TENSORRT, Precision.INT8_STATIC, tmp_path / cache)).onnx.read_bytes()
        for cache in ("both", "alone")
    )

    assert served == alone
    assert len(list((tmp_path / "both" / convert.CALIBRATION).iterdir())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_types_of_a_tidy_graph_are_those_that_onnx_infers_from_all_of_it(zoo, name):
    model = graphs.tidy(onnx.load(zoo.prepared(name).onnx))

    whole = onnx.shape_inference.infer_shapes(model).graph
    assert list(model.graph.value_info) == list(whole.value_info)
    assert list(model.graph.output) == list(whole.output)
    assert len(graphs.types(model)) > len(model.graph.node)


@pytest.mark.parametrize("precision", [Precision.INT8_STATIC, Precision.FP8])
def test_each_sum_of_a_residual_network_has_one_operand_in_8_bits_for_tensorrt(zoo, precision):
    """Four downsampled ones have quantisers of their own; the others share them with the convolutions."""
    model = onnx.load(zoo.converted("resnet50", Target.TENSORRT, precision))

    sums = [node for node in model.graph.node if node.op_type == "Add"]
    assert [sum(name.endswith("/dequantised") for name in node.input) for node in sums] == [1] * 16
    read = {name for node in model.graph.node if node.op_type in quantise.WEIGHTED for name in node.input[:1]}
    assert operators(model).count("QuantizeLinear") == len(read) + 4


def test_the_sums_of_a_transformer_stay_in_floats(zoo):
    """What they add up spans too much: in 8 bits they would make its error three times as large."""
    model = onnx.load(zoo.converted("vit", Target.TENSORRT, Precision.INT8_STATIC))

    sums = [node for node in model.graph.node if node.op_type == "Add"]
    assert sums
    assert not any(name.endswith("/dequantised") for node in sums for name in node.input)


@pytest.mark.parametrize("rest", [Precision.FP32, Precision.BF16])
def test_what_is_not_quantised_is_what_was_asked_for(zoo, rest):
    model = onnx.load(zoo.converted("resnet50", Target.TENSORRT, Precision.INT8_STATIC, rest=rest))

    half = {TensorProto.BFLOAT16} if rest is Precision.BF16 else set()
    assert elements(model) - {TensorProto.INT64} == {TensorProto.INT8} | (half or {TensorProto.FLOAT})


# ---- a graph of somebody else --------------------------------------------------------------------

OLDER = """
<ir_version: 7, opset_import: ["" : 13]>
graph (float[batch,3,32,32] image) => (float[batch,4] score)
<float[4,3,3,3] w, float[4] scale = {1, 2, 1, 0.5}, float[4] bias = {0, 0.1, 0.2, 0.3},
 float[4] mean = {0, 0.1, 0, 0}, float[4] var = {1, 2, 1, 1}, float[4,4] head> {
    c = Conv<pads = [1, 1, 1, 1]>(image, w)
    n = BatchNormalization(c, scale, bias, mean, var)
    low = Constant<value = float {0}>()
    high = Constant<value = float {6}>()
    r = Clip(n, low, high)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    score = MatMul(f, head)
}
"""


def an_older_model():
    """With batch norms, constant nodes and opset 13."""
    random = np.random.default_rng(0)
    model = parser.parse_model(OLDER)
    for name, shape in (("w", (4, 3, 3, 3)), ("head", (4, 4))):
        weight = random.standard_normal(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    del model.graph.value_info[:]
    return model


def request_of(content, folder, target, precision, **more):
    """Ask for a graph of somebody's file, which lies in an entry as prepare would have put it."""

    def write_inputs(entry):
        image = (Input("image", (3, 32, 32)),)
        artifacts.write_arrays(entry, models.examples(image, Colours(), photographs.EVALUATION, 1))

    source = artifacts.publish(folder, "onnx", "one", lambda entry: (entry / onnx_models.FILE).write_bytes(content))
    inputs = artifacts.publish(folder, "inputs", "one", write_inputs)
    files = {"onnx": source / onnx_models.FILE, "inputs": inputs, "cache": folder}
    return Request(**files, target=target, precision=precision, **more)


@pytest.mark.parametrize(("target", "precision"), GRAPHS)
def test_an_older_graph_with_batch_norms_is_converted_too(target, precision, tmp_path):
    older = an_older_model()
    request = request_of(older.SerializeToString(), tmp_path, target, precision)

    model = onnx.load(convert.make(request).onnx)

    onnx.checker.check_model(model, full_check=True)
    batch = {"image": np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32)}
    expected = run(older, batch)["score"]
    found = run(rounded_in_fp32(model) if precision is Precision.BF16 else model, batch)["score"]
    rows = np.arange(len(expected))
    judged = accuracy.judge([accuracy.differences({"score": found}, {"score": expected}, rows)])
    assert judged.relative_l2 <= MAX_RELATIVE_L2[precision]


# ---- the cache and the process -------------------------------------------------------------------


def test_nothing_is_found_before_it_is_made_and_what_is_made_is_found(zoo, tmp_path):
    request = zoo.request("vit", Target.CUDA, Precision.FP16, tmp_path)

    assert convert.locate(request) is None
    made = convert.make(request)
    assert convert.locate(request) == made


def test_a_spoilt_graph_is_made_again(zoo, tmp_path):
    request = zoo.request("vit", Target.CUDA, Precision.FP16, tmp_path)
    file = convert.make(request).onnx
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + b"?")

    assert convert.locate(request) is None
    assert convert.make(request).onnx.read_bytes() == sound


def test_what_decides_the_graph_decides_its_place(zoo, tmp_path):
    def place(target, precision, **more):
        return convert._key(zoo.request("vit", target, precision, tmp_path, **more))

    int8 = place(Target.TENSORRT, Precision.INT8_STATIC)
    assert int8 != place(Target.TENSORRT, Precision.INT8_STATIC, calibration=Calibration.PERCENTILE)
    assert int8 != place(Target.TENSORRT, Precision.INT8_STATIC, rest=Precision.FP32)
    assert int8 != place(Target.CPU, Precision.INT8_STATIC)
    assert place(Target.CPU, Precision.INT8_STATIC) == place(Target.OPENVINO, Precision.INT8_STATIC)
    assert place(Target.CUDA, Precision.BF16) != place(Target.TENSORRT, Precision.BF16)


@pytest.mark.parametrize(("target", "precision"), sorted(AS_PREPARED))
def test_some_precisions_need_no_graph_of_their_own(target, precision):
    assert not convert.is_needed(precision, target)


@pytest.mark.parametrize(("target", "precision"), IMPOSSIBLE)
def test_what_would_measure_something_else_is_refused(zoo, target, precision, tmp_path):
    with pytest.raises(Unsupported, match=r"^[A-Z]\w+: .+\.$"):
        convert.make(zoo.request("vit", target, precision, tmp_path))


IN_ONE_PROCESS = """
import sys
from inferbench_runner import convert

for request, answer in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    assert convert.main([request, answer]) == 0
"""

REPRODUCIBLE = (
    (Target.CUDA, Precision.BF16),
    (Target.CPU, Precision.INT8_STATIC),
    (Target.CPU, Precision.INT8_DYNAMIC),
    (Target.TENSORRT, Precision.INT8_STATIC),
)


@pytest.fixture(scope="module")
def made_twice(zoo, tmp_path_factory):
    """What two processes made, each of all these graphs; sets and hashes are in another order in each of them."""
    made = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp(f"seed{seed}")
        files = [(folder / f"{i}.request.json", folder / f"{i}.answer.json") for i in range(len(REPRODUCIBLE))]
        for each, named in zip(REPRODUCIBLE, files, strict=True):
            convert.command(zoo.request("vit", *each, folder / "cache"), *named)
        subprocess.run(
            [sys.executable, "-c", IN_ONE_PROCESS, *(str(file) for pair in files for file in pair)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        made.append([answers.read_answer(answer).onnx.read_bytes() for _, answer in files])
    return dict(zip(REPRODUCIBLE, zip(*made, strict=True), strict=True))


@pytest.mark.parametrize(("target", "precision"), REPRODUCIBLE)
def test_two_processes_make_the_same_bytes(made_twice, target, precision):
    first, second = made_twice[target, precision]

    assert first == second


@pytest.fixture(scope="module")
def process(zoo, tmp_path_factory):
    """The real process, run once: its request, its answer, what it imported and what it told."""
    folder = tmp_path_factory.mktemp("process")
    request = zoo.request("vit", Target.CPU, Precision.INT8_STATIC, folder / "cache")
    files = (folder / "request.json", folder / "answer.json")
    read, write = os.pipe()
    with os.fdopen(read) as progress:
        done = subprocess.run(
            convert.command(request, *files),
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1", PROGRESS_FD: str(write)},
            pass_fds=(write,),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        os.close(write)
        told = [json.loads(line)["stage"] for line in progress]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    return request, answers.read_answer(files[1]), imported, told


def test_the_process_imports_no_torch(process):
    request, answer, imported, _ = process

    assert answer == convert.locate(request)
    assert {"onnx", "onnxruntime"} <= imported
    assert not {"torch", "torchvision", "onnxscript"} & imported


def test_the_process_tells_what_it_does(process):
    *_, told = process

    assert told == ["converting to int8-static for onnxruntime-cpu", "calibrating for int8-static"]


@pytest.mark.parametrize(
    ("source", "outcome", "reason"),
    [
        pytest.param("graph (float[N,4] x) => (float[N,4] y) <float[1] big = {70000}> { y = Mul(x, big) }",
                     Outcome.UNSUPPORTED, "OutOfRange: big", id="a weight that fp16 cannot hold"),
        pytest.param("", Outcome.FAILED, "Error", id="a file that is no graph"),
    ],
)  # fmt: skip
def test_a_refusal_is_an_answer_with_its_reason(source, outcome, reason, tmp_path):
    text = f'<ir_version: 10, opset_import: ["" : 20]> {source}'
    content = parser.parse_model(text).SerializeToString() if source else b"no graph"
    request = request_of(content, tmp_path, Target.CUDA, Precision.FP16)
    files = (tmp_path / "request.json", tmp_path / "answer.json")
    convert.command(request, *files)

    status = convert.main([str(file) for file in files])

    answer = answers.read_answer(files[1])
    assert status == 0
    assert isinstance(answer, Refusal)
    assert answer.outcome is outcome
    assert reason in answer.message
