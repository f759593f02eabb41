"""The process that quantises a model for PyTorch: `python -m inferbench_runner.programs TASK ANSWER`.

What it is asked for is the task of a cell that computes such a program; any batch size has the same one. Like prepare
and convert, the supervisor asks `locate` first and starts the process when there is none: a cell only loads it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from inferbench_contract.words import Precision, Strategy
from inferbench_runner import answers, backends
from inferbench_runner.backends import Artifact, _int8_static
from inferbench_runner.task import Artifacts, CellTask


def is_needed(strategy: Strategy) -> bool:
    """Tell whether a strategy computes a program: static 8 bits of a model that is read from its weights."""
    reads_weights = Artifact.WEIGHTS in backends.find(strategy.backend).ARTIFACTS
    return reads_weights and strategy.precision is Precision.INT8_STATIC


def locate(task: CellTask) -> Artifacts | None:
    """Return what the cell reads if its program is in the cache and sound."""
    return None if _int8_static.locate(task) is None else task.artifacts


def command(task: CellTask, task_file: Path, answer_file: Path) -> Sequence[str]:
    """Write the task, and return the command line of the process that makes its program."""
    return answers.command("inferbench_runner.programs", task, task_file, answer_file)


def main(arguments: Sequence[str]) -> int:
    """Make the program of the task and write the answer; always 0."""
    return answers.serve(arguments, CellTask, make)


def make(task: CellTask) -> Artifacts:
    """Make the program here and now if it is missing. Raises Unsupported where that cannot be."""
    from inferbench_runner.backends import _torch

    _torch.set_up(task)
    _torch.program(task)
    return task.artifacts


if __name__ == "__main__":
    main(sys.argv[1:])
    answers.end()
