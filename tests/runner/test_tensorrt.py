"""TensorRT as far as it goes without a GPU.

Real are: the parser and the builder of TensorRT-RTX, which need no GPU; the names of NVIDIA's bindings, imported over
libraries that hold nothing; and the way a machine without a GPU ends. The session runs on the scripted stand-ins of
tests/fake_cuda.py and tests/fake_tensorrt.py. No engine has run here: that is for tests/gpu/test_tensorrt.py.
"""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import parser

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import artifacts, bundle, cuda, gate
from inferbench_runner.backends import FellBack, Unsupported, tensorrt
from inferbench_runner.measure import time_calls
from inferbench_runner.stopping import Limits
from tests import fake_cuda, fake_tensorrt
from tests.fake_cuda import CudaErrorT, FakeCuda, FakeDriver, FakeNvml
from tests.fake_tensorrt import KERNEL_NS, FakeTensorRt, Severity
from tests.runner.graph_tasks import imported, of_graph, write_examples

FEATURES = 4
EXAMPLES = 16
DRIVER = "580.159.04"

DOUBLING = {
    "inputs": {"image": [[-1, FEATURES], "FLOAT"]},
    "outputs": {"scores": [[-1, FEATURES], "FLOAT"]},
    "factor": 2,
}

DOUBLING_ONNX = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[batch,4] image) => (float[batch,4] scores) <float two = {2}> { scores = Mul(image, two) }
"""
"""The same as ONNX has it, for what reads graphs itself."""


@pytest.fixture
def fake():
    return FakeCuda()


@pytest.fixture
def library(fake):
    return FakeTensorRt(fake)


@pytest.fixture
def rtx():
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


@pytest.fixture
def a_task(tmp_path):
    """Makes the task of a cell of a graph that doubles, or of another one."""
    inputs = np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES), dtype=np.float32)
    write_examples(tmp_path, {"image": inputs}, {"scores": 2 * inputs})

    def make(precision=Precision.FP32, batch_size=3, contract="device-resident", graph=DOUBLING, **options):
        (tmp_path / "model.onnx").write_text(json.dumps(graph))
        return of_graph(
            tmp_path,
            Backend.TENSORRT,
            precision,
            device=Device.GPU,
            batch_size=batch_size,
            contract=contract,
            options=options,
        )

    return make


@pytest.fixture
def open_session(fake, library):
    """Opens a session on the stand-ins."""

    def open_(task, driver=DRIVER):
        return tensorrt.open_session(task, cuda.open_device(fake), library, driver)

    return open_


def typed(kind, **more):
    """The doubling graph with inputs and outputs of another type."""
    tensors = {"inputs": {"image": [[-1, FEATURES], kind]}, "outputs": {"scores": [[-1, FEATURES], kind]}}
    return {**DOUBLING, **tensors, **more}


OPENING = """
from inferbench_runner import backends, cuda
from tests.fake_tensorrt import FakeTensorRt


def open_session(task, gpu):
    return backends.find(task.backend).open_session(task, cuda.open_device(gpu), FakeTensorRt(gpu), "580.159.04")
