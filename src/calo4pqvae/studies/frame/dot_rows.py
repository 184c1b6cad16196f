"""Panels with one row a competitor: open symbols for seeds, filled ones for their mean, bars for its error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from calo4pqvae.evaluation.pages.canvas import line_style

__all__ = ["Series", "draw_rows", "logarithmic"]

_MARKERS = ("o", "s", "^", "D")
_APART = 0.26  # of a row, between two series


@dataclass(frozen=True)
class Series:
    """One kind of symbol.

    Args:
        label: What it stands for.
        values: Value of every seed, by the name of the row; a row may be missing.
        errors: Error of a row with one seed only, where it is known.
    """

    label: str
    values: Mapping[str, Sequence[float]]
    errors: Mapping[str, float]


def draw_rows(axes: Axes, names: Sequence[str], series: Sequence[Series], *, show_names: bool) -> None:
    """Draws series into a panel; a series without values takes no place in the legend.

    Args:
        axes: The panel.
        names: Rows, from above.
        series: At most four.
        show_names: Whether the rows are named at this panel.
    """
    shown = [(position, one) for position, one in enumerate(series) if any(one.values.values())]
    for place, (position, one) in enumerate(shown):
        shift = _APART * (place - (len(shown) - 1) / 2)
        marker, colour = _MARKERS[position % len(_MARKERS)], line_style(position)["color"]
        label: str | None = one.label
        for row, name in enumerate(names):
            found = np.array(one.values.get(name, ()))
            if not len(found):
                continue
            if len(found) > 1:
                seeds = {"mfc": "none", "mec": colour, "markersize": 4.5, "mew": 0.9}
                axes.plot(found, np.full(len(found), row + shift), marker, **seeds)
            error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else one.errors.get(name, 0.0)
            bar = {"fmt": marker, "color": colour, "markersize": 6.5, "capsize": 3, "label": label}
            axes.errorbar(found.mean(), row + shift, xerr=error, **bar)
            label = None
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names if show_names else [""] * len(names))
    axes.tick_params(axis="y", which="both", length=0)
    axes.grid(axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes) -> None:
    """Makes the horizontal axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
