"""PyTorch's 8-bit program is made by a process of its own, before any cell of its sweep: real processes and torchao."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inferbench_contract.plan import Plan, Sweep
from inferbench_contract.result import SweepResult
from inferbench_contract.spec import ModelSpec
from inferbench_contract.words import Backend, Outcome, Precision, Strategy
from inferbench_runner import programs, sweep
from inferbench_runner.backends import _int8_static
from tests import documents
from tests.runner import shared, test_backends, test_int8_static, tiny

STRATEGY = Strategy(Backend.TORCH_COMPILE, Precision.INT8_STATIC)

BATCH_SIZES = (1, 4)


@dataclass
class Began:
    """A sweep that somebody stops when its first cell has begun."""

    folder: Path
    delivered: list[SweepResult] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    programs: list[int] = field(default_factory=list)
    """How many programs there were whenever a cell began."""

    def run(self, model: ModelSpec) -> None:
        plan = planned(model)
        place = sweep.Place(
            model_folder=self.folder,
            cache=cache_of(model, self.folder),
            samples=None,
            logs=self.folder / "logs",
            tell=lambda event: self.told.append(event.get("stage", "")),
            is_asked_to_stop=lambda: bool(self.programs),
        )
        with suppress(sweep.AskedToStop):
            sweep.run(plan, sweep_of(plan), self.deliver, place)

    def deliver(self, result: SweepResult) -> None:
        self.delivered.append(result)
        if result.in_flight is not None:
            made = self.folder / "cache" / _int8_static.PROGRAMS
            self.programs.append(len(list(made.glob(f"*/{_int8_static.PROGRAM}"))))


def planned(model: ModelSpec) -> Plan:
    """Plan nothing but static 8 bits, compiled, on one thread."""
    return documents.scripted_plan(
        model=model.model_dump(mode="json", exclude_none=True),
        backends=[str(STRATEGY.backend)],
        precisions=[str(STRATEGY.precision)],
        batchSizes=list(BATCH_SIZES),
        cpu={"threads": test_int8_static.ONE_THREAD},
        backendOptions={},
    )


def sweep_of(plan: Plan) -> Sweep:
    return next(each for each in plan.sweeps if each.strategy == STRATEGY)


def cache_of(model: ModelSpec, folder: Path) -> Path:
    """Return a cache with nothing but the prepared model, which all tests share."""
    test_backends.tasks_of(model, folder, test_int8_static.WANTED, shared.cache())
    cache = folder / "cache"
    cache.mkdir()
    for kind in test_int8_static.WANTED:
        (cache / kind).symlink_to(shared.cache() / kind)
    return cache


def test_a_program_is_there_when_the_first_cell_begins(tmp_path):
    """So that no cell's time and memory are those of quantising, and the person who waits is told of it."""
    began = Began(tmp_path)

    began.run(tiny.a_model(tmp_path, planes=32))

    assert began.programs == [1]
    assert [stage for stage in began.told if stage] == ["quantising the model for PyTorch"]
    assert began.delivered[-1].prepare_ms > 0


def test_a_model_that_cannot_be_quantised_is_unsupported_at_every_batch_size_and_no_cell_begins(tmp_path):
    (tmp_path / "unreached.py").write_text(test_int8_static.UNREACHED)
    image = {"name": "image", "shape": [3, 32, 32]}
    began = Began(tmp_path)

    began.run(ModelSpec.model_validate({"python": {"factory": "unreached:make"}, "inputs": [image]}))

    cells = began.delivered[-1].cells
    assert began.programs == []
    assert {cell.batch_size: cell.outcome for cell in cells} == dict.fromkeys(BATCH_SIZES, Outcome.UNSUPPORTED)
    assert all(cell.reason.startswith("Int8Share: PyTorch's int8 layers would do 0.") for cell in cells)


@pytest.mark.parametrize(
    ("strategy", "needed"),
    [
        ("torch-compile/int8-static", True),
        ("torch-aot-inductor/int8-static", True),
        ("torch-compile/int8-dynamic", False),
        ("onnxruntime/int8-static", False),
        ("openvino/int8-static", False),
    ],
)
def test_programs_are_of_static_8_bits_in_pytorch(strategy, needed):
    assert programs.is_needed(Strategy.parse(strategy)) is needed
