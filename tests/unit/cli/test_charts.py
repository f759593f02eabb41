from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbench_cli import charts
from inferbench_cli.charts import Axis, Caption, Dot, Line, Strip

CAPTION = Caption("one", "Batch 1", "Latency at batch size 1", "a: 10 ms.")
TO_TEN = Axis(0, 10, ((0, "0"), (10, "10")), "ms")

MILLISECONDS = st.floats(1e-6, 1e6, allow_nan=False)


def drawn(chart):
    """The chart's SVG; a chart that is not well-formed XML is an error."""
    return ET.fromstring(chart[chart.index("<svg") : chart.rindex("</figure>")])


def by_class(chart, name):
    return [element for element in drawn(chart).iter() if element.get("class") == name]


def marks(chart):
    return [(element.get("href"), float(element.get("x"))) for element in drawn(chart).iter("use")]


def texts(chart):
    return [element.text for element in drawn(chart).iter("text")]


# ---- axes ----------------------------------------------------------------------------------------


def test_a_quantity_is_shown_from_zero_so_that_twice_as_long_is_twice_as_far_away():
    axis = charts.quantity([45.0, 65.0], [70.0], 1.0, "latency in ms")

    assert axis.low == 0
    assert axis.share(60) == pytest.approx(2 * axis.share(30))
    assert [label for _, label in axis.ticks] == ["0", "20", "40", "60", "80"]


@pytest.mark.parametrize(
    ("most", "labels"),
    [
        (900_000.0, ["0", "500,000", "1M"]),
        (1_900_000.0, ["0", "500,000", "1M", "1.5M", "2M"]),
        (3.8e9, ["0", "1,000M", "2,000M", "3,000M", "4,000M"]),
    ],
)
def test_a_million_is_written_as_people_write_it(most, labels):
    axis = charts.quantity([most], [most], 1.0, "inputs per second")

    assert [label for _, label in axis.ticks] == labels


def test_quantities_too_far_apart_for_that_get_a_logarithmic_axis_that_says_so():
    axis = charts.quantity([1.0, 50.0], [51.0], 1.0, "latency in ms")

    assert axis.is_log
    assert axis.title == "latency in ms, logarithmic"
    assert axis.share(50) - axis.share(10) == pytest.approx(axis.share(5) - axis.share(1))


def test_a_wide_interval_does_not_press_everything_else_into_a_corner():
    axis = charts.quantity([10.0, 11.0], [12.0, 9000.0], 1.0, "latency in ms")

    assert axis.high == 20


def test_half_as_fast_is_as_far_from_1x_as_twice_as_fast():
    axis = charts.ratios([0.4], [0.5, 2.0], [2.2], "times as fast")

    assert axis.share(2) - axis.share(1) == pytest.approx(axis.share(1) - axis.share(0.5))
    assert "1x" in [label for _, label in axis.ticks]


def test_1x_is_shown_even_when_everything_is_much_faster():
    axis = charts.ratios([7.8], [8.0, 30.0], [31.0], "times as fast")

    assert 0 < axis.share(1) < axis.share(8)


def test_a_share_axis_has_a_zero_and_signs():
    axis = charts.percentages(-0.02, 0.05, "against the mean")

    assert [label for _, label in axis.ticks] == ["−2%", "0", "+2%", "+4%", "+6%"]  # noqa: RUF001 (a minus, as printed)


def test_a_single_batch_size_stands_in_the_middle():
    axis = charts.places([8.0], "batch size", is_log=True)

    assert axis.share(8) == pytest.approx(0.5)


@given(st.lists(MILLISECONDS, min_size=1, max_size=8), st.lists(MILLISECONDS, max_size=8))
def test_every_value_lies_on_its_axis_and_labels_do_not_touch(values, highs):
    axis = charts.quantity(values, highs, 1.0, "latency in ms")

    assert axis.low <= min(values)
    assert max(values) <= axis.high
    places = [axis.share(value) for value, _ in axis.ticks]
    assert len(places) >= 2
    assert all(later - earlier > 0.09 for earlier, later in pairwise(places))


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=8))
def test_every_ratio_lies_on_its_axis_with_1x_between(values):
    axis = charts.ratios(values, values, values, "times as fast")

    assert axis.low <= min(*values, 0.9)
    assert max(*values, 1.1) <= axis.high
    assert 1 in [value for value, _ in axis.ticks]


# ---- rows of dots --------------------------------------------------------------------------------


def test_a_mark_stands_where_its_value_is():
    chart = charts.dots(CAPTION, [Dot(0, "a", "2.5 ms", 2.5), Dot(1, "b", "10 ms", 10)], TO_TEN, 0)

    assert marks(chart) == [("#m0", 8 + 0.25 * 384), ("#m1", 392)]


def test_an_interval_reaches_from_its_low_end_to_its_high_end():
    (bar,) = by_class(charts.dots(CAPTION, [Dot(0, "a", "5 ms", 5, low=2.5, high=7.5)], TO_TEN, 0), "interval")

    assert bar.get("d") == "M104,12H296"


