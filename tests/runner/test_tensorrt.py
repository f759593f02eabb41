"""TensorRT's session, and how a machine without a GPU ends.

The session runs on the scripted stand-ins of tests/fake_cuda.py and tests/fake_tensorrt.py. No engine has run here:
that is for tests/gpu/test_tensorrt.py. For how its plans are built and kept see test_tensorrt_plans.py, for whether the
names are NVIDIA's test_tensorrt_names.py.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Device, Precision
from inferbench_runner import cuda, gate
from inferbench_runner.backends import FellBack, Unsupported, tensorrt
from inferbench_runner.measure import time_calls
from inferbench_runner.stopping import Limits
from tests import fake_cuda
from tests.fake_cuda import CudaErrorT, FakeCuda
from tests.fake_tensorrt import KERNEL_NS, FakeTensorRt, Severity
from tests.runner.doubling import (
    DOUBLING,
    DRIVER,
    EXAMPLES,
    FEATURES,
    RESOURCES,
    open_on,
    task_of,
    typed,
    write_doubled,
)
from tests.runner.graph_tasks import imported


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


OPENING = """
from inferbench_runner import backends, cuda
from tests.fake_tensorrt import FakeTensorRt


def open_session(task, gpu):
    return backends.find(task.backend).open_session(task, cuda.open_device(gpu), FakeTensorRt(gpu), "580.159.04", [])
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
            tensorrt.open_session(a_task(Precision.BF16), turing, library, DRIVER, RESOURCES)


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
