"""Small pictures for the web UI.

Invariant: a PNG made here has at most `MAX_BYTES`, since it lives in Dagster's event log; resolution and colours give
way until it fits. matplotlib is imported when a picture is drawn, never before, and without its global state, so any
thread may draw.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hfassets.report.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BYTES = 20_000
# (dots per inch, colours), best first.
QUALITIES = ((144, 64), (120, 32), (100, 16), (80, 16), (60, 8))
WIDTH = 6.4
INK, FAINT, FILL = "#1f2937", "#d1d5db", "#3b6fb6"
# Values over this ratio apart are binned in steps of equal ratio.
WIDE = 50
BINS = 36
MOST_BARS = 16
LONGEST_LABEL = 34
RATE_POINTS = 80
TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def histogram(values: Sequence[float], *, title: str, unit: str, of: str = "files") -> bytes:
    """PNG of how many `of` have which value; `unit` ("B", "s", or a plain word) names and formats the axis.

    Wide ranges get bins of equal ratio; zeros cannot be placed on such an axis and are counted in the title.
    """
    positive = [value for value in values if value > 0]
    low, high = (min(values), max(values)) if len(values) else (0.0, 0.0)
    wide = len(positive) > 0 and low >= 0 and high > WIDE * min(positive)
    shown = positive if wide else list(values)
    figure, axes = _canvas(3.0)
    if not shown:
        _nothing(axes)
    elif min(shown) == max(shown):
        axes.bar([shown[0]], [len(shown)], width=max(abs(shown[0]), 1) * 0.1, color=FILL)
        axes.set_xlim(shown[0] - max(abs(shown[0]), 1), shown[0] + max(abs(shown[0]), 1))
    elif wide:
        edges = _ratio_edges(min(positive), high)
        axes.hist(shown, bins=edges, color=FILL, edgecolor="white", linewidth=0.5)
        axes.set_xscale("log")
    else:
        axes.hist(shown, bins=_linear_bins(shown), color=FILL, edgecolor="white", linewidth=0.5)
    zeros = len(values) - len(shown)
    suffix = f", {format_count(zeros)} at 0 not shown" if zeros else ""
    _describe(figure, f"{title}: {len(values):,} {of}{suffix}")
    if shown:
        _mark_median(axes, sorted(shown)[len(shown) // 2], unit)
        _format(axes, unit, "x")
        _format(axes, of, "y")
        axes.set_xlabel("" if unit in ("B", "s") else unit, color=INK, fontsize=8)
        axes.set_ylabel(of, color=INK, fontsize=8)
        axes.margins(y=0.13)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
    return _png(figure)


def counted_histogram(counts: Mapping[int, int], *, title: str, unit: str, of: str) -> bytes:
    """PNG of how many `of` have which whole number, from how often each is there: any number of them, median exact."""
    figure, axes = _canvas(3.0)
    ordered = sorted(counts)
    total = sum(counts.values())
    _describe(figure, f"{title}: {total:,} {of}")
    if not total:
        _nothing(axes)
        return _png(figure)
    low, high = ordered[0], ordered[-1] + 1
    weights = [counts[value] for value in ordered]
    steps = min(BINS, high - low)
    edges = [low + (high - low) * place / steps for place in range(steps + 1)]
    axes.hist(ordered, bins=edges, weights=weights, color=FILL, edgecolor="white", linewidth=0.5)
    seen = 0
    for value, count in zip(ordered, weights, strict=True):
        seen += count
        if 2 * seen >= total:
            _mark_median(axes, value, unit)
            break
    _format(axes, unit, "x")
    _format(axes, of, "y")
    axes.set_xlabel(unit, color=INK, fontsize=8)
    axes.set_ylabel(of, color=INK, fontsize=8)
    axes.margins(y=0.13)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    return _png(figure)


def binned_histogram(
    bins: Sequence[tuple[float, float, int]], *, title: str, unit: str, of: str = "files", zeros: int = 0
) -> bytes:
    """PNG of counts already binned as (lower edge, upper edge, count), edges above 0 and in steps of equal ratio.

    `zeros`: values of 0, which such an axis has no place for; they are counted in the title and in the median.
    """
    figure, axes = _canvas(3.0)
    total = sum(count for _, _, count in bins) + zeros
    suffix = f", {format_count(zeros)} at 0 not shown" if zeros else ""
    _describe(figure, f"{title}: {total:,} {of}{suffix}")
    if not bins:
        _nothing(axes)
        return _png(figure)
    lows, highs, counts = ([one[place] for one in bins] for place in range(3))
    widths = [high - low for low, high in zip(lows, highs, strict=True)]
    axes.bar(lows, counts, width=widths, align="edge", color=FILL, edgecolor="white", linewidth=0.5)
    axes.set_xscale("log")
    _mark_median(axes, _binned_median(bins, total, zeros), unit)
    _format(axes, unit, "x")
    _format(axes, of, "y")
    axes.set_xlabel(unit, color=INK, fontsize=8)
    axes.set_ylabel(of, color=INK, fontsize=8)
    axes.margins(y=0.13)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    return _png(figure)


def _binned_median(bins: Sequence[tuple[float, float, int]], total: int, zeros: int) -> float:
    """The middle (of equal ratios) of the bin that the median is in; the first bin's edge when that is 0."""
    seen = zeros
    for low, high, count in bins:
        if seen + count >= total / 2 > seen:
            return math.sqrt(low * high)
        seen += count
    return bins[0][0]


