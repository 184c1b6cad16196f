"""Figures of the protocol study. Every one says that its chips are emulated."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.annealer_protocols.measurements import Errors, Measured
from calo4pqvae.studies.annealer_protocols.rule_courses import RuleCourse
from calo4pqvae.studies.annealer_protocols.summary import Cell, mean_of

__all__ = ["cost_figure", "courses_figure", "errors_figure"]

_MARKERS = ("o", "s", "^", "D")
FloatArray = NDArray[np.float64]
Value = Callable[[Cell, str], FloatArray]
"""A number of every repeat of a cell, by a protocol."""

_SPREAD = 0.62  # of the symbols of one protocol


@styled
def errors_figure(cells: Sequence[Cell], stage: Literal["raw", "polished"]) -> Figure:
    """Errors of all protocols in beta, mean energy, coupler moments and Fréchet distance.

    Args:
        cells: The measurements.
        stage: Whether states are taken as read or polished.
    """

    def of(one: Measured) -> Errors:
        return one.raw if stage == "raw" else one.polished

    def energy(cell: Cell, name: str) -> FloatArray:
        return cell.values(name, lambda one: of(one).energy)

    def moments(cell: Cell, name: str) -> FloatArray:
        return cell.values(name, lambda one: of(one).moments) / [one.moments for one in cell.classical]

    def distance(cell: Cell, name: str) -> FloatArray:
        return cell.values(name, lambda one: of(one).distance) / [one.distance for one in cell.classical]

    panels: list[tuple[str, Value, float | None]] = [
        ("mean energy - true (nats)", energy, 0.0),
        ("rms error of moments / classical", moments, 1.0),
        ("Fréchet distance / classical", distance, 1.0),
    ]
    if stage == "raw":
        label = r"rms $\ln(\beta_{true}/\beta_{programmed})$ (%)"
        panels.insert(0, (label, lambda cell, name: 100 * cell.values(name, lambda one: one.drawn), None))
    figure, axes, _ = grid(len(panels), width=3.5, height=5.4)
    for position, (label, value, floor) in enumerate(panels):
        _points(axes[position], cells, value, label, is_named=position == 0, is_log=floor is None)
        if floor is not None:
            axes[position].axvline(floor, color="0.5", linestyle="--", linewidth=1.2, zorder=0)
    geant4 = [np.mean(cell.geant4) / np.mean([one.distance for one in cell.classical]) for cell in cells]
    axes[-1].axvline(float(np.mean(geant4)), color="0.5", linestyle=":", linewidth=1.4, zorder=0)
    what = "as read" if stage == "raw" else "polished"
    _legend(figure, axes[0], cells, f"emulated chips, states {what}")
    return figure


@styled
def cost_figure(cells: Sequence[Cell]) -> Figure:
    """Programmings and access time a shower."""
    figure, axes, _ = grid(2, width=4.6, height=5.4)
    panels: list[tuple[str, Value]] = [
        ("programmings a shower", lambda cell, name: cell.values(name, lambda one: one.programmings)),
        ("access time a shower (ms)", lambda cell, name: cell.values(name, lambda one: 1e3 * one.access_s)),
    ]
    for position, (label, value) in enumerate(panels):
        _points(axes[position], cells, value, label, is_named=position == 0, is_log=True)
    _legend(figure, axes[0], cells, "emulated chips, estimates included")
    return figure


def _points(axes: Axes, cells: Sequence[Cell], value: Value, label: str, *, is_named: bool, is_log: bool) -> None:
    """One symbol a protocol and cell, protocols from top to bottom."""
    names = list(cells[0].protocols)
    machines = list(dict.fromkeys(cell.machine.name for cell in cells))
    modes = list(dict.fromkeys(cell.mode for cell in cells))
    for place, cell in enumerate(cells):
        kind, mode = machines.index(cell.machine.name), modes.index(cell.mode)
        colour = line_style(kind)["color"]
        for row, name in enumerate(names):
            found = mean_of(value(cell, name))
            if found["value"] is None:
                continue
            shift = _SPREAD * ((place + 0.5) / len(cells) - 0.5)
            axes.errorbar(
                found["value"], row + shift, xerr=found["error"] or 0.0, marker=_MARKERS[kind % len(_MARKERS)],
                color=colour, markerfacecolor=colour if mode == 0 else "white", markersize=5, linewidth=0.9,
            )  # fmt: skip
    for row in range(len(names) - 1):
        axes.axhline(row + 0.5, color="0.88", linewidth=0.6, zorder=0)
    axes.set_xlabel(label, loc="center", fontsize=10)
    axes.set(ylim=(len(names) - 0.5, -0.5), xscale="log" if is_log else "linear")
    if is_log:
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_yticks(range(len(names)), [_titled(cells, name) for name in names] if is_named else [""] * len(names))
    axes.tick_params(axis="y", length=0, labelsize=9)


def _titled(cells: Sequence[Cell], name: str) -> str:
    """The name of a protocol, and in how many cells it came to no end."""
    n_failed = sum(all(one.failure for one in cell.protocols[name]) for cell in cells)
    return f"{name}\n(no sample in {n_failed} of {len(cells)})" if n_failed else name


def _legend(figure: Figure, axes: Axes, cells: Sequence[Cell], title: str) -> None:
    machines = list(dict.fromkeys(cell.machine.name for cell in cells))
    modes = list(dict.fromkeys(cell.mode for cell in cells))
    handles = [
        axes.plot([], [], _MARKERS[kind % len(_MARKERS)], color=line_style(kind)["color"], label=name)[0]
        for kind, name in enumerate(machines)
    ]
    handles += [
        axes.plot([], [], "o", color="0.3", markerfacecolor="0.3" if mode == 0 else "white", label=name)[0]
        for mode, name in enumerate(modes)
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8.5, title=title, title_fontsize=9.5
    )


@styled
def courses_figure(courses: Sequence[RuleCourse]) -> Figure:
    """Courses of the rules, one panel a setting."""
    settings = [(name, list(group)) for name, group in groupby(courses, key=lambda course: course.setting)]
    columns = 3
    figure, axes, _ = grid(columns, -(-len(settings) // columns), width=4.4, height=3.3)
    for panel, (name, group) in zip(axes, settings, strict=False):
        true = group[0].true
        low, high = min(1.0, true / 6), true * 6
        for position, course in enumerate(group):
            betas = np.clip(np.nan_to_num(np.array(course.betas), nan=low, posinf=high), low, high)
            panel.plot(
                betas, label=course.rule, marker=("o", "s", "^", "v", "D", "P")[position % 6], markersize=3.2,
                **_rule_style(position, len(group)),
            )  # fmt: skip
        panel.axhline(true, color="0.6", linewidth=2.5, zorder=0)
        panel.set(yscale="log", ylim=(low, high), xlabel="programmings", ylabel=r"$\beta$")
        panel.set_title(name, fontsize=9.5)
    for panel in axes[len(settings) :]:
        panel.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8.5)
    return figure


def _rule_style(position: int, n_rules: int) -> dict[str, Any]:
    """The last rule, which is the one to use, in black."""
    if position == n_rules - 1:
        return {"color": "black", "linestyle": "-", "linewidth": 1.6}
    return {"linewidth": 1.0, **line_style(position)}
