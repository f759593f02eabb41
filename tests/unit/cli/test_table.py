import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from inferbench_cli import table
from inferbench_contract import plan as plans
from inferbench_contract.doubts import explain
from inferbench_contract.spec import InferenceBenchmark
from inferbench_contract.summary import summarize
from inferbench_contract.words import Device, Doubt, Outcome
from tests.documents import rounds, scripted_benchmark
from tests.results import TRAINED, compared, ended, measured, results_for


def printed(benchmark: InferenceBenchmark, latency_of, width: int = 100, *, is_all: bool = False) -> str:
    """Return what is printed where nobody sits at a terminal, without the spaces at the ends of lines."""
    plan = plans.expand(benchmark)
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False)
    table.show(console, summarize(benchmark, plan, results_for(plan, latency_of)), is_all=is_all)
    return re.sub(" +$", "", stream.getvalue(), flags=re.MULTILINE)


def test_the_answer_is_read_in_five_seconds():
    benchmark = scripted_benchmark(
        precisions=["fp32", "fp16", "bf16"],
        batchSizes=[1, 8],
        measurement=rounds(4),
        expectations=[{"name": "half", "faster": "fake/fp16", "than": "fake/fp32", "by": "1.5x"}],
    )

    def latency_of(strategy, batch_size, round_):
        if (strategy.precision, batch_size, round_) == ("bf16", 8, 2):
            return ended(Outcome.CRASHED, 8, "SIGSEGV: fake/bf16@8 was killed by a signal.")
        speedup = {"fp32": 1, "fp16": 2, "bf16": 1.99}[strategy.precision]
        noise = 1 + 0.01 * (round_ - 1) * (-1 if strategy.precision == "fp16" else 1)
        doubts = (Doubt.NOISY_NEIGHBOUR,) if batch_size == 1 else ()
        return measured(batch_size, 10 * batch_size * noise / speedup, doubts=doubts)

    text = printed(benchmark, latency_of)

    lines = text.splitlines()
    assert lines[0] == "Best at each batch size; speedups are over fake/fp32, intervals are 95 %"
    assert [line.split() for line in lines[2:7] if "─" not in line] == [
        ["vs"],
        ["Batch", "Best", "strategy", "Latency", "Inputs/s", "Speedup", "baseline", "Doubts"],
        ["1", "fake/fp16", "4.97", "ms", "±2.1%", "201", "2.02x", "±4.2%", "Faster", "a", "(a)"],
        ["8", "fake/fp16", "39.8", "ms", "±2.1%", "201", "2.02x", "±4.2%", "Faster", "none"],
    ]
    assert "\nBatch 1: fake/fp16 and fake/bf16 are not distinguishable on this machine: " in text
    assert "\nBatch 8: fake/fp16 is fastest, 2.02 times (1.94 to 2.10) as fast as fake/fp32, the next.\n" in text
    assert "\n\nExpectations\n  half: holds, the ratio at batch 1 is 2.02x (1.94 to 2.10). (" in text
    assert text.endswith(
        "\n\nNot in the ranking\n"
        "  fake/bf16@8: Crashed: SIGSEGV: fake/bf16@8 was killed by a signal. (in 1 of 4 rounds)\n"
        "\nDoubts about the numbers in the table (in brackets: about the baseline's)\n"
        f"  a  NoisyNeighbour: {explain(Doubt.NOISY_NEIGHBOUR, Device.CPU)}\n"
    )


