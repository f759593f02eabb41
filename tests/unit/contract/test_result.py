import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferbench_contract import result as results
from inferbench_contract.errors import ResultError
from inferbench_contract.result import CellResult, SweepResult
from inferbench_contract.words import Doubt, Outcome, ThrottleReason
from tests.results import a_plan, a_result, ended, measured

LARGE = list(range(65_536 - 31, 65_537))
FULL = a_plan(batch_sizes=LARGE)
"""A plan whose sweeps have 32 cells, the most there are, of the longest batch sizes."""

ACCURACY = {
    "compared_examples": 256,
    "relative_l2_parts_per_billion": 31_200_000,
    "worst_cosine_parts_per_million": 998_123,
    "worst_example": 12,
    "top1_agreement_basis_points": 9_921,
}

CARD = {"gpu_temperature_max_celsius": 71, "gpu_power_median_milliwatts": 305_000, "gpu_memory_max_mib": 2_110}

PLAN = a_plan(batch_sizes=[1, 8, 32], precisions=["fp32", "fp16"])
SWEEP = PLAN.sweeps[1]
RESULT = a_result(
    PLAN,
    SWEEP,
    [
        measured(1, 2.5, power_milliwatts=312_500, sm_clock_mhz=1755, throttle_bits=0b101, **CARD),
        ended(Outcome.CRASHED, 8, "Signal: SIGSEGV"),
        measured(32, 80, doubts=(Doubt.DRIFTED,), **ACCURACY),
    ],
    hardware="A processor, 4 threads",
    fingerprint="0123456789",
    prepare_ms=1234,
)


def payload_with(**changes):
    """Return a result as a sweep would have written it, with other fields at the top or in the cells."""
    content = json.loads(results.encode(RESULT))
    for key, value in changes.items():
        (content["cells"] if key in content["cells"] else content)[key] = value
    return json.dumps(content).encode()


def decoded(payload, plan=PLAN, sweep=SWEEP):
    return results.decode(payload, plan, sweep)


def reason_of(payload):
    with pytest.raises(ResultError) as error:
        decoded(payload)
    assert str(error.value).startswith(f"{error.value.reason}: ")
    return error.value.reason


# ---- there and back ------------------------------------------------------------------------------


def test_a_result_that_is_read_back_is_the_same():
    assert decoded(results.encode(RESULT)) == results.Decoded(RESULT)


def test_a_sweep_that_has_nothing_to_say_yet_says_who_it_is():
    begun = SweepResult(PLAN.short_hash, 1)

    assert results.encode(
        begun
    ) == b'{"v":1,"plan":"%s","sweep":1,"cells":{"b":[],"o":[],"d":[],"r":[]},"reasons":[]}' % (
        PLAN.short_hash.encode()
    )
    assert decoded(results.encode(begun)).result == begun


def test_the_reasons_for_low_clocks_are_a_bit_each():
    (cell, *others) = decoded(results.encode(RESULT)).result.cells

    assert cell.throttle_reasons == (ThrottleReason.SW_POWER_CAP, ThrottleReason.SW_THERMAL_SLOWDOWN)
    assert {other.throttle_reasons for other in others} == {()}


@pytest.mark.parametrize("key", ["ex", "cos", "bad", "clk", "slow", "hot", "drew", "vram"])
def test_of_a_result_from_before_there_was_a_column_it_is_not_known(key):
    content = json.loads(results.encode(RESULT))
    del content["cells"][key]
    (field,) = (column.field for column in results.COLUMNS if column.key == key)

    found = decoded(json.dumps(content).encode())

    assert found == results.Decoded(replace(RESULT, cells=tuple(replace(c, **{field: None}) for c in RESULT.cells)))


def test_it_names_the_cell_in_flight():
    """So that a pod which is killed for its memory says which cell was too large."""
    killed = a_result(PLAN, SWEEP, [measured(1)], in_flight=8)

    assert decoded(results.encode(killed)).result.in_flight == 8
    assert killed.with_cell(measured(8)).in_flight is None
    assert killed.with_cell(measured(8)).cells == (measured(1), measured(8))


