"""What PyTorch's compilers make for a GPU of the models that our backends give them, without one: torch_cuda.py.

Inductor, Triton and NVIDIA's assembler are the real ones, and so are PyTorch's refusals. Nothing is computed, so
nothing here is about answers or times: no GPU has seen these cells yet.
"""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from inferbench_contract.spec import AccuracySpec, MeasurementSpec
from inferbench_contract.words import Backend, Device, Precision
from inferbench_runner import artifacts
from inferbench_runner.backends import _cuda_home
from inferbench_runner.task import Artifacts, CellTask
from tests import native_cuda, torch_cuda
from tests.runner import shared

ROOT = Path(__file__).parents[2]

STAND_INS = (torch_cuda.SOURCE, *(Path(module.__file__) for module in (torch_cuda, native_cuda)))

FACTORY = """
import torch


def of_lines():
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))


def of_images():
    return torch.nn.Sequential(torch.nn.Conv2d(8, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3))


class Across(torch.nn.Linear):
    def forward(self, sequences):
        return super().forward(sequences.transpose(0, 1))


def of_sequences():
    return Across(64, 32)
"""

SHAPES = {"of_lines": (64,), "of_images": (8, 16, 16), "of_sequences": (16, 64)}

LOADING = """
import json, sys
import torch
from inferbench_contract.words import Precision
from inferbench_runner import backends
from inferbench_runner.backends import _torch
from inferbench_runner.backends import _cuda_home
from inferbench_runner.task import CellTask


def flags(task, precision):
    _torch.set_up(task.model_copy(update={"precision": Precision(precision)}))
    libraries = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.cudnn.conv
    return [library.fp32_precision for library in libraries]


def refusal(multiply):
    try:
        multiply()
    except RuntimeError as error:
        return str(error).splitlines()[0]


def integers(rows, inputs, outputs):
    sizes = (rows, inputs), (inputs, outputs)
    return refusal(lambda: torch._int_mm(*(torch.ones(*size, dtype=torch.int8, device="cuda") for size in sizes)))


def floats(inputs, outputs):
    rows, weight = (
        torch.empty(size, inputs, dtype=torch.float8_e4m3fn, device="cuda") for size in (1, outputs)
    )
    scale = torch.ones((), device="cuda")
    return refusal(lambda: torch._scaled_mm(rows, weight.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16))


for text in sys.argv[1:]:
    task = CellTask.model_validate_json(text)
    session = backends.find(task.backend).load(task)
    session.enqueue()
    session.synchronize()
    session.verify()
    print(json.dumps({name: array.shape for name, array in session.outputs().items()}))
print(json.dumps({
    "int8": [integers(*sizes) for sizes in [(17, 64, 8), (16, 64, 8), (17, 60, 8), (17, 64, 12)]],
    "fp8": [floats(*sizes) for sizes in [(64, 16), (64, 24)]],
    "flags": {precision: flags(task, precision) for precision in ("fp32", "tf32")},
}))
"""
"""Prints the shapes that each task's session answers with, how PyTorch refuses products of some sizes, its flags."""

FP8 = (Backend.TORCH_COMPILE, Precision.FP8, "of_lines", "contiguous")
INT8 = (Backend.TORCH_COMPILE, Precision.INT8_DYNAMIC, "of_lines", "contiguous")
PLANES = (Backend.TORCH_COMPILE, Precision.FP16, "of_images", "contiguous")
PACKAGE = (Backend.TORCH_AOT_INDUCTOR, Precision.FP16, "of_images", "channels-last")
ACROSS = (Backend.TORCH_COMPILE, Precision.BF16, "of_sequences", "contiguous")
CELLS = (FP8, INT8, PLANES, PACKAGE, ACROSS)

BATCH_SIZE = 32

CALL = re.compile(r"extern_kernels\.(\w+)|aoti_torch_cuda_(\w+?)(?:_out)?\(")
"""A call of PyTorch's own kernels, in what Inductor writes in Python and in C++."""