"""


class TestSession:
    def test_its_process_imports_no_torch(self, a_task):
        modules = imported(OPENING, a_task())

        assert "inferbench_runner.backends.tensorrt" in modules
        assert not {"torch", "torchvision", "triton"} & modules

    @pytest.mark.parametrize("contract", ["device-resident", "end-to-end"])
    @pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
    def test_it_passes_the_gate_with_every_batch(self, a_task, open_session, contract, with_graph):
        task = a_task(contract=contract, cudaGraph=with_graph)
        session = open_session(task)

        found = gate.check(session, task, full=True)

        assert (found.fault, found.examples) == (None, EXAMPLES)
        assert found.relative_l2 == 0

    def test_a_call_is_two_events_around_the_engine_on_a_stream_of_its_own(self, a_task, open_session, fake):
        session = open_session(a_task())
        fake.calls.clear(), fake.done.clear()

        session.enqueue()
        session.synchronize()

        assert fake.calls == ["cudaEventRecord", "cudaMalloc", "cudaEventRecord", "cudaStreamSynchronize"]
        assert fake.done == ["engine"]
        assert session.device_time_ns() == KERNEL_NS

    def test_end_to_end_the_copies_are_within_the_events(self, a_task, open_session, fake):
        session = open_session(a_task(contract="end-to-end"))
        fake.done.clear()

        session.enqueue()
        session.synchronize()

        assert fake.done == ["cudaMemcpyHostToDevice", "engine", "cudaMemcpyDeviceToHost"]
        assert session.device_time_ns() == KERNEL_NS + 2 * fake_cuda.COPY_NS

    def test_a_replayed_graph_is_one_call(self, a_task, open_session, fake):
        session = open_session(a_task(cudaGraph=True))
        fake.calls.clear()

        session.enqueue()

        assert fake.calls == ["cudaEventRecord", "cudaGraphLaunch", "cudaEventRecord"]

    def test_the_engine_runs_twice_before_it_is_recorded(self, a_task, open_session, fake):
        """Its first call allocates, which must not happen while recording: the stand-in refuses it as CUDA does."""
        open_session(a_task(cudaGraph=True))

        begin = fake.calls.index("cudaStreamBeginCapture")

        assert fake.done.count("engine") == 2
        assert fake.calls[begin - 1] == "cudaStreamSynchronize"
        assert "cudaMalloc" not in fake.calls[begin:]

    def test_an_engine_that_cannot_be_recorded_is_unsupported(self, a_task, open_session, fake):
        fake.faults["cudaGraphInstantiate"] = CudaErrorT.cudaErrorInvalidValue

        with pytest.raises(Unsupported, match="CudaGraph: this engine cannot be recorded"):
            open_session(a_task(cudaGraph=True))

    def test_nothing_is_left_on_the_gpu_when_it_is_closed(self, a_task, open_session, fake):
        session = open_session(a_task(cudaGraph=True))
        session.enqueue()

        session.close()

        assert fake.left_over == 0

    def test_outputs_are_those_of_the_last_call_whether_or_not_somebody_has_waited(self, a_task, open_session):
        session = open_session(a_task())
        session.load_batch({"image": np.full((3, FEATURES), 5, np.float32)})

        session.enqueue()

        assert session.outputs()["scores"].tolist() == [[10.0] * FEATURES] * 3

    @pytest.mark.parametrize(("kind", "precision"), [("HALF", Precision.FP16), ("BF16", Precision.BF16)])
    def test_batches_are_converted_to_the_types_of_the_graph_and_answers_back(
        self, a_task, open_session, kind, precision
    ):
        task = a_task(precision, graph=typed(kind))
        session = open_session(task)

        found = gate.check(session, task, full=True)

        assert session.inputs()["image"].dtype == session.outputs()["scores"].dtype == np.float32
        assert 0 < found.relative_l2 < 0.01

    def test_the_loop_that_times_gets_its_four_numbers(self, a_task, open_session):
        session = open_session(a_task())

        timed = time_calls(session, Limits(max_ns=10_000_000, warmup_max_ns=0))

        assert set(timed.device_ns) == {KERNEL_NS}
        assert len(timed.enqueue_ns) == len(timed.latencies_ns)

    def test_its_own_profilers_time_of_a_call_is_the_sum_of_its_layers(self, a_task, open_session):
        session = open_session(a_task(cudaGraph=True))

        assert session.layers_ns(calls=3) == [KERNEL_NS] * 3

    @pytest.mark.parametrize(
        ("step", "error", "words"),
        [
            pytest.param("plan", RuntimeError, "could not build an engine: no tactic", id="no plan"),
            pytest.param("engine", RuntimeError, r"could not load the plan .*engine\.plan", id="no engine"),
            pytest.param("context", cuda.OutOfMemoryError, "out of memory", id="no context"),
            pytest.param("shape", RuntimeError, "refuses the shapes", id="a shape"),
            pytest.param("address", RuntimeError, "refuses the address of image", id="an address"),
        ],
    )
    def test_what_tensorrt_refuses_is_told_in_its_own_words(self, a_task, open_session, library, step, error, words):
        library.refuses.add(step)
        library.says.append((Severity.ERROR, "no tactic"))

        with pytest.raises(error, match=words):
            open_session(a_task())

    def test_an_installation_without_the_kernels_of_this_gpu_is_unsupported_and_says_what_it_lacks(
        self, a_task, open_session, library
    ):
        library.refuses.add("builder")
        library.says.append((Severity.ERROR, "Unable to load library: libnvinfer_builder_resource_sm90.so.11.2.1"))

        with pytest.raises(Unsupported, match=r"Incomplete: .*_sm90\.so.*pip install --force-reinstall tensorrt"):
            open_session(a_task())

    def test_an_engine_that_does_not_start_is_an_error_not_a_fast_call(self, a_task, open_session, library):
        session = open_session(a_task())
        library.refuses.add("enqueue")

        with pytest.raises(RuntimeError, match="could not start"):
            session.enqueue()

    def test_out_of_memory_while_building_is_out_of_memory(self, a_task, open_session, library):
        library.refuses.add("plan")
        library.says.append((Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)"))

        with pytest.raises(cuda.OutOfMemoryError, match="17179869184"):
            open_session(a_task())

    @pytest.mark.parametrize(
        ("graph", "words"),
        [
            pytest.param(typed("FP8"), "TensorType: .* FP8", id="a type that NumPy does not have"),
            pytest.param({**DOUBLING, "on_host": ["image"]}, "HostTensor", id="an input that is a shape"),
            pytest.param(
                {**DOUBLING, "outputs": {"scores": [[-1, -1], "FLOAT"]}}, "DataDependentShape", id="an unknown size"
            ),
            pytest.param(
                {**DOUBLING, "inputs": {"image": [[2, FEATURES], "FLOAT"]}},
                r"FixedShape: input image of the graph is \(2, 4\), and \(3, 4\) was asked for",
                id="another batch size",
            ),
            pytest.param(
                {**DOUBLING, "errors": [["UNSUPPORTED_NODE", "conv1", "ConvInteger", "no importer"]]},
                r"Rejected: .* ConvInteger node 'conv1': no importer",
                id="an operator that TensorRT does not have",
            ),
        ],
    )
    def test_what_it_cannot_do_is_unsupported_with_the_reason(self, a_task, open_session, graph, words):
        with pytest.raises(Unsupported, match=words):
            open_session(a_task(graph=graph))

    def test_a_graph_that_is_broken_is_not_unsupported(self, a_task, open_session):
        graph = {**DOUBLING, "errors": [["MODEL_DESERIALIZE_FAILED", "", "", "Failed to parse the ONNX model."]]}

        with pytest.raises(RuntimeError, match=r"could not read the graph: .*Failed to parse"):
            open_session(a_task(graph=graph))

    def test_a_precision_that_came_after_the_card_is_unsupported(self, a_task, library):
        turing = cuda.open_device(FakeCuda(name=b"Tesla T4\0", capability=(7, 5)))

        with pytest.raises(Unsupported, match=r"NoKernel: bf16 needs compute capability 8\.0, and Tesla T4 has 7\.5"):
            tensorrt.open_session(a_task(Precision.BF16), turing, library, DRIVER)


class TestPrecision:
    @pytest.mark.parametrize(
        ("precision", "layers"),
        [
            pytest.param(Precision.INT8_STATIC, [{"Inputs": [{"Format/Datatype": "Row major INT8"}]}], id="version 10"),
            pytest.param(Precision.INT8_STATIC, [{"Inputs": [{"Datatype": "Int8"}]}], id="version 11"),
            pytest.param(Precision.FP16, [{"Inputs": [{"Datatype": "Half"}]}], id="fp16"),
            pytest.param(Precision.FP32, [{"Inputs": [{"Datatype": "Float"}]}], id="fp32 is what is left"),
            pytest.param(Precision.INT8_STATIC, ["conv1", "conv2"], id="an inspector that names no types"),
        ],
    )
    def test_an_engine_with_tensors_of_its_precision_is_what_was_asked_for(
        self, a_task, open_session, precision, layers
    ):
        open_session(a_task(precision, graph={**DOUBLING, "layers": layers}))

    def test_an_int8_engine_that_computes_nothing_in_int8_fell_back(self, a_task, open_session):
        layers = [{"Name": "conv1", "Inputs": [{"Datatype": "Float"}]}]

        with pytest.raises(FellBack, match="no layer of the engine has a tensor of int8-static"):
            open_session(a_task(Precision.INT8_STATIC, graph={**DOUBLING, "layers": layers}))


class TestPlans:
    @pytest.mark.parametrize(("precision", "tf32"), [(Precision.FP32, False), (Precision.TF32, True)])
    def test_tf32_is_on_for_tf32_alone(self, a_task, open_session, library, precision, tf32):
        """It is on unless somebody clears it; the stand-in begins that way too."""
        open_session(a_task(precision))

        assert library.builds[0]["tf32"] is tf32

    def test_the_profile_knows_one_batch_size(self, a_task, open_session, library):
        open_session(a_task(batch_size=7))

        assert library.builds[0]["profile"] == {"image": [[7, FEATURES]] * 3}

    def test_a_plan_is_built_once(self, a_task, open_session, library):
        first, second = (open_session(a_task()) for _ in range(2))

        assert len(library.builds) == 1
        assert (first.notes["compileCache"], second.notes["compileCache"]) == ("cold", "warm")

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"batch_size": 5}, id="batch size"),
            pytest.param({"precision": Precision.TF32}, id="tf32"),
            pytest.param({"builderOptimizationLevel": 5}, id="optimisation level"),
            pytest.param({"graph": {**DOUBLING, "factor": 3}}, id="the graph"),
        ],
    )
    def test_whatever_decides_a_plan_makes_another_one(self, a_task, open_session, library, change):
        open_session(a_task())

        open_session(a_task(**change))

        assert len(library.builds) == 2

    def test_so_do_the_driver_and_the_version_of_tensorrt(self, a_task, open_session, library):
        open_session(a_task())
        open_session(a_task(), driver="570.1")
        library.__version__ = "11.4.0.106"
        open_session(a_task())

        assert len(library.builds) == 3

    def test_a_cuda_graph_needs_no_other_plan(self, a_task, open_session, library):
        open_session(a_task())

        open_session(a_task(cudaGraph=True))

        assert len(library.builds) == 1

    def test_kernels_that_were_timed_once_are_not_timed_again(self, a_task, open_session, library):
        open_session(a_task())

        open_session(a_task(builderOptimizationLevel=5))

        assert [(build["level"], build["timings"]) for build in library.builds] == [(3, ""), (5, "timed")]

    def test_times_that_the_builder_does_not_take_are_left_out(self, library, tmp_path):
        graph = tmp_path / "model.onnx"
        graph.write_text(json.dumps(DOUBLING))
        recipe = tensorrt.Recipe(graph, {"image": (1, FEATURES)}, is_tf32=False, optimization_level=None)

        tensorrt.build(library, recipe, b"of another card", tensorrt.make_log(library))

        assert library.builds[0]["timings"] == ""

    def test_what_the_inspector_says_lies_beside_the_plan(self, a_task, open_session):
        session = open_session(a_task(graph={**DOUBLING, "layers": [{"Name": "conv1"}]}))

        layers = json.loads(Path(session.notes["layersFile"]).read_text())

        assert layers == {"Layers": [{"Name": "conv1"}]}

    def test_a_graph_whose_tensors_lie_in_a_second_file_is_known_by_both(self, tmp_path):
        graph, tensors = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
        graph.write_text("graph")
        tensors.write_text("one")
        recipe = tensorrt.Recipe(graph, {}, is_tf32=False, optimization_level=None)
        before = recipe.content()

        tensors.write_text("two")

        assert recipe.content() != before


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX is not installed: pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
)
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops in TensorRT-RTX:DeprecationWarning")
class TestRealBuilder:
    """NVIDIA's parser and builder, of TensorRT-RTX, which shares them with TensorRT 11 and builds without a GPU."""

    @pytest.fixture
    def build(self, rtx, tmp_path):
        def build_(nodes, weights, batch_size=2, shape=("batch", 3, 8, 8), kind=1, opset=20, **options):
            graph = a_graph(nodes, weights, shape, kind, opset)
            graph_file = tmp_path / "model.onnx"
            graph_file.write_bytes(graph.SerializeToString())
            chosen = {"is_tf32": False, "optimization_level": None, **options}
            recipe = tensorrt.Recipe(graph_file, {"x": (batch_size, 3, 8, 8)}, **chosen)
            return tensorrt.build(rtx, recipe, b"", tensorrt.make_log(rtx))

        return build_

    @pytest.mark.parametrize("batch_size", [1, 8])
    def test_one_graph_gives_a_plan_for_each_batch_size(self, build, batch_size):
        built = build([("Conv", ["x", "w"], ["y"])], {"w": np.ones((4, 3, 3, 3), np.float32)}, batch_size)

        assert len(built.plan) > 1000

    def test_half_precision_is_a_graph_in_half_precision(self, build):
        assert build([("Conv", ["x", "w"], ["y"])], {"w": np.ones((4, 3, 3, 3), np.float16)}, kind=10).plan

    def test_eight_bits_are_pairs_of_quantising_and_dequantising_without_zero_points(self, build):
        nodes = [
            ("QuantizeLinear", ["x", "s", "z"], ["q"]),
            ("DequantizeLinear", ["q", "s", "z"], ["d"]),
            ("DequantizeLinear", ["w", "s", "z"], ["v"]),
            ("Conv", ["d", "v"], ["y"]),
        ]
        weights = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((4, 3, 3, 3), np.int8)}

        assert build(nodes, weights).plan

    def test_an_operator_that_it_does_not_have_is_unsupported(self, build):
        nodes = [("ConvInteger", ["q", "w"], ["i"]), ("Cast", ["i"], ["y"], {"to": 1})]
        quantise = [("QuantizeLinear", ["x", "s", "z"], ["q"])]
        weights = {"s": np.float32(0.1), "z": np.uint8(0), "w": np.ones((4, 3, 3, 3), np.int8)}

        with pytest.raises(Unsupported, match=r"Rejected: TensorRT .* does not take the graph: ConvInteger"):
            build(quantise + nodes, weights)

    def test_zero_points_are_refused_in_its_own_words(self, build):
        nodes = [("QuantizeLinear", ["x", "s", "z"], ["q"]), ("DequantizeLinear", ["q", "s", "z"], ["y"])]

        with pytest.raises(RuntimeError, match="Non-zero zero point is not supported"):
            build(nodes, {"s": np.float32(0.1), "z": np.uint8(128)})

    def test_a_graph_of_another_fixed_batch_size_is_unsupported(self, build):
        weights = {"w": np.ones((4, 3, 3, 3), np.float32)}

        with pytest.raises(Unsupported, match="FixedShape"):
            build([("Conv", ["x", "w"], ["y"])], weights, shape=(1, 3, 8, 8))

    @pytest.mark.parametrize("is_tf32", [False, True])
    def test_it_has_tf32_on_by_default_and_fp32_clears_it(self, rtx, tmp_path, is_tf32):
        builder = rtx.Builder(tensorrt.make_log(rtx))
        config = builder.create_builder_config()
        was_on = config.get_flag(rtx.BuilderFlag.TF32)

        tensorrt.configure(rtx, config, tensorrt.Recipe(tmp_path, {}, is_tf32, 5))

        assert was_on
        assert config.get_flag(rtx.BuilderFlag.TF32) is is_tf32
        assert config.builder_optimization_level == 5