def test_it_says_what_the_machine_lacks():
    """So that whoever started the sweep can tell a person, and need not read logs."""
    sentence = "No NVIDIA GPU is visible. Give the pod one, or say device: cpu."
    stopped = a_result(PLAN, SWEEP, [measured(1)], in_flight=8, fault=sentence)

    assert decoded(results.encode(stopped)).result == stopped


def test_it_is_complete_when_every_cell_has_an_outcome():
    assert RESULT.is_complete(SWEEP)
    assert not replace(RESULT, cells=RESULT.cells[:2]).is_complete(SWEEP)


def test_cells_without_an_outcome_can_be_given_the_same_one():
    begun = a_result(PLAN, SWEEP, [measured(8)], in_flight=32)

    full = begun.filled(SWEEP, Outcome.TIMED_OUT, "TimeLimit")

    assert full.is_complete(SWEEP)
    assert full.in_flight is None
    assert full.cells == (
        CellResult(1, Outcome.TIMED_OUT, "TimeLimit"),
        measured(8),
        CellResult(32, Outcome.TIMED_OUT, "TimeLimit"),
    )
    assert full.filled(SWEEP, Outcome.CRASHED, "another") == full


def numbers(largest=None):
    """Return a strategy for the numbers of a cell, each within its bounds."""
    columns = {c.field: st.integers(0, min(c.largest, largest or c.largest)) for c in results.COLUMNS}
    return st.fixed_dictionaries({}, optional=columns)


TEXTS = st.text(max_size=60) | st.text(alphabet='"\\\x00\n\x1b\ud800é😀', max_size=60)


@st.composite
def sweep_results(draw):
    sizes = draw(st.lists(st.sampled_from(LARGE), unique=True, max_size=32))
    cells = [
        CellResult(
            size,
            draw(st.sampled_from(Outcome)),
            draw(TEXTS),
            draw(st.lists(st.sampled_from(Doubt), unique=True).map(tuple)),
            **({"latency_median_ns": 1_000} | {k: v for k, v in draw(numbers()).items() if v}),
        )
        for size in sizes
    ]
    times = {name: draw(st.none() | st.integers(0, 10**13)) for name in ("started_ms", "finished_ms", "prepare_ms")}
    in_flight = draw(st.none() | st.sampled_from(LARGE))
    texts = {"hardware": draw(TEXTS), "fault": draw(TEXTS), "fingerprint": "0123456789"}
    return a_result(FULL, 0, cells, in_flight=in_flight, **texts, **times)


@given(sweep_results())
@settings(max_examples=60)
def test_a_result_comes_back_up_to_rounding_of_numbers_and_cutting_of_texts(result):
    payload = results.encode(result)

    again, problems = (found := decoded(payload, FULL, FULL.sweeps[0])).result, found.problems

    cells = sorted(result.cells, key=lambda cell: cell.batch_size)
    assert len(payload) <= 4_096
    assert problems == ()
    assert [(c.batch_size, c.outcome, set(c.doubts)) for c in again.cells] == [
        (c.batch_size, c.outcome, set(c.doubts)) for c in cells
    ]
    assert (again.in_flight, again.started_ms, again.finished_ms, again.prepare_ms, again.fingerprint) == (
        result.in_flight,
        result.started_ms,
        result.finished_ms,
        result.prepare_ms,
        result.fingerprint,
    )
    for column in results.COLUMNS:
        wanted, found = ([getattr(cell, column.field) for cell in of] for of in (cells, again.cells))
        if column.is_spared and set(found) == {None}:
            continue  # of many cells such a column is left out as a whole
        for there, back in zip(wanted, found, strict=True):
            assert back == there or back == pytest.approx(there, rel=0.5 * 10 ** -(column.digits - 1))


@given(sweep_results())
@settings(max_examples=60)
def test_what_was_read_and_is_written_again_stays_the_same(result):
    """By this `inferbench get` knows whether a folder holds the results of the cluster or those of another run."""
    once = decoded(results.encode(result), FULL, FULL.sweeps[0]).result

    assert decoded(results.encode(once), FULL, FULL.sweeps[0]).result == once


