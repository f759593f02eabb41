"""ONNX Runtime's backend: what it is told, where its nodes stand, and bf16. Real on the CPU; no GPU is here.

What a GPU is told is read from the real library's own options; only the session that gets them is a stand-in.
"""

from __future__ import annotations

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as real
import pytest
from onnx import parser

from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import bundle, gate, halves
from inferbench_runner.backends import FellBack, Unsupported, onnxruntime
from inferbench_runner.loaders import onnxruntime as loader
from inferbench_runner.task import CellTask
from tests.fake_cuda import FakeCuda
from tests.fake_onnxruntime import FakeOnnxRuntime, entry
from tests.runner.graph_tasks import DOUBLING, imported, of_graph, write_examples

EXAMPLES, FEATURES, BATCH = 8, 3, 3

ECHO = """
<ir_version: 10, opset_import: ["" : 22]>
graph (string[batch,3] x) => (string[batch,3] y) { y = Identity(x) }
"""

KINDS = {Precision.BF16: "tensor(bfloat16)"}

IN_FLOATS = frozenset({"Mul"})
"""The CPU multiplies no bf16, so that this stays fp32 between casts, as clipping does in graphs for CUDA."""


@pytest.fixture
def a_task(tmp_path):
    """Makes the task of a cell of a graph that doubles, or of another one."""
    numbers = np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES), dtype=np.float32)
    write_examples(tmp_path, {"x": numbers}, {"y": 2 * numbers})

    def make(
        precision=Precision.FP32,
        device=Device.CPU,
        contract="device-resident",
        text=DOUBLING,
        batch_size=BATCH,
        **options,
    ):
        graph = parser.parse_model(text)
        if precision in halves.HALVES:
            graph = halves.convert(graph, precision, IN_FLOATS)
        onnx.save(graph, tmp_path / "model.onnx")
        return of_graph(
            tmp_path,
            Backend.ONNXRUNTIME,
            precision,
            device=device,
            batch_size=batch_size,
            contract=contract,
            options=options,
        )

    return make


def on_gpu(task: CellTask, *, gpu: FakeCuda | None = None, **session):
    """Load a task on the stand-ins; return the session and the library that made it."""
    library = FakeOnnxRuntime(gpu or FakeCuda(), real, kind=KINDS.get(task.precision, "tensor(float)"), **session)
    return onnxruntime.load_on_gpu(task, library, library.open_device), library


