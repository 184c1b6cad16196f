"""Figures of the study of couplers and fields."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.couplers_and_fields.measurements import Kind, RangeUse, SpinRatios, Stage, Summary

__all__ = ["partition_figure", "range_figure", "ratio_figure"]

FloatArray = NDArray[np.float64]

_GREY, _DARK = "#d9d9d9", "#4d4d4d"
_EDGES = np.linspace(-3, 3, 37)  # of log10 of the size of a ratio
_SIZES = (5e-4, 5e2)  # medians that are shown
_MARKERS: dict[Stage, str] = {"random": "D", "start": "s", "trained": "o"}
_ROWS: tuple[tuple[Kind, str], ...] = (
    ("as programmed", r"$|\sum_j J_{ij}\,/\,h_i|$"),
    ("without the share", r"$|\sum_j J_{ij}\,/\,(h_i - \sum_j J_{ij})|$"),
)
_USES = (("h", "o"), ("J", "s"), ("sums of J", "^"))


@styled
def ratio_figure(machines: Sequence[Sequence[SpinRatios]]) -> Figure:
    """Distribution of the logarithm of the ratios, a column a machine: with and without the share of the couplers.

    Args:
        machines: For every column the machine in its stages.
    """
    figure, panels, _ = grid(len(machines), len(_ROWS), width=3.7, height=3.3)
    for row, (kind, label) in enumerate(_ROWS):
        for column, stages in enumerate(machines):
            axes = panels[row * len(machines) + column]
            _draw_ratios(axes, kind, stages)
            axes.set(xlim=(_EDGES[0], _EDGES[-1]), ylabel="share of spins", xlabel=f"$\\log_{{10}}$ {label}")
            axes.set_ylim(0, 1.45 * axes.get_ylim()[1])
            axes.axvline(0, color=_DARK, linewidth=0.7)
            if row == 0:
                axes.set_title(stages[0].label, fontsize=10)
            if column == 0:
                axes.legend(fontsize=7.5, loc="upper left")
    return figure


def _draw_ratios(axes: Axes, kind: Kind, stages: Sequence[SpinRatios]) -> None:
    for one in stages:
        values = one.ratios[kind][~np.isnan(one.ratios[kind])]
        if one.stage == "start":
            axes.stairs(
                _shares(values, len(values)), _EDGES, fill=True, facecolor=_GREY, edgecolor=_DARK, label="start"
            )
        elif one.stage == "random":
            axes.stairs(_shares(values, len(values)), _EDGES, color=_DARK, linestyle=":", linewidth=1.3, label="random")
        else:
            for position, (part, name) in enumerate(((values[values > 0], "> 0"), (values[values < 0], "< 0"))):
                axes.stairs(
                    _shares(part, len(values)), _EDGES, label=f"trained, ratio {name}", linewidth=1.5,
                    **line_style(position),
                )  # fmt: skip


def _shares(values: FloatArray, n: int) -> FloatArray:
    """Share of n spins in the bins of log10 |value|, what lies outside in the outermost ones."""
    with np.errstate(divide="ignore"):
        logs = np.clip(np.log10(np.abs(values)), _EDGES[0], _EDGES[-1])
    return np.asarray(np.histogram(logs, _EDGES)[0] / max(1, n))


@styled
def partition_figure(labels: Sequence[str], summaries: Sequence[Sequence[tuple[Stage, Kind, int, Summary]]]) -> Figure:
    """Median of the size of the ratios in every partition, with the errors of the medians.

    Args:
        labels: Names of the machines, one a panel.
        summaries: Stage, kind, partition and summary of each point of a panel.
    """
    figure, panels, _ = grid(len(labels), width=3.6, height=3.4)
    for axes, label, points in zip(panels, labels, summaries, strict=True):
        for stage, kind, partition, summary in points:
            first = kind == "as programmed"
            shift = (-0.15 if stage == "start" else 0.15) + (0.0 if first else 0.06)
            value, error = summary.values[3], summary.errors[3]
            if not (np.isfinite(value) and value > 0):
                continue
            colour = line_style(0 if first else 1)["color"]
            axes.errorbar(
                partition + shift, value, error if np.isfinite(error) else 0.0, marker=_MARKERS[stage], markersize=6,
                color=colour, markerfacecolor=colour if first else "white", linestyle="none",
                label=f"{stage}, {'with' if first else 'without'} the share" if partition == points[0][2] else None,
            )  # fmt: skip
        axes.axhline(1, color=_DARK, linewidth=0.7)
        axes.set(yscale="log", xlabel="partition", ylabel="median size of the ratio", xticks=range(4))
        axes.set_ylim(*_SIZES)
        axes.set_title(label, fontsize=10)
    panels[0].legend(fontsize=7.5, loc="upper left")
    return figure


@styled
def range_figure(uses: Sequence[RangeUse]) -> Figure:
    """Share of the ranges that the worst h, J and sum of J use, and typical values against the errors of the chip."""
    figure, panels, _ = grid(2, width=5.6, height=0.6 + 0.42 * max(4, len(uses)))
    names = [one.name for one in uses]
    y = np.arange(len(uses))[::-1].astype(np.float64)
    for position, (what, marker) in enumerate(_USES):
        values = np.array([one.largest[what] for one in uses])
        panels[0].plot(
            values, y, marker=marker, linestyle="none", color=line_style(position)["color"], markersize=7, label=what
        )
    panels[0].axvline(1, color=_DARK, linestyle="--", linewidth=1.0)
    panels[0].set(xscale="log", xlabel="largest value / range of the chip")
    for position, (what, sizes, marker) in enumerate(
        (
            ("h", [one.median_field / one.field_error for one in uses], "o"),
            ("J", [one.median_coupling / one.coupling_error for one in uses], "s"),
        )
    ):
        panels[1].plot(
            sizes, y, marker=marker, linestyle="none", color=line_style(position)["color"], markersize=7, label=what
        )
    panels[1].axvline(1, color=_DARK, linestyle="--", linewidth=1.0)
    panels[1].set(xscale="log", xlabel="median size / error of one programming")
    for axes in panels:
        axes.set_ylim(-0.7, len(uses) - 0.3)
        axes.tick_params(which="minor", left=False, right=False)
        axes.legend(fontsize=8, loc="upper left")
    panels[0].set_yticks(y, names, fontsize=8)
    panels[1].set_yticks(y, [""] * len(uses))
    return figure
