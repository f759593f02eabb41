"""Draws charts as SVG text: rows of dots with their intervals, lines, and rows of small histograms.

Knows numbers and labels, nothing of benchmarks. Every chart is 400 units wide, so that its text is as large on a phone
as on a desk; the page lays charts out in a grid. Styles differ by shape and by colour, and labels name them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from inferbench_cli.markup import Html, join, tag

WIDTH = 400
EDGE = 8
"""Room for half a mark at both ends of an axis."""

ROW = 36
TEXT_Y = 12
"""The base line of a row's text, which its drawing is placed against."""

MARK_Y, FLOOR_Y, BIN_HEIGHT = 12, 20, 17
"""The middle of a mark; the floor of a histogram, and how high its fullest bin is."""

AXIS_HEIGHT = 36
PLOT_LEFT, PLOT_TOP, PLOT_HEIGHT = 44, 22, 150
"""Longer labels move the left side of a plot to the right."""

LABEL_GAP, CHARACTER = 6, 9
"""Between a label and its plot; and room for a character, of which signs of a percentage are the widest: `+100%` takes
44 in DejaVu Sans, the widest of the fonts that a browser may take."""

SHAPES = (
    "M5,0A5,5 0 1 1-5,0A5,5 0 1 1 5,0Z",
    "M-4.4-4.4H4.4V4.4H-4.4Z",
    "M0-5.8L5.6,4.2H-5.6Z",
    "M0-6L6,0L0,6L-6,0Z",
    "M0,5.8L5.6-4.2H-5.6Z",
    "M-2-5.6H2V-2H5.6V2H2V5.6H-2V2H-5.6V-2H-2Z",
    "M0-2.8L3-5.8L5.8-3L2.8,0L5.8,3L3,5.8L0,2.8L-3,5.8L-5.8,3L-2.8,0L-5.8-3L-3-5.8Z",
    "M-5-5.4H5L-5,5.4H5Z",
)
"""Circle, square, triangle, diamond, triangle downwards, plus, cross, hourglass."""

LOG_FROM = 20
"""With the largest this many times the smallest, an axis from zero would show most of them as nothing."""

BEYOND = 1.5
"""An interval is cut where it would make the axis longer than this many times what the values need."""

ROUND_NUMBERS = (1, 2, 5, 10)
NEAREST_TICKS = 0.14
"""Labels nearer to each other than this share of the axis would touch."""

RATIOS = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    0.8,
    0.9,
    1,
    1.1,
    1.2,
    1.5,
    2,
    3,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
)


