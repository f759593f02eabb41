"""The convert process: makes a graph of another precision. `python -m inferbench_runner.convert REQUEST ANSWER`.

Like prepare, the supervisor asks `locate` first and starts the process when something is missing; the process ends with
status 0 whenever its answer says what came of it. It imports no PyTorch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from inferbench_contract.plan import Work
from inferbench_contract.spec import Calibration
from inferbench_contract.words import Precision, Strategy
from inferbench_runner import answers, artifacts, calibration, environment, onnx_models
from inferbench_runner.backends import Unsupported
from inferbench_runner.targets import AS_PREPARED, IMPOSSIBLE, TARGETS, WITHOUT_MAX_POOL, Target, kept_fp32
from inferbench_runner.task import Artifacts

if TYPE_CHECKING:
    from inferbench_runner.quantise import Ranges

GRAPHS: Final = "graphs"
CALIBRATION: Final = "calibration"
"""Kinds of cache entries: converted graphs, and the ranges of tensors, which several of them share."""

RANGES: Final = "ranges.json"

FUSED: Final = "fused"
TIDY: Final = "tidy"
"""The two forms of a graph that are calibrated. What is called the same in both is the same numbers."""

LIBRARIES: Final = ("ml-dtypes", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "pillow", "scikit-image")
MODULES: Final = tuple(
    f"inferbench_runner.{name}"
    for name in (
        "calibration",
        "convert",
        "graphs",
        "halves",
        "inputs",
        "models",
        "onnx_models",
        "photographs",
        "pools",
        "quantise",
        "residuals",
        "targets",
        "work",
    )
)
"""What decides the content of a converted graph: the installed versions of libraries, and our own code as it is."""

CALIBRATED: Final = frozenset({Precision.INT8_STATIC, Precision.FP8})


class Request(BaseModel):
    """What to convert, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnx: Path
    """The prepared fp32 graph, in its cache entry."""
    inputs: Path
    """The prepared evaluation inputs, in theirs: calibration uses others of the same kind."""
    cache: Path
    precision: Precision
    target: Target
    calibration: Calibration = Calibration.MINMAX
    rest: Literal[Precision.FP32, Precision.FP16, Precision.BF16] = Precision.FP16
    """What TensorRT computes in where nothing is quantised; fp32 there would cost most of what 8 bits gain."""


def is_needed(precision: Precision, target: Target) -> bool:
    """Tell whether a precision has a graph of its own; else the prepared one serves."""
    return (target, precision) not in AS_PREPARED


def request_for(strategy: Strategy, work: Work, prepared: Artifacts, cache: Path) -> Request | None:
    """Return what to ask for so that a strategy has its graph; None where what is prepared serves."""
    target = TARGETS.get((strategy.backend, work.device))
    if target is None or not is_needed(strategy.precision, target):
        return None
    wanted = {
        "onnx": prepared.onnx,
        "inputs": prepared.inputs,
        "cache": cache,
        "precision": strategy.precision,
        "target": target,
        "calibration": work.quantization.calibration,
    }
    return Request.model_validate(wanted)


def locate(request: Request) -> Artifacts | None:
    """Return the converted graph if it is in the cache and sound. The prepared artifacts must be there."""
    entry = artifacts.open_entry(request.cache, GRAPHS, _key(request))
    return None if entry is None else Artifacts(onnx=entry / onnx_models.FILE)


def command(request: Request, request_file: Path, answer_file: Path) -> Sequence[str]:
    """Write the request, and return the command line of the process that converts it."""
    return answers.command("inferbench_runner.convert", request, request_file, answer_file)


def main(arguments: Sequence[str]) -> int:
    """Convert what the request asks for and write the answer; always 0."""
    return answers.serve(arguments, Request, make)


def make(request: Request) -> Artifacts:
    """Make the graph here and now if it is missing. Raises Unsupported where it cannot be made soundly."""
    reason = IMPOSSIBLE.get((request.target, request.precision))
    if reason is not None:
        raise Unsupported(reason)
    entry = artifacts.publish(request.cache, GRAPHS, _key(request), lambda folder: _write(request, folder))
    return Artifacts(onnx=entry / onnx_models.FILE)


def _write(request: Request, folder: Path) -> None:
    """Convert, check and save."""
    import onnx

    size = sum(file.stat().st_size for file in request.onnx.parent.iterdir())
    if size > onnx_models.MAX_PROTOBUF_BYTES:
        raise Unsupported(f"TooLarge: the graph has {size >> 20} MiB, and ONNX's tools convert what fits in 2 GiB.")
    artifacts.require_space(request.cache, size)
    answers.say(f"converting to {request.precision} for {request.target}")
    converted = _converted(request, onnx.load(request.onnx))
    try:
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise Unsupported(f"NotSound: the converted graph is not valid ONNX: {error}") from error
    onnx_models.save(converted, folder)


