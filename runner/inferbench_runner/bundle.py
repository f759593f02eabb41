"""Hands a measured cell over: the artefact that ran, what is known of it, and small programs that run and check it.

The folder is complete: whoever gets it needs the library that runs the artefact, and no inferbench.

    model.onnx | engine.plan | model.pt2 | ...            what ran, or what it is built from
    model.json                                            hashes, shapes, settings, versions, and what was measured
    requirements.txt                                      what load.py and the model import, as it was measured
    load.py  check.py  check.npz                          run it; run it on kept inputs and compare with fp32
    triton/<name>/                                        a model repository, where Triton serves the artefact
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from inferbench_contract import plan as plans
from inferbench_contract.accuracy import limits_for
from inferbench_contract.errors import EnvironmentFault, InferbenchError, PlanError
from inferbench_contract.plan import Plan
from inferbench_contract.sentences import counted
from inferbench_contract.words import Backend, Cell, Device, Precision, Strategy
from inferbench_runner import (
    artifacts,
    backends,
    convert,
    environment,
    models,
    onnx_models,
    prepare,
    sources,
    triton,
    watching,
)
from inferbench_runner.backends import Unsupported
from inferbench_runner.cuda import Driver
from inferbench_runner.task import Artifacts, CellTask
from inferbench_runner.triton import Tensor

SCHEMA_VERSION: Final = 1

DESCRIPTION: Final = "model.json"
WEIGHTS: Final = "weights.pt"
REQUIREMENTS: Final = "requirements.txt"
CHECK: Final = "check.npz"
REPOSITORY: Final = "triton"
PROGRAMS: Final = ("load.py", "check.py")
LOADERS: Final = Path(__file__).parent / "loaders"

SERVED: Final = {"onnxruntime": onnx_models.FILE, "tensorrt": "model.plan"}
"""What Triton serves as it is, by the loader, with the name that it looks for."""

NOT_NEEDED: Final[Mapping[str, frozenset[str]]] = {
    "torch_package": frozenset({"torchvision", "torchao", "triton"}),
    "torch_program": frozenset({"torchvision"}),
}
"""What took part in the measurement, or may have, and is not imported by a loader; `_not_needed` knows the others."""

FOR_CPUS: Final = {"onnxruntime-gpu": "onnxruntime"}
"""The same library in the same version without what only a GPU needs: a tenth of the size, and on all platforms."""

OTHER_FOLDER: Final = "name the folder that its paths start from: --model-folder FOLDER."

CHECKED_EXAMPLES: Final = 8
"""Kept with their reference answers; a larger batch is filled with them again and again."""

FEWEST_EXAMPLES: Final = 2
"""So that check.py has something else to feed a batch of one."""


class Request(BaseModel):
    """What to hand over, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Path
    strategy: str
    batch_size: int
    model_folder: Path
    """What relative paths in the model start from."""
    model_sha256: str | None
    """Of the model's files when it was measured (`models.digest`); None where it has none, or nobody wrote it down."""
    cache: Path
    output: Path
    """A folder that does not exist yet, or is empty."""
    name: str
    """Of the benchmark."""
    about: Mapping[str, Any]
    """What is to stand in model.json besides: what was measured, and on what."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a backend brings into the folder."""

    artifact: str
    """The file that it runs, or that it is built from."""
    loader: str
    """The program in `loaders` that becomes load.py."""
    session: Mapping[str, Any]
    """Settings that the program repeats."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else model.json has to say for the program."""


def make(request: Request) -> Mapping[str, Any]:
    """Write the folder and return what its model.json says.

    Raises:
        PlanError: the plan has no such cell.
        InferbenchError: the model's files are gone or others now, the output folder holds something, or the artefact is
            gone from the cache and cannot be made again.
        EnvironmentFault: the disk is full or not to be written.
    """
    plan = plans.load(request.plan.read_text(), str(request.plan))
    cell = _cell(plan, request)
    _require_same_model(plan, request)
    _require_free(request.output)
    with _beside(request.output) as folder, tempfile.TemporaryDirectory(prefix="inferbench-") as scratch:
        task, content = _written(plan, cell, request, folder, Path(scratch))
        told = complete(task, content, folder, request.name, {**request.about, **made_on(task.device)})
        _move(folder, request.output)
    return told