@pytest.mark.parametrize("column", results.COLUMNS, ids=lambda column: column.key)
@given(data=st.data())
@settings(max_examples=25)
def test_a_number_keeps_its_digits(column, data):
    wanted = data.draw(st.integers(1, column.largest))

    found = json.loads(results._rounded(wanted, column))

    assert abs(found - wanted) <= 0.5 * 10 ** -(column.digits - 1) * wanted
    assert wanted >= 10**column.digits or found == wanted


@pytest.mark.parametrize(
    ("nanoseconds", "written"),
    [
        (0, "0"),
        (1_234_567, "1234567"),
        (12_345_674, "12345670"),
        (12_345_675, "12345680"),
        (1_234_567_494, "1234567e3"),
        (99_999_995, "1e8"),
        (123_456_789_012, "1234568e5"),
        (10**15, "1e13"),
    ],
)
def test_a_latency_has_seven_digits(nanoseconds, written):
    (column,) = (column for column in results.COLUMNS if column.field == "latency_median_ns")

    assert results._rounded(nanoseconds, column) == written


def test_two_latencies_keep_their_ratio_to_a_part_in_a_million():
    """The verdict's threshold is 1 %, so the rounding says nothing in it."""
    cells = [measured(1, latency_ms=123.4567891), measured(8, latency_ms=234.5678912)]

    first, second = decoded(results.encode(a_result(PLAN, SWEEP, cells))).result.cells

    ratio = second.latency_median_ns / first.latency_median_ns
    assert ratio == pytest.approx(234.5678912 / 123.4567891, rel=1e-6)


# ---- it always fits ------------------------------------------------------------------------------


def widest(column):
    """Return the number that takes the most bytes."""
    candidates = [int(digits[:n]) for digits in ("9876543219876543", "1234567812345678") for n in range(1, 17)]
    return max([column.largest, *candidates], key=lambda number: len(results._rounded(number, column)))


