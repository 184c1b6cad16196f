"""Figures of the reciprocal-space study."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.reciprocal_space.dynamics import DriftCurve, ModeDynamics, Transient
from calo4pqvae.studies.reciprocal_space.learning import ModeLearning
from calo4pqvae.studies.reciprocal_space.spectra import BlockSpectrum, GraphSpectrum
from calo4pqvae.studies.theory.marchenko_pastur import RandomBlocks, bulk_edges, singular_value_density

if TYPE_CHECKING:
    from calo4pqvae.studies.reciprocal_space.report import GraphPart

__all__ = ["drift_figure", "dynamics_figure", "learning_figure", "spectra_figure"]

FloatArray = NDArray[np.float64]

_MARKERS = ("o", "s", "^", "D", "v")
_N_SHOWN = 8  # singular values along the training
_N_TRACKED = 3  # modes along a training
_AREA: dict[str, Any] = {"fill": True, "facecolor": "0.85", "edgecolor": "0.35", "linewidth": 1.0}


@styled
def spectra_figure(blocks: RandomBlocks, spectra: Sequence[BlockSpectrum], graphs: Sequence["GraphPart"]) -> Figure:
    """Singular values at start and end and along the training; eigenvalues of the four-partite machines."""
    figure, panels, _ = grid(3, 2, width=4.3, height=3.5)
    for axes, one, title in zip(panels, (spectra[0], spectra[-1]), ("start", "end"), strict=False):
        _singular_values(axes, one, blocks)
        axes.set_title(f"bipartite, images: {title}, p = {one.fit.p_value:.2g}", fontsize=9)
    panels[1].set_yscale("log")
    _along(panels[2], spectra, spectra[0].fit.upper, r"largest $\sigma_k$")
    panels[2].set_title("bipartite, images", fontsize=9)
    for axes, part in zip(panels[3:5], graphs, strict=True):
        _eigenvalues(axes, part)
    edge = graphs[-1].graphs.reach * graphs[-1].spectra[0].fit.scale
    _along(panels[5], graphs[-1].spectra, edge, r"largest $\lambda_k$")
    panels[5].set_title(graphs[-1].label, fontsize=9)
    return figure


def _singular_values(axes: Axes, one: BlockSpectrum, blocks: RandomBlocks) -> None:
    """The law is that of the values within the bulk, with their share of all values as its area."""
    edges = np.linspace(0.0, 1.05 * max(float(one.values.max()), one.fit.upper), 31)
    counts = np.histogram(one.values, edges)[0] / (len(one.values) * np.diff(edges))
    axes.stairs(counts, edges, label="machine", **_AREA)
    x = np.linspace(*bulk_edges(blocks.shape, one.fit.rest_scale), 400)
    share = 1 - one.fit.n_outside / len(one.values)
    law = share * singular_value_density(x, blocks.shape, one.fit.rest_scale)
    axes.plot(x, law, color="black", linewidth=1.2, label="Marchenko-Pastur")
    axes.set(xlabel=r"singular value $\sigma$", ylabel="density")
    axes.legend(fontsize=8)


def _along(axes: Axes, spectra: Sequence[BlockSpectrum] | Sequence[GraphSpectrum], edge: float, name: str) -> None:
    steps = np.array([one.step for one in spectra])
    largest = np.array([np.sort(one.values)[::-1][:_N_SHOWN] for one in spectra])
    for k in range(largest.shape[1]):
        axes.plot(steps + 1, largest[:, k], color=f"{0.1 + 0.08 * k:.2f}", linewidth=1.1)
    axes.axhline(edge, color="black", linestyle="--", linewidth=1.0, label="edge at the start")
    axes.set(xscale="log", yscale="log", xlabel="learning step + 1", ylabel=name)
    axes.legend(fontsize=8, loc="upper left")


def _eigenvalues(axes: Axes, part: "GraphPart") -> None:
    last = part.spectra[-1]
    reference = part.graphs.reference * last.fit.scale
    low, high = min(last.values[0], reference[0]), max(last.values[-1], reference[-1])
    edges = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 41)
    axes.stairs(np.histogram(last.values, edges, density=True)[0], edges, label="machine", **_AREA)
    axes.stairs(np.histogram(reference, edges, density=True)[0], edges, color="black", label="random, same graph")
    axes.set(xlabel=r"eigenvalue $\lambda$ of the couplings", ylabel="density", yscale="log")
    axes.set_title(f"{part.label}: end, p = {last.fit.p_value:.2g}", fontsize=9)
    axes.legend(fontsize=8)


@styled
def dynamics_figure(
    fair: Sequence[ModeDynamics], transient: Transient, trainings: Sequence[Sequence[ModeDynamics]]
) -> Figure:
    """Theory against chains on machines of fair bits (top) and along trainings (bottom)."""
    figure, panels, _ = grid(3, 2, width=4.3, height=3.5)
    _memories(panels[0], fair)
    _from_coins(panels[1], transient)
    _lags(panels[2], fair[0])
    for axes, training in zip(panels[3:], trainings, strict=True):
        _memory_along(axes, training)
    return figure


def _memories(axes: Axes, fair: Sequence[ModeDynamics]) -> None:
    line = np.array([0.0, 1.0])
    axes.plot(line, line, color="black", linewidth=1.0)
    axes.fill_between(line, 0.9 * line, 1.1 * line, color="0.85", linewidth=0, label="10 %")
    for position, one in enumerate(fair):
        style = {"color": line_style(position)["color"], "marker": _MARKERS[position], "linestyle": "none"}
        axes.errorbar(one.rates, one.fit.memory, one.fit.memory_error, markersize=5, label=one.label, **style)
        bare = np.minimum(one.bare_rates, 1.03)
        axes.plot(bare, one.fit.memory, markerfacecolor="white", markersize=5, **style)
    axes.set(xlim=(0, 1.05), ylim=(0, 1.05), xlabel=r"theory $\alpha^2$", ylabel="memory per sweep")
    axes.legend(fontsize=8, loc="upper left")


def _from_coins(axes: Axes, transient: Transient) -> None:
    sweeps = np.arange(1, len(transient.variances) + 1)
    for k in range(transient.variances.shape[1]):
        style = line_style(k)
        axes.plot(sweeps, transient.theory[:, k], linewidth=1.2, **style)
        axes.errorbar(
            sweeps, transient.variances[:, k], transient.errors[:, k], color=style["color"], linestyle="none",
            marker=_MARKERS[k % len(_MARKERS)], markersize=3.5, label=f"mode {k + 1}",
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="sweeps from fair coins", ylabel=r"variance of $\xi_k$")
    axes.legend(fontsize=8, loc="upper left")


def _lags(axes: Axes, one: ModeDynamics) -> None:
    lags = np.arange(len(one.autocorrelation))
    for k in range(len(one.rates)):
        style = line_style(k)
        shown = one.autocorrelation[:, k] > 3 * one.autocorrelation_error[:, k]
        shown[0] = True
        axes.plot(lags, one.rates[k] ** lags, linewidth=1.2, **style)
        axes.errorbar(
            lags[shown], one.autocorrelation[shown, k], one.autocorrelation_error[shown, k], color=style["color"],
            linestyle="none", marker=_MARKERS[k % len(_MARKERS)], markersize=3.5, label=f"mode {k + 1}",
        )  # fmt: skip
    axes.set(yscale="log", ylim=(5e-3, 1.5), xlabel="lag in sweeps", ylabel="autocorrelation")
    axes.set_title(one.label, fontsize=9)
    axes.legend(fontsize=8)


def _memory_along(axes: Axes, training: Sequence[ModeDynamics]) -> None:
    steps = np.array([one.step for one in training]) + 1
    n = min(_N_TRACKED, min(len(one.rates) for one in training))
    for k in range(n):
        style = line_style(k)
        axes.plot(steps, [one.rates[k] for one in training], linewidth=1.2, **style)
        axes.errorbar(
            steps, [one.fit.memory[k] for one in training], [one.fit.memory_error[k] for one in training],
            color=style["color"], linestyle="none", marker=_MARKERS[k], markersize=5, label=f"mode {k + 1}",
        )  # fmt: skip
    axes.set(xscale="log", ylim=(-0.05, 1.05), xlabel="learning step + 1", ylabel="memory per sweep")
    axes.set_title(training[0].label, fontsize=9)
    axes.legend(fontsize=8, loc="upper left")


@styled
def drift_figure(fair: ModeDynamics, trained: tuple[ModeDynamics, int]) -> Figure:
    """Drift (left) and noise (right) of two modes as functions of their values."""
    figure, panels, _ = grid(2, 2, width=5.0, height=3.2)
    cases = ((fair, 0, fair.label), (trained[0], trained[1], f"{trained[0].label}, step {trained[0].step}"))
    for row, (one, k, title) in enumerate(cases):
        _drift(panels[2 * row], panels[2 * row + 1], one.drifts[k], float(one.fit.memory[k]), float(one.rates[k]))
        panels[2 * row].set_title(f"{title}, mode {k + 1}", fontsize=9)
    panels[0].legend(fontsize=8)
    return figure


def _drift(left: Axes, right: Axes, curve: DriftCurve, memory: float, rate: float) -> None:
    x = np.array([curve.values.min(), curve.values.max()])
    left.errorbar(
        curve.values, curve.drift, curve.drift_error, color="black", marker="o", markersize=4, linestyle="none",
        label="chains",
    )  # fmt: skip
    left.plot(x, (memory - 1) * x, label="fitted memory", **line_style(0))
    left.plot(x, (rate - 1) * x, label="theory", **{**line_style(1), "linestyle": ":"})
    left.set(xlabel=r"$\xi$ in standard deviations", ylabel="drift per sweep")
    right.errorbar(
        curve.values, curve.noise, curve.noise_error, color="black", marker="o", markersize=4, linestyle="none"
    )
    right.axhline(1 - memory**2, **line_style(0))
    right.axhline(1 - rate**2, **{**line_style(1), "linestyle": ":"})
    right.set(xlabel=r"$\xi$ in standard deviations", ylabel="noise per sweep")
    right.set_ylim(0, 1.25 * max(float(curve.noise.max()), 1 - memory**2, 1 - rate**2))


@styled
def learning_figure(learning: ModeLearning, trained: Sequence[ModeDynamics]) -> Figure:
    """Growth of the modes of the data, growth rates against theory, and the kurtosis of the slowest modes."""
    figure, panels, _ = grid(3, width=4.3, height=3.7)
    shown = np.unique(np.linspace(0, len(learning.strengths) - 1, 5).round().astype(int))
    for position, k in enumerate(shown.tolist()):
        style = line_style(position)
        panels[0].plot(
            learning.times, learning.amplitudes[:, k], marker=_MARKERS[position], markersize=3.5, linewidth=1.1,
            label=rf"$\mu$ = {learning.strengths[k]:.2f}", **style,
        )  # fmt: skip
        grown = learning.amplitudes[0, k] * np.exp(learning.theory[k] * learning.times)
        near = grown < 2 * learning.amplitudes[:, k].max()
        panels[0].plot(learning.times[near], grown[near], color=style["color"], linestyle=":", linewidth=1.3)
    panels[0].axhline(learning.edge, color="black", linestyle="--", linewidth=1.0)
    panels[0].set(yscale="log", xlabel="sum of the learning rates t", ylabel=r"$|W^T c_k|$")
    panels[0].set_ylim(bottom=0.15 * float(learning.amplitudes[0, shown].min()))
    panels[0].legend(fontsize=8, loc="lower right", ncols=2)
    top = 1.1 * float(max(learning.theory.max(), learning.rates.max()))
    panels[1].plot([0, top], [0, top], color="black", linewidth=1.0)
    panels[1].errorbar(
        learning.theory, learning.rates, learning.rate_errors, linestyle="none", marker="o", markersize=5,
        color=line_style(0)["color"],
    )  # fmt: skip
    panels[1].set(xlabel=r"theory $\mu_k / 4$", ylabel="growth per unit of t", xlim=(0, top), ylim=(0, top))
    steps = np.array([one.step for one in trained]) + 1
    for k in range(min(_N_TRACKED, min(len(one.rates) for one in trained))):
        panels[2].errorbar(
            steps, [one.fit.kurtosis[k] for one in trained], [one.fit.kurtosis_error[k] for one in trained],
            marker=_MARKERS[k], markersize=5, linewidth=1.1, label=f"mode {k + 1}", **line_style(k),
        )  # fmt: skip
    panels[2].axhline(0, color="black", linewidth=1.0)
    panels[2].set(xscale="log", xlabel="learning step + 1", ylabel="excess kurtosis")
    panels[2].legend(fontsize=8, loc="lower left")
    return figure