def test_an_interval_that_leaves_the_axis_ends_in_an_arrow():
    within = charts.dots(CAPTION, [Dot(0, "a", "5 ms", 5, low=4, high=10)], TO_TEN, 0)
    beyond = charts.dots(CAPTION, [Dot(0, "a", "5 ms", 5, low=4, high=10.1)], TO_TEN, 0)

    assert not by_class(within, "line")
    assert len(by_class(beyond, "line")) == 1


def test_what_has_no_value_has_no_mark_but_its_reason():
    chart = charts.dots(CAPTION, [Dot(0, "a", "OutOfMemory", None)], TO_TEN, 0)

    assert marks(chart) == []
    assert not by_class(chart, "stem")
    assert {"a", "OutOfMemory"} <= set(texts(chart))


def test_there_is_no_stem_where_a_distance_from_the_edge_means_nothing():
    assert not by_class(charts.dots(CAPTION, [Dot(0, "a", "5 ms", 5)], TO_TEN, None), "stem")


def test_a_mark_that_decides_nothing_is_hollow():
    chart = charts.dots(CAPTION, [Dot(0, "a", "5 ms", 5, is_open=True)], TO_TEN, 0)

    assert [element.tag for element in by_class(chart, "open")] == ["use"]


def test_a_chart_tells_its_title_and_its_numbers_to_those_who_do_not_see_it():
    chart = drawn(charts.dots(CAPTION, [Dot(0, "a", "5 ms", 5)], TO_TEN, 0))

    named = {element.get("id"): element.text for element in chart if element.get("id")}
    assert chart.get("role") == "img"
    assert named[chart.get("aria-labelledby")] == "Latency at batch size 1"
    assert named[chart.get("aria-describedby")] == "a: 10 ms."


# ---- lines and histograms ------------------------------------------------------------------------


def test_a_line_has_a_gap_where_nothing_was_measured():
    line = Line(0, ((0, 1.0), (2, 2.0), (4, None), (8, 5.0), (10, 6.0)))
    (path,) = by_class(charts.lines(CAPTION, [line], TO_TEN, TO_TEN), "line")

    assert len(re.findall("M", path.get("d"))) == 2
    assert len(re.findall("L", path.get("d"))) == 2


def test_higher_values_are_drawn_higher():
    (path,) = by_class(charts.lines(CAPTION, [Line(0, ((0, 0.0), (10, 10.0)))], TO_TEN, TO_TEN), "line")

    assert path.get("d") == "M52,172h0L392,22"


@pytest.mark.parametrize(("label", "begins"), [("10", 44), ("+100%", 51), ("15,000", 60), ("1.23e+06", 78)])
def test_the_longest_label_of_an_axis_has_room_beside_the_plot(label, begins):
    """A character takes up to 9 units, and 6 are between a label and the plot."""
    y = Axis(0, 10, ((0, "0"), (10, label)), "inputs/s")
    chart = charts.lines(CAPTION, [Line(0, ((0, 0.0), (10, 10.0)))], TO_TEN, y)

    (longest,) = [
        element for element in drawn(chart).iter("text") if element.text == label and element.get("y") == "26"
    ]
    assert longest.get("x") == str(begins - 6)
    assert by_class(chart, "rule")[0].get("d") == f"M{begins},172H400M{begins},22H400"
    assert by_class(chart, "line")[0].get("d") == f"M{begins + 8},172h0L392,22"


def test_the_label_of_the_largest_batch_size_ends_inside_the_chart():
    x = Axis(1, 128, ((1, "1"), (128, "128")), "batch size")
    chart = charts.lines(CAPTION, [Line(0, ((1, 0.0), (128, 10.0)))], x, TO_TEN)

    (largest,) = [element for element in drawn(chart).iter("text") if element.text == "128"]
    assert largest.get("class") == "end"


def test_a_line_without_any_point_is_nothing():
    assert not by_class(charts.lines(CAPTION, [Line(0, ((0, None),))], TO_TEN, TO_TEN), "line")


def test_the_rarest_call_can_still_be_seen():
    chart = charts.strips(CAPTION, [Strip(0, "a", "5 ms", (1.0, 1.0, 0.0, 0.001))], TO_TEN)
    (area,) = by_class(chart, "area")

    assert area.get("d") == "M0,0V17h2V0h1V1h1V0Z"


def test_styles_differ_by_shape_and_not_only_by_colour():
    assert len(set(charts.SHAPES)) == len(charts.SHAPES) == 8


def test_shapes_are_about_as_large_as_each_other():
    sizes = [max(abs(float(n)) for n in re.findall(r"-?\d+\.?\d*", shape)) for shape in charts.SHAPES]

    assert all(4 < size < 6.1 for size in sizes)
    assert math.isclose(sum(sizes) / len(sizes), 5.5, abs_tol=0.4)
