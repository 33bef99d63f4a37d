"""Draw what ``waiting.py`` measured: ``costs.svg`` and ``lateness.svg`` in docs/pictures.

python bench/waiting.py --against PYTHON --save docs/pictures/waiting.json
python bench/costs.py
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from plots import BLUE, GREY, ORANGE, PICTURES, key, save, title
from waiting import written

if TYPE_CHECKING:
    from waiting import Figures

VERSIONS = {"other": ORANGE, "this": BLUE}
COSTS = (
    "CPU us per arrival",
    "CPU us per poll",
    "CPU us per grant when all open",
    "CPU us per leaver",
    "KiB per waiting client",
)
WHEN = ("while parked", "when all open", "while all leave")


def costs(results: dict[str, Figures]) -> None:
    figure = Figure(figsize=(7, 1.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(COSTS)), COSTS, strict=True):
        for version, figures in results.items():
            bars = axes.bar(version, figures[name], color=VERSIONS[version], width=0.6)
            axes.bar_label(bars, [written(figures[name])], padding=2, color=GREY)
        axes.set_title(title(name).removesuffix(" when all open"))
        axes.set_yticks([])
        axes.margins(y=0.2)
        axes.spines["left"].set_visible(False)
    save(figure, "costs")


def lateness(results: dict[str, Figures]) -> None:
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.subplots()
    for row, (when, version) in enumerate((w, v) for w in WHEN for v in results):
        median, p99 = (results[version][f"late {when}, ms, {p}"] for p in ("p50", "p99"))
        y, colour = row + 0.6 * (row // len(results)), VERSIONS[version]
        axes.hlines(y, median, p99, color=colour, linewidth=3)
        axes.plot(median, y, "o", color=colour, label=version)
        axes.plot(p99, y, "|", color=colour, markersize=12)
    rows = len(results)
    axes.set_yticks([n * (rows + 0.6) + (rows - 1) / 2 for n in range(len(WHEN))], WHEN)
    axes.margins(y=0.15)
    axes.invert_yaxis()
    axes.set_xlim(left=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("late, in ms, from the median (dot) to the 99th percentile (bar)")
    axes.grid(axis="x", color=GREY, alpha=0.25)
    axes.legend(*key(axes), loc="upper right")
    save(figure, "lateness")


measured = json.loads((PICTURES / "waiting.json").read_text())
costs(measured)
lateness(measured)