@pytest.mark.parametrize(
    "letters",
    [
        "x",
        '"',
        "\\",
        "😀",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "\x85",
        "\N{LINE SEPARATOR}",
        "</script>",
        '"\\😀\n\ud800',
        "  ",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("outcome", [Outcome.MEASURED, Outcome.CRASHED], ids=str)
def test_32_cells_of_the_worst_kind_fit(letters, outcome):
    """All columns as wide as they get, every doubt, 32 different reasons of 5,000 characters, and all of the head."""
    values = {column.field: widest(column) for column in results.COLUMNS}
    cells = [
        CellResult(size, outcome, f"{place}{letters * 5_000}"[:5_000], tuple(Doubt), **values)
        for place, size in enumerate(LARGE)
    ]
    times = dict.fromkeys(("started_ms", "finished_ms", "prepare_ms"), results.LARGEST)
    texts = {"hardware": letters * 100, "fault": letters * 500, "fingerprint": "f" * 20}
    worst = a_result(FULL, 0, cells, in_flight=LARGE[0], **texts, **times)

    payload = results.encode(worst)
    found = decoded(payload, FULL, FULL.sweeps[0])

    assert len(payload) <= 4_096
    assert found.problems == ()
    assert [cell.batch_size for cell in found.result.cells] == LARGE
    assert {cell.outcome for cell in found.result.cells} == {outcome}
    assert found.result.in_flight == LARGE[0]


def test_what_is_spared_of_32_cells_of_the_worst_kind_is_there_of_fewer():
    """The last column that can be spared goes first; last goes what tells whether top-1 agreement was judged."""
    values = {column.field: widest(column) for column in results.COLUMNS}
    cells = [CellResult(size, Outcome.MEASURED, "", tuple(Doubt), **values) for size in LARGE]

    sent = {count: results.encode(a_result(FULL, 0, cells[:count])) for count in (32, 31, 26, 20)}
    found = {count: decoded(payload, FULL, FULL.sweeps[0]).result.cells for count, payload in sent.items()}

    spared = [column.field for column in results.COLUMNS if column.is_spared]
    kept = {count: [f for f in spared if all(getattr(c, f) is not None for c in found[count])] for count in found}
    assert all(names == spared[: len(names)] for names in kept.values())
    assert (kept[32], kept[31], kept[20]) == ([], ["compared_examples"], spared)
    assert {cell.memory_mib is None for cell in found[32]} == {False}


def test_numbers_that_can_be_spared_go_before_a_reason_loses_its_words():
    numbers = {column.field: 123_456 for column in results.COLUMNS}
    numbers |= {"top1_agreement_basis_points": 9_950, "compared_examples": 256}
    reason = "Inaccurate: " + "x" * 280
    cells = [CellResult(size, Outcome.INACCURATE, reason, **numbers) for size in LARGE]

    found = decoded(results.encode(a_result(FULL, 0, cells)), FULL, FULL.sweeps[0]).result

    assert {cell.reason for cell in found.cells} == {reason}
    assert {cell.error_ratio_milli for cell in found.cells} == {None}
    assert {cell.compared_examples for cell in found.cells} == {256}, "it goes last"


def test_a_power_nobody_counted_takes_no_room():
    uncounted = a_result(PLAN, SWEEP, [measured(1), measured(8)])

    assert b'"pow":[312500,null,null]' in results.encode(RESULT)
    assert b'"pow"' not in results.encode(uncounted)


def test_32_failures_keep_what_was_tried_and_the_root_cause():
    reasons = [f"RuntimeError: batch {size}: " + "in frame, " * 500 + f"root cause {size}" for size in LARGE]
    cells = [ended(Outcome.FAILED, size, reason) for size, reason in zip(LARGE, reasons, strict=True)]

    found = decoded(results.encode(a_result(FULL, 0, cells, hardware="A processor")), FULL, FULL.sweeps[0]).result

    for size, cell in zip(LARGE, found.cells, strict=True):
        assert cell.reason.startswith(f"RuntimeError: batch {size}")
        assert cell.reason.endswith(f"root cause {size}")
        assert "…" in cell.reason
    assert found.hardware == "A processor"


def test_32_measured_cells_with_all_their_numbers_leave_room_for_a_few_reasons():
    numbers = {column.field: 123_456 for column in results.COLUMNS} | {"top1_agreement_basis_points": 9_950}
    doubtful = [CellResult(size, Outcome.MEASURED, "", (Doubt.DRIFTED,), **numbers) for size in LARGE]
    cells = [replace(cell, outcome=Outcome.INACCURATE, reason=f"Inaccurate: {'x' * 90}") for cell in doubtful[:4]]

    found = decoded(results.encode(a_result(FULL, 0, [*cells, *doubtful[4:]])), FULL, FULL.sweeps[0]).result

    assert [cell.reason for cell in found.cells[:4]] == [cell.reason for cell in cells]


def test_beside_31_measured_cells_there_is_room_for_what_the_machine_lacks():
    """The cell that found it has no outcome, so 31 is the most."""
    numbers = {column.field: 123_456 for column in results.COLUMNS} | {"top1_agreement_basis_points": 9_950}
    cells = [CellResult(size, Outcome.MEASURED, "", (Doubt.DRIFTED,), **numbers) for size in LARGE[:-1]]
    sentence = "Cannot write to the cache folder /var/cache/inferbench: No space left on device. " * 4

    found = decoded(results.encode(a_result(FULL, 0, cells, fault=sentence, in_flight=LARGE[-1])), FULL, FULL.sweeps[0])

    assert found.result.fault == sentence.strip()


def test_a_long_fault_keeps_what_is_missing_and_what_to_do():
    sentence = "The GPU is gone. " + "It was there. " * 100 + "Ask for another one."

    found = decoded(results.encode(a_result(PLAN, SWEEP, fault=sentence))).result

    assert len(found.fault) == results.MAX_FAULT_CHARS
    assert found.fault.startswith("The GPU is gone.")
    assert found.fault.endswith("Ask for another one.")


def test_one_reason_of_many_cells_is_written_once():
    reason = "OutOfMemory: " + "x" * 900
    cells = [ended(Outcome.OUT_OF_MEMORY, size, reason) for size in LARGE]

    found = decoded(results.encode(a_result(FULL, 0, cells)), FULL, FULL.sweeps[0]).result

    assert {cell.reason for cell in found.cells} == {reason}


def test_more_cells_than_a_plan_gives_a_sweep_are_refused():
    values = {column.field: widest(column) for column in results.COLUMNS}
    cells = [CellResult(size, Outcome.MEASURED, **values) for size in range(60_000, 60_040)]

    with pytest.raises(ValueError, match="has 40 cells; a plan gives a sweep at most 32"):
        results.encode(a_result(FULL, 0, cells))


def test_half_characters_and_control_characters_become_spaces():
    reason = "\x1b[31mError\x1b[0m:\r\n\tone \ud83d half"

    (cell,) = decoded(results.encode(a_result(PLAN, SWEEP, [ended(Outcome.FAILED, 1, reason)]))).result.cells

    assert cell.reason == "[31mError [0m: one   half"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(10, "0123456789"), (9, "0123…6789"), (8, "0123…789"), (3, "0…9"), (2, "0…"), (1, "…"), (0, "")],
)
def test_a_text_is_cut_in_the_middle(limit, expected):
    assert results.cut_in_the_middle("0123456789", limit) == expected


