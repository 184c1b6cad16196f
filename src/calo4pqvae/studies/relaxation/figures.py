"""Figures of the study of relaxation.

Open symbols with an arrow are limits: lower ones where chains were too short, upper ones where memory ends within
a sweep.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.relaxation.learning import EnergyBalance, LearningCurve
from calo4pqvae.studies.relaxation.measurements import ExactCheck, Times
from calo4pqvae.studies.relaxation.scans import SizePoint, mean_of

__all__ = [
    "exact_figure",
    "learning_figure",
    "modes_figure",
    "size_figure",
    "temperature_figure",
    "training_figure",
]

FloatArray = NDArray[np.float64]

_MARKERS = ("o", "s", "^", "D", "v")
_GREY = "0.45"
_SWEEPS = "relaxation time / sweeps"


@styled
def exact_figure(checks: Sequence[ExactCheck]) -> Figure:
    """Measured against exact times of tiny machines, and their pulls."""
    figure, (left, right), _ = grid(2, width=5.0, height=3.8)
    exact = np.array([one.exact for one in checks])
    ends = np.array([exact.min() / 1.5, exact.max() * 1.5])
    left.plot(ends, ends, color="black", linewidth=1.0, label="equal")
    kinds = (("measured", "slowest eigenfunction"), ("mode", "leading mode"), ("energy", "energy"))
    for place, (name, label) in enumerate(kinds):
        found = [getattr(one, name) for one in checks]
        style: dict[str, Any] = {"color": line_style(place)["color"], "marker": _MARKERS[place], "linestyle": "none"}
        if place:
            style["markerfacecolor"] = "none"
        left.errorbar(exact, [one.value for one in found], [one.error for one in found], label=label, ms=5, **style)
    left.set(xscale="log", yscale="log", xlabel="exact relaxation time / sweeps", ylabel="measured / sweeps")
    left.legend(loc="upper left", fontsize=8.5)
    pulls = np.array([one.pull for one in checks])
    edges = np.linspace(-4, 4, 17)
    right.hist(np.clip(pulls, -3.99, 3.99), edges.tolist(), color="0.8", edgecolor="0.3", label="slowest eigenfunction")
    fine = np.linspace(-4, 4, 200)
    normal = len(pulls) * 0.5 * np.exp(-(fine**2) / 2) / np.sqrt(2 * np.pi)
    right.plot(fine, normal, color="black", linestyle="--", label="standard normal")
    right.set(xlabel="(measured - exact) / standard error", ylabel="machines")
    right.set_ylim(top=1.45 * max(right.get_ylim()[1], 1))
    right.legend(loc="upper right", fontsize=8.5)
    return figure


@styled
def size_figure(points: Sequence[SizePoint]) -> Figure:
    """Relaxation of the leading mode against the size of random machines."""
    forms = list(dict.fromkeys(one.form for one in points))
    figure, panels, _ = grid(len(forms), width=5.0, height=3.8)
    for axes, form in zip(panels, forms, strict=True):
        shown = [one for one in points if one.form == form]
        sizes = np.array([one.n_units for one in shown], dtype=np.float64)
        for place, (name, label) in enumerate((("measured", "leading mode"), ("energy", "energy"))):
            means, errors = np.array([mean_of(getattr(one, name)) for one in shown]).T
            axes.errorbar(
                sizes, means, errors, marker=_MARKERS[place], linestyle="none", color=line_style(place)["color"],
                label=f"{label}, measured",
            )  # fmt: skip
        for place, (name, label) in enumerate((("theory", "measured gains"), ("fair", "fair bits")), 2):
            means = np.array([mean_of(getattr(one, name))[0] for one in shown])
            kept = np.isfinite(means)
            axes.plot(sizes[kept], means[kept], label=f"linear theory, {label}", **line_style(place))
        axes.set(xscale="log", yscale="log", xlabel="bits of a partition", ylabel=_SWEEPS)
        axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_ylim(top=axes.get_ylim()[1] * 3)
        axes.set_title(form, fontsize=9.5)
        axes.legend(loc="upper left", fontsize=8)
    return figure


@styled
def training_figure(steps: Sequence[int], along: Mapping[str, Sequence[Times]], n_sweeps: int) -> Figure:
    """Times of a machine of images along its training, one panel a situation."""
    figure, panels, _ = grid(len(along), width=5.0, height=3.8)
    x = np.asarray(steps, dtype=np.float64)
    for axes, (name, times) in zip(panels, along.items(), strict=True):
        _measured(axes, x, times, 0, 0, "energy")
        _measured(axes, x, times, 1, 1, "leading mode")
        integrated = np.array([one.integrated[0] for one in times])
        axes.plot(x, integrated, label="energy, integrated", marker=_MARKERS[2], markersize=3.5, **line_style(2))
        theory = np.array([one.theory[0] for one in times])
        kept = np.isfinite(theory)
        axes.plot(x[kept], theory[kept], color="black", linestyle="-", linewidth=1.0, label="leading mode, theory")
        axes.axhline(n_sweeps, color=_GREY, linestyle=":", label="sweeps of an update")
        axes.set_xscale("symlog", linthresh=1)
        axes.set(yscale="log", xlabel="learning step", ylabel="time / sweeps")
        axes.set_xlim(-0.2, x.max() * 1.4)
        axes.set_ylim(top=axes.get_ylim()[1] * 12)
        axes.set_title(name, fontsize=9.5)
        axes.legend(loc="upper left", fontsize=8, ncols=2)
    return figure


@styled
def modes_figure(machines: Mapping[str, Times]) -> Figure:
    """Measured against theoretical relaxation times, mode by mode."""
    figure, (axes,), _ = grid(1, width=6.2, height=4.6)
    finite = [one.theory[np.isfinite(one.theory)] for one in machines.values()]
    ends = np.array([min(part.min() for part in finite) / 1.6, max(part.max() for part in finite) * 1.6])
    axes.plot(ends, ends, color="black", linewidth=1.0, label="equal")
    axes.fill_between(ends, ends * 0.9, ends * 1.1, color="0.85", label="within 10 %")
    for place, (name, times) in enumerate(machines.items()):
        colour, marker = line_style(place)["color"], _MARKERS[place % len(_MARKERS)]
        kept = np.isfinite(times.theory)
        measured, errors = times.relaxation[1:][kept], times.relaxation_error[1:][kept]
        limits = (times.is_lower_limit | times.is_upper_limit)[1:][kept]
        for limited in (False, True):
            some = limits == limited
            if not some.any():
                continue
            axes.errorbar(
                times.theory[kept][some], measured[some], None if limited else errors[some], marker=marker,
                markersize=5, linestyle="none", color=colour, markerfacecolor="none" if limited else colour,
                label=f"{name}, limits" if limited else name,
            )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="relaxation time in the linear theory / sweeps", ylabel="measured / sweeps")
    axes.legend(loc="upper left", fontsize=8)
    return figure


@styled
def temperature_figure(scans: Mapping[str, Mapping[float, Times]]) -> Figure:
    """Longest relaxation time against inverse temperature."""
    figure, (left, right), _ = grid(2, width=5.0, height=3.8)
    for place, (name, scan) in enumerate(scans.items()):
        betas, times = np.array(list(scan)), list(scan.values())
        _measured(left, betas, times, None, place, name)
        theory = np.array([one.theory[0] for one in times])
        kept = np.isfinite(theory)
        left.plot(betas[kept], theory[kept], **{**line_style(place), "linewidth": 1.0})
        integrated = np.array([one.integrated[0] for one in times])
        errors = np.array([one.integrated_error[0] for one in times])
        right.errorbar(betas, integrated, errors, marker=_MARKERS[place], markersize=4, label=name, **line_style(place))
    left.set(yscale="log", xlabel=r"inverse temperature $\beta$", ylabel=_SWEEPS)
    left.set_title("longest relaxation time; lines: linear theory", fontsize=9.5)
    right.set(yscale="log", xlabel=r"inverse temperature $\beta$", ylabel="time / sweeps")
    right.set_title("integrated autocorrelation time of the energy", fontsize=9.5)
    left.legend(loc="upper left", fontsize=8)
    return figure


@styled
def learning_figure(curve: LearningCurve, balance: EnergyBalance) -> Figure:
    """Relaxation time of the chains against the epoch, with the sweeps that were made, and the energies."""
    figure, (left, right), _ = grid(2, width=5.0, height=3.8)
    kept = ~curve.is_limit
    errors = curve.relaxation_error
    style = {"marker": "o", "markersize": 4, "linestyle": "none", "color": line_style(0)["color"]}
    left.errorbar(
        curve.epochs[kept], curve.relaxation[kept], errors[kept], label="relaxation time of the chains", **style
    )
    if not kept.all():
        style |= {"marker": "^", "markerfacecolor": "none", "label": "lower limit"}
        left.plot(curve.epochs[~kept], curve.relaxation[~kept], **style)
    left.plot(curve.epochs, curve.integrated, label="integrated time of the energy", **line_style(2))
    left.step(curve.epochs, curve.sweeps, where="pre", label="sweeps of an update", color="black", linestyle="--")
    left.set(xscale="log", yscale="log", xlabel="training epoch of the prior", ylabel="sweeps")
    left.set_ylim(bottom=min(1.0, left.get_ylim()[0]))
    left.set_ylim(top=left.get_ylim()[1] * 3)
    left.legend(loc="upper left", fontsize=8)
    right.axhline(0, color="black", linewidth=1.0)
    right.plot(curve.watched_epochs, curve.gaps, label="chains while learning", **line_style(0))
    right.errorbar(
        [curve.watched_epochs[-1]], [balance.gap / balance.spread], [2 * balance.gap_error / balance.spread],
        marker="s", color=line_style(1)["color"], markersize=5, capsize=3, label="fresh samples at the end, ± 2 errors",
    )  # fmt: skip
    right.set(xscale="log", xlabel="training epoch of the prior", ylabel="energy of data - samples / spread of data")
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.35 * (high - low))
    right.legend(loc="upper right", fontsize=8)
    return figure


def _measured(axes: Axes, x: FloatArray, times: Sequence[Times], place: int | None, position: int, label: str) -> None:
    """Relaxation times with errors, limits as arrows; of the slowest quantity if ``place`` is None."""
    places = [one.slowest if place is None else place for one in times]
    pairs = list(zip(times, places, strict=True))
    values = np.array([one.relaxation[at] for one, at in pairs])
    errors = np.array([one.relaxation_error[at] for one, at in pairs])
    lower = np.array([one.is_lower_limit[at] for one, at in pairs]) & np.isfinite(values)
    upper = np.array([one.is_upper_limit[at] for one, at in pairs])
    kept = ~(lower | upper) & np.isfinite(values)
    colour = line_style(position)["color"]
    marker = _MARKERS[position % len(_MARKERS)]
    axes.errorbar(x[kept], values[kept], errors[kept], marker=marker, ms=5, linestyle="none", color=colour, label=label)
    for which, arrow in ((lower, {"lolims": True}), (upper, {"uplims": True})):
        more: dict[str, Any] = {**arrow}
        if which.any():
            axes.errorbar(
                x[which], values[which], 0.3 * values[which], linestyle="none", marker=marker, ms=5, color=colour,
                markerfacecolor="none", **more,
            )  # fmt: skip