def complete(task: CellTask, content: Content, folder: Path, name: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write what goes with an artefact, and model.json, which has the hash of all the others; return what that says."""
    _write_programs(content, folder)
    told = {**_described(task, content), **_checked(task, folder), **about}
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in _requirements(task, content)))
    if content.loader in SERVED:
        _write_repository(f"{name}-{task.backend}-{task.precision}", task, content, folder)
    told["files"] = _files(folder)
    (folder / DESCRIPTION).write_text(json.dumps(told, indent=1) + "\n")
    return told


def made_on(device: Device, ask_driver: Callable[[], Driver] = watching.any_driver) -> Mapping[str, Any]:
    """Name the GPU on which the artefact is made, with what engines and kernels depend on; nothing on a CPU.

    It is the first visible one, as for every cell. Where NVML is missing, nobody tells the driver.
    """
    if device is not Device.GPU:
        return {}
    driver, card = ask_driver(), watching.card(ask_driver)
    named = {"name": driver.name, "computeCapability": ".".join(map(str, driver.compute_capability))}
    return {"gpu": named if card is None else {**named, "driver": card.driver}}


def _written(plan: Plan, cell: Cell, request: Request, folder: Path, scratch: Path) -> tuple[CellTask, Content]:
    """Find what the cell read, and let its backend write what it brings."""
    try:
        files = _artifacts(plan, cell.strategy, request)
        task = CellTask.of(
            cell, plan.work, files, model_folder=request.model_folder, cache=request.cache, scratch=scratch
        )
        return task, WRITERS[cell.strategy.backend](task, folder)
    except Unsupported as error:
        raise InferbenchError(f"{cell} cannot be exported: {error}") from error


# ---- what is handed over -------------------------------------------------------------------------


def _cell(plan: Plan, request: Request) -> Cell:
    cell = Cell(Strategy.parse(request.strategy), request.batch_size)
    if cell not in plan.measurable_cells:
        raise PlanError(f"{request.plan} has no cell {cell}.")
    if cell.strategy.backend not in WRITERS:
        raise PlanError(f"{cell} has nothing to hand over: {cell.strategy.backend} runs no artefact.")
    return cell


def _require_same_model(plan: Plan, request: Request) -> None:
    """Refuse a model whose files are not here, or are not those that were measured."""
    try:
        found = models.digest(plan.work.model, request.model_folder)
    except InferbenchError as error:
        raise InferbenchError(f"{error} If it is elsewhere, {OTHER_FOLDER}") from error
    if request.model_sha256 not in (None, found):
        [file, *others] = models.files(plan.work.model, request.model_folder)
        are_not = (
            f"and {counted(len(others), 'other file')} of the model are not those" if others else "is not the file"
        )
        raise InferbenchError(
            f"{file} {are_not} that {'were' if others else 'was'} measured. Measure it as it is now "
            f"(`inferbench run FILE --fresh`), or {OTHER_FOLDER}"
        )


def _artifacts(plan: Plan, strategy: Strategy, request: Request) -> Artifacts:
    """Find what the cell read in the cache; make it again where it is gone."""
    model, cache = plan.work.model, request.cache
    needed = prepare.needed(model, [strategy.backend])
    asked = prepare.Request(model=model, model_folder=request.model_folder, cache=cache, artifacts=needed)
    prepared = prepare.locate(asked) or prepare.make(asked)
    wanted = convert.request_for(strategy, plan.work, prepared, cache)
    if wanted is None:
        return prepared
    graph = convert.locate(wanted) or convert.make(wanted)
    return prepared.model_copy(update={"onnx": graph.onnx})


# ---- backends ------------------------------------------------------------------------------------


def _onnxruntime(task: CellTask, folder: Path) -> Content:
    from inferbench_runner.backends import onnxruntime

    _copy_graph(task, folder)
    remarks = list(onnxruntime.remarks(task))
    return Content(onnx_models.FILE, "onnxruntime", onnxruntime.settings(task), {"remarks": remarks} if remarks else {})


def _openvino(task: CellTask, folder: Path) -> Content:
    from inferbench_runner.backends import openvino

    _copy_graph(task, folder)
    return Content(onnx_models.FILE, "openvino", openvino.settings(task))


def _tensorrt(task: CellTask, folder: Path) -> Content:
    from inferbench_runner.backends import tensorrt

    return tensorrt_content(task, tensorrt.plan_folder(task), folder)


def tensorrt_content(task: CellTask, made: Path, folder: Path) -> Content:
    """Hand over a plan that was made, with what the inspector says of it."""
    from inferbench_runner.backends import _tensorrt_plans

    for name in (_tensorrt_plans.PLAN, _tensorrt_plans.LAYERS):
        shutil.copyfile(made / name, folder / name)
    return Content(_tensorrt_plans.PLAN, "tensorrt", {"cudaGraph": bool(task.options.get("cudaGraph", False))})


def _torch_aot_inductor(task: CellTask, folder: Path) -> Content:
    from inferbench_runner.backends import _torch, torch_aot_inductor

    _torch.set_up(task)
    made, _ = torch_aot_inductor.package(task, _torch.bound(task))
    shutil.copyfile(made / torch_aot_inductor.PACKAGE, folder / torch_aot_inductor.PACKAGE)
    return Content(torch_aot_inductor.PACKAGE, "torch_package", _torch.settings(task))


def _torch_eager(task: CellTask, folder: Path) -> Content:
    return _recipe(task, folder, None)


def _torch_compile(task: CellTask, folder: Path) -> Content:
    from inferbench_runner.backends import _compiled, torch_compile

    return _recipe(task, folder, _compiled.settings(task, torch_compile.mode(task)))


def _torch_compile_max_autotune(task: CellTask, folder: Path) -> Content:
    from inferbench_runner.backends import _compiled, torch_compile_max_autotune

    return _recipe(task, folder, _compiled.settings(task, torch_compile_max_autotune.mode(task)))


def _recipe(task: CellTask, folder: Path, compiling: Mapping[str, Any] | None) -> Content:
    """Hand over weights, the name of the function that makes the model, and the code of a factory that lies with it."""
    from inferbench_runner.backends import _torch

    if task.precision is Precision.INT8_STATIC:
        return _program(task, folder, compiling)
    if task.artifacts.weights is None:
        raise ValueError("The task names no weights: prepare them first.")
    shutil.copyfile(task.artifacts.weights, folder / WEIGHTS)
    function, arguments = models.recipe(task.model, task.artifacts.weights)
    for file in models.files(task.model, task.model_folder) if task.model.python is not None else ():
        with suppress(ValueError):  # a package that is installed elsewhere is named in the recipe, not copied
            _copy_source(file, file.relative_to(task.model_folder.absolute()), folder)
    layers = _torch.quantised_layers(task)
    told = {"recipe": {"function": function, "arguments": dict(arguments), "quantisedLayers": layers}}
    return Content(WEIGHTS, "torch_recipe", {**_torch.settings(task), "compile": compiling}, told)


def _copy_source(file: Path, name: Path, folder: Path) -> None:
    if str(name) in PROGRAMS:
        raise InferbenchError(f"{file} is of the model, and an exported folder has a {name} of its own. Rename it.")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / name)


def _program(task: CellTask, folder: Path, compiling: Mapping[str, Any] | None) -> Content:
    """Hand over the quantised program, which holds code and weights of the model."""
    from inferbench_runner.backends import _int8_static, _torch

    shutil.copyfile(_torch.program(task), folder / _int8_static.PROGRAM)
    return Content(_int8_static.PROGRAM, "torch_program", {**_torch.settings(task), "compile": compiling})


WRITERS: Final[Mapping[Backend, Callable[[CellTask, Path], Content]]] = {
    Backend.TORCH_EAGER: _torch_eager,
    Backend.TORCH_COMPILE: _torch_compile,
    Backend.TORCH_COMPILE_MAX_AUTOTUNE: _torch_compile_max_autotune,
    Backend.TORCH_AOT_INDUCTOR: _torch_aot_inductor,
    Backend.ONNXRUNTIME: _onnxruntime,
    Backend.OPENVINO: _openvino,
    Backend.TENSORRT: _tensorrt,
}


def _copy_graph(task: CellTask, folder: Path) -> None:
    """Copy a graph, with the file that holds the tensors of a large one."""
    if task.artifacts.onnx is None:
        raise ValueError("The task names no graph: prepare it first.")
    for file in task.artifacts.onnx.parent.glob(f"{onnx_models.FILE}*"):
        shutil.copyfile(file, folder / file.name)


# ---- the folder ----------------------------------------------------------------------------------


def _write_programs(content: Content, folder: Path) -> None:
    for name, program in zip(PROGRAMS, (f"{content.loader}.py", "check.py"), strict=True):
        shutil.copyfile(LOADERS / program, folder / name)


def _requirements(task: CellTask, content: Content) -> Iterator[str]:
    """Name what load.py imports as pip installs it. A version's local part (+cpu) is of another index than pip's."""
    yield f"# What load.py imports: pip install -r {REQUIREMENTS}. Measured with Python {platform.python_version()}."
    more = ["ml_dtypes"] if content.loader == "tensorrt" and task.precision is Precision.BF16 else []
    libraries = {each.name: each.version for each in environment.installed(["numpy", *more])}
    left_out = _not_needed(task, content)
    lines = {}
    for name, version in {**libraries, **backends.find(task.backend).versions()}.items():
        if name not in left_out:
            wanted = FOR_CPUS.get(name, name) if task.device is Device.CPU else name
            lines[wanted] = _requirement(wanted, name, version)
    yield from lines.values()


def _not_needed(task: CellTask, content: Content) -> frozenset[str]:
    """Name what took part in the measurement and is imported neither by load.py nor by the code of the model."""
    if content.loader != "torch_recipe":
        return NOT_NEEDED.get(content.loader, frozenset())
    perhaps = frozenset({"torchvision"} if content.session["quantised"] else {"torchvision", "torchao"})
    return perhaps - _imported_by(task)


def _imported_by(task: CellTask) -> frozenset[str]:
    """Name the packages that the code of a model imports, the one that it stands in among them."""
    if task.model.python is None:
        return frozenset({"torchvision"})
    module = task.model.python.factory.partition(":")[0]
    return sources.packages(models.files(task.model, task.model_folder)) | {module.partition(".")[0]}


def _requirement(wanted: str, name: str, version: str) -> str:
    """Require what is on pip's own index and enough for the device; tell what was measured where that is another."""
    measured = version if wanted == name else f"{name} {version}"
    required = f"{wanted}=={version.partition('+')[0]}"
    return required if required == f"{name}=={version}" else f"{required}  # measured: {measured}"


def _described(task: CellTask, content: Content) -> dict[str, Any]:
    """Say what the artefact is and how it is run."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "cell": str(task.cell),
        "backend": task.backend,
        "precision": task.precision,
        "batchSize": task.batch_size,
        "device": task.device,
        "artifact": content.artifact,
        "session": dict(content.session),
        **content.more,
        "options": dict(task.options),
        "versions": {"python": platform.python_version(), **backends.find(task.backend).versions()},
    }


def _checked(task: CellTask, folder: Path) -> dict[str, Any]:
    """Keep examples with their reference answers, and say what goes in and comes out, and how exact it has to be."""
    read = task.artifacts
    if read.inputs is None or read.reference is None:
        raise ValueError("The task names no inputs or no reference: prepare them first.")
    wanted = max(task.batch_size, FEWEST_EXAMPLES)
    rows = np.arange(min(CHECKED_EXAMPLES, wanted, artifacts.example_count(read.inputs)))
    inputs, outputs = artifacts.read_rows(read.inputs, rows), artifacts.read_rows(read.reference, rows)
    named = {f"input:{name}": array for name, array in inputs.items()}
    named |= {f"output:{name}": array for name, array in outputs.items()}
    np.savez(folder / CHECK, allow_pickle=False, **named)

    def described(name: str, array: Any) -> dict[str, Any]:
        return {"name": name, "dtype": array.dtype.name, "shape": [task.batch_size, *array.shape[1:]]}

    limits = limits_for(task.precision, task.accuracy)
    return {
        "inputs": [described(*each) for each in inputs.items()],
        "outputs": [described(*each) for each in outputs.items()],
        "accuracy": {"maxRelativeL2": limits.max_relative_l2, "minCosine": limits.min_cosine},
    }


def _files(folder: Path) -> dict[str, Any]:
    """Return size and hash of every file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": artifacts.digest(file)}
        for file in files
    }