def bar_chart(amounts: Mapping[str, float], *, title: str, unit: str, as_given: bool = False) -> bytes:
    """PNG of one horizontal bar a name, each with its amount; the last of many are summed up.

    Largest first, or in the order of `amounts` where that one means something (`as_given`).
    """
    ranked = list(amounts.items()) if as_given else sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) > MOST_BARS:
        rest = ranked[MOST_BARS - 1 :]
        ranked = [*ranked[: MOST_BARS - 1], (f"{len(rest)} others", sum(amount for _, amount in rest))]
    figure, axes = _canvas(0.55 + 0.27 * max(2, len(ranked)))
    if not ranked:
        _nothing(axes)
    _describe(figure, title)
    places = range(len(ranked))
    bars = axes.barh(places, [amount for _, amount in ranked], color=FILL, height=0.72)
    axes.set_yticks(places, [_label(name) for name, _ in ranked])
    axes.bar_label(bars, [_formatter(unit)(amount) for _, amount in ranked], padding=4, fontsize=8, color=INK)
    axes.set_ylim(max(2, len(ranked)) - 0.4, -0.6)
    axes.margins(x=0.14)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return _png(figure)


def asked_and_got(counts: Sequence[tuple[str, int, int]], *, title: str) -> bytes:
    """PNG of one bar a name, filled as far as was got, in an outline as long as was asked for: (name, asked, got)."""
    figure, axes = _canvas(0.55 + 0.27 * max(2, len(counts)))
    if not counts:
        _nothing(axes)
    _describe(figure, title)
    places = range(len(counts))
    axes.barh(places, [got for _, _, got in counts], color=FILL, height=0.6)
    wanted = [asked for _, asked, _ in counts]
    axes.barh(places, wanted, fill=False, edgecolor=INK, linewidth=0.8, height=0.72)
    # A source may have given more, for one that ran short: its label stands behind the longer of the two.
    ends = axes.barh(places, [max(asked, got) for _, asked, got in counts], alpha=0)
    labels = [f"{got:,}" if got == asked else f"{got:,} of {asked:,}" for _, asked, got in counts]
    axes.bar_label(ends, labels, padding=4, fontsize=8, color=INK)
    axes.set_yticks(places, [_label(name) for name, _, _ in counts])
    axes.set_ylim(max(2, len(counts)) - 0.4, -0.6)
    axes.margins(x=0.2)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return _png(figure)


