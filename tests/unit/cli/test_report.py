from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from xml.etree import ElementTree as ET

import pytest

from inferbench_cli import figures, markup, report
from inferbench_contract import doubts, sentences
from inferbench_contract.words import Device, Doubt, Outcome, Strategy
from tests.builders import a_benchmark
from tests.reports import ENVIRONMENT, OUT_OF_MEMORY, many_cells, page_of, resnet50, samples_of, summary_of
from tests.results import TRAINED, asked, cell, compared, ended, measured, three_backends

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
REFERRING = {"aria-labelledby", "aria-describedby"}
FETCHING = {"script", "iframe", "link", "img", "object", "form", "base"}
NO_NUMBER = sentences.ratio(None)


class Page(HTMLParser):
    """What a browser would find in a page. Elements that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text: dict[str, str] = {}
        self.headings: list[str] = []
        self._id = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.handle_startendtag(name, attributes)
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes), f"{name} has an attribute twice"
        self.tags.append((name, given))
        if name == "section":
            self._id = given["id"]
        if name == "table":
            self._rows = self.tables.setdefault(given["class"], [])
        if name == "tr":
            self._rows.append([])
        if name in ("th", "td"):
            self._rows[-1].append("")

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text[self._id] = self.text.get(self._id, "") + data
        if "td" in self.open or "th" in self.open:
            self._rows[-1][-1] += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings.append(self.open[-1])

    def ids(self):
        return [given["id"] for _, given in self.tags if "id" in given]

    def column(self, table, heading):
        head, *rows = self.tables[table]
        return [row[head.index(heading)] for row in rows]


def page(*given, **more):
    return Page(page_of(*given, **more))


def row_of(found, place):
    """What the table of all cells says of one cell."""
    head, *rows = found.tables["every"]
    wanted = cell(place)
    (row,) = [r for r in rows if r[:2] == [str(wanted.strategy), str(wanted.batch_size)]]
    return dict(zip(head, row, strict=True))


def three(latency_of, **spec):
    benchmark = three_backends(**spec)
    return benchmark, summary_of(benchmark, latency_of)


def steady(latencies_ms):
    """Each strategy takes its time, in every round a bit more of it."""
    return lambda strategy, size, round_: measured(size, latencies_ms[strategy.backend] * size * (1 + round_ / 1000))


QUICK = {"torch-eager": 65, "torch-compile": 62, "onnxruntime": 45}


# ---- one file that every browser can read --------------------------------------------------------

RUNS = {
    "a usual run": resnet50,
    "one round": lambda: resnet50(rounds=1),
    "nothing measured yet": lambda: three(lambda *_: None),
    "everything crashed": lambda: three(lambda _, size, __: ended(Outcome.CRASHED, size)),
    "one batch size": lambda: three(steady(QUICK), batch_sizes=[4]),
    "200 cells": lambda: many_cells(1, 40),
    "1,000 cells in trouble": lambda: many_cells(4, 50, trouble=True),
}
every_run = pytest.mark.parametrize("run", RUNS)


@cache
def text_of(run):
    return page_of(*RUNS[run]())


@every_run
def test_a_report_is_well_formed_and_refers_only_to_itself(run):
    found = Page(text_of(run))

    assert [id_ for id_, count in Counter(found.ids()).items() if count > 1] == []
    links = {given["href"] for _, given in found.tags if "href" in given}
    labels = {f"#{value}" for _, given in found.tags for name, value in given.items() if name in REFERRING}
    assert links | labels | set(re.findall(r"url\((#\w+)\)", text_of(run))) <= {f"#{id_}" for id_ in found.ids()}


@every_run
def test_a_report_fetches_and_runs_nothing(run):
    assert "<script" not in text_of(run)
    assert not re.search(r"https?:|//\w|@import|src=|\bon\w+=", text_of(run))
    assert FETCHING.isdisjoint(name for name, _ in Page(text_of(run)).tags)


@every_run
def test_a_report_has_at_most_100_kb(run):
    assert len(text_of(run).encode()) <= 100_000


@every_run
def test_every_chart_is_xml_with_a_title_and_a_description(run):
    charts = re.findall(r'<svg viewBox="0 0 400.*?</svg>', text_of(run), re.DOTALL)

    assert len(charts) == text_of(run).count("<figure>")
    for chart in map(ET.fromstring, charts):
        assert chart.get("role") == "img"
        assert [element.tag for element in chart][:2] == ["title", "desc"]
        assert all(element.text for element in list(chart)[:2])


@every_run
def test_headings_come_in_order_and_every_section_is_named_by_its_own(run):
    found = Page(text_of(run))

    assert found.headings[0] == "h1"
    assert set(found.headings[1:]) == {"h2"}
    landmarks = [name for name, _ in found.tags if name in {"header", "nav", "main", "footer"}]
    assert landmarks == ["header", "nav", "main", "footer"]
    assert all(given["aria-labelledby"] == f"{given['id']}-heading" for name, given in found.tags if name == "section")


@every_run
def test_every_table_has_a_caption_and_heads_of_columns_and_rows_and_scrolls_by_keyboard(run):
    found = Page(text_of(run))

    names = [name for name, _ in found.tags]
    scrolling = [given for _, given in found.tags if given.get("class") == "scroll"]
    assert names.count("table") == names.count("caption") == len(scrolling)
    assert all(given["tabindex"] == "0" for given in scrolling)
    assert {given["scope"] for name, given in found.tags if name == "th"} == {"col", "row"}
    assert all(len({len(row) for row in rows}) == 1 for rows in found.tables.values())


def test_all_of_200_cells_are_in_the_table_and_some_of_them_in_charts():
    found = Page(text_of("200 cells"))

    assert len(found.tables["every"]) == 1 + 200
    assert "svg" in [name for name, _ in found.tags]
    assert re.search(
        r"The charts show \d of 5 strategies .* and but for throughput \d of 40 batch sizes\.", found.text["latency"]
    )


def test_of_1000_cells_the_report_says_how_many_it_shows_and_where_the_others_are():
    found = Page(text_of("1,000 cells in trouble"))

    shown = len(found.tables["every"]) - 1
    assert 50 <= shown < 1000
    assert f"{shown} of 1000 cells" in found.text["cells"]
    assert f"{1000 - shown} more cells are in cells.csv." in found.text["cells"]


def test_the_same_run_is_the_same_page():
    assert page_of(*resnet50()) == text_of("a usual run")


# ---- nothing from outside becomes markup ---------------------------------------------------------

EVIL = "</style></title><script>alert(\"1\")</script>' onload='x &amp; \x00\ud800"


def test_reasons_names_and_hardware_cannot_become_markup():
    benchmark = a_benchmark("evil", model={"onnx": {"path": "a'\"><script>.onnx"}}, backends=["onnxruntime"])
    summary = summary_of(benchmark, lambda _, size, __: ended(Outcome.FAILED, size, EVIL), hardware=EVIL)
    environment = {EVIL: EVIL, "libraries": {EVIL: EVIL}, "gpus": [{"name": EVIL}], "cpuFlags": [EVIL]}

    text = page_of(benchmark, summary, environment=environment)

    assert "<script" not in text
    found = Page(text)
    assert not [given for _, given in found.tags if any(name.startswith("on") for name in given)]
    shown = EVIL.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "\N{REPLACEMENT CHARACTER}")
    assert [row[1] for row in found.tables["gaps"][1:]] == [f"{shown}"]
    assert shown in found.text[""]
    assert found.tables["machine"][1][1] == shown


def test_only_html_is_not_escaped():
    assert markup.tag("p", "<b>", markup.tag("b", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<b>&amp;</b></p>'


# ---- the numbers are the summary's ---------------------------------------------------------------


def test_the_table_of_all_cells_says_what_the_summary_says():
    benchmark, summary = resnet50()
    found = page(benchmark, summary)

    for row in summary.table.rows.values():
        told = row_of(found, str(row.cell))
        is_baseline = row.cell.strategy == summary.table.baseline
        assert told["Outcome"] == row.outcome
        assert told["Latency"] == sentences.latency(row.latency)
        assert told["Inputs/s"] == figures.inputs_per_second(row.throughput)
        assert told["Speedup"] == ("1x" if is_baseline else sentences.ratio(row.speedup))
        assert told["vs baseline"] == ("baseline" if is_baseline else row.verdict or NO_NUMBER)


def test_inputs_per_second_are_thousandths_in_the_result():
    _, summary = three(steady(QUICK))
    found = page(*three(steady(QUICK)))

    assert row_of(found, "onnxruntime/fp32@1")["Inputs/s"].startswith("22.2")
    assert round(summary.table.rows[cell("onnxruntime/fp32@1")].throughput.value) == 22189


def test_where_a_gpu_counted_it_the_energy_of_an_input_is_told():
    """300 W at 4,000 inputs a second are 75 mJ an input."""

    def latency_of(strategy, size, _):
        milliwatts = 300_000 if strategy == cell("onnxruntime/fp32@1").strategy else None
        return measured(size, 10, throughput_milli_per_second=4_000_000, power_milliwatts=milliwatts)

    found = page(*three(latency_of))

    assert row_of(found, "onnxruntime/fp32@1")["Energy/input"] == "75.0 mJ"
    assert row_of(found, "torch-eager/fp32@1")["Energy/input"] == NO_NUMBER
    assert report.READING_ENERGY in found.text["reading"]


@every_run
def test_where_no_gpu_counted_it_nothing_is_said_of_energy(run):
    assert "nergy" not in text_of(run)


def test_beside_a_speed_that_is_not_fp32s_stands_what_it_costs():
    def latency_of(strategy, size, _):
        is_fp32 = strategy.precision == "fp32"
        return measured(size, 30 if is_fp32 else QUICK[strategy.backend] / 5, **compared(1 if is_fp32 else 0.97))

    found = page(*three(latency_of, precisions=["fp32", "int8-static"], model=TRAINED))

    assert row_of(found, "onnxruntime/int8-static@1")["vs fp32"] == "top-1 97.0% (L2 3.1%, lowest cosine 0.9981)"
    assert row_of(found, "onnxruntime/fp32@1")["vs fp32"] == "top-1 100% (L2 3.1%, lowest cosine 0.9981)"
    assert set(found.column("best", "vs fp32")) == {"top-1 97.0%"}
    assert report.READING_ACCURACY in found.text["reading"]
    assert "onnxruntime/int8-static agrees with the fp32 reference on 97.0% of 256 images." in found.text["answer"]


@every_run
def test_where_only_fp32_was_compared_nothing_is_said_of_accuracy(run):
    assert report.READING_ACCURACY not in Page(text_of(run)).text["reading"]
    assert report.ACCURACY not in Page(text_of(run)).tables["every"][0]


def test_where_a_gpu_was_watched_its_clock_and_why_it_was_low_are_told():
    def latency_of(strategy, size, _):
        is_slow = strategy.backend == "onnxruntime"
        seen = {"sm_clock_mhz": 1_200, "throttle_bits": 0b1, "doubts": (Doubt.THROTTLED,)} if is_slow else {}
        return measured(size, 10, **seen)

    found = page(*three(latency_of))

    assert row_of(found, "onnxruntime/fp32@1")["SM clock"] == "1,200 MHz"
    assert row_of(found, "torch-eager/fp32@1")["SM clock"] == NO_NUMBER
    assert " The GPU's reasons: SwPowerCap. " in found.text["doubts"]


def test_how_a_gpu_is_set_up_is_told_in_words_and_units():
    card = {
        "name": "NVIDIA H200", "driver": "580.1", "memoryBytes": 140 * 2**30, "powerLimitMilliwatts": 650_500,
        "smMaxMhz": 1980, "ecc": "on", "mig": None, "computeMode": "default",
    }  # fmt: skip

    found = page(*resnet50(), environment={**ENVIRONMENT, "gpus": [card]})

    assert dict(found.tables["machine"][1:])["GPUs"] == (
        "name NVIDIA H200, driver 580.1, memory 140.0 GiB, power limit 650.5 W, highest SM clock 1980 MHz, ECC on, "
        "compute mode default"
    )


def test_the_answer_comes_first_in_the_sentences_that_the_terminal_prints():
    benchmark, summary = resnet50()
    found = page(benchmark, summary)

    assert [name for name, given in found.tags if name == "section"][:1] == ["section"]
    assert next(given["id"] for name, given in found.tags if name == "section") == "answer"
    for sentence in sentences.answers(summary):
        assert sentence in found.text["answer"]
    assert found.column("best", "Best strategy") == [str(b.row.cell.strategy) for _, b in sorted(summary.best.items())]


def test_a_winner_that_cannot_be_told_from_the_next_is_not_called_the_winner_alone():
    noisy = {"torch-eager": (65, 66, 64, 65), "torch-compile": (50, 40, 46, 44), "onnxruntime": (45, 45, 46, 44)}
    found = page(*three(lambda strategy, size, round_: noisy[strategy.backend][round_]))

    assert "Lowest latency at batch size 1: torch-compile/fp32" in found.text["answer"]
    assert "not distinguishable from onnxruntime/fp32." in found.text["answer"]


def test_an_objective_of_throughput_is_answered_in_inputs_per_second():
    objective = {"metric": "throughput", "maxLatencyMicroseconds": 500_000}
    found = page(*three(steady(QUICK), batch_sizes=[1, 8, 32], objective=objective))

    assert "Highest throughput with batches of at most 500 ms: onnxruntime/fp32 at batch size" in found.text["answer"]
    assert "inputs/s" in found.text["answer"]


def test_each_expectation_is_shown_with_its_verdict_and_the_ratio_that_decided():
    benchmark, summary = resnet50()
    found = page(benchmark, summary)

    assert found.column("expected", "Verdict") == ["Holds", "Does not hold", "Undecided"]
    assert found.column("expected", "Statement") == [judged.statement for judged in summary.judged]
    ratios = [NO_NUMBER if judged.missing else sentences.ratio(judged.ratio) for judged in summary.judged]
    assert found.column("expected", "Ratio") == ratios
    assert found.column("expected", "Decided at")[2] == "no number for onnxruntime/fp32 at batch 32"


def test_each_doubt_that_occurred_is_explained_and_no_other():
    found = Page(text_of("a usual run"))

    assert doubts.explain(Doubt.DRIFTED, Device.CPU) in found.text["doubts"]
    assert doubts.explain(Doubt.FEW_SAMPLES, Device.CPU) in found.text["doubts"]
    assert str(Doubt.THROTTLED) not in found.text["doubts"]
    assert row_of(found, "torch-compile/fp32@8")["Doubts and reasons"] == "Drifted 1/4"


def test_the_best_have_the_doubts_of_the_baseline_too():
    """A speedup is of two cells, and no better than the worse of them."""

    def latency_of(strategy, size, _):
        is_baseline = strategy.backend == "torch-eager"
        return measured(size, 20 if is_baseline else 10, doubts=[Doubt.UNSETTLED] if is_baseline else [])

    found = page(*three(latency_of))

    assert set(found.column("best", "Doubts")) == {"baseline: Unsettled"}


def test_answers_are_compared_after_the_calls_were_timed():
    assert "After it was timed, each process compared the answers of that very session" in text_of("a usual run")


def test_where_the_time_went_is_told_in_parts_of_the_whole():
    """As on the terminal, without the time between sweeps, which may be somebody's night."""
    benchmark, summary = resnet50()
    found = page(benchmark, replace(summary, spent=summary.spent.model_copy(update={"idle": 12})))

    assert found.column("spent", "Time")[0] == "2 min 48 s"
    assert "42%" in found.column("spent", "Share")[0]
    assert sentences.spent(summary.spent).startswith("Took 6 min 40 s: 42% measuring, ")
    assert "Where 6 min 40 s went. Between sweeps 12 s more passed." in found.text["method"]
    assert summary.spent.measuring == 168
    assert f"{sum(row.samples for row in summary.table.rows.values()):,} timed calls in all" in found.text["method"]


