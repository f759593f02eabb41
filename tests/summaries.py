"""Documents of summaries at both ends: one that says all that there is to say, and ones that are as large as can be."""

from __future__ import annotations

from typing import Any

from inferbench_contract import plan as plans
from inferbench_contract.status import Seconds
from inferbench_contract.summary import summarize
from inferbench_contract.words import Doubt, Outcome
from tests.results import COMPILED, EAGER, ONNXRUNTIME, ended, measured, results_for, three_backends

WOBBLE = (0.98, 1.02, 1.02, 0.98)


NO_TIME = Seconds(preparing=0, warming_up=0, measuring=0, other=0, idle=0)


def everything() -> dict[str, Any]:
    """The document of a run in which everything happened that a summary tells of."""
    expectation = {"name": "it", "faster": "torch-compile/fp32", "than": "torch-eager/fp32", "batch_sizes": [1]}
    benchmark = three_backends(batch_sizes=[1, 8], expectations=[expectation])

    def latency_of(strategy, size, r):
        if (strategy, size) == (COMPILED, 8):
            return ended(Outcome.CRASHED, size, reason="Signal: 11")
        latency = {EAGER: 30, COMPILED: 10.1 * WOBBLE[r], ONNXRUNTIME: 10}[strategy]
        return measured(size, latency, doubts=(Doubt.UNSETTLED,))

    return _document(benchmark, latency_of, hardware="A CPU", fingerprint="1")


def over_full() -> dict[str, Any]:
    """The document of 64 batch sizes, most of whose entries are brief, and of 64 expectations and long failures."""
    expectations = [
        {"name": f"expectation-{i}-{'x' * 40}", "faster": "torch-compile/fp32", "than": "torch-eager/fp32"}
        for i in range(64)
    ]
    benchmark = three_backends(batch_sizes=[*range(1, 65)], expectations=expectations)

    def latency_of(strategy, size, _r):
        if strategy == ONNXRUNTIME:
            return ended(Outcome.CRASHED, size, reason="Signal: 11. " + "It printed this. " * 30)
        return size * (10 if strategy == EAGER else 7)

    return _document(benchmark, latency_of, hardware="A processor of a very long name " * 10)


def _document(benchmark, latency_of, **result) -> dict[str, Any]:
    plan = plans.expand(benchmark)
    return summarize(benchmark, plan, results_for(plan, latency_of, **result)).document()