# ---- what cannot be trusted ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"", "Empty", id="nothing"),
        pytest.param(b" \n\0\0 ", "Empty", id="only padding"),
        pytest.param(b"{" + b" " * 4_096, "TooLarge", id="a byte too long"),
        pytest.param(b"\xff\xfe{}", "NotText", id="not UTF-8"),
        pytest.param(b"Segmentation fault", "NotJson", id="an error message"),
        pytest.param(results.encode(RESULT)[:-1], "NotJson", id="cut off"),
        pytest.param(b"\0" * 10 + results.encode(RESULT), "NotJson", id="a hole at the beginning"),
        pytest.param(b"[" * 4_000, "NotJson", id="nested too deeply"),
        pytest.param(results.encode(RESULT) * 2, "NotJson", id="written twice"),
        pytest.param(b"[]", "WrongType", id="a list"),
        pytest.param(b"NaN", "WrongType", id="a NaN"),
        pytest.param(b"{}", "WrongVersion", id="no version"),
        pytest.param(payload_with(v=2), "WrongVersion", id="a later version"),
        pytest.param(payload_with(v=True), "WrongVersion", id="a version that is a boolean"),
        pytest.param(payload_with(v=1.0), "WrongVersion", id="a version with a fraction"),
        pytest.param(payload_with(plan="0" * 10), "WrongPlan", id="of another plan"),
        pytest.param(payload_with(plan=[[[]]]), "WrongPlan", id="a plan of a wrong type"),
        pytest.param(payload_with(sweep=2), "WrongSweep", id="of another sweep"),
        pytest.param(payload_with(sweep=True), "WrongSweep", id="a sweep that is a boolean"),
        pytest.param(payload_with(cells=[]), "WrongType", id="cells in a list"),
        pytest.param(payload_with(cells={}), "WrongType", id="no columns"),
        pytest.param(payload_with(b={"0": 1}), "WrongType", id="a column that is none"),
        pytest.param(payload_with(m=[1, 2]), "WrongType", id="a column that is too short"),
        pytest.param(payload_with(reasons="Because"), "WrongType", id="reasons that are none"),
        pytest.param(payload_with(reasons=[1]), "WrongType", id="a reason that is none"),
    ],
)
def test_what_cannot_be_trusted_has_a_named_error(payload, reason):
    assert reason_of(payload) == reason


