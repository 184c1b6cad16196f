"""The look of all figures: style, colours that survive greyscale, panels with ratios, and figures as text for HTML.

Figures are made without pyplot, so that nothing is kept open and no window system is asked for. The reference is a grey
area with the band of its statistical error; generated samples are lines that differ in lightness and in dashing.
"""

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["REFERENCE_NAME", "Curve", "compare", "figure_style", "grid", "line_style", "png_base64", "styled"]

FloatArray = NDArray[np.floating[Any]]
P = ParamSpec("P")

REFERENCE_NAME = "Geant4"
_AREA, _BAND, _EDGE = "#e6e6e6", "#a6a6a6", "#4d4d4d"
_MARKERS = ("o", "s", "^", "D", "v")
_LINES = (
    ("#08519c", "-"),
    ("#e6550d", "--"),
    ("#31a354", "-."),
    ("#c51b8a", ":"),
    ("#8c6d31", (0, (6, 1, 1, 1, 1, 1))),
)
_OVERRIDES = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "axes.linewidth": 1.0,
    "lines.linewidth": 1.6,
    "xtick.major.size": 6,
    "xtick.minor.size": 3,
    "ytick.major.size": 6,
    "ytick.minor.size": 3,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "figure.dpi": 110,
}


@dataclass(frozen=True)
class Curve:
    """Values with standard errors, one for each bin."""

    values: FloatArray
    errors: FloatArray


@contextmanager
def figure_style() -> Iterator[None]:
    """The style within the block; settings of the caller come back after it."""
    settings: dict[Any, Any] = {**mplhep.style.ROOT, **_OVERRIDES}
    with mpl.rc_context(settings):
        yield


def styled(make: Callable[P, Figure]) -> Callable[P, Figure]:
    """Makes a function draw in the style of this module."""

    @wraps(make)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with figure_style():
            return make(*args, **kwargs)

    return draw


def line_style(position: int) -> dict[str, Any]:
    """Colour and dashing of the generated sample at ``position``."""
    colour, dashes = _LINES[position % len(_LINES)]
    return {"color": colour, "linestyle": dashes}


def grid(
    n_columns: int, n_rows: int = 1, *, width: float = 4.2, height: float = 3.2, ratio: bool = False
) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure of panels.

    Args:
        n_columns: Panels in a row.
        n_rows: Rows of panels.
        width: Width of a panel in inches.
        height: Height of a panel in inches, its ratio panel included.
        ratio: Whether each panel has a ratio panel below.

    Returns:
        The figure, the panels row by row, and their ratio panels (empty without).
    """
    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    if not ratio:
        return figure, list(figure.subplots(n_rows, n_columns, squeeze=False).ravel()), []
    mains, ratios = [], []
    outer = figure.add_gridspec(n_rows, n_columns)
    for position in range(n_rows * n_columns):
        inner = outer[position].subgridspec(2, 1, height_ratios=[3, 1.1], hspace=0.04)
        main = figure.add_subplot(inner[0])
        mains.append(main)
        ratios.append(figure.add_subplot(inner[1], sharex=main))
        main.tick_params(labelbottom=False)
    return figure, mains, ratios


def compare(
    axes: Axes,
    ratio: Axes | None,
    edges: FloatArray,
    reference: Curve,
    generated: Mapping[str, Curve],
    spread: float = 0.25,
) -> None:
    """Draws histograms or profiles over common bins, with generated / reference below.

    Args:
        axes: The panel.
        ratio: Its ratio panel, or None.
        edges: Bin edges, (bins + 1,).
        reference: Drawn as a grey area with its error band.
        generated: Drawn as steps with error bars.
        spread: Half of the range of the ratio panel.
    """
    axes.stairs(
        reference.values, edges, fill=True, facecolor=_AREA, edgecolor=_EDGE, linewidth=1.0, label=REFERENCE_NAME
    )
    _band(axes, edges, reference.values, reference.errors)
    for position, (name, curve) in enumerate(generated.items()):
        style = line_style(position)
        axes.stairs(curve.values, edges, label=name, **style)
        centres = _centres(axes, edges, position, len(generated))
        axes.errorbar(centres, curve.values, curve.errors, fmt="none", ecolor=style["color"], elinewidth=1.0)
    if ratio is not None:
        _compare_ratio(ratio, edges, reference, generated, spread)


def _compare_ratio(
    axes: Axes, edges: FloatArray, reference: Curve, generated: Mapping[str, Curve], spread: float
) -> None:
    """Points generated / reference; outside the panel, a triangle at its edge points to where the value is.

    Points whose error exceeds the range of the panel say nothing and are left out.
    """
    relative = _divide(reference.errors, reference.values)
    axes.axhline(1.0, color=_EDGE, linewidth=1.0)
    _band(axes, edges, np.ones_like(reference.values), np.minimum(relative, 2 * spread))
    for position, curve in enumerate(generated.values()):
        values, errors = _divide(curve.values, reference.values), _divide(curve.errors, reference.values)
        told = np.isfinite(values) & (np.hypot(errors, relative) < spread)
        colour, marker = line_style(position)["color"], _MARKERS[position % len(_MARKERS)]
        centres = _centres(axes, edges, position, len(generated))
        inside = told & (np.abs(values - 1) <= spread)
        axes.errorbar(
            centres[inside], values[inside], errors[inside], fmt=marker, color=colour, markersize=3, elinewidth=1.0
        )
        for edge, shape in ((1 - 0.93 * spread, "v"), (1 + 0.93 * spread, "^")):
            outside = np.isfinite(values) & (values < 1 - spread if shape == "v" else values > 1 + spread)
            outside &= np.abs(values - 1) - spread > np.hypot(errors, relative)
            axes.plot(centres[outside], np.full(outside.sum(), edge), shape, color=colour, markersize=6, zorder=5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(1 - spread, 1 + spread)
    axes.set_ylabel("ratio", loc="center")


def png_base64(figure: Figure) -> str:
    """The figure as PNG, in base64."""
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _centres(axes: Axes, edges: FloatArray, position: int, n_samples: int) -> FloatArray:
    """Where the points of a sample stand in their bins, beside those of the others."""
    share = 0.5 + 0.2 * (position - 0.5 * (n_samples - 1))
    if axes.get_xscale() == "log":
        return np.asarray(edges[:-1] ** (1 - share) * edges[1:] ** share)
    return np.asarray((1 - share) * edges[:-1] + share * edges[1:])


def _band(axes: Axes, edges: FloatArray, values: FloatArray, errors: FloatArray) -> None:
    axes.stairs(values + errors, edges, baseline=values - errors, fill=True, color=_BAND, alpha=0.6, linewidth=0)


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.asarray(np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0))
