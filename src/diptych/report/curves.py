"""The curves of a run as SVG for a page, from which it takes its colours, font and width."""

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from diptych.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib wants colours; the page has custom properties that change with its scheme. These stand-ins,
# which no style sheet would use, are exchanged for the properties once the drawing is text.
SERIES = [f"#0a0b0{i}" for i in range(1, 7)]
STAND_INS = {"#0a0b0d": "var(--muted)", "#0a0b0e": "var(--rule)"}
STAND_INS |= {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, start=1)}
MUTED, RULE = "#0a0b0d", "#0a0b0e"
DASHES = ["", "5 2", "1.5 1.5", "7 2 1.5 2", "3 1"]
"""Five dashes against six colours: thirty series differ, and neighbours differ without their colour."""

MOST = 300
"""Points in a drawn line; more cannot be seen at this width and would only make the page large."""


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    colour: str  # CSS
    dash: str  # SVG stroke-dasharray
    last: str


@dataclass(frozen=True)
class Chart:
    """One chart. `svg` is empty where nothing was logged, and `absent` then says what."""

    title: str
    svg: str = ""
    legend: list[Key] = field(default_factory=list)
    absent: str = ""


def charts(record: Record) -> list[Chart]:
    """The charts of a run: loss, zero-shot, logit scale, learning rate, throughput, waiting."""
    return [
        _loss(record),
        *_recall(record),
        *_zero_shot(record),
        _chart(record, "Logit scale", {"": "train/logit_scale"}, "{:.1f}"),
        _chart(record, "Learning rate", {"": "train/lr"}, "{:.2g}"),
        _chart(record, "Pairs a second", {"": "train/pairs_per_second"}, "{:,.0f}"),
        _chart(record, "Waiting for data, % of the time", {"": "train/data_wait"}, "{:.1f} %", factor=100),
    ]


def _loss(record: Record) -> Chart:
    keys = {"training": "train/loss", "held-out pairs": "val/pairs/loss"}
    if not record.series("val/pairs/loss")[1]:
        keys = {"": "train/loss"}
    return _chart(record, "Loss", keys, "{:.3f}", log=True)


def _recall(record: Record) -> list[Chart]:
    """Of held-out pairs, where there are any."""
    ways = {"text to image": "text_to_image", "image to text": "image_to_text"}
    keys = {label: f"val/pairs/recall/{way}/R@1" for label, way in ways.items()}
    if not any(record.series(key)[1] for key in keys.values()):
        return []
    return [_chart(record, "Recall@1 of held-out pairs, %", keys, "{:.1f} %", factor=100)]


def _zero_shot(record: Record) -> list[Chart]:
    """Of the sets with classes; a run that has pairs held out, and no such set, is to have none."""
    keys = _validation(record)
    if not keys and record.series("val/pairs/loss")[1]:
        return []
    return [_chart(record, "Zero-shot top-1, %", keys, "{:.1f} %", factor=100)]


def _validation(record: Record) -> dict[str, str]:
    """Label -> key of every set that was scored during training, e.g. {"noto": "val/zeroshot/noto/top1"}."""
    keys = dict.fromkeys(key for line in record.lines for key in line)
    found = {key: re.fullmatch(r"val/zeroshot/(.+)/top1", key) for key in keys}
    return {match[1]: key for key, match in found.items() if match}


def _chart(
    record: Record, title: str, keys: dict[str, str], form: str, factor: float = 1, log: bool = False
) -> Chart:
    """`keys` is label -> key; `form` writes the last value, after `factor`."""
    lines = {}
    for label, key in keys.items():
        steps, values = record.series(key)
        if any(math.isfinite(value) for value in values):
            lines[label] = (steps, [value * factor for value in values])
    if not lines:
        return Chart(title, absent=", ".join(keys.values()) or "val/zeroshot/…")
    shown = positive(value for _, values in lines.values() for value in values)
    return line_chart(title, lines, form, Axis(y=("logarithmic" if shown else "linear") if log else "", log=log))


@dataclass(frozen=True)
class Axis:
    """x, y: labels; log: whether y is logarithmic, where all values allow it; notes: texts at the points of the first
    line"""

    x: str = ""
    y: str = ""
    log: bool = False
    notes: Sequence[str] = ()


def line_chart(
    title: str, lines: dict[str, tuple[list[int], list[float]]], form: str, axis: Axis | None = None
) -> Chart:
    """Label -> the x and y of its line; `form` writes a line's last value into the legend."""
    legend = [_key(label, i, values, form) for i, (label, (_, values)) in enumerate(lines.items())]
    return Chart(title, _svg(title, list(lines.values()), axis or Axis()), legend)


def _key(label: str, i: int, values: list[float], form: str) -> Key:
    last = next((form.format(value) for value in reversed(values) if math.isfinite(value)), "–")
    return Key(label, STAND_INS[SERIES[i % len(SERIES)]], DASHES[i % len(DASHES)], last)


def thin(steps: Sequence[int], values: Sequence[float], most: int = MOST) -> tuple[list[float], ...]:
    """Steps and values -> at most `most` points: mean step, mean, least and greatest value of equal blocks
    of neighbours. A block without a finite value is nan."""
    size = max(1, math.ceil(len(steps) / most))
    columns: tuple[list[float], ...] = ([], [], [], [])
    for start in range(0, len(steps), size):
        block = [value for value in values[start : start + size] if math.isfinite(value)] or [math.nan]
        where = steps[start : start + size]
        for column, value in zip(
            columns, (sum(where) / len(where), sum(block) / len(block), min(block), max(block)), strict=True
        ):
            column.append(value)
    return columns


def _svg(title: str, lines: list[tuple[list[int], list[float]]], axis: Axis) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A salt of its own keeps this chart's ids apart from those of the other charts in the page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.2, 2.1), layout="constrained")
        axes = figure.subplots()
        for i, (steps, values) in enumerate(lines):
            x, mean, low, high = thin(steps, values)
            colour, dash = SERIES[i % len(SERIES)], DASHES[i % len(DASHES)]
            style: Any = (0, tuple(float(part) for part in dash.split())) if dash else "solid"
            axes.plot(x, mean, color=colour, linewidth=1.5, linestyle=style)
            if len(x) == 1:
                axes.plot(x, mean, color=colour, marker="o", markersize=4)
            if len(x) < len(steps):
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        _quiet(axes)
        if axis.log and positive(value for _, values in lines for value in values):
            _logarithmic(axes)
        for at, value, note in zip(*lines[0], axis.notes, strict=False):
            axes.annotate(note, (at, value), (0, 4), "data", "offset points", color=MUTED, fontsize=6, ha="center")
        axes.set_xlabel(axis.x, color=MUTED, fontsize=8)
        axes.set_ylabel(axis.y, color=MUTED, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return inline(buffer.getvalue(), title)


def _quiet(axes: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=MUTED, length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.01)
    axes.set_ylim(bottom=min(0, axes.dataLim.y0))  # from zero: half as high is half as much


def positive(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis can show all that are finite."""
    return all(value > 0 for value in values if math.isfinite(value))


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.dataLim.y0, axes.dataLim.y1
    axes.set_yscale("log")
    axes.set_ylim(low / 1.1, high * 1.1)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def inline(svg: str, title: str) -> str:
    """A stand-alone SVG file -> an element for a page: no prologue, metadata, name spaces or global style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([\d. ]+)"', svg)
    assert box is not None  # matplotlib always writes one
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(title)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    # Of its ids only those of markers and clip paths are referred to; the others repeat in every drawing.
    svg = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    for stand_in, css in STAND_INS.items():
        svg = svg.replace(stand_in, css)
    return svg
