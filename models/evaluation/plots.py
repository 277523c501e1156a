"""Plots as SVG that stands in a page: its colours are the page's CSS variables, its text the page's text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np

from models.evaluation import classification, detection, segmentation
from models.evaluation.bootstrap import Figure
from models.evaluation.protocol import Case, FloatArray, slug

#: Stand-ins that matplotlib takes for colours, and the CSS variables they become.
COLOURS = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--one",
    "#050505": "--two",
    "#060606": "--three",
    "#070707": "--four",
    "#080808": "--five",
    "#090909": "--six",
}
INK, MUTED, LINE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


class Drawing:
    """One plot; ``svg`` is there after the ``with`` of :func:`drawing`."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def drawing(name: str, title: str, width: float = 4.6, height: float = 3.6) -> Iterator[Drawing]:
    """A figure with one pair of axes, without any screen or global state but matplotlib's settings, which are put back."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(dict(STYLE, **{"svg.hashsalt": name})):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        drawn = Drawing(canvas.add_subplot())
        yield drawn
        stream = StringIO()
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn.svg = _inline(stream.getvalue(), name, title)


def _inline(text: str, name: str, title: str) -> str:
    """Without the XML prolog; ids of its own; sized by the page; described for those who do not see it."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for stand_in, variable in COLOURS.items():
        text = text.replace(stand_in, f"var({variable})")
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]+pt"', "", head)
    return f'{head} role="img" aria-label="{_attribute(title)}">{rest}'


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def intervals(
    name: str, title: str, rows: Sequence[tuple[str, Figure, bool]], *, unit: str = "", limits: tuple[float, float] | None = None
) -> str:
    """One line a figure: a dot with its interval. ``rows``: text, figure, pale (a small group)."""
    with drawing(name, title, 5.4, 0.9 + 0.34 * len(rows)) as plot:
        axes = plot.axes
        for place, (_, figure, pale) in enumerate(rows):
            if figure.value is None:
                continue
            colour = MUTED if pale else SERIES[0]
            if figure.low is not None and figure.high is not None:
                axes.plot([figure.low, figure.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="round")
            axes.plot([figure.value], [place], "o", color=colour, markersize=7, markerfacecolor="none" if pale else colour)
        axes.set_yticks(range(len(rows)), [text for text, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.set_xlabel(unit)
    return plot.svg


def distribution(name: str, title: str, cases: Sequence[Case], classes: Sequence[str], key: str, label: str) -> str | None:
    """Each item's value as a dot, with median and quartiles, class by class."""
    columns = [[v for case in cases if (v := case.values.get(f"{key}.{slug(each)}")) is not None] for each in classes]
    if not any(columns):
        return None
    rng = np.random.default_rng(0)
    with drawing(name, title) as plot:
        axes = plot.axes
        for place, values in enumerate(columns):
            if not values:
                continue
            axes.plot(place + rng.uniform(-0.16, 0.16, len(values)), values, "o", color=SERIES[place % 6], markersize=4, alpha=0.55)
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            axes.plot([place + 0.3] * 2, [low, high], color=INK, linewidth=4, solid_capstyle="butt", alpha=0.7)
            axes.plot([place + 0.22, place + 0.38], [middle, middle], color=INK, linewidth=2)
        axes.set_xticks(range(len(classes)), classes)
        axes.set_xlim(-0.6, len(classes) - 0.4)
        axes.set_ylabel(label)
        axes.grid(axis="x", visible=False)
    return plot.svg


def bland_altman(name: str, title: str, cases: Sequence[Case], structure: str, unit: str) -> str | None:
    """Difference against mean of found and reference, with bias and limits of agreement."""
    pairs = segmentation.volume_pairs(cases, structure)
    if not len(pairs):
        return None
    limits = segmentation.bland_altman(cases, structure)
    with drawing(name, title) as plot:
        axes = plot.axes
        axes.plot(pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0], "o", color=SERIES[0], markersize=4, alpha=0.6)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for key, style in (("bias", "-"), ("low", "--"), ("high", "--")):
            value = limits[key]
            if value is not None:
                axes.axhline(value, color=SERIES[1], linestyle=style, linewidth=1.5)
                place = axes.get_yaxis_transform()
                axes.annotate(
                    f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}",
                    (1, value),
                    xycoords=place,
                    ha="right",
                    va="bottom",
                    fontsize=9,
                    color=SERIES[1],
                )
        axes.set_xlabel(f"mean of reference and model ({unit})")
        axes.set_ylabel(f"model - reference ({unit})")
    return plot.svg


def lines(
    name: str, title: str, series: Mapping[str, tuple[FloatArray, FloatArray]], labels: tuple[str, str], *, diagonal: bool = False
) -> str:
    """Curves in the unit square."""
    with drawing(name, title) as plot:
        axes = plot.axes
        if diagonal:
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        for number, (text, (x, y)) in enumerate(series.items()):
            axes.plot(x, y, color=SERIES[number % 6], linewidth=2, label=text, drawstyle="steps-post" if diagonal else "default")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_aspect("equal")
        axes.legend(loc="lower right" if diagonal else "lower left")
    return plot.svg


def reliability(name: str, title: str, bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> str | None:
    """Share of positives against mean score, bin by bin; the area of a dot grows with its items."""
    if not any(bins.values()):
        return None
    most = max(count for each in bins.values() for _, _, count in each)
    with drawing(name, title) as plot:
        axes = plot.axes
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        for number, (text, points) in enumerate(bins.items()):
            if points:
                score, share, count = (np.array(column) for column in zip(*points, strict=True))
                axes.plot(score, share, color=SERIES[number % 6], linewidth=1.2)
                axes.scatter(score, share, s=20 + 160 * count / most, color=SERIES[number % 6], alpha=0.7, label=text)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean score of the model")
        axes.set_ylabel("share that is positive")
        axes.set_aspect("equal")
        axes.legend(loc="upper left", markerscale=0.5)
    return plot.svg


def scores(name: str, title: str, view: classification.Binary) -> str | None:
    """How often each score is given to the positive and to the negative, with the threshold."""
    truth, values = view.truth[view.scored], view.scores[view.scored]
    if not len(values):
        return None
    edges = np.histogram_bin_edges(values, bins=20, range=(0, 1) if values.min() >= 0 and values.max() <= 1 else None)
    with drawing(name, title) as plot:
        axes = plot.axes
        for number, (text, part) in enumerate((("negative", values[~truth]), ("positive", values[truth]))):
            axes.hist(part, bins=edges, color=SERIES[number], alpha=0.55, label=f"{text} ({len(part)})")
        axes.axvline(view.threshold, color=INK, linestyle="--", linewidth=1.2)
        axes.set_xlabel("score")
        axes.set_ylabel("items")
        axes.legend(loc="upper center")
    return plot.svg


def froc(name: str, title: str, matches: Mapping[str, detection.Matches]) -> str:
    """Sensitivity against false alarms an item, logarithmic from 1/8 on."""
    with drawing(name, title) as plot:
        axes = plot.axes
        for number, (text, each) in enumerate(matches.items()):
            alarms, found = (curve[0] for curve in detection.froc_curve(each, np.ones((1, len(each.wanted)))))
            right = np.append(np.maximum(alarms, 0.01), max(16.0, float(alarms[-1])))  # beyond the last box nothing more is found
            axes.step(right, np.append(found, found[-1]), where="post", color=SERIES[number % 6], linewidth=2, label=text)
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.0625, 16)
        axes.set_xticks(detection.FALSE_POSITIVES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("false alarms an image")
        axes.set_ylabel("share found")
        axes.legend(loc="lower right")
    return plot.svg
