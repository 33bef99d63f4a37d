"""The look of the pictures in ``docs/pictures``, for the scripts beside this file that draw them.

They have no background, colours of medium lightness, and the reader's own fonts: to be read on
white and on black.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

GREY = "#808080"
BLUE, ORANGE, GREEN = "#3b82c4", "#d97706", "#3f9c5a"
STYLE: Any = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text, not outlines
    "svg.hashsalt": "pictures",  # the same figures make the same file
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}
mpl.rcParams.update(STYLE)


def title(figure: str) -> str:
    """The name of a figure as one that is short enough to stand above a small plot."""
    return figure.replace("CPU us ", "µs ").replace("waiting ", "")


def key(axes: Axes) -> tuple[list[Artist], list[str]]:
    """The handles and labels of a legend that has each label once."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    return list(named.values()), list(named)


def save(figure: Figure, name: str) -> None:
    figure.savefig(PICTURES / f"{name}.svg", transparent=True, metadata={"Date": None})