def _write_repository(name: str, task: CellTask, content: Content, folder: Path) -> None:
    """Write a model repository whose artefact is the same file, not a copy, where the file system can do that."""
    if task.artifacts.onnx is None:
        raise ValueError("The task names no graph: prepare it first.")
    place = folder / REPOSITORY / name
    (place / "1").mkdir(parents=True)
    for file in folder.glob(f"{content.artifact}*"):
        _link(file, place / "1" / file.name.replace(content.artifact, SERVED[content.loader]))
    inputs, outputs = _graph_tensors(task.artifacts.onnx)
    if content.loader == "tensorrt":
        text = triton.plan_config(name, inputs, outputs, task.batch_size)
    else:
        text = triton.onnx_config(name, inputs, outputs, task.batch_size, content.session)
    (place / "config.pbtxt").write_text(text)


def _graph_tensors(file: Path) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Read what goes into a graph and comes out of it."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [_tensor(value) for value in graph.input if value.name not in weights], list(map(_tensor, graph.output))


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    first, *rest = [dim.dim_value or None for dim in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Tensor(value.name, dtype, tuple(size or -1 for size in rest), first)


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def _require_free(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InferbenchError(f"{output} is there already and is not an empty folder. Give --output a new one.")


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Make a folder on the same disk, to be moved when it is complete; it is gone when it never is."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise EnvironmentFault(
            f"{output} cannot be written: {error.strerror or error}. Make room there or give --output another folder."
        ) from error


def _move(folder: Path, output: Path) -> None:
    """Give the folder its name; mkdtemp made it for one person only."""
    with suppress(FileNotFoundError):
        output.rmdir()
    folder.chmod(0o755)
    folder.rename(output)
