"""The metrics, where their values are known in closed form, and the gate over a session that a script drives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inferbench_contract.accuracy import AccuracyLimits
from inferbench_contract.words import Precision
from inferbench_runner import accuracy, artifacts, gate
from inferbench_runner.accuracy import Accuracy
from inferbench_runner.task import Artifacts
from tests.fakes import ScriptedClock

LIMITS = AccuracyLimits(max_relative_l2=0.01, min_cosine=0.999, min_top1_agreement=0.99)

SIZES = st.floats(2**-10, 100, width=32)
NUMBERS = arrays.arrays(np.float32, (5, 7), elements=SIZES | SIZES.map(lambda size: -size))


def judged(outputs, reference, *, batches: int = 1) -> Accuracy:
    parts = zip(np.array_split(outputs, batches), np.array_split(reference, batches), strict=True)
    rows = np.array_split(np.arange(len(outputs)), batches)
    return accuracy.judge(
        [accuracy.differences({"y": a}, {"y": b}, r) for (a, b), r in zip(parts, rows, strict=True)],
    )


def agreement_of_equals(reference) -> float | None:
    """Outputs that are the reference agree with it everywhere, if it chooses more than one class."""
    return 1 if len(set(reference.argmax(axis=1))) > 1 else None


class TestErrorRatio:
    """How far outputs are from fp64, measured in how far the fp32 reference is from it."""

    EXACT = np.array([[1.0, 2.0], [3.0, 4.0]])
    ROWS = np.arange(4)

    def ratio(self, ours, theirs, rows=ROWS, exact=EXACT):
        outputs, reference = ({"y": np.asarray(array)} for array in (ours, theirs))
        return accuracy.error_ratio([accuracy.excess(outputs, reference, {"y": exact}, rows)])

    def off_by(self, distance):
        """Four examples; fp64 answered the first two."""
        return np.concatenate([self.EXACT + distance, np.full((2, 2), 1e6)])

    def test_twice_as_far_as_the_reference_is_two(self):
        assert self.ratio(self.off_by(2e-6), self.off_by(-1e-6)) == pytest.approx(2, rel=1e-6)

    def test_the_reference_itself_is_one(self):
        assert self.ratio(self.off_by(3e-7), self.off_by(3e-7)) == 1

    def test_only_examples_that_fp64_answered_count_wherever_they_stand(self):
        order = np.array([3, 1, 2, 0])

        assert self.ratio(self.off_by(2e-6)[order], self.off_by(1e-6)[order], order) == pytest.approx(2, rel=1e-6)

    def test_without_such_examples_nothing_is_said(self):
        assert self.ratio(self.off_by(1)[2:], self.off_by(1)[2:], np.array([2, 3])) is None

    def test_where_the_reference_is_exact_nothing_is_said(self):
        assert self.ratio(self.off_by(1e-6), self.off_by(0)) is None

    def test_it_is_carried_in_thousandths(self):
        assert Accuracy(examples=8, error_ratio=1.2345).error_ratio_milli == 1234
        assert Accuracy(examples=8).error_ratio_milli is None


class TestMetrics:
    @given(NUMBERS)
    def test_a_session_that_answers_as_the_reference_is_not_off_at_all(self, reference):
        found = judged(reference, reference)

        assert found.relative_l2 == 0
        assert found.top1_agreement == agreement_of_equals(reference)
        assert math.isclose(found.worst_cosine, 1, rel_tol=1e-12)

    @given(NUMBERS, st.integers(-8, 8).map(lambda exponent: 2.0**exponent))
    def test_a_multiple_is_off_by_the_factor_less_one_and_has_the_same_direction(self, reference, factor):
        found = judged(np.float32(factor) * reference, reference)

        assert math.isclose(found.relative_l2, abs(factor - 1), rel_tol=1e-9)
        assert math.isclose(found.worst_relative_l2, abs(factor - 1), rel_tol=1e-9)
        assert math.isclose(found.worst_cosine, 1, rel_tol=1e-12)
        assert found.top1_agreement == agreement_of_equals(reference)

    @given(NUMBERS)
    def test_the_opposite_has_cosine_minus_one(self, reference):
        assert math.isclose(judged(-reference, reference).worst_cosine, -1, rel_tol=1e-12)

    @given(NUMBERS, NUMBERS, st.integers(2, 5))
    def test_batches_do_not_matter(self, outputs, reference, batches):
        whole, parts = judged(outputs, reference), judged(outputs, reference, batches=batches)

        assert math.isclose(whole.relative_l2, parts.relative_l2, rel_tol=1e-12)
        assert replace(whole, relative_l2=0) == replace(parts, relative_l2=0)

    def test_over_all_examples_is_not_the_mean_of_the_examples(self):
        reference = np.array([[3.0, 4.0], [0.0, 10.0]], np.float32)
        outputs = reference + np.array([[0.0, 1.0], [0.0, 0.0]], np.float32)

        found = judged(outputs, reference)

        assert math.isclose(found.relative_l2, math.sqrt(1 / 125), rel_tol=1e-9)
        assert math.isclose(found.worst_relative_l2, 1 / 5, rel_tol=1e-9)
        assert found.worst_example == 0

    def test_the_worst_example_is_named_by_its_number_in_the_whole_set(self):
        reference = np.ones((6, 3), np.float32)
        outputs = reference.copy()
        outputs[4, 0] = 2

        found = judged(outputs, reference, batches=3)

        assert found.worst_example == 4
        assert math.isclose(found.worst_cosine, 4 / math.sqrt(3 * 6), rel_tol=1e-9)

    def test_the_lowest_cosine_is_that_of_its_own_example(self):
        """The second is three times too long and points the same way; the third is turned a little."""
        reference = np.ones((3, 2), np.float32)
        outputs = reference * np.array([[1, 1], [3, 3], [1, 1.5]], np.float32)

        found = judged(outputs, reference)

        assert (found.worst_example, found.lowest_cosine_example) == (1, 2)
        assert math.isclose(found.worst_cosine, 2.5 / math.sqrt(2 * 3.25), rel_tol=1e-6)

    @pytest.mark.parametrize(
        ("cosine", "carried"), [(1.0, 1_000_000), (0.9981234, 998_123), (0.0, 0), (-0.5, 0), (1 + 1e-16, 1_000_000)]
    )
    def test_a_cosine_is_carried_in_millionths_and_never_below_0(self, cosine, carried):
        assert Accuracy(examples=8, worst_cosine=cosine).worst_cosine_parts_per_million == carried

    def test_of_several_outputs_the_worst_counts(self):
        good, bad = np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)
        outputs, reference = {"good": good, "bad": 3 * bad}, {"good": good, "bad": bad}

        found = accuracy.judge([accuracy.differences(outputs, reference, np.arange(2))])

        assert math.isclose(found.relative_l2, 2, rel_tol=1e-9)

    def test_sums_are_of_double_precision(self):
        reference = np.full((1, 1 << 20), 1e-4, np.float32)
        outputs = reference.copy()
        outputs[0, 0] += np.float32(1e-6)

        assert math.isclose(judged(outputs, reference).relative_l2, 1e-6 / (1e-4 * 1024), rel_tol=1e-2)

    def test_agreement_counts_examples(self):
        reference = np.eye(4, dtype=np.float32)
        outputs = reference[[0, 1, 2, 0]]

        assert judged(outputs, reference).top1_agreement == 3 / 4
        assert judged(outputs, reference).top1_agreement_basis_points == 7500

    @pytest.mark.parametrize("batches", [1, 2, 4])
    def test_a_reference_that_chooses_one_class_for_everything_has_no_top1(self, batches):
        reference = np.array([[0, 1, 0]] * 4, np.float32)
        outputs = np.array([[0, 1, 0]] * 3 + [[1, 0, 0]], np.float32)

        assert judged(outputs, reference, batches=batches).top1_agreement is None

    def test_first_choices_are_compared_over_all_batches_of_which_each_has_one(self):
        reference = np.array([[1, 0]] * 2 + [[0, 1]] * 2, np.float32)
        outputs = np.array([[1, 0]] * 2 + [[0, 1], [1, 0]], np.float32)

        assert judged(outputs, reference, batches=2).top1_agreement == 3 / 4

    def test_an_output_with_one_first_choice_leaves_the_agreement_to_the_others(self):
        same, other = np.array([[0, 1]] * 4, np.float32), np.eye(4, dtype=np.float32)
        outputs, reference = {"a": same, "b": other[[0, 1, 2, 0]]}, {"a": same, "b": other}

        found = accuracy.judge([accuracy.differences(outputs, reference, np.arange(4))])

        assert found.top1_agreement == 3 / 4

    @pytest.mark.parametrize(
        "reference",
        [
            pytest.param(np.ones((2, 1), np.float32), id="one number"),
            pytest.param(np.ones((2, 3, 4, 4), np.float32), id="a score for each pixel"),
            pytest.param(np.ones((2, 9), np.int64), id="integers"),
        ],
    )
    def test_only_one_score_for_each_class_has_a_top1(self, reference):
        assert judged(reference, reference).top1_agreement is None

    def test_nothing_is_as_good_as_nothing_and_infinitely_far_from_something(self):
        nothing, something = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)

        assert (judged(nothing, nothing).relative_l2, judged(nothing, nothing).worst_cosine) == (0, 1)
        assert (judged(something, nothing).relative_l2, judged(something, nothing).worst_cosine) == (math.inf, 0)
        assert judged(something, nothing).relative_l2_parts_per_billion == accuracy.LARGEST_PARTS_PER_BILLION

    def test_examples_that_come_twice_are_counted_once(self):
        ones = np.ones((4, 3), np.float32)

        assert accuracy.judge([accuracy.differences({"y": ones}, {"y": ones}, np.arange(4) % 2)]).examples == 2


class TestMismatch:
    @pytest.mark.parametrize(
        ("outputs", "fault"),
        [
            pytest.param({"z": np.zeros((2, 3), np.float32)}, "the outputs are z and should be y", id="another name"),
            pytest.param({"y": np.zeros((2, 4), np.float32)}, "has the shape 2 x 4 and should have 2 x 3", id="shape"),
            pytest.param({"y": np.zeros((2, 3))}, "is float64 and should be float32", id="type"),
            pytest.param(
                {"y": np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)},
                "has NaN or infinity in 1 of 2 examples",
                id="NaN",
            ),
            pytest.param({"y": np.full((2, 3), np.inf, np.float32)}, "in 2 of 2 examples", id="infinity"),
        ],
    )
    def test_it_says_what_is_wrong(self, outputs, fault):
        assert fault in str(accuracy.mismatch(outputs, {"y": np.zeros((2, 3), np.float32)}))

    def test_what_fits_has_no_fault(self):
        reference = {"y": np.zeros((2, 3), np.float32)}

        assert accuracy.mismatch(reference, reference) is None


class TestViolation:
    @pytest.mark.parametrize(
        ("found", "sentence"),
        [
            pytest.param(Accuracy(256, relative_l2=0.01, top1_agreement=0.99), None, id="at the limits nothing"),
            pytest.param(
                Accuracy(256, relative_l2=0.0123, worst_example=7),
                "Relative L2 error 0.012 exceeds 0.01 (over 256 examples, the worst is example 7).",
                id="too far",
            ),
            pytest.param(
                Accuracy(8, worst_cosine=0.9, worst_example=7, lowest_cosine_example=3),
                "Cosine 0.900000 is below 0.999000 (over 8 examples, the worst is example 3).",
                id="another direction",
            ),
            pytest.param(
                Accuracy(256, relative_l2=0.0123, worst_example=12, are_crops=True),
                "Relative L2 error 0.012 exceeds 0.01 (over 256 examples, the worst is crop 3 of astronaut).",
                id="too far from an image that has a name",
            ),
            pytest.param(
                Accuracy(256, worst_cosine=0.9, worst_example=12, lowest_cosine_example=11, are_crops=True),
                "Cosine 0.900000 is below 0.999000 (over 256 examples, the worst is crop 2 of rocket).",
                id="another direction than that of an image",
            ),
            pytest.param(
                Accuracy(256, top1_agreement=0.96875),
                "Top-1 agreement 96.88% is below 99.00% (over 256 examples).",
                id="other answers",
            ),
            pytest.param(Accuracy(255, top1_agreement=0.5), None, id="too few examples for an agreement"),
            pytest.param(Accuracy(4, fault="its words"), "Wrong outputs: its words.", id="a fault comes first"),
        ],
    )
    def test_it_says_which_limit_is_broken(self, found, sentence):
        assert accuracy.violation(found, LIMITS, gate_top1=True) == sentence

    def test_random_weights_have_no_top1(self):
        assert accuracy.violation(Accuracy(256, top1_agreement=0.0), LIMITS, gate_top1=False) is None


@dataclass
class DoublingSession:
    """Answers twice its input, unless a test makes it do something else."""

    bound: np.ndarray
    clock: ScriptedClock = field(default_factory=ScriptedClock)
    answer: np.ndarray | None = None
    factor: float = 2
    rounds_to: type = np.float32
    is_stale: bool = False
    changes_inputs: bool = False
    call_ns: int = 0
    seen: list[list[int]] = field(default_factory=list)

    def enqueue(self):
        self.clock.advance(self.call_ns)
        self.seen.append([int(x) for x in self.bound.reshape(len(self.bound), -1)[:, 0]])
        if self.answer is None or not self.is_stale:
            self.answer = np.float32(self.factor) * self.bound.astype(self.rounds_to).astype(np.float32)
        if self.changes_inputs:
            self.bound += 1

    def synchronize(self):
        pass

    def device_time_ns(self):
        return None

    def load_batch(self, inputs):
        self.bound[...] = inputs["x"]

    def inputs(self):
        return {"x": self.bound.copy()}

    def outputs(self):
        return {"y": self.answer.copy()}


@dataclass(frozen=True)
class Task:
    """The part of a cell's task that the gate reads."""

    batch_size: int
    artifacts: Artifacts
    precision: Precision = Precision.FP32