def throughput(samples: Sequence[tuple[float, float]], *, title: str, unit: str) -> bytes:
    """PNG of the rate over time, from (seconds since the start, amount done so far) in order of time."""
    rates = _rates(samples)
    figure, axes = _canvas(2.6)
    if not rates:
        _nothing(axes)
        _describe(figure, title)
        return _png(figure)
    times = [time for time, _ in rates]
    heights = [rate for _, rate in rates]
    mean = (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])
    axes.fill_between(times, heights, color=FILL, alpha=0.18, linewidth=0)
    axes.plot(times, heights, color=FILL, linewidth=1.6)
    axes.axhline(mean, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _describe(figure, f"{title}: {_formatter(unit)(mean)}{'' if unit == 'B' else f' {unit}'}/s on average")
    axes.set_ylim(0, 1.12 * max(heights) or 1)
    axes.set_xlim(0, times[-1])
    _format(axes, "s", "x")
    _format(axes, unit, "y", "/s")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    return _png(figure)


def markdown_image(png: bytes, alt: str) -> str:
    """A Markdown image with the PNG in it, as Dagster's UI shows it; raises ValueError over `MAX_BYTES`."""
    if len(png) > MAX_BYTES:
        raise ValueError(f"the picture has {len(png)} bytes, at most {MAX_BYTES} belong in an event log")
    plain = "".join(character for character in alt if character not in "[]\\\n")
    return f"![{plain}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _canvas(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(labelsize=8, labelcolor=INK, color=FAINT)
    axes.set_axisbelow(True)
    return figure, axes


def _describe(figure: Figure, title: str) -> None:
    figure.suptitle(title.replace("$", r"\$"), x=0.012, ha="left", fontsize=10, color=INK)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color=INK)
    axes.set_axis_off()


def _mark_median(axes: Axes, median: float, unit: str) -> None:
    axes.axvline(median, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    right = axes.transAxes.inverted().transform(axes.transData.transform((median, 0)))[0] > 0.7
    axes.annotate(
        f"median {_formatter(unit)(median)}",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if right else 5, -2),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        fontsize=8,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )


def _formatter(unit: str) -> Callable[[float], str]:
    return {"B": format_bytes, "s": format_seconds}.get(unit, format_count)


def _format(axes: Axes, unit: str, which: str, suffix: str = "") -> None:
    from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter

    write = _formatter(unit)
    axis = axes.xaxis if which == "x" else axes.yaxis
    most = 6 if which == "x" else 4
    low, high = axis.get_view_interval()
    if axis.get_scale() != "log":
        steps = [step for step in TIME_STEPS if (high - low) / step <= most] if unit == "s" and not suffix else []
        whole = unit not in ("s", "B") and not suffix
        axis.set_major_locator(
            MultipleLocator(steps[0]) if steps else MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole)
        )
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, place: f"{_round(write(value))}{suffix}")


def _round(text: str) -> str:
    """A tick's label without what is zero in it: "10.0 MB" -> "10 MB", "2 min 0 s" -> "2 min"."""
    return re.sub(r"(?<=min) 0 s$|(?<= h) 0 min$|\.0(?= )", "", text)


def _label(name: str) -> str:
    if len(name) > LONGEST_LABEL:
        half = LONGEST_LABEL // 2
        name = f"{name[:half]}…{name[-half:]}"
    return name.replace("$", r"\$")


def _ratio_edges(low: float, high: float) -> list[float]:
    # By logarithms: the ratio itself may be too large for a number. The last edge is set above `high`, which rounding
    # could leave out, the first at `low`.
    begin, step = math.log(low), (math.log(high) - math.log(low)) / BINS
    return [low, *(math.exp(begin + step * place) for place in range(1, BINS)), high * (1 + 1e-9)]


def _linear_bins(values: Sequence[float]) -> int:
    """Few values get few bins (their square root); whole numbers never more bins than numbers."""
    bins = min(BINS, max(5, math.isqrt(len(values)) * 2))
    if all(float(value).is_integer() for value in values):
        bins = min(bins, int(max(values) - min(values)) + 1)
    return bins


def _rates(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(time, rate) over at most `RATE_POINTS` equal stretches of time, the first with its rate from the start."""
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return []
    stretch = (samples[-1][0] - samples[0][0]) / RATE_POINTS
    rates: list[tuple[float, float]] = []
    time, done = samples[0]
    for now, amount in samples[1:]:
        if now - time >= stretch or (now == samples[-1][0] and now > time):
            rate = (amount - done) / (now - time)
            if not rates:
                rates.append((0.0, rate))
            rates.append((now - samples[0][0], rate))
            time, done = now, amount
    return rates


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    for dpi, colours in QUALITIES:
        figure.set_dpi(dpi)
        canvas.draw()
        pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        picture = pixels.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        data = io.BytesIO()
        picture.save(data, "PNG", optimize=True)
        if data.tell() <= MAX_BYTES:
            break
    return data.getvalue()