def test_all_strategies_are_shown_on_demand_the_fastest_first():
    """What may not be called best stands there too, with its outcome; what crashed at once has nothing to show."""

    def latency_of(strategy, batch_size, round_):
        if strategy.precision == "bf16":
            outcome = Outcome.INACCURATE if batch_size == 1 else Outcome.CRASHED
            return ended(outcome, batch_size, "told", **({"latency_median_ns": 1_000_000} if batch_size == 1 else {}))
        doubts = (Doubt.FEW_SAMPLES,) if strategy.precision == "fp16" else ()
        return measured(batch_size, (10 if strategy.precision == "fp32" else 20) + round_ / 100, doubts=doubts)

    benchmark = scripted_benchmark(precisions=["fp32", "fp16", "bf16"], batchSizes=[1, 8], measurement=rounds(4))
    text = printed(benchmark, latency_of, is_all=True)

    lines = [line.split() for line in text.splitlines() if re.match(r" +[18] ", line)]
    assert text.startswith("All strategies; speedups are over fake/fp32, ")
    assert [(line[0], line[1], line[-2], line[-1]) for line in lines] == [
        ("1", "fake/bf16", "Inaccurate", "none"),
        ("1", "fake/fp32", "baseline", "none"),
        ("1", "fake/fp16", "Slower", "a"),
        ("8", "fake/fp32", "baseline", "none"),
        ("8", "fake/fp16", "Slower", "a"),
    ]
    assert f"\n  a  FewSamples: {explain(Doubt.FEW_SAMPLES, Device.CPU)}" in text


def test_a_speedup_has_the_doubts_of_both_its_sides():
    """Of the winner's clean 5 ms and a baseline that nobody should quote, the ratio is no better than the worse one."""

    def latency_of(strategy, size, _):
        is_baseline = strategy.precision == "fp32"
        doubts = (Doubt.UNSETTLED, Doubt.FEW_SAMPLES) if is_baseline else (Doubt.FEW_SAMPLES,) * (size == 8)
        return measured(size, 800 if is_baseline else 5, doubts=doubts)

    text = printed(scripted_benchmark(precisions=["fp32", "fp16"], batchSizes=[1, 8]), latency_of)

    assert re.search(r"^ *1 +fake/fp16 .* \(a, b\)$", text, re.MULTILINE)
    assert re.search(r"^ *8 +fake/fp16 .* b \(a, b\)$", text, re.MULTILINE)
    assert f"\n  a  Unsettled: {explain(Doubt.UNSETTLED, Device.CPU)}\n" in text
    assert f"\n  b  FewSamples: {explain(Doubt.FEW_SAMPLES, Device.CPU)}\n" in text


def test_how_much_others_took_is_told_where_it_is_known():
    """Of the cells in the table the worst; the third strategy is not in it."""

    def latency_of(strategy, *_):
        latency_ms, share = {"fp32": (20, 7), "fp16": (5, 38), "bf16": (10, 90)}[strategy.precision]
        return measured(1, latency_ms, doubts=(Doubt.NOISY_NEIGHBOUR,), others_percent=share)

    text = printed(scripted_benchmark(precisions=["fp32", "fp16", "bf16"]), latency_of)

    assert " They took up to 38% of the CPU time. Stop what else runs here" in text


def test_where_a_gpu_counted_it_the_energy_of_an_input_has_a_column():
    """300 W at 4,000 inputs a second are 75 mJ an input."""

    def latency_of(strategy, size, _):
        milliwatts = 300_000 if size == 8 else None
        latency_ms = 5 if strategy.precision == "fp16" else 10
        return measured(size, latency_ms, throughput_milli_per_second=4_000_000, power_milliwatts=milliwatts)

    text = printed(scripted_benchmark(precisions=["fp32", "fp16"], batchSizes=[1, 8]), latency_of)
    without = printed(scripted_benchmark(batchSizes=[1, 8]), lambda *_: 10)

    assert re.search(r"^ *Batch +Best strategy +Latency +Inputs/s +Energy/input +Speedup ", text, re.MULTILINE)
    assert re.search(r"^ *1 +fake/fp16 +5\.00 ms +4,000 +- +2\.00x ", text, re.MULTILINE)
    assert re.search(r"^ *8 +fake/fp16 +5\.00 ms +4,000 +75\.0 mJ +2\.00x ", text, re.MULTILINE)
    assert "Energy" not in without


def eight_bits(strategy, size, _):
    """A quantised cell three times as fast, of which three images in a hundred are lost."""
    is_fp32 = strategy.precision == "fp32"
    return measured(size, 30 if is_fp32 else 10, **compared(1 if is_fp32 else 0.97))


