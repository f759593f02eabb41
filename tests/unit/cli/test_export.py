"""Which strategy is handed over, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inferbench_cli import export
from inferbench_cli.export import Wanted
from inferbench_contract import plan as plans
from inferbench_contract.errors import PlanError
from inferbench_contract.summary import Summary
from inferbench_contract.words import Doubt, Outcome
from tests.reports import summary_of
from tests.results import COMPILED, EAGER, ONNXRUNTIME, ended, measured, three_backends


def a_run(**told) -> Summary:
    """Four rounds of three strategies: eager 10 ms, compiled 5 ms, ONNX Runtime as told, or 8 ms."""
    latencies = {EAGER: 10, COMPILED: 5, ONNXRUNTIME: 8} | told

    def latency_of(strategy, batch_size, round_):
        said = latencies.get(str(strategy), latencies.get(strategy))
        return said if not isinstance(said, int) else measured(batch_size, said * (1 + 0.001 * round_))

    return summary_of(three_backends(batch_sizes=[1, 4]), latency_of)


def wanted(batch_size: int = 4, strategy: str | None = None) -> Wanted:
    return Wanted(Path("out"), batch_size, strategy, None, Path("handed"))


def test_without_a_strategy_it_is_the_best_at_the_batch_size():
    assert str(export.choose(a_run(), wanted()).cell) == "torch-compile/fp32@4"


def test_the_strategy_that_is_named_is_taken_though_another_is_faster():
    assert str(export.choose(a_run(), wanted(strategy="onnxruntime/fp32")).cell) == "onnxruntime/fp32@4"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param({"batch_size": 2}, "--batch-size is 2; out has the sizes 1, 4.", id="a size of another run"),
        pytest.param({"strategy": "onnxruntime"}, "expected a backend and a precision, such as", id="half a strategy"),
        pytest.param(
            {"strategy": "onnxruntime/fp16"}, "out has torch-eager/fp32, torch-compile/fp32, onnx", id="others"
        ),
    ],
)
def test_what_the_folder_does_not_have_is_told_with_what_it_has(asked, words):
    with pytest.raises(PlanError) as error:
        export.choose(a_run(), wanted(**asked))

    assert words in str(error.value)


def test_what_was_not_accurate_is_not_handed_over():
    wrong = ended(Outcome.INACCURATE, 4, "Relative L2 error 0.3 exceeds 0.0001.", latency_median_ns=1_000)
    found = a_run(**{str(ONNXRUNTIME): wrong})

    with pytest.raises(PlanError, match=r"onnxruntime/fp32@4 is Inaccurate \(Relative L2 error 0\.3 .*not exported"):
        export.choose(found, wanted(strategy="onnxruntime/fp32"))


def test_where_nothing_was_measured_there_is_nothing_to_hand_over():
    crashed = ended(Outcome.CRASHED, 4)
    found = a_run(**{str(strategy): crashed for strategy in (EAGER, COMPILED, ONNXRUNTIME)})

    with pytest.raises(PlanError, match="nothing measured at batch size 4"):
        export.choose(found, wanted())


def test_the_measurement_is_told_with_its_interval_and_its_doubts():
    doubtful = measured(4, 8, doubts=(Doubt.NOISY_NEIGHBOUR,), relative_l2_parts_per_billion=500)
    found = a_run(**{str(ONNXRUNTIME): doubtful})
    row = export.choose(found, wanted(strategy="onnxruntime/fp32"))

    told = export._about("resnet50", plans.expand(three_backends(batch_sizes=[1, 4])), {"hardware": "a CPU"}, row)

    said = told["measured"]
    assert (told["benchmark"], told["hardware"]) == ("resnet50", "a CPU")
    assert said["latencyLowNanoseconds"] <= said["latencyNanoseconds"] == 8_000_000 <= said["latencyHighNanoseconds"]
    assert said["speedupMilli"] == pytest.approx(1252, abs=2)
    assert (said["doubts"], said["relativeL2PartsPerBillion"]) == (["NoisyNeighbour"], 500)
    assert "top1AgreementBasisPoints" not in said


class TestModelFolder:
    def test_it_is_that_of_the_file_that_was_run_wherever_one_stands_now(self, tmp_path):
        asked = replace(wanted(), results=tmp_path / "results/mine")
        (tmp_path / "results/mine").mkdir(parents=True)

        assert export.model_folder(asked, {"modelFolder": "../../examples"}) == tmp_path / "examples"

    @pytest.mark.parametrize(("said", "found"), [("models", "models"), (None, ".")])
    def test_where_nobody_wrote_it_down_it_is_the_folder_that_is_named_or_this_one(self, said, found):
        asked = replace(wanted(), model_folder=said and Path(said))

        assert export.model_folder(asked, {}) == Path.cwd() / found

    def test_the_folder_that_is_named_counts(self):
        asked = replace(wanted(), model_folder=Path("models"))

        assert export.model_folder(asked, {"modelFolder": "../../examples"}) == Path.cwd() / "models"
