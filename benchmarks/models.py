"""Prints what `make test-models` found as Markdown: how near each converted graph of each model is to fp32.

    python benchmarks/models.py RESULTS.xml...

RESULTS.xml are what pytest writes of tests/runner/test_convert.py with --junitxml: every graph was checked by ONNX's
checker, loaded by ONNX Runtime and compared with the fp32 reference; those for TensorRT were also parsed and built by
TensorRT-RTX. bf16 graphs are computed in fp32 with each result rounded to bf16: ONNX Runtime has no such kernels for
CPUs. Exit status 1 where one was rejected, or is too far off and is not among those that are known to be.
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

CONVERTED = re.compile(r"test_a_converted_graph_is_valid_and_near_to_fp32\[(?P<graph>.+)-(?P<model>\w+)\]")
BUILT = re.compile(r"test_the_builder_takes_the_graph\[(?P<graph>.+)-(?P<model>\w+)\]")

LIBRARIES = ("torch", "torchvision", "onnx", "onnxruntime-gpu", "tensorrt-rtx-cu13-bindings")

MEANING = """Written by `make test-models`. Distances are to fp32 eager, over 16 crops of photographs.
efficientnet_lite0 has trained weights and 256 crops, so that its first choices are compared too; the others have random
weights with calibrated batch norms. A graph that ONNX's checker refuses, that ONNX Runtime does not load or that is too
far off has its fault in the last column. The bounds here are those of the converters (tests/runner/test_convert.py); a
cell is judged by its top-1 agreement too where its model is trained: int8 of efficientnet_lite0 is Inaccurate there."""


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
        if (found := name.fullmatch(case.get("name", ""))) is None:
            continue
        failed = case.find("failure") if case.find("failure") is not None else case.find("error")
        noted = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        fault = "" if failed is None else (failed.get("message") or "failed").splitlines()[0]
        yield Case(found["model"], found["graph"], noted, fault)


def row(case: Case) -> list[str]:
    """Return a case as a row of the table."""
    if "relative_l2" not in case.properties:
        return [case.model, case.graph, "", "", "", case.fault]
    told = case.properties
    agreement = told["top1_agreement"] if int(told["examples"]) >= 256 and told["top1_agreement"] != "None" else ""
    shown = f"{float(agreement):.1%}" if agreement else ""
    error, cosine = float(told["relative_l2"]), float(told["worst_cosine"])
    judged = f"too far off: {KNOWN.get((case.model, case.graph), 'why?')}" if case.fault else "ok"
    return [case.model, case.graph, f"{error:.2g}", f"{cosine:.5f}", shown, judged]


def main() -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    files = parser.parse_args().results
    converted, built = list(cases(files, CONVERTED)), list(cases(files, BUILT))
    rejected = [case for case in built if case.fault]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    print(f"# Converted graphs of real models\n\n{lab.machine()}; {versions}.\n\n{MEANING}\n")
    lab.table(["model", "graph", "relative L2", "cosine of the worst", "top-1", ""], map(row, converted))
    print(f"\nTensorRT-RTX parsed and built {len(built) - len(rejected)} of {len(built)} graphs for TensorRT.")
    for case in rejected:
        print(f"* {case.model}, {case.graph}: {case.fault}")
    unknown = [case for case in converted if case.fault and (case.model, case.graph) not in KNOWN]
    return 1 if rejected or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