def test_beside_a_speed_that_is_not_fp32s_stands_what_it_costs():
    benchmark = scripted_benchmark(precisions=["fp32", "int8-static"], model=TRAINED, measurement=rounds(2))

    text = printed(benchmark, eight_bits, is_all=True)

    assert re.search(r"^ *1 +fake/int8-static +10\.0 ms ±0\.0% +100 .* Faster +top-1 97\.0% +none$", text, re.MULTILINE)
    assert re.search(r"^ *1 +fake/fp32 +30\.0 ms ±0\.0% +33\.3 .* baseline +top-1 100% +none$", text, re.MULTILINE)
    assert " fake/int8-static agrees with the fp32 reference on 97.0% of 256 images.\n" in text


def test_of_random_weights_the_distance_stands_there():
    benchmark = scripted_benchmark(precisions=["fp32", "int8-static"], measurement=rounds(2))

    text = printed(benchmark, eight_bits)

    assert re.search(r"^ *1 +fake/int8-static .* Faster +L2 3\.1% +none$", text, re.MULTILINE)
    assert "agrees" not in text


def test_where_everything_is_fp32_nothing_is_said_of_accuracy():
    text = printed(
        scripted_benchmark(precisions=["fp32", "int8-static"], model=TRAINED),
        lambda s, *_: measured(1, 10 if s.precision == "fp32" else 30, **compared(1)),
    )

    assert "top-1" not in text
    assert "vs fp32" not in text.replace("\n", " ")


def test_a_table_of_eight_bits_fits_into_80_columns():
    def latency_of(strategy, size, round_):
        told = eight_bits(strategy, size, round_)
        return replace(
            told, doubts=(Doubt.NOISY_NEIGHBOUR,), latency_median_ns=told.latency_median_ns + 10_000 * round_
        )

    benchmark = scripted_benchmark(
        backends=["torch-eager", "onnxruntime"],
        precisions=["fp32", "int8-static"],
        model=TRAINED,
        measurement=rounds(2),
        backendOptions={},
    )
    text = printed(benchmark, latency_of, width=80, is_all=True)

    table_ = text[: text.index("Batch 1: ")].splitlines()
    assert max(map(len, table_)) <= 80
    assert "…" not in text
    assert re.search(r"^ *1  *onnxruntime/int8-static .* top-1 ", text, re.MULTILINE)


@pytest.mark.parametrize("is_all", [False, True])
def test_at_80_columns_no_number_is_cut_however_long_the_names(is_all):
    """A strategy takes two lines there, and energy goes before anything else does."""
    strategies = {"torch-eager/fp32": 3000, "torch-compile-max-autotune/int8-dynamic": 1000}
    backends, precisions = ["torch-eager", "torch-compile-max-autotune"], ["fp32", "int8-dynamic"]
    doubts = (Doubt.NOISY_NEIGHBOUR, Doubt.FEW_SAMPLES, Doubt.UNSETTLED)

    def latency_of(strategy, size, _):
        if (took_ms := strategies.get(str(strategy))) is None:
            return None
        counted = {"throughput_milli_per_second": 4_000_000, "power_milliwatts": 300_000, "doubts": doubts}
        return measured(size, took_ms, **counted, **compared(0.97))

    benchmark = scripted_benchmark(model=TRAINED, backends=backends, precisions=precisions, backendOptions={})
    text = printed(benchmark, latency_of, width=80, is_all=is_all)
    wide = printed(benchmark, latency_of, width=140, is_all=is_all)

    assert "…" not in text
    assert re.search(r"^ *1 +torch-compile-max-autotune/ +1\.00 s +4,000 +3\.00x", text, re.MULTILINE)
    assert re.search(r"^ +int8-dynamic\b", text, re.MULTILINE)
    assert ("97.0%" in text, "Energy" in text) == (True, False)
    assert re.search(r"torch-compile-max-autotune/int8-dynamic .* 75\.0 mJ", wide)