COPY = re.compile(r"\.run\(arg\d+_1, buf\d+, \d")
"""A kernel that reads an input of the program, or a weight, and nothing else, and writes it down anew."""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """The environment of a process that sees the stand-in."""
    found = [importlib.util.find_spec(name) for name in ("torch", "triton")]
    paths = [Path(spec.origin).parent for spec in found if spec]
    if not (paths[0] / "lib/libtorch_cuda.so").exists():
        pytest.skip("this PyTorch was built without CUDA: the one of PyPI has it")
    seen = torch_cuda.build(*paths, tmp_path_factory.mktemp("cuda"))
    without = {name: value for name, value in seen.items() if name not in ("CUDA_HOME", "CUDA_PATH")}
    return {**without, "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@pytest.fixture(scope="module")
def folder():
    """Where each cell has its own folder, kept for as long as neither the runner nor the stand-in changes."""
    decisive = {file.name: artifacts.digest(file) for file in (Path(__file__), *STAND_INS)}
    return shared.cache() / f"cuda-{artifacts.key(decisive)[:16]}"


@pytest.fixture(scope="module")
def told(surroundings, folder):
    """What the process said that loaded every cell, one after the other, and called it: a minute's work, done once."""
    said = folder / "said.json"
    if not said.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        said.write_text(said_of_all(surroundings, folder))
    return json.loads(said.read_text())


def said_of_all(surroundings, folder: Path) -> str:
    """Compile and call every cell in a process; return what it printed, as one list in JSON."""
    (folder / "two_layers.py").write_text(FACTORY)
    tasks = [a_task(folder, *cell).model_dump_json() for cell in CELLS]
    command = [sys.executable, "-c", LOADING, *tasks]
    ended = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return f"[{', '.join(ended.stdout.splitlines()[-len(CELLS) - 1 :])}]"


def a_task(folder: Path, backend: Backend, precision: Precision, factory: str, layout: str) -> CellTask:
    """Return the task of a cell on a GPU, with weights and inputs of its own."""
    place = folder / f"{backend}-{precision}"
    place.mkdir()
    model = runpy.run_path(str(folder / "two_layers.py"))[factory]()
    torch.save(model.state_dict(), place / "weights.pt")
    artifacts.write_arrays(place, {"numbers": torch.ones(64, *SHAPES[factory]).numpy()})
    return CellTask(
        backend=backend,
        precision=precision,
        batch_size=BATCH_SIZE,
        round=0,
        device=Device.GPU,
        threads=1,
        options={},
        model={
            "python": {"factory": f"two_layers:{factory}"},
            "inputs": [{"name": "numbers", "shape": SHAPES[factory]}],
        },
        model_folder=folder,
        measurement=MeasurementSpec.model_validate({"layout": layout}),
        accuracy=AccuracySpec(),
        artifacts=Artifacts(weights=place / "weights.pt", inputs=place),
        cache=place / "cache",
        result=place / "result.json",
    )


def written(folder: Path, backend: Backend, precision: Precision, *_: str) -> str:
    """Return the program that Inductor wrote for a cell: the calls of its kernels, one after the other."""
    place = folder / f"{backend}-{precision}"
    files = [file for kind in ("*.py", "*.wrapper.cpp") for file in place.rglob(kind)]
    (program,) = (text for file in files if CALL.search(text := file.read_text()))
    return program


def calls(program: str) -> list[str]:
    """Name PyTorch's own kernels that a program calls, in order."""
    return [one or other for one, other in CALL.findall(program)]


@pytest.mark.parametrize(("cell", "product"), [(FP8, "_scaled_mm"), (INT8, "_int_mm")], ids=["fp8", "int8-dynamic"])
def test_compiled_layers_are_products_of_eight_bits(told, folder, cell, product):
    assert calls(written(folder, *cell)) == [product, product]


def test_every_cell_answers_with_its_batch(told):
    lines, images, sequences = [BATCH_SIZE, 64], [BATCH_SIZE, 64, 12, 12], [16, BATCH_SIZE, 32]

    assert [each["output"] for each in told[:-1]] == [lines, lines, images, images, sequences]


def test_sequences_that_lie_across_are_one_product_with_a_weight_that_is_not_copied(told, folder):
    """Attention's projections lie so. Weights that require no gradients would be copied for each step: `bmm`."""
    assert calls(written(folder, *ACROSS)) == ["mm"]


def test_images_and_weights_that_lie_plane_by_plane_are_copied_at_each_call_to_lie_pixel_by_pixel(told, folder):
    program = written(folder, *PLANES)

    copies, before = len(COPY.findall(program)), program.index("extern_kernels.convolution")

    assert (copies, calls(program)) == (3, ["convolution", "convolution"])
    assert re.search(r"empty_strided_cuda\(\(32, 8, 16, 16\), \(2048, 1, 128, 8\)", program[:before])


def test_cuda_multiplies_integers_from_seventeen_rows_on_by_sizes_that_are_multiples_of_eight(told):
    """PyTorch says so itself: what `_linear.suits_cuda` follows."""
    taken, *refused = told[-1]["int8"]

    assert taken is None
    assert [("greater than 16" in each, "multiple of 8" in each) for each in refused] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_cuda_multiplies_fp8_from_one_row_on_by_sizes_that_are_multiples_of_sixteen(told):
    """Why fp8 chooses layers by nothing but torchao's own rule."""
    taken, refused = told[-1]["fp8"]

    assert taken is None
    assert "divisible by 16" in refused


def test_every_flag_that_inductor_reads_says_what_was_asked_for(told):
    """Its products read the first, its convolutions in Triton the second, cuDNN the third."""
    assert told[-1]["flags"] == {"fp32": 3 * ["ieee"], "tf32": 3 * ["tf32"]}


class TestPackage:
    """Of torch-aot-inductor, built with what the wheels have of a toolkit where there is none (CUDA_HOME is unset)."""

    @pytest.fixture
    def package(self, told, folder):
        if _cuda_home.toolkit() is not None:
            pytest.skip("there is a CUDA toolkit here, and packages were built with it")
        (file,) = (folder / f"{PACKAGE[0]}-{PACKAGE[1]}").rglob("model.pt2")
        with zipfile.ZipFile(file) as archive:
            yield archive

    def test_a_package_holds_the_kernels_that_triton_made_for_the_card(self, package):
        kernels = [name for name in package.namelist() if name.endswith(".cubin")]

        assert kernels
        assert all(package.read(name).startswith(b"\x7fELF") for name in kernels)

    def test_a_package_was_compiled_for_the_compute_capability_of_the_card(self, package):
        (name,) = (name for name in package.namelist() if name.endswith("wrapper_metadata.json"))

        told = json.loads(package.read(name))

        assert (told["AOTI_DEVICE_KEY"], told["AOTI_COMPUTE_CAPABILITY"]) == ("cuda", "90")

    def test_images_and_weights_that_lie_pixel_by_pixel_go_into_convolutions_as_they_are(self, package):
        (name,) = (name for name in package.namelist() if name.endswith("wrapper.cpp"))
        program = package.read(name).decode()

        strides = re.findall(r"\.shape = \{\d+, \d+, \d+, \d+\};\s*constants_info_\[\d+\]\.stride = \{(.*?)\}", program)

        assert strides == ["72, 1, 24, 8", "288, 1, 96, 32"]
        assert calls(program).count("convolution") == 2
        assert not re.search(r"triton_\w*(clone|permute)", program)