class TestExport:
    """A plan that is handed over, and the program that runs it, on the stand-ins: no engine has run here."""

    @pytest.fixture
    def hand_over(self, a_task, fake, library, tmp_path, monkeypatch):
        """Writes a folder as `inferbench export` does, with a plan of a graph that doubles."""

        def hand_over_(**options):
            task, folder = a_task(**options), tmp_path / "handed"
            folder.mkdir()
            recipe = tensorrt.Recipe.of(task, gate.first_batch(task))
            shelf = tensorrt._Shelf(task.cache, library, cuda.open_device(fake), DRIVER)
            made, _ = shelf.plan(recipe, tensorrt.make_log(library))
            onnx.save(parser.parse_model(DOUBLING_ONNX), task.artifacts.onnx)  # its tensors are told to Triton
            monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
            about = bundle.made_on(task.device, partial(cuda.require_driver, load=FakeDriver()))
            bundle.complete(task, bundle.tensorrt_content(task, made, folder), folder, "mine", about)
            return folder

        return hand_over_

    @pytest.fixture
    def installed(self, fake, library, monkeypatch):
        """The stand-ins where the program looks for TensorRT and CUDA."""
        bindings = SimpleNamespace(runtime=fake)
        for name, module in (("tensorrt", library), ("cuda", SimpleNamespace(bindings=bindings)),
                             ("cuda.bindings", bindings), ("cuda.bindings.runtime", fake)):  # fmt: skip
            monkeypatch.setitem(sys.modules, name, module)

    @pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
    def test_the_program_runs_the_plan_and_its_check_finds_it_right(self, hand_over, installed, with_graph, capsys):
        handed = hand_over(cudaGraph=with_graph)
        model = runpy.run_path(str(handed / "load.py"))["load"]()
        images = np.arange(3 * FEATURES, dtype=np.float32).reshape(3, FEATURES)

        assert np.array_equal(model({"image": images})["scores"], 2 * images)
        assert np.array_equal(model({"image": -images})["scores"], -2 * images)
        assert runpy.run_path(str(handed / "check.py"))["main"]() == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("OK: ")

    def test_a_plan_that_was_measured_as_a_cuda_graph_is_replayed_as_one(self, hand_over, installed, fake):
        """Recorded once, after two runs, as the measured session did; the copies stay outside of it."""
        model = runpy.run_path(str(hand_over(cudaGraph=True) / "load.py"))["load"]()
        runs_before = fake.done.count("engine")
        fake.calls.clear(), fake.done.clear()

        model({"image": np.ones((3, FEATURES), np.float32)})

        assert runs_before == 2
        assert fake.calls == ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamSynchronize"]
        assert fake.done == ["cudaMemcpyHostToDevice", "engine", "cudaMemcpyDeviceToHost"]

    def test_model_json_names_the_gpu_and_the_driver_that_the_plan_depends_on(self, hand_over):
        told = json.loads((hand_over() / "model.json").read_text())

        assert told["gpu"] == {"name": "NVIDIA H200", "driver": DRIVER, "computeCapability": "9.0"}

    def test_where_nvml_does_not_know_the_gpu_no_driver_is_made_up(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(uuid="GPU-another"))

        told = bundle.made_on(Device.GPU, partial(cuda.require_driver, load=FakeDriver(capability=(12, 0))))

        assert told["gpu"] == {"name": "NVIDIA H200", "computeCapability": "12.0"}

    def test_a_plan_of_another_version_is_refused_in_a_sentence(self, hand_over, installed, library):
        handed = hand_over()
        library.__version__ = "11.9.0.0"

        with pytest.raises(RuntimeError, match="of another version, or for another GPU"):
            runpy.run_path(str(handed / "load.py"))["load"]()

    def test_what_is_handed_over_is_what_was_built(self, hand_over, tmp_path):
        handed = hand_over()
        [plan] = (tmp_path / "cache/tensorrt-plans").glob("*/engine.plan")

        assert (handed / "engine.plan").read_bytes() == plan.read_bytes()
        assert json.loads((handed / "model.json").read_text())["artifact"] == "engine.plan"

    def test_triton_is_given_the_same_plan_and_the_tensors_of_its_graph(self, hand_over):
        handed = hand_over()
        [model] = (handed / "triton").iterdir()

        assert model.name == "mine-tensorrt-fp32"
        assert (model / "1/model.plan").samefile(handed / "engine.plan")
        assert (model / "config.pbtxt").read_text().splitlines() == [
            'name: "mine-tensorrt-fp32"',
            'backend: "tensorrt"',
            "max_batch_size: 0",
            "input [",
            '  { name: "image" data_type: TYPE_FP32 dims: [ 3, 4 ] }',
            "]",
            "output [",
            '  { name: "scores" data_type: TYPE_FP32 dims: [ 3, 4 ] }',
            "]",
            "instance_group [ { count: 1 kind: KIND_GPU } ]",
        ]

    def test_model_json_has_the_hash_of_every_other_file(self, hand_over):
        handed = hand_over()
        told = json.loads((handed / "model.json").read_text())["files"]

        written = {str(file.relative_to(handed)): file for file in handed.rglob("*") if file.is_file()}
        assert {name: file["sha256"] for name, file in told.items()} == {
            name: artifacts.digest(file) for name, file in written.items() if name != "model.json"
        }
        assert {"engine.plan", "layers.json", "triton/mine-tensorrt-fp32/config.pbtxt"} <= set(told)


