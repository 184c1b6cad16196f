"""Figures of the phase-diagram study."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.phase_diagram.measurements import OVERLAP_EDGES, PlacedMachine, Scan
from calo4pqvae.studies.theory.placement import DiagramPoint
from calo4pqvae.studies.theory.sherrington_kirkpatrick import (
    almeida_thouless_line,
    glass_ferromagnet_line,
    replica_symmetric,
)

__all__ = ["diagram_figure", "order_figure", "overlap_figure", "placement_figure", "replica_figure"]

FloatArray = NDArray[np.float64]

_WIDTHS = np.geomspace(0.02, 300, 120)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TALL = 3.6


def _lines(axes: Axes, highest: float) -> None:
    """The computed lines of the diagram."""
    axes.plot([1, highest], [1, highest], color="black", linestyle="-", label="ferromagnet")
    axes.plot([-9, 1], [1, 1], color="black", linestyle="--", label="spin glass")
    glass_j0, glass_kt = glass_ferromagnet_line(_WIDTHS)
    axes.plot(glass_j0, glass_kt, color="0.55", linestyle=":", label="glass-ferromagnet, RS")
    axes.plot([1, 1], [0, 1], color="0.55", linestyle=(0, (1, 3)), label="glass-mixed")
    kt, j0, _ = almeida_thouless_line(_WIDTHS)
    axes.plot(j0, kt, color="black", linestyle="-.", label="de Almeida-Thouless")


@styled
def diagram_figure(scans: Sequence[Scan]) -> Figure:
    """Lines, and the measured size of overlap and magnetisation at the largest size."""
    figure, panels, _ = grid(2, width=5.4, height=4.4)
    largest = max(one.n_units for one in scans)
    shown = [one for one in scans if one.n_units == largest]
    last = None
    for axes, title, name in zip(
        panels, (r"root of $\langle q^2 \rangle$", r"$\langle |m| \rangle$"), "qm", strict=True
    ):
        _lines(axes, 3.0)
        for form, marker, size in (("four-partite", "o", 62), ("bipartite", "D", 16)):
            for one in (one for one in shown if one.form == form):
                values = np.sqrt(one.q2.mean(axis=0)) if name == "q" else one.m_abs.mean(axis=0)
                last = axes.scatter(
                    np.full(len(one.kt), one.j0), one.kt, c=values, cmap="Greys", vmin=0, vmax=1, s=size,
                    marker=marker, edgecolors="black", linewidths=0.8, zorder=3,
                )  # fmt: skip
        axes.set(xlim=(-0.25, 2.5), ylim=(0, 2.7), xlabel=r"$\tilde J_0 / \tilde J$", ylabel=r"$kT / \tilde J$")
        axes.set_title(f"{title} measured, N = {largest} (circles: four-partite, diamonds: bipartite)", fontsize=8.5)
        for x, y, text in ((0.25, 2.25, "paramagnet"), (1.62, 1.0, "ferromagnet"), (0.3, 0.62, "spin glass")):
            axes.text(x, y, text, fontsize=9, ha="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axes.text(1.22, 0.25, "mixed", fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9, handlelength=3
    )
    if last is not None:
        figure.colorbar(last, ax=panels, shrink=0.8)
    return figure


@styled
def placement_figure(placed: Sequence[PlacedMachine]) -> Figure:
    """Real machines on the diagram: by moments of the couplings, and by their leading mode."""
    figure, panels, _ = grid(2, width=6.0, height=5.4)
    titles = ("moments of the couplings (filled: spins, open: bits)", "leading mode of the spins")
    for axes, title, mode in zip(panels, titles, (False, True), strict=True):
        _lines(axes, 60.0)
        n_trainings = 0
        for position, (label, group) in enumerate(groupby(placed, key=lambda one: one.label)):
            machines = list(group)
            is_training = machines[-1].step > 0
            colour = line_style(n_trainings)["color"] if is_training else "0.45"
            dashes = line_style(n_trainings)["linestyle"] if is_training else "none"
            n_trainings += is_training
            for units, filled in (("mode", True),) if mode else (("spins", True), ("bits", False)):
                x, y = _track([point for one in machines for point in one.points if point.units == units])
                axes.plot(
                    x, y, marker=_MARKERS[position % len(_MARKERS)], color=colour, linewidth=1.1, linestyle=dashes,
                    markerfacecolor=colour if filled else "white", markersize=6 if is_training else 4.5,
                    label=label if filled else None, zorder=3 if is_training else 2,
                )  # fmt: skip
                if is_training:
                    axes.annotate("end", (x[-1], y[-1]), xytext=(6, -9), textcoords="offset points", fontsize=8)
        axes.set(xlabel=r"$\tilde J_0 / \tilde J$", ylabel=r"$kT / \tilde J$", yscale="log", ylim=(0.15, 250))
        axes.set_title(title, fontsize=10)
    panels[0].set_xlim(-1, 4)
    panels[1].set(xlim=(0.8, 60), xscale="log")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=9, handlelength=3)
    return figure


def _track(points: Sequence[DiagramPoint]) -> tuple[FloatArray, FloatArray]:
    j0, j = np.array([(point.j0_form, point.j_form) for point in points]).T
    return j0 / j, 1 / j


@styled
def replica_figure(placed: Sequence[PlacedMachine]) -> Figure:
    """Distribution of the overlap of real machines at the start, on the way and at the end of each training."""
    labels = dict.fromkeys(one.label for one in placed if len(one.histogram))
    figure, panels, _ = grid(len(labels), width=3.9, height=_TALL)
    for axes, label in zip(panels, labels, strict=True):
        group = [one for one in placed if one.label == label]
        for position, one in enumerate((group[0], group[len(group) // 2], group[-1])):
            style = line_style(position)
            axes.stairs(one.histogram, OVERLAP_EDGES, label=f"step {one.step}", **style)
            if one.order is not None:
                axes.axvline(one.symmetric_spin_overlap, color=style["color"], linestyle=(0, (1, 2)), linewidth=1.2)
        axes.set(xlabel="overlap q of the spins", ylabel="P(q)", xlim=(-0.4, 1))
        axes.set_title(label, fontsize=9.5)
        axes.legend(fontsize=8, loc="upper left")
    return figure


@styled
def overlap_figure(scans: Sequence[Scan], corners: Mapping[str, tuple[float, float]]) -> Figure:
    """Distribution of the overlap in three phases, at every size, with the replica-symmetric values.

    Args:
        scans: Scans of one form.
        corners: For each phase the J0~ / J~ and the kT / J~ to show; the nearest scan and level are taken.
    """
    figure, panels, _ = grid(len(corners), width=3.9, height=_TALL)
    for axes, (phase, (j0, kt)) in zip(panels, corners.items(), strict=True):
        ratio = min((one.j0 for one in scans), key=lambda value: abs(value - j0))
        level = 0
        for position, one in enumerate(sorted((one for one in scans if one.j0 == ratio), key=lambda one: one.n_units)):
            level = int(np.abs(one.kt - kt).argmin())
            axes.stairs(one.histograms[level], OVERLAP_EDGES, label=f"N = {one.n_units}", **line_style(position))
        found = float(next(one.kt[level] for one in scans if one.j0 == ratio))
        q = replica_symmetric(ratio, found).overlap
        for place in sorted({-q, q}):
            axes.axvline(place, color="0.4", linestyle=(0, (1, 2)), label="RS" if place == q else None)
        axes.set(xlabel="overlap q", ylabel="P(q)", xlim=(-1.05, 1.05))
        axes.set_title(rf"{phase}: $\tilde J_0/\tilde J$ = {ratio:g}, $kT/\tilde J$ = {found:.2f}", fontsize=9)
    panels[0].legend(fontsize=8)
    return figure


@styled
def order_figure(scans: Sequence[Scan]) -> Figure:
    """Susceptibility and order parameters against temperature, with the replica-symmetric curves."""
    glass = sorted((one for one in scans if one.j0 == 0), key=lambda one: one.n_units)
    strongest = max(one.j0 for one in scans)
    magnet = sorted((one for one in scans if one.j0 == strongest), key=lambda one: one.n_units)
    figure, panels, _ = grid(3, width=4.0, height=_TALL)
    kt = np.linspace(min(glass[0].kt), max(glass[0].kt), 60)
    warm = kt[kt > 1.02]
    panels[0].plot(warm, 1 / (1 - 1 / warm**2), color="black", linewidth=1.0, label="theory, large N")
    panels[1].plot(kt, [replica_symmetric(0.0, t).overlap for t in kt], color="black", linewidth=1.0, label="RS q")
    panels[2].plot(
        kt, [replica_symmetric(strongest, t).magnetisation for t in kt], color="black", linewidth=1.0, label="RS m"
    )
    columns = (
        (panels[0], [(one, one.q2 * one.n_units) for one in glass]),
        (panels[1], [(one, np.sqrt(one.q2)) for one in glass]),
        (panels[2], [(one, one.m_abs) for one in magnet]),
    )
    for axes, group in columns:
        for position, (one, values) in enumerate(group):
            axes.errorbar(
                one.kt, values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values)),
                marker=_MARKERS[position % len(_MARKERS)], markersize=4, linewidth=0.9,
                color=line_style(position)["color"], linestyle="none", label=f"{one.form}, N = {one.n_units}",
            )  # fmt: skip
        axes.set_xlabel(r"$kT / \tilde J$")
    panels[0].set(yscale="log", ylabel=r"$N \langle q^2 \rangle$, $\tilde J_0 = 0$")
    panels[1].set(ylabel=r"root of $\langle q^2 \rangle$, $\tilde J_0 = 0$")
    panels[2].set(ylabel=rf"$\langle |m| \rangle$, $\tilde J_0 / \tilde J$ = {strongest:g}")
    panels[0].legend(fontsize=7)
    panels[2].legend(fontsize=7)
    return figure
