"""Figures of the study of small machines."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.small_machines.measurements import EnergyHistogram, ExactPart, SampledPart

__all__ = ["agreement_figure", "energy_figure", "epsilon_figure"]

FloatArray = NDArray[np.float64]

_GREY, _DARK = "#d9d9d9", "#4d4d4d"
_MARKERS = ("o", "s", "^", "D")
_N_BINS = 48
_SHOWN = (0.01, 0.99)  # quantiles of the exact ratios between which bins lie


@styled
def epsilon_figure(
    exact: Mapping[str, ExactPart], sampled: Mapping[str, SampledPart], n_states: int, n_few: int
) -> Figure:
    """Epsilon of the couplings: exact over all machines, exact and sampled over those that were sampled."""
    figure, panels, _ = grid(2, 2, width=5.0, height=3.5)
    for axes, (law, part) in zip(panels, exact.items(), strict=True):
        low, high = np.quantile(part.couplings, _SHOWN)
        margin = 0.15 * (high - low)
        edges = np.linspace(low - margin, high + margin, _N_BINS + 1)
        axes.stairs(
            _density(part.couplings, edges), edges, fill=True, facecolor=_GREY, edgecolor=_DARK, linewidth=0.6,
            label=f"exact, {len(part.couplings)} machines",
        )  # fmt: skip
        some = sampled[law]
        for position, (values, name) in enumerate(
            (
                (some.exact, f"exact, {len(some.exact)} of them"),
                (some.sampled, f"block Gibbs, {n_states:,} states"),
                (some.few, f"block Gibbs, {n_few:,} states"),
            )
        ):
            axes.stairs(_density(values, edges), edges, label=name, linewidth=1.3, **line_style(position))
        axes.axvline(0, color=_DARK, linewidth=0.7)
        axes.set(xlim=(edges[0], edges[-1]), yscale="log", xlabel=r"$\epsilon$ of couplings", ylabel="density")
        axes.set_title(law)
        axes.tick_params(which="minor", length=0)
    panels[-1].legend(fontsize=8)
    return figure


@styled
def agreement_figure(sampled: Mapping[str, SampledPart], sweeps: Sequence[int], sizes: Sequence[int]) -> Figure:
    """Pulls against the length of the chains; widths of the range against the number of states."""
    figure, panels, _ = grid(2, width=5.2, height=4.0)
    for position, (law, part) in enumerate(sampled.items()):
        style = line_style(position)
        shift = 1.05 ** (position - 1.5)
        common = {"color": style["color"], "marker": _MARKERS[position], "markersize": 5, "linestyle": "none"}
        panels[0].plot(sweeps, 1 + part.biases.mean(axis=0), linewidth=1.2, **style)
        _points(panels[0], np.array(sweeps) * shift, part.pulls, label=law, **common)
        for index, filled in enumerate((False, True)):
            face = style["color"] if filled else "white"
            _points(
                panels[1], np.array(sizes) * shift, part.widths[:, :, index], markerfacecolor=face,
                label=law if filled else None, **common,
            )  # fmt: skip
    panels[0].axhline(1, color=_DARK, linewidth=0.8)
    panels[0].set(
        xscale="log", yscale="log", xlabel="sweeps from fair coins", ylabel="mean squared pull of covariances"
    )
    panels[0].set_title("points: block Gibbs; lines: exact expectation", fontsize=9.5)
    panels[1].axhline(1, color=_DARK, linewidth=0.8)
    panels[1].set(xscale="log", xlabel="independent states", ylabel="width of the 5-95 % range, sampled / exact")
    panels[1].set_title("open: all ratios; filled: denominators beyond noise", fontsize=9.5)
    panels[0].legend(fontsize=8.5)
    return figure


@styled
def energy_figure(histograms: Mapping[str, EnergyHistogram]) -> Figure:
    """Energies of sampled states, and how many different ones were met, against exact expectations."""
    figure, panels, _ = grid(len(histograms), 2, width=5.0, height=3.4)
    for column, (law, histogram) in enumerate(histograms.items()):
        centres = (histogram.edges[1:] + histogram.edges[:-1]) / 2
        top, bottom = panels[column], panels[len(histograms) + column]
        top.stairs(
            histogram.expected, histogram.edges, fill=True, facecolor=_GREY, edgecolor=_DARK, label="exact expectation"
        )
        is_met = histogram.counts > 0
        top.errorbar(
            centres[is_met], histogram.counts[is_met], np.sqrt(histogram.counts[is_met]), marker="o", markersize=4,
            color="#08519c", linestyle="none", label="block Gibbs",
        )  # fmt: skip
        told = f"{histogram.p_value:.2f}" if histogram.p_value >= 0.005 else f"{histogram.p_value:.1e}"
        top.set_title(f"{law}: {histogram.n_states:,} states, chi-square p = {told}", fontsize=9.5)
        top.set_ylabel("states")
        bottom.stairs(
            histogram.existing, histogram.edges, color=_DARK, linestyle=":", linewidth=1.2, label="states that exist"
        )
        bottom.stairs(
            histogram.distinct_expected, histogram.edges, fill=True, facecolor=_GREY, edgecolor=_DARK,
            label="distinct, exact expectation",
        )  # fmt: skip
        bottom.errorbar(
            centres[is_met], histogram.distinct[is_met], histogram.distinct_error[is_met], marker="s", markersize=4,
            color="#e6550d", linestyle="none", label="distinct states met",
        )  # fmt: skip
        bottom.set(ylabel="different states")
        for axes in (top, bottom):
            axes.set(yscale="log", xlabel="energy [nats]")
            axes.set_ylim(bottom=0.3)
            axes.tick_params(which="minor", length=0)
    panels[0].legend(fontsize=8.5)
    panels[len(histograms)].legend(fontsize=8.5)
    return figure


def _density(values: FloatArray, edges: FloatArray) -> FloatArray:
    """Density of values in bins, what lies outside in the outermost ones, NaN left out."""
    inside = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
    counts = np.histogram(inside, edges)[0]
    return np.asarray(counts / max(1, len(inside)) / np.diff(edges))


def _points(axes: Axes, x: FloatArray, values: FloatArray, **style: object) -> None:
    """Means over machines with their standard errors."""
    errors = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    axes.errorbar(x, values.mean(axis=0), errors, elinewidth=1.0, **style)  # type: ignore[arg-type]