def test_the_environment_is_told_in_words_and_units():
    found = Page(text_of("a usual run"))

    told = dict(zip(found.column("machine", "What"), found.column("machine", "Value"), strict=True))
    assert told == {
        "Processor": "AMD EPYC",
        "Instructions": "avx2, avx512f",
        "Memory": "25.0 GiB",
        "CPU quota": "1.5",
        "Libraries": "onnxruntime 1.31.1, torch 2.15.0",
    }


def test_an_unknown_environment_is_left_out():
    assert "environment" not in page(*resnet50(), environment={}).text


# ---- what is missing is not zero -----------------------------------------------------------------


def test_a_cell_without_a_number_is_shown_with_its_outcome_and_reason_and_never_as_0():
    found = Page(text_of("a usual run"))

    told = row_of(found, "onnxruntime/fp32@32")
    assert told["Outcome"] == "OutOfMemory"
    assert told["Doubts and reasons"] == "KilledAtMemoryLimit"
    assert {told[name] for name in ("Latency", "Inputs/s", "Speedup", "vs baseline")} == {NO_NUMBER}
    assert ["OutOfMemory", OUT_OF_MEMORY, "onnxruntime/fp32 at batch 32"] in found.tables["gaps"]
    assert "onnxruntime/fp32OutOfMemory" in found.text["latency"]