class TestBf16:
    """On the CPU, whose provider casts bf16; what CUDA's computes in it no machine here has seen."""

    def test_a_graph_takes_and_gives_bf16_and_its_answers_are_judged_as_fp32(self, a_task):
        task = a_task(Precision.BF16)
        session = onnxruntime.load(task)

        found = gate.check(session, task, full=True)

        assert [each.type for each in session._session.get_inputs()] == ["tensor(bfloat16)"]
        assert session.inputs()["x"].dtype == ml_dtypes.bfloat16
        assert session.outputs()["y"].dtype == np.float32
        assert found.fault is None
        assert 0 < found.relative_l2 < 2**-8

    def test_an_exported_graph_takes_fp32_and_answers_in_fp32(self, a_task, tmp_path):
        task, folder = a_task(Precision.BF16), tmp_path / "handed"
        folder.mkdir()

        bundle.complete(task, bundle.WRITERS[task.backend](task, folder), folder, "mine", {})

        done = subprocess.run(
            [sys.executable, "-I", folder / "check.py"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("y: relative L2 error 0.0")

    def test_the_exported_program_rounds_as_everybody_does(self):
        """To the nearest of all magnitudes, halves to even, with infinities and without numbers."""
        bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32)
        halfway = np.arange(0x3F80_8000, 0x3F90_8000, 0x8000, np.uint32)
        floats = np.concatenate([bits, halfway, [0, 0x8000_0000, 0x7F80_0000, 0xFF80_0000]]).astype(np.uint32)
        floats = floats.view(np.float32)

        with np.errstate(all="ignore"):
            theirs = floats.astype(ml_dtypes.bfloat16)

        ours = loader.widened(loader.rounded(floats))
        assert np.array_equal(ours, theirs.astype(np.float32), equal_nan=True)

    def test_what_numpy_has_no_type_for_is_unsupported(self, a_task):
        with pytest.raises(Unsupported, match=r"TensorType: .* of the type tensor\(string\) cannot be bound"):
            onnxruntime.load(a_task(text=ECHO))


class TestPlacement:
    def test_every_node_is_told_to_stand_on_the_provider_that_was_asked_for(self, a_task):
        task = a_task()

        session = onnxruntime.make_session(real, task, onnxruntime.settings(task))

        [part] = session.get_provider_graph_assignment_info()
        assert part.ep_name == "CPUExecutionProvider"
        assert [node.op_type for node in part.get_nodes()] == ["Mul"]

    def test_a_node_that_stands_elsewhere_is_found_out_by_name(self, a_task):
        task = a_task()
        session = onnxruntime.make_session(real, task, onnxruntime.settings(task))

        with pytest.raises(FellBack, match=r"put 1 of 1 nodes on another: Mul node '.*' on CPUExecutionProvider"):
            onnxruntime.require_placement(session, "CUDAExecutionProvider")

    def test_a_gpu_session_with_a_node_on_the_cpu_is_found_out(self, a_task):
        with pytest.raises(FellBack, match=r"put 1 of 2 nodes on another: Mul node 'doubling' on CPUExecutionProvider"):
            on_gpu(a_task(device=Device.GPU), places=("CUDAExecutionProvider", "CPUExecutionProvider"))

    def test_a_session_on_another_provider_is_found_out(self, a_task):
        with pytest.raises(FellBack, match="CUDAExecutionProvider was asked for, and ONNX Runtime took CPUExecution"):
            on_gpu(a_task(device=Device.GPU), provider="CPUExecutionProvider")

    @pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
    @pytest.mark.parametrize(
        ("precision", "way_out"), [(Precision.FP32, "Use another backend"), (Precision.BF16, "Use fp16")]
    )
    def test_a_graph_that_the_gpu_takes_only_in_part_is_unsupported_and_the_rest_named(
        self, a_task, precision, way_out, with_graph
    ):
        task = a_task(precision, Device.GPU, cudaGraph=with_graph)

        with pytest.raises(Unsupported) as refusal:
            on_gpu(task, refuses=True, places=("CUDAExecutionProvider", "CPUExecutionProvider"))

        assert str(refusal.value).startswith(
            "NoKernel: CUDAExecutionProvider takes not all of this graph: ONNX Runtime would put 1 of 2 nodes on "
            "another: Mul node 'doubling' on CPUExecutionProvider. "
        )
        assert way_out in str(refusal.value)

    def test_any_other_error_of_the_library_stays_what_it_is(self, a_task, tmp_path):
        task = a_task()
        (tmp_path / "model.onnx").write_bytes(b"no graph")

        with pytest.raises(Exception, match="INVALID_PROTOBUF"):
            onnxruntime.load(task)

    def test_versions_that_cannot_tell_are_believed(self):
        onnxruntime.require_placement(object(), "CUDAExecutionProvider")


OPENING = """
import onnxruntime
from inferbench_runner import backends
from tests.fake_onnxruntime import FakeOnnxRuntime


def open_session(task, gpu):
    library = FakeOnnxRuntime(gpu, onnxruntime)
    return backends.find(task.backend).load_on_gpu(task, library, library.open_device)
"""


class TestOnAGpu:
    def test_its_process_imports_no_torch(self, a_task):
        modules = imported(OPENING, a_task(device=Device.GPU))

        assert {"inferbench_runner.backends.onnxruntime", "onnxruntime"} <= modules
        assert not {"torch", "torchvision", "triton"} & modules

    def test_nor_does_the_library_where_it_loads_those_of_cuda(self):
        """It looks for them in PyTorch's folder, too."""
        code = "import sys, onnxruntime; onnxruntime.preload_dlls(); print('torch' in sys.modules)"

        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert ended.stdout.splitlines()[-1] == "False"

    @pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16])
    def test_only_tf32_is_told_to_be_tf32(self, a_task, precision):
        """The provider has it on by default."""
        task = a_task(precision, Device.GPU)

        assert onnxruntime.settings(task)["providerOptions"]["use_tf32"] == str(int(precision is Precision.TF32))

    @pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32])
    def test_what_is_set_reaches_the_session(self, a_task, precision):
        _, library = on_gpu(a_task(precision, Device.GPU, graphOptimizationLevel="basic", interOpThreads=2))

        options = library.options
        assert library.told["use_tf32"] == str(int(precision is Precision.TF32))
        assert library.told["device_id"] == "0"
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 2)
        assert options.execution_mode == real.ExecutionMode.ORT_PARALLEL
        assert options.graph_optimization_level == real.GraphOptimizationLevel.ORT_ENABLE_BASIC

    def test_the_libraries_of_cuda_are_loaded_before_anything_looks_for_them(self, a_task):
        _, library = on_gpu(a_task(device=Device.GPU))

        assert library.calls == ["preload_dlls", "open_device", "InferenceSession"]

    def test_it_may_not_fall_back_to_the_cpu_and_tells_where_nodes_stand(self, a_task):
        _, library = on_gpu(a_task(device=Device.GPU))

        assert library.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        assert library.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"

    def test_it_works_on_the_stream_whose_events_are_read(self, a_task):
        gpu = FakeCuda()
        session, library = on_gpu(a_task(device=Device.GPU), gpu=gpu)
        [stream] = gpu._streams

        session.enqueue()

        assert library.told["user_compute_stream"] == str(stream)
        assert len(gpu.stream_at(stream).waiting) == 3  # an event, the graph, an event

    @pytest.mark.parametrize("with_graph", [False, True])
    def test_a_cuda_graph_is_recorded_only_where_it_is_asked_for(self, a_task, with_graph):
        _, library = on_gpu(a_task(device=Device.GPU, cudaGraph=with_graph))

        assert library.told["enable_cuda_graph"] == str(int(with_graph))

    def test_the_run_that_shows_shapes_records_no_graph_and_the_others_wait_for_nothing(self, a_task):
        session, library = on_gpu(a_task(device=Device.GPU, cudaGraph=True))

        session.enqueue()

        first, timed = library.session.run_options
        assert (entry(first, "gpu_graph_id"), entry(timed, "gpu_graph_id")) == ("-1", None)
        assert entry(timed, "disable_synchronize_execution_providers") == "1"

    @pytest.mark.parametrize("with_graph", [False, True], ids=["plain", "cuda graph"])
    @pytest.mark.parametrize("contract", ["device-resident", "end-to-end"])
    @pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
    def test_it_passes_the_gate_with_every_batch(self, a_task, precision, contract, with_graph):
        task = a_task(precision, Device.GPU, contract, cudaGraph=with_graph)
        session, _ = on_gpu(task)

        found = gate.check(session, task, full=True)

        assert (found.fault, found.examples) == (None, EXAMPLES)
        assert found.relative_l2 < 2**-8

    def test_a_precision_that_came_after_the_card_is_unsupported(self, a_task):
        turing = FakeCuda(name=b"Tesla T4\0", capability=(7, 5))

        with pytest.raises(Unsupported, match=r"NoKernel: tf32 needs compute capability 8\.0, and Tesla T4 has 7\.5"):
            on_gpu(a_task(Precision.TF32, Device.GPU), gpu=turing)


class TestExport:
    """load.py takes arrays from anywhere; a replayed CUDA graph would read where the first ones lay."""

    @pytest.mark.parametrize("with_graph", [False, True])
    def test_a_cuda_graph_is_not_handed_over_and_model_json_says_so(self, a_task, tmp_path, with_graph):
        task = a_task(device=Device.GPU, cudaGraph=with_graph)
        folder = tmp_path / "handed"
        folder.mkdir()

        bundle.complete(task, bundle.WRITERS[task.backend](task, folder), folder, "mine", {})

        told = json.loads((folder / "model.json").read_text())
        assert told["session"]["providerOptions"] == {"device_id": "0", "use_tf32": "0"}
        assert told["options"] == {"cudaGraph": with_graph}
        assert ["CUDA graph" in remark for remark in told.get("remarks", [])] == [True] * with_graph

    def test_even_a_batch_of_one_is_checked_with_inputs_that_change(self, a_task, tmp_path):
        task, folder = a_task(batch_size=1), tmp_path / "handed"
        folder.mkdir()

        bundle.complete(task, bundle.WRITERS[task.backend](task, folder), folder, "mine", {})

        first, second = np.load(folder / "check.npz")["input:x"]
        assert not np.array_equal(first, second)