@dataclass(frozen=True, slots=True)
class Caption:
    """What a chart is called: in its file by `id`, above it, and in words for those who do not see it."""

    id: str
    heading: str
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`; ticks with their labels, ascending."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    is_log: bool = False

    def share(self, value: float) -> float:
        """Tell where a value lies: 0 at the low end, 1 at the high end; what is beyond lies at the end."""
        low, high, value = (math.log(v) if self.is_log else v for v in (self.low, self.high, self._bounded(value)))
        return (value - low) / (high - low)

    def _bounded(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Dot:
    """A row with a mark and its interval, or without a mark when there is no value; `text` says which or why."""

    style: int
    label: str
    text: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """A row with a histogram; bins are shares of the fullest one."""

    style: int
    label: str
    text: str
    bins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """Points of a line by ascending x; a None leaves a gap. `bars` are (x, low, high)."""

    style: int
    points: tuple[tuple[float, float | None], ...]
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """Where points of two axes lie in a chart of lines."""

    x: Axis
    y: Axis

    @property
    def left(self) -> int:
        """Leave room for the longest label of the vertical axis."""
        return max(PLOT_LEFT, LABEL_GAP + CHARACTER * max((len(label) for _, label in self.y.ticks), default=0))

    def right(self, value: float) -> float:
        """Return how far to the right a value of the horizontal axis is."""
        return self.left + EDGE + self.x.share(value) * (WIDTH - self.left - 2 * EDGE)

    def down(self, value: float) -> float:
        """Return how far down a value of the vertical axis is."""
        return PLOT_TOP + (1 - self.y.share(value)) * PLOT_HEIGHT


# ---- axes ----------------------------------------------------------------------------------------


def quantity(values: Sequence[float], highs: Sequence[float], unit: float, title: str) -> Axis:
    """Make an axis from zero, or a logarithmic one where values lie too far apart for that."""
    top = min(max([*values, *highs]), BEYOND * max(values))
    if max(values) > LOG_FROM * min(values):
        return _decades(min(values), top, unit, f"{title}, logarithmic")
    step = _round_up(top / 4)
    count = math.ceil(top / step)
    return Axis(0, count * step, tuple((i * step, _plain(i * step / unit)) for i in range(count + 1)), title)


def ratios(lows: Sequence[float], values: Sequence[float], highs: Sequence[float], title: str) -> Axis:
    """Make a logarithmic axis with 1x on it: half as fast is as far away as twice as fast."""
    low = max(min([*lows, *values, 0.9]), min([*values, 0.9]) / BEYOND)
    high = min(max([*highs, *values, 1.1]), max([*values, 1.1]) * BEYOND)
    inside = [ratio for ratio in RATIOS if low <= ratio <= high]
    axis = Axis(low, high, tuple((ratio, f"{ratio:g}x") for ratio in inside), title, is_log=True)
    return _thinned(axis, sorted(inside, key=lambda ratio: abs(math.log(ratio))))


def percentages(low: float, high: float, title: str) -> Axis:
    """Make an axis for shares that are more or less than something, with 0 on it."""
    step = _round_up((high - low) / 4)
    steps = range(math.floor(low / step), math.ceil(high / step) + 1)
    return Axis(steps[0] * step, steps[-1] * step, tuple((i * step, _signed(i * step)) for i in steps), title)


def places(values: Sequence[float], title: str, *, is_log: bool) -> Axis:
    """Make an axis with a tick at each value, as far as labels have room; a single value stands in the middle."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low / 2, high * 2
    axis = Axis(low, high, tuple((value, _plain(value)) for value in values), title, is_log)
    return _thinned(axis, [values[-1], *values])


def _decades(low: float, high: float, unit: float, title: str) -> Axis:
    powers = range(math.floor(math.log10(low / unit)) - 1, math.ceil(math.log10(high / unit)) + 2)
    inside = [number * 10.0**power for power in powers for number in (1, 2, 5)]
    first = max(number for number in inside if number <= low / unit)
    last = next((number for number in inside if number >= high / unit), inside[-1])
    axis = Axis(
        first * unit,
        last * unit,
        tuple((n * unit, _plain(n)) for n in inside if first <= n <= last),
        title,
        is_log=True,
    )
    return _thinned(axis, [value for value, _ in axis.ticks])


def _thinned(axis: Axis, order: Iterable[float]) -> Axis:
    """Leave out ticks that are too near to others; those first in the order stay."""
    kept: list[float] = []
    for value in order:
        if all(abs(axis.share(value) - axis.share(other)) >= NEAREST_TICKS for other in kept):
            kept.append(value)
    return Axis(axis.low, axis.high, tuple(tick for tick in axis.ticks if tick[0] in kept), axis.title, axis.is_log)


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(number * power for number in ROUND_NUMBERS if number * power >= value * 0.999)


def _plain(value: float) -> str:
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value / 1e6:,.10g}M"


def _signed(share: float) -> str:
    return f"{100 * share:+.3g}%".replace("-", "\N{MINUS SIGN}") if abs(share) > 1e-9 else "0"


# ---- charts --------------------------------------------------------------------------------------


def shapes() -> Html:
    """Return what all charts of a page refer to: each style's mark, alone and as the corner of a line."""
    marks = [tag("path", id=f"m{i}", d=shape) for i, shape in enumerate(SHAPES)]
    corners = [
        tag(
            "marker",
            tag("path", d=shape, class_=f"s{i}"),
            id=f"k{i}",
            viewBox="-7 -7 14 14",
            markerWidth=10,
            markerHeight=10,
            markerUnits="userSpaceOnUse",
        )
        for i, shape in enumerate(SHAPES)
    ]
    return tag("svg", tag("defs", *marks, *corners), class_="shapes", width=0, height=0, aria_hidden="true")


def legend(labels: Sequence[str]) -> Html:
    """Name the styles, the first label being that of style 0."""
    keys = [
        tag("svg", _mark(i, 7, 7), class_=f"key s{i}", viewBox="0 0 14 14", aria_hidden="true")
        for i in range(len(labels))
    ]
    return tag("ul", *(tag("li", key, label) for key, label in zip(keys, labels, strict=True)), class_="legend")


def dots(caption: Caption, rows: Sequence[Dot], axis: Axis, origin: float | None) -> Html:
    """Draw a row per value: mark, interval, and a stem from the origin where the distance from it means something."""
    return _rows(caption, [_row(i, row, _dot(row, axis, origin)) for i, row in enumerate(rows)], axis, origin)


def strips(caption: Caption, rows: Sequence[Strip], axis: Axis) -> Html:
    """Draw a histogram in each row."""
    return _rows(caption, [_row(i, row, _histogram(row)) for i, row in enumerate(rows)], axis, 0)


def lines(caption: Caption, series: Sequence[Line], x: Axis, y: Axis, origin: float = 0) -> Html:
    """Draw lines with a mark at each point, and a rule where the origin is, if the vertical axis has it."""
    plot, bottom = Plot(x, y), PLOT_TOP + PLOT_HEIGHT
    grid = "".join(f"M{plot.left},{_px(plot.down(value))}H{WIDTH}" for value, _ in y.ticks)
    labels = [
        *(_text(plot.left - LABEL_GAP, plot.down(value) + 4, label, "end") for value, label in y.ticks),
        *(_text(plot.right(value), bottom + 16, label, _anchor(x, value) or "middle") for value, label in x.ticks),
        _text(0, TEXT_Y, y.title),
        _text(WIDTH, bottom + 32, x.title, "end"),
    ]
    rules = [tag("path", d=grid, class_="rule")]
    if y.low <= origin:
        rules.append(tag("path", d=f"M{plot.left},{_px(plot.down(origin))}H{WIDTH}", class_="origin"))
    return _figure(caption, bottom + AXIS_HEIGHT, *rules, *labels, *(_line(line, plot) for line in series))


def _figure(caption: Caption, height: int, *content: Html) -> Html:
    chart = tag(
        "svg",
        tag("title", caption.title, id=f"{caption.id}-title"),
        tag("desc", caption.description, id=f"{caption.id}-desc"),
        *content,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_labelledby=f"{caption.id}-title",
        aria_describedby=f"{caption.id}-desc",
    )
    return tag("figure", tag("figcaption", caption.heading), chart)


def _rows(caption: Caption, rows: Sequence[Html], axis: Axis, origin: float | None) -> Html:
    floor = len(rows) * ROW + 2
    ticks = "".join(f"M{_px(_along(axis, value))},0V{floor}" for value, _ in axis.ticks)
    content = [
        tag("path", d=ticks, class_="rule"),
        *([] if origin is None else [tag("path", d=f"M{_px(_along(axis, origin))},0V{floor}", class_="origin")]),
        *rows,
        *(_text(_along(axis, value), floor + 14, label, _anchor(axis, value)) for value, label in axis.ticks),
        _text(WIDTH, floor + 31, axis.title, "end"),
    ]
    return _figure(caption, floor + AXIS_HEIGHT, *content)


def _row(place: int, row: Dot | Strip, drawing: Html) -> Html:
    """Put a label, what is said about it and its drawing into a row, in the colour of its style."""
    words = (_text(0, 0, row.label, "label"), _text(WIDTH, 0, row.text, "end"))
    return tag("g", *words, drawing, class_=f"s{row.style}", transform=f"translate(0 {place * ROW + TEXT_Y})")


def _dot(row: Dot, axis: Axis, origin: float | None) -> Html:
    if row.value is None:
        return tag("path", d=f"M0,{MARK_Y}H{WIDTH}", class_="nothing")
    middle = _along(axis, row.value)
    stem = [_stem(_along(axis, origin), middle)] if origin is not None else []
    return join([*stem, _interval(row, axis), _mark(row.style, middle, MARK_Y, is_open=row.is_open)])


def _stem(start: float, end: float) -> Html:
    return tag("path", d=f"M{_px(start)},{MARK_Y}H{_px(end)}", class_="stem")


def _interval(row: Dot, axis: Axis) -> Html:
    """Draw an interval; an end beyond the axis is an arrow."""
    if row.low is None or row.high is None:
        return Html("")
    bar = tag("path", d=f"M{_px(_along(axis, row.low))},{MARK_Y}H{_px(_along(axis, row.high))}", class_="interval")
    left = f"M5,{MARK_Y - 4}l-5,4l5,4" if row.low < axis.low else ""
    right = f"M{WIDTH - 5},{MARK_Y - 4}l5,4l-5,4" if row.high > axis.high else ""
    return join([bar, tag("path", d=left + right, class_="line")]) if left or right else bar


def _histogram(row: Strip) -> Html:
    """Draw one step for each run of equal bins, in units of bins; the smallest bin that is not empty can be seen."""
    steps = "".join(
        f"V{height}h{len(list(run))}" for height, run in groupby(math.ceil(BIN_HEIGHT * bin_) for bin_ in row.bins)
    )
    scale = f"translate({EDGE} {FLOOR_Y}) scale({_px((WIDTH - 2 * EDGE) / len(row.bins))} -1)"
    return tag("path", d=f"M0,0{steps}V0Z", class_="area", transform=scale)


def _line(line: Line, plot: Plot) -> Html:
    bars = "".join(
        f"M{_px(plot.right(at))},{_px(plot.down(low))}V{_px(plot.down(high))}" for at, low, high in line.bars
    )
    path, pen = "", "M"
    for at, value in line.points:
        # h0 makes a line of a lone point: a corner without a line has no mark.
        path += "" if value is None else f"{pen}{_px(plot.right(at))},{_px(plot.down(value))}{'h0' * (pen == 'M')}"
        pen = "M" if value is None else "L"
    drawn = tag("path", d=path, class_="line", style=f"marker:url(#k{line.style})") if path else Html("")
    interval = tag("path", d=bars, class_="bar") if bars else Html("")
    return tag("g", interval, drawn, class_=f"s{line.style}")


def _mark(style: int, x: float, y: float, *, is_open: bool = False) -> Html:
    return tag("use", href=f"#m{style}", x=_px(x), y=_px(y), class_="open" if is_open else None)


def _text(x: float, y: float, text: str, class_: str | None = None) -> Html:
    return tag("text", text, x=_px(x) if x else None, y=_px(y) if y else None, class_=class_)


def _anchor(axis: Axis, value: float) -> str | None:
    """Keep the labels at the ends of an axis inside the chart."""
    share = axis.share(value)
    return "end" if share > 0.95 else None if share < 0.05 else "middle"


def _along(axis: Axis, value: float) -> float:
    return EDGE + axis.share(value) * (WIDTH - 2 * EDGE)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