@pytest.mark.parametrize(
    ("backends", "measurement", "told"),
    [
        pytest.param(["torch-eager"], {}, "Layout contiguous: PyTorch's strategies read", id="the default"),
        pytest.param(["torch-eager"], {"layout": "channels-last"}, "Layout channels-last: ", id="channels last"),
    ],
)
def test_the_layout_of_images_is_said_where_pytorch_is_measured(backends, measurement, told):
    benchmark = a_benchmark(backends=backends, batch_sizes=[1], measurement=measurement)

    assert told in page(benchmark, summary_of(benchmark, steady(QUICK))).text["method"]


def test_where_no_backend_is_pytorchs_there_is_no_layout_to_tell():
    benchmark = a_benchmark(backends=["onnxruntime"], batch_sizes=[1])

    assert "Layout" not in page(benchmark, summary_of(benchmark, steady(QUICK))).text["method"]


def test_a_cell_that_crashed_in_one_round_of_four_has_no_mark_though_three_have_numbers():
    def once(strategy, size, round_):
        crashed = strategy.backend == "onnxruntime" and size == 1 and round_ == 2
        return ended(Outcome.CRASHED, size, "Signal: SIGSEGV.") if crashed else QUICK[strategy.backend] + round_

    run = three(once, batch_sizes=[1, 8])

    assert drawn_marks(page_of(*run), "latency-1") == ["#m0", "#m1"]
    assert drawn_marks(page_of(*run), "latency-8") == ["#m0", "#m1", "#m2"]
    assert ["Crashed", "Signal: SIGSEGV. (in 1 of 4 rounds)", "onnxruntime/fp32 at batch 1"] in page(*run).tables[
        "gaps"
    ]


