"""Figures of the study of the high-temperature gradient."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.high_temperature.measurements import Measured

__all__ = ["effects_figure", "histogram_figure", "terms_figure"]

FloatArray = NDArray[np.float64]

_DARK = "#4d4d4d"
_MARKERS = ("o", "s", "^", "D", "v")
_N_BINS, _N_FEW_BINS = 60, 24
_MANY = 5000  # couplings from which on bins are narrow
_SHOWN = (0.002, 0.998)  # quantiles of the ratios between which bins lie
_N_COLUMNS = 3
_LEAST_MEAN = 0.05  # shown at least
_RATIO = r"$\beta\,||\mathrm{Cov}|| \; / \; ||\langle x \rangle||$ of couplings"


@styled
def histogram_figure(cases: Sequence[Measured]) -> Figure:
    """Histogram of epsilon of every kind of parameter, a panel a machine; ratios beyond noise alone."""
    n_rows = -(-len(cases) // _N_COLUMNS)
    figure, panels, _ = grid(_N_COLUMNS, n_rows, width=4.3, height=3.4)
    for axes, case in zip(panels, cases, strict=False):
        kept = case.epsilon.resolved()
        values = {name: case.epsilon.values[places[kept[places]]] for name, places in case.groups.items()}
        errors = case.epsilon.error[case.groups["couplings"]][kept[case.groups["couplings"]]]
        everything = np.concatenate([part[np.isfinite(part)] for part in values.values()])
        axes.set_title(case.label, fontsize=10.5)
        if not len(everything):
            axes.text(0.5, 0.5, "no denominator is beyond noise", ha="center", transform=axes.transAxes)
            continue
        low, high = np.quantile(everything, _SHOWN)
        margin = 0.08 * (high - low)
        n_bins = _N_BINS if len(case.groups["couplings"]) > _MANY else _N_FEW_BINS
        edges = np.linspace(low - margin, high + margin, n_bins + 1)
        for position, (name, part) in enumerate(values.items()):
            inside = np.clip(part[np.isfinite(part)], edges[0], edges[-1])
            density = np.histogram(inside, edges)[0] / max(1, len(inside)) / np.diff(edges)
            axes.stairs(density, edges, label=f"{name} ({len(part):,})", linewidth=1.3, **line_style(position))
        axes.axvline(0, color=_DARK, linewidth=0.7)
        axes.set(yscale="log", xlabel=r"$\epsilon$", ylabel="density", xlim=(edges[0], edges[-1]))
        axes.tick_params(which="minor", length=0)
        low_y, high_y = axes.get_ylim()
        axes.set_ylim(low_y, high_y * (high_y / low_y) ** 0.55)  # room for the legend
        if len(errors):
            _error_bar(axes, float(np.median(errors)))
        axes.legend(fontsize=7.5, loc="upper right")
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
        axes.text(
            0.0, 0.7, "one entry a parameter whose denominator is\nlarger than three of its errors (number in\n"
            "brackets); what lies outside is counted in\nthe outermost bins; bar: median standard\nerror of one "
            "ratio of the couplings", fontsize=9, va="top", transform=axes.transAxes,
        )  # fmt: skip
    return figure


@styled
def effects_figure(cases: Sequence[Measured]) -> Figure:
    """Ratio of lengths against the number of sweeps and against the inverse temperature."""
    figure, panels, _ = grid(2, width=5.4, height=4.2)
    for position, case in enumerate(cases):
        style = line_style(position)
        common = {"color": style["color"], "marker": _MARKERS[position % len(_MARKERS)], "markersize": 5}
        shift = 1.04 ** (position - 2)
        for kind, by_sweeps in case.by_sweeps.items():
            x, y, errors = _points([(float(n), part["couplings"]) for n, part in by_sweeps.items()])
            panels[0].errorbar(
                x * shift, y, errors, linewidth=1.0, linestyle=style["linestyle"] if kind == "coins" else "none",
                markerfacecolor=style["color"] if kind == "coins" else "white",
                label=case.label if kind == "coins" else None, **common,
            )  # fmt: skip
        x, y, errors = _points([(beta, part["couplings"]) for beta, part in sorted(case.by_beta.items())])
        panels[1].errorbar(x * shift, y, errors, linestyle="none", label=case.label, **common)
        line = np.array([min(case.by_beta) / 2, 1.0])
        panels[1].plot(line, case.slopes["couplings"] * line, linewidth=1.0, **style)
    panels[0].set(xscale="log", yscale="log", xlabel="block Gibbs sweeps", ylabel=_RATIO)
    panels[0].set_title("filled: from fair coins; open: from the data", fontsize=9.5)
    panels[1].set(xscale="log", yscale="log", xlabel=r"inverse temperature $\beta$", ylabel=_RATIO)
    panels[1].set_title(r"lines: exact slope at $\beta \to 0$", fontsize=9.5)
    panels[1].legend(fontsize=8)
    return figure


@styled
def terms_figure(cases: Sequence[Measured]) -> Figure:
    """The two terms of every coupling against each other, with the lines epsilon = 1 and 0.1."""
    n_rows = -(-len(cases) // _N_COLUMNS)
    figure, panels, _ = grid(_N_COLUMNS, n_rows, width=4.2, height=3.4)
    for axes, case in zip(panels, cases, strict=False):
        places = case.groups["couplings"]
        mean, covariance = case.epsilon.mean[places], np.abs(case.epsilon.covariance[places])
        told = (mean > 0) & (covariance > 0)
        axes.set_title(case.label, fontsize=10.5)
        if not told.any():
            axes.text(0.5, 0.5, "no product was met", ha="center", transform=axes.transAxes)
            continue
        drawn = axes.hexbin(
            mean[told], covariance[told], xscale="log", yscale="log", gridsize=45, bins="log", cmap="Greys", mincnt=1,
            linewidths=0.1,
        )  # fmt: skip
        x = np.array([min(_LEAST_MEAN, mean[told].min()), 1.0])
        for ratio, dashes in ((1.0, "-"), (0.1, "--")):
            axes.plot(
                x, ratio * x, color="#08519c", linestyle=dashes, linewidth=1.2, label=rf"$|\epsilon|$ = {ratio:g}"
            )
        noise = float(np.median(case.epsilon.covariance_error[places]))
        axes.axhline(noise, color="#e6550d", linestyle=":", linewidth=1.4, label="median error of Cov")
        axes.set(xlabel=r"$\langle x \rangle$", ylabel=r"$|\beta\,\mathrm{Cov}(E, x)|$", xlim=(x[0], 1.2))
        axes.tick_params(which="minor", length=0)
        figure.colorbar(drawn, ax=axes, label="couplings")
    panels[0].legend(fontsize=7.5)
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    return figure


def _points(parts: Sequence[tuple[float, object]]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Abscissae, ratios of lengths and their errors; what is noise alone is left out."""
    rows = np.array([(x, part.values[-1], part.errors[-1]) for x, part in parts])  # type: ignore[attr-defined]
    rows = rows[np.isfinite(rows).all(axis=1)]
    return rows[:, 0], rows[:, 1], rows[:, 2]


def _error_bar(axes: Axes, error: float) -> None:
    """The median standard error of a ratio, as a bar in the lower left."""
    low, high = axes.get_xlim()
    centre = low + max(0.1 * (high - low), error + 0.03 * (high - low))
    height = axes.get_ylim()[0] * 3
    axes.errorbar([centre], [height], xerr=[[error], [error]], color="black", capsize=3, elinewidth=1.0)