@pytest.mark.parametrize("padding", [b" " * 500, b"\n", b"\0" * 500, b"  \0\0  \r\n"])
def test_padding_at_the_end_is_no_mistake(padding):
    """A shorter message is written over a longer one by padding it with spaces; a hole in a file reads as NULs."""
    assert decoded(results.encode(RESULT) + padding).result == RESULT


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"b": [1, 8, 64]}, "NotInPlan", id="a cell that is not in the plan"),
        pytest.param({"b": [1, 8, 2**70]}, "2147483648", id="a huge batch size"),
        pytest.param({"b": [1, 8, True]}, "b is True", id="a batch size that is a boolean"),
        pytest.param({"b": [1, 8, None]}, "b is None", id="no batch size"),
        pytest.param({"b": [1, 8, [[1]]]}, "b is [[1]]", id="a batch size that is a list"),
        pytest.param({"o": [0, 5, 8]}, "o is 8", id="an outcome that is none"),
        pytest.param({"o": [0, 5, -1]}, "o is -1", id="an outcome counted from the end"),
        pytest.param({"o": [0, 5, "0"]}, "o is '0'", id="an outcome that is a text"),
        pytest.param({"d": [0, 0, 256]}, "d is 256", id="a doubt that is none"),
        pytest.param({"cos": [None, None, 1_000_001]}, "cos is 1000001", id="a cosine above 1"),
        pytest.param({"slow": [None, None, 32]}, "slow is 32", id="a reason for low clocks that is none"),
        pytest.param({"m": [1, None, float("nan")]}, "m is nan", id="NaN"),
        pytest.param({"m": [1, None, float("inf")]}, "m is inf", id="Infinity"),
        pytest.param({"m": [1, None, -5]}, "m is -5", id="a negative time"),
        pytest.param({"m": [1, None, 1.5]}, "m is 1.5", id="half a nanosecond"),
        pytest.param({"m": [1, None, True]}, "m is True", id="a time that is a boolean"),
        pytest.param({"m": [1, None, "7"]}, "m is '7'", id="a time that is a text"),
        pytest.param({"m": [1, None, 10**14]}, "m is 100000000000000", id="a day for one call"),
        pytest.param({"m": [1, None, 10**1000]}, "m is 1000", id="a number of a thousand digits"),
        pytest.param({"m": [1, None, 0]}, "has no latency", id="measured in no time"),
        pytest.param({"m": [1, None, None]}, "has no latency", id="measured without a number"),
        pytest.param({"n": [1, None, {}]}, "n is {}", id="a number that is an object"),
        pytest.param({"pow": [None, None, -1]}, "pow is -1", id="a card that gives energy back"),
        pytest.param({"pow": [None, None, 10**10]}, "pow is 10000000000", id="the power of a town"),
    ],
)
def test_a_cell_that_cannot_be_trusted_is_left_out_and_named_and_the_others_stay(changes, problem):
    found = decoded(payload_with(**changes))

    assert [cell.batch_size for cell in found.result.cells] == [1, 8]
    (told,) = found.problems
    assert problem in told
    assert told.startswith("the cell of batch size ")


def test_1e999_is_no_number():
    payload = results.encode(RESULT).replace(b"8e7", b"1e999")

    assert [cell.batch_size for cell in decoded(payload).result.cells] == [1, 8]


@pytest.mark.parametrize("twice", [[1, 8, 8], [1, 8, 8.0]])
def test_of_a_cell_that_stands_there_twice_nobody_knows_which_is_true(twice):
    found = decoded(payload_with(b=twice))

    assert [cell.batch_size for cell in found.result.cells] == [1]
    assert len(found.problems) == 2
    assert all("Duplicated: it stands there 2 times" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"inFlight": 64}, "in_flight"),
        ({"inFlight": True}, "in_flight"),
        ({"inFlight": [1]}, "in_flight"),
        ({"start": -1}, "started_ms"),
        ({"end": "now"}, "finished_ms"),
        ({"end": 1e300}, "finished_ms"),
        ({"prep": float("nan")}, "prepare_ms"),
    ],
)
def test_a_field_of_the_head_that_cannot_be_trusted_is_left_out(changes, field):
    found = decoded(payload_with(**changes)).result

    assert found == replace(RESULT, **{field: None})


