"""Figures of the protocol study. Every one says that its chips are emulated."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calo4pqvae.evaluation.canvas import grid, line_style, styled
from calo4pqvae.studies.protocol_measurements import Errors, Measured
from calo4pqvae.studies.protocol_summary import Cell, mean_of
from calo4pqvae.studies.rule_courses import RuleCourse

__all__ = ["cost_figure", "courses_figure", "errors_figure"]

_MARKERS = ("o", "s", "^", "D")
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

    panels: list[tuple[str, Callable[[Measured], float], Callable[[Cell], list[float]] | None]] = [
        (
            "|mean energy - true| (nats)",
            lambda one: abs(of(one).energy),
            lambda c: [abs(e.energy) for e in c.classical],
        ),
        ("rms error of coupler moments", lambda one: of(one).moments, lambda c: [e.moments for e in c.classical]),
        ("Fréchet distance of showers", lambda one: of(one).distance, lambda c: [e.distance for e in c.classical]),
    ]
    if stage == "raw":
        panels.insert(0, (r"rms $\ln(\beta_{true}/\beta_{programmed})$", lambda one: one.drawn, None))
    figure, axes, _ = grid(len(panels), width=3.3 if stage == "raw" else 3.7, height=5.2)
    for position, (label, value, floor) in enumerate(panels):
        _points(axes[position], cells, value, label, is_named=position == 0)
        if floor is not None:
            at = float(np.mean([np.mean(floor(cell)) for cell in cells]))
            axes[position].axvline(at, color="0.5", linestyle="--", linewidth=1.2, zorder=0)
    geant4 = float(np.mean([np.mean(cell.geant4) for cell in cells]))
    axes[-1].axvline(geant4, color="0.5", linestyle=":", linewidth=1.4, zorder=0)
    what = "as read" if stage == "raw" else "polished"
    _legend(figure, axes[0], cells, f"emulated chips, states {what}")
    return figure


@styled
def cost_figure(cells: Sequence[Cell]) -> Figure:
    """Programmings and access time a shower."""
    figure, axes, _ = grid(2, width=4.6, height=5.2)
    _points(axes[0], cells, lambda one: one.programmings, "programmings a shower", is_named=True)
    _points(axes[1], cells, lambda one: 1e3 * one.access_s, "access time a shower (ms)", is_named=False)
    _legend(figure, axes[0], cells, "emulated chips, estimates included")
    return figure


def _points(
    axes: Axes, cells: Sequence[Cell], value: Callable[[Measured], float], label: str, *, is_named: bool
) -> None:
    names = list(cells[0].protocols)
    machines = list(dict.fromkeys(cell.machine.name for cell in cells))
    modes = list(dict.fromkeys(cell.mode for cell in cells))
    for place, cell in enumerate(cells):
        kind, mode = machines.index(cell.machine.name), modes.index(cell.mode)
        colour = line_style(kind)["color"]
        for row, name in enumerate(names):
            found = mean_of(cell.values(name, value))
            if found["value"] is None:
                continue
            shift = _SPREAD * ((place + 0.5) / len(cells) - 0.5)
            axes.errorbar(
                found["value"], row + shift, xerr=found["error"] or 0.0, marker=_MARKERS[kind % len(_MARKERS)],
                color=colour, markerfacecolor=colour if mode == 0 else "white", markersize=5, linewidth=0.9,
            )  # fmt: skip
    for row in range(len(names) - 1):
        axes.axhline(row + 0.5, color="0.88", linewidth=0.6, zorder=0)
    axes.set(xscale="log", xlabel=label, ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names if is_named else [""] * len(names), fontsize=9)
    axes.tick_params(axis="y", length=0)


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
                linewidth=1.0, **line_style(position),
            )  # fmt: skip
        panel.axhline(true, color="0.6", linewidth=2.5, zorder=0)
        panel.set(yscale="log", ylim=(low, high), xlabel="programmings", ylabel=r"$\beta$")
        panel.set_title(name, fontsize=9.5)
    for panel in axes[len(settings) :]:
        panel.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8.5)
    return figure
