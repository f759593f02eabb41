"""Prints what `make test-models` found as Markdown: how near each converted graph of each model is to fp32.

    python benchmarks/models.py FOLDER MODEL...

FOLDER has a MODEL.xml for each of the models, which pytest writes of tests/runner/test_convert.py with --junitxml:
every graph was checked by ONNX's checker, loaded by ONNX Runtime and compared with the fp32 reference; those for
TensorRT were also parsed and built by TensorRT-RTX. bf16 graphs are computed in fp32 with each result rounded to bf16:
ONNX Runtime has no such kernels for CPUs. Exit status 1 where a graph was rejected, is too far off and not among those
that are known to be, or was not judged at all: a process that dies leaves no file, or one that lacks graphs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree as ET

import lab

from inferbench_contract.accuracy import LIMITS, MIN_EXAMPLES_FOR_TOP1
from inferbench_contract.words import Outcome, Precision
from inferbench_runner.accuracy import Accuracy, violation
from inferbench_runner.targets import AS_PREPARED, IMPOSSIBLE, Target

CONVERTED = re.compile(r"test_a_converted_graph_is_valid_and_near_to_fp32\[(?P<graph>.+)-(?P<model>\w+)\]")
BUILT = re.compile(r"test_the_builder_takes_the_graph\[(?P<graph>.+)-(?P<model>\w+)\]")

LIBRARIES = ("torch", "torchvision", "onnx", "onnxruntime-gpu", "tensorrt-rtx-cu13-bindings")

NOT_PASSED = ("failure", "error", "skipped")
"""What pytest puts into a test that did not pass."""

GRAPHS = frozenset(
    f"{target}-{precision}"
    for target in Target
    for precision in Precision
    if (target, precision) not in AS_PREPARED and (target, precision) not in IMPOSSIBLE
)
"""What each model is converted to."""

MEANING = """Written by `make test-models`. Distances are to fp32 eager, over 16 crops of photographs.
efficientnet_lite0 has trained weights and 256 crops, so that its first choices are compared too; the others have random
weights with calibrated batch norms. `as a cell` is what a cell with these distances comes out as (docs/measuring.md has
the limits). The last column has the fault of a graph that ONNX's checker refuses, ONNX Runtime does not load or that
is too far off: by bounds of the converters' own (tests/runner/test_convert.py), wider at 8 bits and narrower at 16."""


KNOWN = {
    ("efficientnet_lite0", "onnxruntime-cpu-int8-dynamic"): "scales found at every call ruin its convolutions",
    ("efficientnet_lite0", "tensorrt-fp8"): "three bits of mantissa are too few (0.43 with a scale for each channel)",
}
"""What is too far off and was looked into: as a cell it comes out as Inaccurate."""


@dataclass(frozen=True)
class Case:
    """One test of one graph of one model."""

    model: str
    graph: str
    properties: Mapping[str, str]
    fault: str
    """Empty where it passed."""


def cases(files: Sequence[Path], name: re.Pattern[str]) -> Iterator[Case]:
    """Yield the tests of this name."""
    for case in (each for file in files for each in ET.parse(file).getroot().iter("testcase")):
        if (named := name.fullmatch(case.get("name", ""))) is None:
            continue
        failed = next((found for each in NOT_PASSED if (found := case.find(each)) is not None), None)
        noted = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        fault = "" if failed is None else (failed.get("message") or "failed").splitlines()[0]
        yield Case(named["model"], named["graph"], noted, fault)


def accuracy_of(case: Case) -> Accuracy:
    """Return how far a graph was from fp32; without an agreement where too few examples chose, or chose the same."""
    told = case.properties
    examples, agreement = int(told["examples"]), told["top1_agreement"]
    means_something = examples >= MIN_EXAMPLES_FOR_TOP1 and agreement != "None"
    return Accuracy(
        examples=examples,
        relative_l2=float(told["relative_l2"]),
        worst_cosine=float(told["worst_cosine"]),
        top1_agreement=float(agreement) if means_something else None,
    )


def outcome(case: Case) -> Outcome:
    """Return what a cell with these distances would come out as."""
    precision = next(each for each in Precision if case.graph.endswith(f"-{each}"))
    broken = violation(accuracy_of(case), LIMITS[precision], gate_top1=True)
    return Outcome.INACCURATE if broken else Outcome.MEASURED


def row(case: Case) -> list[str]:
    """Return a case as a row of the table."""
    if "relative_l2" not in case.properties:
        return [case.model, case.graph, "", "", "", "", case.fault]
    found = accuracy_of(case)
    shown = "" if found.top1_agreement is None else f"{found.top1_agreement:.1%}"
    judged = f"too far off: {KNOWN.get((case.model, case.graph), 'why?')}" if case.fault else "ok"
    distances = [f"{found.relative_l2:.2g}", f"{found.worst_cosine:.5f}", shown]
    return [case.model, case.graph, *distances, outcome(case), judged]


def unjudged(models: Sequence[str], converted: Sequence[Case], built: Sequence[Case]) -> Iterator[str]:
    """Name what is in no file: graphs that each model is converted to, and those that were built of any other model."""
    of_tensorrt = {case.graph for case in built}
    if not of_tensorrt:
        yield "TensorRT-RTX built no graph: is it installed (the extra `dev`)?"
    for model in models:
        missing = GRAPHS - {case.graph for case in converted if case.model == model}
        unbuilt = of_tensorrt - {case.graph for case in built if case.model == model}
        if found := sorted([*missing, *(f"{graph} for TensorRT-RTX" for graph in unbuilt)]):
            yield f"{model} was not judged in {', '.join(found)}: its process died, see what it printed."


def main() -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    asked = parser.parse_args()
    files = [file for model in asked.models if (file := asked.folder / f"{model}.xml").is_file()]
    converted, built = list(cases(files, CONVERTED)), list(cases(files, BUILT))
    rejected = [case for case in built if case.fault]
    gaps = list(unjudged(asked.models, converted, built))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    print(f"# Converted graphs of real models\n\n{lab.machine()}; {versions}.\n\n{MEANING}\n")
    lab.table(["model", "graph", "relative L2", "cosine of the worst", "top-1", "as a cell", ""], map(row, converted))
    print(f"\nTensorRT-RTX parsed and built {len(built) - len(rejected)} of {len(built)} graphs for TensorRT.")
    for case in rejected:
        print(f"* {case.model}, {case.graph}: {case.fault}")
    for gap in gaps:
        print(f"* {gap}")
    unknown = [case for case in converted if case.fault and (case.model, case.graph) not in KNOWN]
    return 1 if rejected or unknown or gaps else 0


if __name__ == "__main__":
    sys.exit(main())
