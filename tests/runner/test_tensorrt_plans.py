"""TensorRT's plans: what they are built from, under what they are kept, and how one is handed over.

Real are the parser and the builder of TensorRT-RTX, which need no GPU. The rest runs on the scripted stand-ins of
tests/fake_cuda.py and tests/fake_tensorrt.py: no engine has run here.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import parser

from inferbench_contract.words import Device, Precision
from inferbench_runner import artifacts, bundle, cuda, gate
from inferbench_runner.backends import Unsupported
from inferbench_runner.backends import _tensorrt_plans as plans
from tests.fake_cuda import FakeCuda, FakeDriver, FakeNvml
from tests.fake_tensorrt import FakeTensorRt
from tests.runner.doubling import DOUBLING, DRIVER, FEATURES, RESOURCES, open_on, task_of, write_doubled

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
def a_task(tmp_path):
    """Makes the task of a cell of a graph that doubles, or of another one."""
    write_doubled(tmp_path)
    return partial(task_of, tmp_path)


@pytest.fixture
def open_session(fake, library):
    """Opens a session on the stand-ins."""
    return partial(open_on, fake, library)


@pytest.fixture
def rtx():
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


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

    def test_so_do_the_libraries_of_kernels_that_are_installed_and_none_is_passed_over(
        self, a_task, open_session, library
    ):
        """Times that were measured without it would leave a new kernel out, as the plan from before it would."""
        open_session(a_task(), resources=RESOURCES[:1])

        open_session(a_task(), resources=RESOURCES)
        open_session(a_task(), resources=RESOURCES)

        assert [build["timings"] for build in library.builds] == ["", ""]

    def test_so_does_our_own_code_but_it_chooses_among_the_same_kernels(
        self, a_task, open_session, library, monkeypatch
    ):
        open_session(a_task())
        asked = []
        monkeypatch.setattr(
            plans.environment, "makers", lambda modules, _: asked.extend(modules) or {"code": ["other"]}
        )

        open_session(a_task())

        assert plans.build.__module__ in asked
        assert [build["timings"] for build in library.builds] == ["", "timed"]

    def test_installed_is_what_lies_beside_the_tensorrt_that_is_loaded(self, tmp_path):
        """Loaded or not: a builder loads the one that it needs, or leaves them all alone where a plan is there."""
        itself, lean = tmp_path / "with a space/libnvinfer.so.11.2.1", tmp_path / "lean/libnvinfer_lean.so.10"
        others = lean.with_name("libnvinfer_builder_resource.so.10.6.0")
        for file in (itself, lean, others, *map(itself.with_name, RESOURCES)):
            file.parent.mkdir(exist_ok=True)
            file.touch()
        lines = ("7ff-800 rw-p 0000 00:00 0", *(f"7f0-7f1 r-xp 0000 08:01 7    {place}" for place in (lean, itself)))
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/maps").write_text("".join(f"{line}\n" for line in lines))

        assert plans.installed_resources(tmp_path) == list(RESOURCES)

    def test_before_tensorrt_is_loaded_nothing_is_known_to_be_installed(self, tmp_path):
        assert plans.installed_resources(tmp_path) == []

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
        recipe = plans.Recipe(graph, {"image": (1, FEATURES)}, is_tf32=False, optimization_level=None)

        plans.build(library, recipe, b"of another card", plans.make_log(library))

        assert library.builds[0]["timings"] == ""

    def test_what_the_inspector_says_lies_beside_the_plan(self, a_task, open_session):
        session = open_session(a_task(graph={**DOUBLING, "layers": [{"Name": "conv1"}]}))

        layers = json.loads(Path(session.notes["layersFile"]).read_text())

        assert layers == {"Layers": [{"Name": "conv1"}]}

    def test_a_graph_whose_tensors_lie_in_a_second_file_is_known_by_both(self, tmp_path):
        graph, tensors = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
        graph.write_text("graph")
        tensors.write_text("one")
        recipe = plans.Recipe(graph, {}, is_tf32=False, optimization_level=None)
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
            recipe = plans.Recipe(graph_file, {"x": (batch_size, 3, 8, 8)}, **chosen)
            return plans.build(rtx, recipe, b"", plans.make_log(rtx))

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
        builder = rtx.Builder(plans.make_log(rtx))
        config = builder.create_builder_config()
        was_on = config.get_flag(rtx.BuilderFlag.TF32)

        plans.configure(rtx, config, plans.Recipe(tmp_path, {}, is_tf32, 5))

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
            recipe = plans.Recipe.of(task, gate.first_batch(task))
            shelf = plans.Shelf(task.cache, library, cuda.open_device(fake), DRIVER, RESOURCES)
            made, _ = shelf.plan(recipe, plans.make_log(library))
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
