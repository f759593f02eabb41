"""The TensorRT backend with NVIDIA's own libraries, as far as they go on a machine without a GPU.

Which is: they are loaded, they are asked for a builder, and they have none. What happens then, with and without our
guards, each in a process of its own, because some of it ends in a crash. `make test-tensorrt` fetches the libraries.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys

import pytest

from inferbench_runner import cuda
from tests.programs import place
from tests.tensorrt.fetch import WHOLE

pytestmark = pytest.mark.skipif(not WHOLE.is_dir(), reason="NVIDIA's libraries are not here: run `make test-tensorrt`")

ON_PATH = {"PYTHONPATH": str(WHOLE / "site"), "LD_LIBRARY_PATH": str(WHOLE / "libs")}

PATIENCE_SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def no_driver():
    try:
        ctypes.CDLL(cuda.DRIVER_LIBRARY)
    except OSError:
        return
    pytest.skip("there is an NVIDIA driver here, and these tests are about machines without one")


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, where `import tensorrt` finds the real one."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **ON_PATH},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def answer(script: str) -> dict:
    """What a script prints as JSON; it ends well, at once, before a library can crash while it is unloaded."""
    ended = python(f"{script}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


VERSIONS = """
import ctypes, json
import tensorrt
from inferbench_runner.backends import tensorrt as backend
number = ctypes.CDLL("libnvinfer.so.11").getInferLibVersion()
found = backend.versions()
print(json.dumps([tensorrt.__version__, tensorrt.__file__, number, found, backend.needed_cuda(found)]))
"""


def test_bindings_and_libraries_are_of_one_version_and_the_backend_finds_it():
    version, file, number, found, needed_cuda = answer(VERSIONS)

    major, minor, patch, _ = map(int, version.split("."))
    assert file.startswith(str(WHOLE))
    assert number == 10_000 * major + 100 * minor + patch
    assert found["tensorrt-cu13-bindings"] == version
    assert needed_cuda == 13_000


LOAD = """
import json, sys
from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.words import Device, Precision
from inferbench_runner.backends import tensorrt as backend
told = []
for ask in (lambda: backend.missing(Precision.FP16, Device.GPU), lambda: backend.load(None)):
    try:
        ask()
    except EnvironmentFault as fault:
        told.append(str(fault))
print(json.dumps([told, "tensorrt" in sys.modules, "libnvinfer" in open("/proc/self/maps").read()]))
"""


def test_without_a_driver_the_backend_ends_before_the_real_library_is_touched():
    ended = python(LOAD)

    assert (ended.returncode, ended.stderr) == (0, "")
    faults, was_imported, was_mapped = json.loads(ended.stdout)
    assert len(faults) == 2
    assert all(fault.startswith("There is no NVIDIA driver here") for fault in faults)
    assert (was_imported, was_mapped) == (False, False)


def test_a_run_says_what_the_machine_lacks_although_tensorrt_is_there(tmp_path):
    with place(tmp_path, ON_PATH) as here:
        file = here.write(backends=["tensorrt"], precisions=["fp16"], device="gpu", baseline=None, backendOptions={})
        done = here.run("run", file, "--output", tmp_path / "out")

    assert done.returncode == 3, done.stdout + done.stderr
    assert "There is no NVIDIA driver here" in done.stderr


BUILDER = """
import json
import tensorrt
from inferbench_runner.backends import Unsupported, _tensorrt_plans as plans
log = plans.make_log(tensorrt)
try:
    plans.open_builder(tensorrt, log)
except Unsupported as error:
    print(json.dumps({"reason": str(error), "errors": log.errors}))
"""


def test_a_builder_that_is_null_is_told_in_the_librarys_own_words():
    """Its bindings say only that a factory function returned nullptr; why is in its log, which is ours."""
    told = answer(BUILDER)

    assert told["errors"]
    assert told["errors"][0] in told["reason"]
    assert told["reason"].startswith("Incomplete: TensorRT 11.2")


INSTALLED = """
import json
import tensorrt
from inferbench_runner.backends import _tensorrt_plans as plans
print(json.dumps(plans.installed_resources()))
"""


def test_importing_tensorrt_is_enough_to_find_the_libraries_of_kernels_beside_it():
    """No builder has been made, so none of them is loaded."""
    assert answer(INSTALLED) == sorted(file.name for file in (WHOLE / "libs").glob("libnvinfer_builder_resource*"))


RUNTIME = """
import sys
import tensorrt
runtime = tensorrt.Runtime(tensorrt.Logger())
print("made", flush=True)
if sys.argv[1] == "used":
    runtime.deserialize_cuda_engine(b"a plan")
del runtime
print("gone", flush=True)
"""


@pytest.mark.parametrize("how", ["used", "let go"])
def test_without_our_guard_a_runtime_is_made_and_crashes_its_process(how):
    """Where this fails, the library has learnt to live without a GPU, and `require_driver` is worth a second look."""
    ended = python(RUNTIME, how)

    assert ended.stdout.splitlines()[-1] == "made"
    assert ended.returncode == -signal.SIGSEGV


TYPES = """
import json
import numpy
import tensorrt
from inferbench_runner.backends import Unsupported, tensorrt as backend
def told(kind):
    try:
        return backend._dtype(kind).name
    except Unsupported as error:
        return str(error).partition(":")[0]
profiler = backend._profiler(tensorrt)
profiler.report_layer_time("conv1", 0.5)
types = {name: told(kind) for name, kind in tensorrt.DataType.__members__.items()}
print(json.dumps({"types": types, "milliseconds": profiler.milliseconds}))
"""


def test_the_backend_knows_the_librarys_types_and_is_its_profiler():
    told = answer(TYPES)

    bound = {name for name, kind in told["types"].items() if kind != "TensorType"}
    assert bound == {"FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "UINT8", "BOOL"}
    assert told["milliseconds"] == 0.5