def test_unsupported_cells_are_told_by_strategy_with_their_reason():
    benchmark, summary = resnet50()
    found = page(benchmark, summary)

    unsupported = {row[1]: row[2] for row in found.tables["gaps"] if row[0] == "Unsupported"}
    (reason,) = {row.reason for row in summary.table.rows.values() if row.outcome is Outcome.UNSUPPORTED}
    assert unsupported == {reason: "onnxruntime/bf16 at batch 1, 8, 32"}


def test_bad_news_comes_before_what_nobody_can_do():
    found = Page(text_of("a usual run"))

    assert found.column("gaps", "Outcome") == ["OutOfMemory", "Unsupported"]


@pytest.mark.parametrize(("on_violation", "is_told"), [("Fail", True), ("Exclude", False)])
def test_that_inaccurate_cells_count_as_failed_stands_below_the_failures(on_violation, is_told):
    def inaccurate(strategy, size, _):
        return ended(Outcome.INACCURATE, size) if strategy.backend == "onnxruntime" else 65

    found = page(*three(inaccurate, accuracy={"onViolation": on_violation}))

    sentence = "1 cell is Inaccurate and onViolation is Fail: it counts as failed; maxFailedCells is 0."
    assert found.text["gaps"].endswith(sentence) == is_told


def test_what_is_not_measured_yet_says_so():
    def half(strategy, size, round_):
        return None if strategy == Strategy.parse("onnxruntime/fp32") else 65

    found = page(*three(half))

    assert row_of(found, "onnxruntime/fp32@1")["Outcome"] == "Not measured yet"
    assert "Not complete: 8 of 12 sweeps are finished." in found.text[""]