def _converted(request: Request, model: Any) -> Any:
    from inferbench_runner import halves, quantise

    match request.precision:
        case Precision.FP16 | Precision.BF16:
            readable = _readable(request, model)
            return halves.convert(readable, request.precision, kept_fp32(request.target, request.precision))
        case Precision.INT8_DYNAMIC:
            return quantise.dynamic(quantise.fused(model))
        case Precision.INT8_STATIC | Precision.FP8 if request.target is Target.TENSORRT:
            return _explicit(request, model)
        case Precision.INT8_STATIC:
            fused = quantise.fused(model)
            return quantise.for_cpu(fused, _ranges(request, FUSED, fused, quantise.cpu_tensors(fused)))
    raise Unsupported(f"NoConversion: there is no {request.precision} graph for {request.target}.")


def _readable(request: Request, model: Any) -> Any:
    """Write an fp32 graph with operators that its reader has at the opset of the precision."""
    from inferbench_runner import graphs, halves, pools

    if (request.target, request.precision) not in WITHOUT_MAX_POOL:
        return model
    return pools.as_maxima(graphs.tidy(model, halves.HALVES[request.precision].min_opset))


def _explicit(request: Request, model: Any) -> Any:
    """Quantise for TensorRT, and convert what is left."""
    from inferbench_runner import graphs, halves, quantise

    tidy = graphs.tidy(model, quantise.MIN_OPSET)
    ranges = _ranges(request, TIDY, tidy, quantise.explicit_tensors(tidy))
    grid = quantise.E4M3 if request.precision is Precision.FP8 else quantise.INT8
    quantised = quantise.explicit(tidy, ranges, grid)
    if request.rest is Precision.FP32:
        return quantised
    return halves.convert(quantised, request.rest, kept_fp32(request.target, request.rest))


def _ranges(request: Request, form: str, model: Any, names: Sequence[str]) -> Ranges:
    """Return the ranges of these tensors, and perhaps of more, of a graph in one of the two forms.

    They are found now if they are not in the cache. The fused form is calibrated for all its tensors, so that after it
    there is usually nothing left to be found for the other one.
    """

    def write(folder: Path) -> None:
        answers.say(f"calibrating for {request.precision}")
        found = calibration.ranges(model, names, calibration.examples(request.inputs), request.calibration)
        (folder / RANGES).write_text(json.dumps(found))

    fused = artifacts.open_entry(request.cache, CALIBRATION, _ranges_key(request, FUSED))
    known = {} if fused is None else _read_ranges(fused)
    if known.keys() >= set(names):
        return known
    return _read_ranges(artifacts.publish(request.cache, CALIBRATION, _ranges_key(request, form), write))


def _ranges_key(request: Request, form: str) -> str:
    content = {"onnx": _content(request.onnx.parent), "form": form, **_calibration(request), **_makers()}
    return artifacts.key(content)


def _read_ranges(entry: Path) -> Ranges:
    return {name: (low, high) for name, (low, high) in json.loads((entry / RANGES).read_bytes()).items()}


def _calibration(request: Request) -> Mapping[str, str]:
    return {"inputs": _content(request.inputs), "calibration": request.calibration}


def _key(request: Request) -> str:
    """Hash everything that decides the graph; targets that want the same graph share it."""
    recipe: dict[str, Any] = {"precision": request.precision}
    if request.precision in CALIBRATED:
        recipe |= _calibration(request)
    explicit = request.precision in CALIBRATED and request.target is Target.TENSORRT
    if explicit:
        recipe["rest"] = request.rest
    recipe["kept"] = sorted(kept_fp32(request.target, request.rest if explicit else request.precision))
    return artifacts.key({"onnx": _content(request.onnx.parent), "recipe": recipe, **_makers()})


def _content(entry: Path) -> str:
    """Hash an entry by its manifest, which holds the hash of each file and was checked when the entry was found."""
    return artifacts.digest(entry / artifacts.MANIFEST)


def _makers() -> Mapping[str, Any]:
    """Tell with what is converted: our own code as it is, so that a change of it makes no use of older graphs."""
    return environment.makers(MODULES, LIBRARIES)


if __name__ == "__main__":
    main(sys.argv[1:])
    answers.end()