class TestNames:
    """Every attribute that the backend uses is asked of NVIDIA's own classes."""

    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="no TensorRT-RTX")
    def test_tensorrt_rtx_has_every_name(self):
        assert missing_names("tensorrt_rtx_bindings") == []

    def test_tensorrt_has_every_name(self, tmp_path):
        """In all versions that are installed, or named in INFERBENCH_TENSORRT_BINDINGS (folders, `:` between them)."""
        folders = [folder for folder in os.environ.get("INFERBENCH_TENSORRT_BINDINGS", "").split(":") if folder]
        found = importlib.util.find_spec("tensorrt_bindings")
        installed = [str(Path(found.origin).parents[1])] if found is not None and found.origin else []
        if not folders + installed:
            pytest.skip("TensorRT's bindings are not installed: pip install --no-deps tensorrt-cu13-bindings")

        stubs = make_stubs(tmp_path)

        missing = {folder: missing_names("tensorrt_bindings", folder, stubs) for folder in folders + installed}

        assert not any(missing.values()), missing

    def test_the_list_of_names_is_complete_enough_to_be_worth_asking(self):
        names = used_names()

        assert ("IExecutionContext", "execute_async_v3") in names
        assert ("", "NetworkDefinitionCreationFlag.STRONGLY_TYPED") in names
        assert len(names) > 40