@pytest.mark.parametrize("width", [80, 40])
def test_wide_intervals_and_long_words_leave_no_column_out(width):
    """Of two rounds that differ threefold, on a terminal, on a narrow one and in a pipe."""

    def latency_of(strategy, size, round_):
        doubts = (Doubt.NOISY_NEIGHBOUR, Doubt.FEW_SAMPLES)
        latency_ms = (3000 if strategy.precision == "fp32" else 1000) * (1, 3)[round_ % 2]
        return measured(size, latency_ms * (1 + size * round_), doubts=doubts, **compared(0.97))

    benchmark = scripted_benchmark(
        model=TRAINED,
        backends=["onnxruntime"],
        precisions=["fp32", "int8-static"],
        backendOptions={},
        measurement=rounds(2),
    )
    text = printed(benchmark, latency_of, width=width, is_all=True)

    assert "…" not in text
    assert re.search(r"^ *Batch +Strategy +Latency +Inputs/s +Speedup +baseline +fp32 +Doubts$", text, re.MULTILINE)
    assert re.search(r"^ *1 +onnxruntime/.* a,", text, re.MULTILINE)


def test_two_rounds_that_have_nothing_in_common_fit_into_80_columns():
    """Their intervals have ten digits and more, all of which say the same."""

    def latency_of(strategy, size, round_):
        latency_ms = {"fp32": 800, "bf16": 20, "int8-static": 0.5}[strategy.precision]
        return measured(size, latency_ms * (1 + 30 * ((size + round_) % 2)), **compared(0.97))

    benchmark = scripted_benchmark(
        model=TRAINED,
        backends=["torch-compile"],
        precisions=["fp32", "bf16", "int8-static"],
        backendOptions={},
        batchSizes=[1, 8],
        measurement=rounds(2),
    )
    text = printed(benchmark, latency_of, width=80, is_all=True)

    table_ = text[: text.index("Batch 1: ")].splitlines()
    assert max(map(len, table_)) <= 80
    assert "(±>1000x)" in text
    assert not re.search(r"\d,\d{3},\d{3}", text)


def test_who_is_unsure_only_among_others_has_a_footnote():
    """The logs of fp16's ratios lie 3.6 standard errors from 0: 3.18 would do for one comparison, two take 4.18."""

    def latency_of(strategy, size, round_):
        if strategy.precision != "fp16":
            return 10 + (strategy.precision == "bf16") * (round_ - 1.5) / 10
        return 10 / 1.5 ** (1 + 0.481 * (-1, 1, 1, -1)[round_])

    benchmark = scripted_benchmark(precisions=["fp32", "fp16", "bf16"], measurement=rounds(4))
    alone = scripted_benchmark(precisions=["fp32", "fp16"], measurement=rounds(4))
    text = printed(benchmark, latency_of, is_all=True)

    assert re.search(r"^ *1 +fake/fp16 .* Inconclusive\* ", text, re.MULTILINE)
    assert re.search(r"^ *1 +fake/bf16 .* Inconclusive +none", text, re.MULTILINE)
    assert "\n* The interval leaves 1x out, which would do for one comparison. " in text
    assert "*" not in printed(alone, latency_of, is_all=True)


def test_sentences_are_one_line_each_where_no_terminal_wraps_them():
    text = printed(scripted_benchmark(precisions=["fp32", "fp16"], measurement=rounds(2)), lambda *_: 10, width=40)

    (sentence,) = (line for line in text.splitlines() if line.startswith("Batch 1: "))
    assert len(sentence) > 60
    assert sentence.endswith(".")


def test_brackets_in_a_reason_are_no_markup():
    reason = "NotInstalled: pip install '.[runner]'  # in inferbench's folder [/] [bold]"
    text = printed(scripted_benchmark(), lambda *_: ended(Outcome.UNSUPPORTED, reason=reason))

    assert f"fake/fp32@1: Unsupported: {reason}\n" in text


def test_where_nothing_was_measured_that_is_said():
    text = printed(scripted_benchmark(), lambda *_: None)

    assert text.startswith("Nothing was measured, so nothing can be best.\nObjective (")


def test_after_one_round_there_is_a_number_but_no_interval_and_no_verdict():
    text = printed(scripted_benchmark(precisions=["fp32", "fp16"]), lambda s, *_: 10 if s.precision == "fp32" else 5)

    assert re.search(r"^ *1 +fake/fp16 +5\.00 ms +200 +2\.00x ", text, re.MULTILINE)
    assert "±" not in text