def test_without_the_baseline_there_are_no_speedups_and_the_report_says_why():
    def no_eager(strategy, size, round_):
        return ended(Outcome.CRASHED, size) if strategy.backend == "torch-eager" else 50 + round_

    found = page(*three(no_eager))

    assert "There is nothing to compare with torch-eager/fp32, the baseline." in found.text["speedup"]


def test_a_run_without_any_number_still_has_a_report():
    found = page(*three(lambda _, size, __: ended(Outcome.CRASHED, size)))

    assert "Nothing was measured, so nothing can be best." in found.text["answer"]
    assert {"latency", "throughput", "speedup", "rounds", "calls"}.isdisjoint(found.text)


def test_one_round_has_no_intervals_and_says_that_all_is_inconclusive():
    found = page(*resnet50(rounds=1))

    assert "There was one round, so nothing has an interval and all is Inconclusive" in found.text[""]
    assert set(found.column("best", "vs baseline")) <= {"Inconclusive", "baseline"}
    assert not re.search(r"\d+ to \d+", " ".join(found.column("every", "Latency") + found.column("best", "Speedup")))
    assert "interval" not in [given.get("class") for _, given in found.tags]
    assert "rounds" not in found.text


def test_results_of_two_machines_are_not_comparable_and_the_report_says_so_first():
    benchmark = three_backends()
    summary = summary_of(benchmark, steady(QUICK))

    found = page(benchmark, type(summary)(**{**vars(summary), "environments": 2}))

    assert "2 different environments: their numbers are not comparable" in found.text[""]