class TestStandIns:
    """The stand-ins have no names, numbers or arguments that the real ones do not have."""

    def test_the_runtime_is_called_as_cudas_bindings_are(self):
        from cuda.bindings import runtime

        wrong = []
        for name, method in inspect.getmembers(FakeCuda, inspect.isfunction):
            if name.startswith("cuda"):
                signature = (getattr(runtime, name).__doc__ or "").split("\n")[0]
                theirs = len([a for a in re.sub(r"^\w+\((.*)\)$", r"\1", signature).split(",") if a.strip()])
                wrong += [name] if theirs != len(inspect.signature(method).parameters) - 1 else []

        assert wrong == []

    @pytest.mark.parametrize("kind", ["cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"])
    def test_its_numbers_are_cudas(self, kind):
        from cuda.bindings import runtime

        ours, theirs = getattr(FakeCuda, kind), getattr(runtime, kind)

        assert {member.name: int(member) for member in ours} == {
            member.name: int(getattr(theirs, member.name)) for member in ours
        }
        assert runtime.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
        assert runtime.cudaHostAllocDefault == FakeCuda.cudaHostAllocDefault

    def test_a_call_answers_a_tuple_that_begins_with_the_error(self):
        from cuda.bindings import runtime

        error, text = runtime.cudaGetErrorString(runtime.cudaError_t.cudaErrorMemoryAllocation)

        assert (int(error), text) == (0, b"out of memory")
        assert not error  # what stands inside timed calls asks no more than this

    def test_the_facts_of_a_gpu_have_cudas_names(self):
        from cuda.bindings import runtime

        facts = FakeCuda().cudaGetDeviceProperties(0)[1]

        assert set(vars(facts)) <= set(dir(runtime.cudaDeviceProp))

    @pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="no pynvml: pip install nvidia-ml-py")
    def test_nvml_is_called_as_its_own_bindings_are(self):
        import pynvml

        from inferbench_runner import gpu

        ours = dict(inspect.getmembers(FakeNvml, inspect.isfunction))
        calls = {name: len(inspect.signature(f).parameters) - 1 for name, f in ours.items() if name.startswith("nvml")}
        numbers = {name: value for name, value in vars(FakeNvml).items() if name.startswith("NVML_")}
        bits = {name: getattr(pynvml, f"nvmlClocksEventReason{name}", None) for name in gpu.REASONS.values()}
        old = {name: getattr(pynvml, f"nvmlClocksThrottleReason{name}", None) for name in gpu.REASONS.values()}

        assert {name: required(getattr(pynvml, name)) for name in calls} == calls
        assert {name: getattr(pynvml, name) for name in numbers} == numbers
        assert {name: bits[name] or old[name] for name in bits} == {name: bit for bit, name in gpu.REASONS.items()}

    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="no TensorRT-RTX")
    def test_the_stand_in_for_tensorrt_has_only_tensorrts_names(self):
        import tensorrt_rtx_bindings as rtx

        pairs = [
            (fake_tensorrt.FakeBuilder, rtx.Builder),
            (fake_tensorrt.FakeNetwork, rtx.INetworkDefinition),
            (fake_tensorrt.FakeConfig, rtx.IBuilderConfig),
            (fake_tensorrt.FakeProfile, rtx.IOptimizationProfile),
            (fake_tensorrt.FakeTimingCache, rtx.ITimingCache),
            (fake_tensorrt.FakeParser, rtx.OnnxParser),
            (fake_tensorrt.FakeParserError, rtx.ParserError),
            (fake_tensorrt.FakeRuntime, rtx.Runtime),
            (fake_tensorrt.FakeEngine, rtx.ICudaEngine),
            (fake_tensorrt.FakeInspector, rtx.EngineInspector),
            (fake_tensorrt.FakeContext, rtx.IExecutionContext),
        ]
        own = {"graph", "compute"}

        assert [
            (ours.__name__, name)
            for ours, theirs in pairs
            for name in vars(ours)
            if not name.startswith("_") and name not in own and not hasattr(theirs, name)
        ] == []