def test_the_baseline_is_called_that_when_it_is_the_best():
    text = printed(scripted_benchmark(precisions=["fp32", "fp16"]), lambda s, *_: 5 if s.precision == "fp32" else 10)

    assert re.search(r"^ *1 +fake/fp32 +5\.00 ms +200 +1x +baseline +none$", text, re.MULTILINE)


@pytest.mark.parametrize(("on_violation", "is_told"), [("Fail", True), ("Exclude", False)])
def test_that_inaccurate_cells_count_as_failed_is_said_below_their_reasons(on_violation, is_told):
    benchmark = scripted_benchmark(
        precisions=["fp32", "fp16"], accuracy={"onViolation": on_violation}, batchSizes=[1, 2], maxFailedCells=1
    )
    text = printed(benchmark, lambda s, size, _: ended(Outcome.INACCURATE, size) if s.precision == "fp16" else 10)

    sentence = "2 cells are Inaccurate and onViolation is Fail: they count as failed; maxFailedCells is 1."
    assert text.endswith(f"TheReason: it did.\n  {sentence}\n") == is_told
    assert (sentence in text) == is_told


def doubted(width):
    """Print a best strategy with two doubts, a and b, over a baseline with three."""
    baseline = (Doubt.NOISY_NEIGHBOUR, Doubt.FEW_SAMPLES, Doubt.UNSETTLED)

    def latency_of(strategy, *_):
        return measured(1, 10, doubts=baseline) if strategy.precision == "fp32" else measured(1, 5, doubts=baseline[:2])

    text = printed(scripted_benchmark(precisions=["fp32", "fp16"], measurement=rounds(4)), latency_of, width=width)
    return text[: text.index("Batch 1: ")]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        pytest.param(120, ["Faster a, b (a, b, c)"], id="in one line"),
        pytest.param(83, ["Faster a, b", "(a, b, c)"], id="the baseline's go first, all of them"),
        pytest.param(72, ["Faster a, b", "±0.0% (a, b, c)"], id="then intervals"),
        pytest.param(60, ["Faster a, b", "±0.0% (a, b,", "c)"], id="and at last they wrap"),
    ],
)
def test_the_letters_of_a_cell_stay_together(width, lines):
    told = [" ".join(line.split()) for line in doubted(width).rstrip().splitlines()]

    assert all(line.endswith(end) for line, end in zip(told[-len(lines) :], lines, strict=True))
    assert "fake/" in told[-len(lines)]


def test_equal_reasons_are_told_once_the_bad_news_first_and_not_too_many():
    sizes = list(range(1, 21))
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]

    def latency_of(_, size, __):
        if size <= 6:
            return ended(Outcome.UNSUPPORTED, size, "NotHere: no.")
        return ended(Outcome.FAILED, size, f"RuntimeError: {words[(size - 7) // 2]}")

    text = printed(scripted_benchmark(batchSizes=sizes), latency_of)

    told = text[text.index("Not in the ranking") :].splitlines()[1:]
    assert told == [
        *(f"  fake/fp32@{7 + 2 * n}, fake/fp32@{8 + 2 * n}: Failed: RuntimeError: {words[n]}" for n in range(5)),
        "  and 3 more reasons, in cells.csv",
    ]


def test_what_is_ranked_though_inaccurate_is_told_apart_from_what_is_not_ranked():
    benchmark = scripted_benchmark(precisions=["fp32", "fp16", "bf16"], accuracy={"onViolation": "Report"})

    def latency_of(strategy, size, __):
        if strategy.precision == "fp16":
            return ended(Outcome.INACCURATE, size, "L2: 9 %.", latency_median_ns=1)
        return ended(Outcome.CRASHED, size, "Signal: so.") if strategy.precision == "bf16" else measured(size, 10)

    text = printed(benchmark, latency_of)

    assert "\n\nNot in the ranking\n  fake/bf16@1: Crashed: Signal: so.\n" in text
    assert "\n\nRanked, though inaccurate (onViolation: Report)\n  fake/fp16@1: Inaccurate: L2: 9 %.\n" in text