# ---- charts show what the summary says -----------------------------------------------------------


def charts_of(text, kind):
    return re.findall(rf'<svg [^>]*aria-labelledby="{kind}-(\d+|all)-title"', text)


def chart_of(text, id_):
    """One chart, as XML."""
    return ET.fromstring(re.search(rf'<svg [^>]*aria-labelledby="{id_}-title".*?</svg>', text, re.DOTALL)[0])


def drawn_marks(text, id_):
    return sorted(element.get("href") for element in chart_of(text, id_).iter("use"))


def texts(chart):
    return [element.text for element in chart.iter("text")]


def test_a_round_that_is_a_fifth_slower_stands_a_fifth_above_the_others():
    def slow_once(strategy, _, round_):
        return QUICK[strategy.backend] * (1.2 if strategy.backend == "onnxruntime" and round_ == 2 else 1)

    chart = chart_of(page_of(*three(slow_once)), "rounds-1")

    # Four rounds of 1, 1, 1.2, 1 have a geometric mean of 1.2 ** (1 / 4) = 1.0466.
    description = chart.find("desc").text
    assert "onnxruntime/fp32 -4.5 to +14.7%" in description
    assert "torch-eager/fp32 +0.0 to +0.0%" in description
    assert {"+15%", "0"} & set(texts(chart))


def test_rounds_that_differ_manifold_are_told_as_ratios():
    """Of 16 and 1 the mean is 4: in percent that would be +300 and -75, and an axis would go on to -100 and beyond."""

    def slow_once(strategy, _, round_):
        return QUICK[strategy.backend] * (16 if strategy.backend == "onnxruntime" and round_ % 2 else 1)

    chart = chart_of(page_of(*three(slow_once)), "rounds-1")

    assert "onnxruntime/fp32 0.25x to 4.00x" in chart.find("desc").text
    assert {"0.3x", "1x", "3x", "median over its own mean, logarithmic"} <= set(texts(chart))
    assert not any("%" in text for text in texts(chart))
    (rule,) = [element.get("d") for element in chart.iter("path") if element.get("class") == "origin"]
    (at_1x,) = [element.get("y") for element in chart.iter("text") if element.text == "1x"]
    assert float(re.search(r",([\d.]+)H", rule)[1]) == pytest.approx(float(at_1x) - 4)