class TestWithoutAGpu:
    @pytest.fixture(autouse=True)
    def no_driver(self):
        try:
            ctypes.CDLL(cuda.DRIVER_LIBRARY)
        except OSError:
            return
        pytest.skip("there is an NVIDIA driver here, and these tests are about machines without one")

    def test_it_says_so_before_anything_else(self):
        with pytest.raises(EnvironmentFault, match="There is no NVIDIA driver here"):
            tensorrt.missing(Precision.FP16, Device.GPU)

    def test_a_cell_ends_as_an_environment_fault_and_tensorrt_is_not_even_imported(self, a_task, tmp_path):
        """Its Runtime would crash the process as soon as it is let go."""
        (tmp_path / "tensorrt.py").write_text("raise SystemExit('tensorrt was imported')")
        code = (
            "import sys; from inferbench_runner import backends; from inferbench_runner.task import CellTask\n"
            "task = CellTask.model_validate_json(sys.argv[1])\n"
            "from inferbench_contract.errors import EnvironmentFault\n"
            "from inferbench_runner.backends import tensorrt\n"
            "try: tensorrt.load(task)\n"
            "except EnvironmentFault as fault: print(type(fault).__name__, 'torch' in sys.modules)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        arguments = [sys.executable, "-c", code, a_task().model_dump_json()]

        ended = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)

        assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "EnvironmentFault False", "")

    def test_on_a_cpu_it_needs_a_gpu(self):
        assert tensorrt.missing(Precision.FP16, Device.CPU) == "NeedsGpu: TensorRT runs on NVIDIA GPUs only."


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        pytest.param({"tensorrt-cu13-bindings": "11.4.0.106", "cuda-bindings": "13.5.0"}, 13_000, id="all for CUDA 13"),
        pytest.param({"tensorrt-cu12-bindings": "10.6.0", "cuda-bindings": "13.5.0"}, 13_000, id="the newest counts"),
        pytest.param({"tensorrt-cu12": "10.6.0", "cuda-bindings": "12.8.0"}, 12_000, id="all for CUDA 12"),
        pytest.param({}, 13_000, id="nothing is installed"),
    ],
)
def test_the_driver_must_know_the_newest_cuda_of_the_libraries(found, needed):
    assert tensorrt.needed_cuda(found) == needed


