"""Where ONNX Runtime's own CUDA provider puts the graphs that are made for it, without a GPU: see native_cuda.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import defs, parser

from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import halves, onnx_models
from inferbench_runner.targets import Target, kept_fp32
from inferbench_runner.task import CellTask
from tests import native_cuda
from tests.runner import zoo
from tests.runner.graph_tasks import ROOT, of_graph

FLOATS = (Precision.FP32, Precision.FP16, Precision.BF16)

MODELS = [(name, precision) for name in zoo.NAMES for precision in FLOATS]

REPLAYED = (False, True)

ELU = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[batch,3] x) => (float[batch,3] y) { r = Relu(x) e = Elu(r) y = Neg(e) }
"""

LACKING = ("elu", Precision.BF16)

BF16 = "tensor(bfloat16)"

BF16_OPSET = 22

ENDLESS = 2**31 - 1
"""What ONNX Runtime has for the last opset of a kernel that has no end."""

PLACING = """
import ctypes, json, sys
from types import SimpleNamespace
import onnxruntime
from inferbench_runner.backends import Unsupported, onnxruntime as backend
from inferbench_runner.task import CellTask

memory = ctypes.create_string_buffer(8)
stream = SimpleNamespace(address=ctypes.addressof(memory))
answers = []
for told in json.load(sys.stdin):
    task = CellTask.model_validate(told)
    try:
        backend.make_session(onnxruntime, task, backend._bound_settings(task, stream))
        answers.append(None)
    except Unsupported as error:
        answers.append(str(error))
print(json.dumps(answers))
"""

DEFINING = """
import json
from onnxruntime.capi import onnxruntime_pybind11_state as library

kernels = [each for each in library.get_all_opkernel_def() if each.provider == "CUDAExecutionProvider"]
print(json.dumps([[each.op_name, each.version_range, each.type_constraints] for each in kernels if not each.domain]))
"""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """The environment of a process that loads the provider."""
    found = native_cuda.providers(Path(onnxruntime.__file__).parent)
    if len(found) < len(native_cuda.PROVIDERS):
        pytest.skip("this ONNX Runtime was built without CUDA: its package for GPUs has the provider")
    return native_cuda.build(found, tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def refusals(surroundings, tmp_path_factory):
    """What graphs are refused for on CUDA, by name and precision and with a CUDA graph or without.

    They are those of the zoo, and one with an operator that CUDA does not have at the opset of bf16.
    """
    folders = {(name, each): zoo.Zoo.shared().converted(name, Target.CUDA, each).parent for name, each in MODELS}
    elu = halves.convert(parser.parse_model(ELU), Precision.BF16, kept_fp32(Target.CUDA, Precision.BF16))
    folders[LACKING] = written(tmp_path_factory.mktemp("elu"), elu)
    cases = [(*each, replayed) for each in folders for replayed in (False, True)]
    tasks = [task_of(folders[name, each], each, replayed=replayed) for name, each, replayed in cases]
    answers = said_by(PLACING, surroundings, json.dumps([task.model_dump(mode="json") for task in tasks]))
    return dict(zip(cases, answers, strict=True))


@pytest.fixture(scope="module")
def kernels(surroundings):
    """The types in which CUDA has each operator of ONNX's at the opset of bf16, those of all constraints together."""
    types: dict[str, set[str]] = {}
    for name, (first, last), constraints in said_by(DEFINING, surroundings):
        since = defs.get_schema(name, BF16_OPSET).since_version if defs.has(name, BF16_OPSET) else 0
        if first == since or (last != ENDLESS and first <= since <= last):
            types.setdefault(name, set()).update(*constraints.values())
    return types


def said_by(code: str, surroundings, given: str = ""):
    """Return what a process printed as JSON in its last line."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def written(folder: Path, model) -> Path:
    """Write a graph where a task looks for it."""
    onnx.save(model, folder / onnx_models.FILE)
    return folder


def task_of(folder: Path, precision: Precision, *, replayed: bool) -> CellTask:
    """Return the task of a cell of a graph on a GPU."""
    return of_graph(
        folder,
        Backend.ONNXRUNTIME,
        precision,
        device=Device.GPU,
        batch_size=1,
        contract="device-resident",
        options={"cudaGraph": replayed},
    )


@pytest.mark.parametrize("replayed", REPLAYED, ids=["plain", "cuda graph"])
@pytest.mark.parametrize(("name", "precision"), MODELS)
def test_cuda_takes_all_of_a_graph(refusals, name, precision, replayed):
    """In ResNet-50 at bf16 there is a max pool, of which it has no kernel there: see inferbench_runner.pools."""
    assert refusals[name, precision, replayed] is None


@pytest.mark.parametrize("replayed", REPLAYED, ids=["plain", "cuda graph"])
def test_an_operator_that_cuda_leaves_to_the_cpu_is_named(refusals, replayed):
    refusal = refusals[*LACKING, replayed]

    assert re.match(r"NoKernel: .* put 1 of \d+ nodes on another: Elu node '.*' on CPUExecution.* Use fp16", refusal)


def test_what_stays_fp32_between_casts_is_what_cuda_has_no_bf16_kernel_for(kernels):
    """Of what ONNX has in bf16, and CUDA in some type."""
    schemas = {name: defs.get_schema(name, BF16_OPSET) for name in kernels}
    in_onnx = {name for name, schema in schemas.items() if any(BF16 in each.types for each in schema.inputs)}
    in_cuda = {name for name, types in kernels.items() if BF16 in types}
    kept = kept_fp32(Target.CUDA, Precision.BF16)

    assert in_onnx - in_cuda <= kept
    assert not kept & in_cuda


@pytest.mark.parametrize("name", ["Elu", "InstanceNormalization", "MaxPool", "Selu", "ThresholdedRelu"])
def test_what_was_registered_without_an_end_for_an_older_operator_serves_no_newer_one(kernels, name):
    """So that these are left to the CPU at the opset that bf16 needs, in fp32 too."""
    assert name not in kernels