@pytest.fixture
def a_task(tmp_path):
    def make(batch_size: int, examples: int) -> Task:
        numbers = np.arange(examples, dtype=np.float32)[:, None] + np.array([[0, 100]], np.float32)
        for name, made in (("inputs", {"x": numbers}), ("reference", {"y": 2 * numbers})):
            (tmp_path / name).mkdir()
            artifacts.write_arrays(tmp_path / name, made)
        return Task(batch_size, Artifacts(inputs=tmp_path / "inputs", reference=tmp_path / "reference"))

    return make


def a_session(task: Task, **behaviour) -> DoublingSession:
    return DoublingSession(gate.first_batch(task)["x"].copy(), **behaviour)


class TestGate:
    @pytest.mark.parametrize("batch_size", [1, 3, 5, 12, 24, 30])
    def test_a_full_check_sees_every_example_and_begins_behind_the_batch_that_was_timed(self, a_task, batch_size):
        task = a_task(batch_size, 12)
        session = a_session(task)

        found = gate.check(session, task, full=True)

        assert found.examples == 12
        assert found.relative_l2 == 0
        assert {row for batch in session.seen[1:] for row in batch} == set(range(12))
        assert session.seen[1] != session.seen[0]

    @pytest.mark.parametrize(("batch_size", "calls"), [(1, 8), (3, 3), (8, 1), (32, 1)])
    def test_a_short_check_sees_at_least_8_examples_in_as_few_calls_as_that_takes(self, a_task, batch_size, calls):
        task = a_task(batch_size, 32)
        session = a_session(task)

        found = gate.check(session, task, full=False)

        assert found.examples >= 8
        assert len(session.seen) == 1 + calls

    def test_a_full_check_of_a_slow_session_ends_when_the_time_is_up_with_at_least_8_examples(self, a_task):
        task = a_task(1, 256)
        session = a_session(task, call_ns=gate.LIMIT_NS)

        found = gate.check(session, task, full=True, clock=session.clock)

        assert found.examples == 8

    def test_examples_that_are_images_have_names(self, tmp_path):
        images = {"x": np.zeros((12, 3, 32, 32), np.float32) + np.arange(12, dtype=np.float32)[:, None, None, None]}
        for name in ("inputs", "reference"):
            (tmp_path / name).mkdir()
            artifacts.write_arrays(tmp_path / name, images if name == "inputs" else {"y": 2 * images["x"]})
        task = Task(4, Artifacts(inputs=tmp_path / "inputs", reference=tmp_path / "reference"))

        found = gate.check(a_session(task), task, full=True)

        assert found.called(7) == "crop 2 of camera"

    def test_other_examples_have_numbers(self, a_task):
        task = a_task(4, 12)

        assert gate.check(a_session(task), task, full=True).called(7) == "example 7"

    def test_an_error_is_measured(self, a_task):
        task = a_task(4, 12)

        found = gate.check(a_session(task, factor=2.002), task, full=True)

        assert math.isclose(found.relative_l2, 1e-3, rel_tol=1e-3)

    def test_a_session_that_answers_from_memory_is_found_out(self, a_task):
        task = a_task(4, 12)

        found = gate.check(a_session(task, is_stale=True), task, full=True)

        assert found.fault == "the outputs stayed the same when the inputs changed"

    def test_a_session_that_cannot_tell_two_examples_apart_answers_both_alike_and_is_right(self, tmp_path):
        """They differ by what half precision rounds away, as two bags of the same words do."""
        x = np.float32([[1], [2], [2 + 1e-6], [3]] * 3)
        for name, made in (("inputs", {"x": x}), ("reference", {"y": 2 * x})):
            (tmp_path / name).mkdir()
            artifacts.write_arrays(tmp_path / name, made)
        task = Task(1, Artifacts(inputs=tmp_path / "inputs", reference=tmp_path / "reference"))

        found = gate.check(a_session(task, rounds_to=np.float16), task, full=True)

        assert found.fault is None
        assert found.relative_l2 < 1e-5

    def test_a_session_that_changes_its_inputs_is_found_out(self, a_task):
        task = a_task(4, 12)

        found = gate.check(a_session(task, changes_inputs=True), task, full=False)

        assert found.fault == "the call changed its inputs"

    def test_nan_is_a_fault_and_no_number(self, a_task):
        task = a_task(4, 12)

        found = gate.check(a_session(task, factor=math.nan), task, full=False)

        assert found.fault == "output y has NaN or infinity in 4 of 4 examples"

    def test_without_inputs_there_is_nothing_to_check(self, a_task):
        with pytest.raises(ValueError, match="names no inputs"):
            gate.first_batch(replace(a_task(1, 1), artifacts=Artifacts()))