def test_the_spread_of_calls_is_told_around_their_median():
    benchmark, summary = three(steady(QUICK))
    calls = [*[45_000_000] * 90, *[54_000_000] * 10]
    samples = {(cell("onnxruntime/fp32@1"), round_): calls for round_ in range(4)}

    chart = chart_of(page_of(benchmark, summary, samples=samples), "calls-1")

    assert "45.0 ms, p90 45.0 ms" in texts(chart)
    (area,) = [element for element in chart.iter("path") if element.get("class") == "area"]
    # From -10% to +20% in 30 bins: the median is the start of bin 10, 1.2 times the median the end of the last.
    assert area.get("d") == "M0,0V0h10V17h1V0h18V2h1V0Z"


def test_each_batch_size_has_its_charts():
    kinds = ("latency", "speedup", "rounds", "calls", "throughput")

    assert {kind: charts_of(text_of("a usual run"), kind) for kind in kinds} == {
        "latency": ["1", "8", "32"],
        "speedup": ["1", "8", "32"],
        "rounds": ["1", "8", "32"],
        "calls": ["1", "8", "32"],
        "throughput": ["all"],
    }


def test_a_report_renders_without_samples_and_has_no_spread_of_calls_then():
    benchmark, summary = resnet50()

    assert "calls" not in page(benchmark, summary, samples=None).text
    assert "latency" in page(benchmark, summary, samples=None).text


def test_calls_are_only_drawn_of_cells_that_kept_them():
    benchmark, summary = resnet50()
    kept = {place: calls for place, calls in samples_of(summary).items() if place[0].batch_size == 8}

    assert charts_of(page_of(benchmark, summary, samples=kept), "calls") == ["8"]


def test_the_baseline_and_the_winners_are_drawn_before_all_others():
    _, summary = many_cells(1, 4)

    drawn = figures.select(summary, {}, max_strategies=2, max_sizes=2)

    winner = summary.best[1].row.cell.strategy
    assert drawn.sizes == (1, 4)
    assert len(drawn.strategies) == 2
    assert {summary.table.baseline, winner} <= set(drawn.strategies)


def test_a_batch_size_at_which_nothing_was_measured_that_is_drawn_has_no_chart():
    def one_each(strategy, size, _):
        return measured(size) if (strategy.precision == "fp32") == (size == 1) else ended(Outcome.FAILED, size)

    summary = summary_of(asked(precisions=["fp32", "fp16"], batch_sizes=[1, 8]), one_each)

    drawn = figures.select(summary, {}, max_strategies=1, max_sizes=2)

    assert sorted(summary.best) == [1, 8]
    assert drawn.sizes == (1,)
    assert len(figures.latency(drawn)) == 1


def test_of_many_batch_sizes_both_ends_and_some_between_are_drawn():
    assert figures.evenly(range(1, 65), 4) == (1, 22, 43, 64)
    assert figures.evenly([1, 8], 4) == (1, 8)
    assert figures.evenly(range(1, 65), 1) == (1,)


# ---- the look ------------------------------------------------------------------------------------


def luminance(colour):
    """Relative luminance: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def palettes():
    text = resources.files("inferbench_cli").joinpath("report.css").read_text()
    return [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)]


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_text_can_be_read_and_marks_can_be_seen(palette):
    for text in ("ink", "soft", "link", "good", "bad", "open"):
        assert contrast(palette[text], palette["page"]) >= 4.5
        assert contrast(palette[text], palette["card"]) >= 4.5
    for style in range(8):
        assert contrast(palette[f"s{style}"], palette["page"]) >= 3


def test_verdicts_are_words_and_not_only_colours():
    assert set(report.JUDGEMENTS.values()) == {"Holds", "Does not hold", "Undecided"}


def test_the_machine_table_says_nothing_that_is_not_known():
    assert "None" not in page(*resnet50(), environment=ENVIRONMENT).text["environment"]
