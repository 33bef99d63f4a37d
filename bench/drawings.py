"""Draw what the documentation explains: ``docs/pictures/sequence.svg`` and ``buckets.svg``.

python bench/drawings.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from plots import BLUE, GREEN, GREY, ORANGE, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARD, QUEUE, DISCORD = 0.0, 1.0, 2.0
PARTIES = {SHARD: "shard 6", QUEUE: "Gateway Queue", DISCORD: "Discord"}

MAX_CONCURRENCY = 4
SHARDS = 16
INTERVAL = 5.5


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    return figure, axes


def sequence() -> None:
    figure, axes = blank(7, 4.2)
    for x, name in PARTIES.items():
        axes.text(x, -0.6, name, ha="center", weight="bold")
        axes.vlines(x, -0.2, 8.6, color=GREY, linewidth=0.8)
    axes.vlines(QUEUE, 0.4, 2.4, color=BLUE, linewidth=7)
    beside(axes, 1.4, "held until it is next in its bucket,\nand the bucket is open", BLUE)
    axes.vlines(QUEUE, 2.4, 7.9, color=ORANGE, linewidth=7)
    beside(axes, 5.15, "the bucket is closed", ORANGE)
    beside(axes, 8.1, "open for the next shard,\nat the earliest 5 s after READY", GREEN)
    arrow(axes, 0.4, SHARD, QUEUE, "GET /?shard=6&confirm=true")
    arrow(axes, 2.4, QUEUE, SHARD, "200 You're free to connect now! :)")
    arrow(axes, 3.4, SHARD, DISCORD, "IDENTIFY")
    arrow(axes, 4.4, SHARD, QUEUE, "POST /confirm")
    arrow(axes, 5.9, DISCORD, SHARD, "READY")
    arrow(axes, 6.9, SHARD, QUEUE, "POST /confirm  outcome=ready")
    axes.set_ylim(9, -1)
    axes.set_xlim(-0.35, 2.35)
    save(figure, "sequence")


def beside(axes: Axes, y: float, words: str, colour: str) -> None:
    axes.text(QUEUE + 0.06, y, words, color=colour, va="center")


def arrow(axes: Axes, y: float, start: float, end: float, words: str) -> None:
    style = {"arrowstyle": "->", "color": GREY, "shrinkA": 0, "shrinkB": 4}
    axes.annotate("", (end, y), (start, y), arrowprops=style)
    left = min(start, end)
    axes.text(left + 0.5, y - 0.12, words, ha="center", va="bottom")


def buckets() -> None:
    figure, axes = blank(7, 2.6)
    for shard in range(SHARDS):
        turn, bucket = divmod(shard, MAX_CONCURRENCY)
        at, style = (turn * INTERVAL, bucket - 0.32), "round,pad=0,rounding_size=0.15"
        axes.add_patch(FancyBboxPatch(at, 3, 0.64, boxstyle=style, fill=False, edgecolor=BLUE))
        middle = turn * INTERVAL + 1.5
        axes.text(middle, bucket, f"shard {shard}", color=BLUE, ha="center", va="center")
    for bucket in range(MAX_CONCURRENCY):
        axes.text(-1.5, bucket, f"bucket {bucket}", ha="right", va="center")
        axes.axhline(bucket + 0.5, color=GREY, linewidth=0.5)
    for turn in range(SHARDS // MAX_CONCURRENCY):
        axes.text(turn * INTERVAL, MAX_CONCURRENCY, f"{turn * INTERVAL:g} s", ha="left")
    axes.set_ylim(MAX_CONCURRENCY + 0.1, -0.5)
    axes.set_xlim(-4.5, SHARDS / MAX_CONCURRENCY * INTERVAL - 2)
    save(figure, "buckets")


sequence()
buckets()