@pytest.mark.parametrize("fault", [1, None, ["No GPU"], {"no": "GPU"}])
def test_a_fault_that_is_no_text_is_no_fault(fault):
    assert decoded(payload_with(fault=fault)).result == RESULT


@pytest.mark.parametrize("index", [-1, 1, True, "0", [0], 10**30, float("nan")])
def test_a_reason_that_is_not_there_is_no_reason(index):
    cell = decoded(payload_with(r=[None, index, None])).result.cells[1]

    assert (cell.outcome, cell.reason) == (Outcome.CRASHED, "")


def test_fields_that_a_later_version_adds_are_passed_over():
    assert decoded(payload_with(later=[1, 2, 3])) == results.Decoded(RESULT)


def test_texts_from_outside_are_made_printable_and_short():
    long = {"hw": "\x1b[2J" + "x" * 1_000, "fault": "\x1b[2J" + "y" * 1_000, "env": "e" * 1_000}
    found = decoded(payload_with(**long, reasons=["\x07bell\ud800"])).result

    assert len(found.hardware) == 128
    assert len(found.fault) == 400
    assert found.fault.isprintable()
    assert found.hardware.isprintable()
    assert len(found.fingerprint) == 20
    assert found.cells[1].reason == "bell"


@pytest.mark.parametrize("mark", ["\x1b", "\x7f", "\x85", "\x9b", "\x9d", "\u2028", "\u2029"])
def test_what_a_terminal_would_obey_or_would_end_a_line_is_not_kept(mark):
    assert decoded(payload_with(reasons=[f"a{mark}b"])).result.cells[1].reason == "a b"


# ---- it raises nothing else, whatever comes ------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 10**400, -1])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "\0"]),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=4),
    max_leaves=8,
)


def decode_or_refuse(payload):
    """Decode, and check what every answer has to be."""
    try:
        found = decoded(payload)
    except ResultError as error:
        return assert_readable(str(error))
    sizes = [cell.batch_size for cell in found.result.cells]
    assert sizes == sorted(set(sizes))
    assert set(sizes) <= set(SWEEP.batch_sizes)
    for cell in found.result.cells:
        assert cell.outcome is not Outcome.MEASURED or cell.latency_median_ns > 0
        assert all(type(getattr(cell, c.field)) in (int, type(None)) for c in results.COLUMNS)
    texts = (found.result.hardware, found.result.fault, *found.problems)
    assert_readable(*texts, *(cell.reason for cell in found.result.cells))
    return found


def assert_readable(*texts):
    """Check that texts can be written anywhere and are short enough to be read."""
    for text in texts:
        text.encode()
        assert len(text) <= results.MAX_FAULT_CHARS


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf{}")
@example(b'{"v":' + b"9" * 4_000 + b"}")
@example(b'{"a":' * 700)
def test_any_bytes_are_refused(payload):
    assert decode_or_refuse(payload) is None


@given(JSON)
def test_any_json_is_refused(content):
    assert decode_or_refuse(json.dumps(content).encode()) is None


@given(st.data())
@settings(max_examples=200)
def test_a_result_with_anything_in_any_place_is_read_or_refused(data):
    content = json.loads(results.encode(RESULT))
    place = data.draw(st.sampled_from([content, content["cells"]]))
    key = data.draw(st.sampled_from(sorted(place)))
    inside = place[key]
    if isinstance(inside, list) and inside and data.draw(st.booleans()):
        inside[data.draw(st.integers(0, len(inside) - 1))] = data.draw(JSON)
    else:
        place[key] = data.draw(JSON)

    decode_or_refuse(json.dumps(content).encode())


@given(st.data())
def test_a_result_with_other_bytes_in_any_place_is_read_or_refused(data):
    payload = bytearray(results.encode(RESULT))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    decode_or_refuse(bytes(payload))


def test_a_result_that_was_cut_off_anywhere_is_refused():
    payload = results.encode(RESULT)

    for length in range(len(payload)):
        assert decode_or_refuse(payload[:length]) is None