# What the backend's source says, and what NVIDIA's classes have.

CLASSES = {
    "library": "",
    "severity": "ILogger.Severity",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "given": "ITensor",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "parser": "OnnxParser",
    "error": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
}
"""In the backend's source a variable of this name is an object of this class."""

SYMBOLS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
"""What the bindings look for when they are imported. Libraries with these and nothing behind them are enough for it."""

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
MAJORS = (10, 11)

ASK = """
import importlib, json, operator, sys
module = importlib.import_module(sys.argv[1])
def has(path):
    try: operator.attrgetter(path)(module)
    except AttributeError: return False
    return True
print(json.dumps([path for path in json.loads(sys.argv[2]) if not has(path)]))
"""


def used_names() -> set[tuple[str, str]]:
    """Class and attribute, dotted where it goes on, of everything that the backend asks of TensorRT's objects."""
    tree = ast.parse(Path(tensorrt.__file__).read_text())
    chains = [chain(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {(CLASSES[head], ".".join(rest)) for head, *rest in filter(None, chains) if head in CLASSES and rest}


def chain(node: ast.expr) -> list[str]:
    """`library.ILogger.Severity` as a list; `self._context.x` begins with `context`. Empty for anything else."""
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return [name.removeprefix("_")]
        case ast.Attribute(value=value, attr=name):
            head = chain(value)
            return [*head, name] if head else []
    return []


def missing_names(module: str, folder: str = "", stubs: Path | None = None) -> list[str]:
    """Ask a process of its own, which may need other libraries."""
    paths = sorted(".".join(filter(None, pair)) for pair in used_names())
    paths_of_modules = ":".join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths_of_modules, "LD_LIBRARY_PATH": str(stubs or "")}
    arguments = [sys.executable, "-c", ASK, module, json.dumps(paths)]
    ended = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def make_stubs(folder: Path) -> Path:
    """Compile libraries that hold nothing, under the names that the bindings load."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed, as torch.compile needs one"
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS))
    for name in (f"lib{library}.so.{major}" for library in LIBRARIES for major in MAJORS):
        arguments = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(arguments, check=True)
    return folder


def required(function) -> int:
    """How many arguments a function cannot do without."""
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.default is inspect.Parameter.empty for parameter in parameters)


def a_graph(nodes, weights, shape, kind, opset):
    """A small ONNX graph from x to y."""
    import onnx
    from onnx import helper, numpy_helper

    made = [
        helper.make_node(operator, inputs, outputs, name=f"{operator}{index}", **(more[0] if more else {}))
        for index, (operator, inputs, outputs, *more) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
