"""Figures of the gradient study."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled
from calo4pqvae.studies.frame.dot_rows import Series, draw_rows, logarithmic
from calo4pqvae.studies.frame.sample_quality import Quality
from calo4pqvae.studies.gradients.measurements import Outcome

__all__ = ["course_figure", "ways_figure"]

_PARTS = {"alone": "machine alone, mean over seeds", "joint": "joint training, mean over seeds"}
_BAND = "#c8c8c8"
_LABELS = {
    "FPD 362": r"FPD $\times 10^3$, 362 features",
    "FPD 226": r"FPD $\times 10^3$, 226 features",
    "KPD 362": r"KPD $\times 10^3$, 362 features",
    "gap": "energy gap, posterior - samples [nats]",
    "slope": "slope of pair covariances (1: learned)",
    "moved": "change of the couplings, rms",
}


@styled
def ways_figure(
    outcomes: Sequence[Outcome], floor: Quality, sources: Mapping[str, Sequence[Quality]], words: Mapping[str, str]
) -> Figure:
    """Every way in a row: distances, energy gap, pair covariances, movement of the couplings.

    Args:
        outcomes: All machines.
        floor: Geant4 against Geant4.
        sources: Posterior and independent bits, decoded by the frozen networks, one of each seed.
        words: What the ways are, by their names, in the order of the rows.
    """
    figure, panels, _ = grid(3, 2, width=4.3, height=3.4)
    for place, (axes, (quantity, label)) in enumerate(zip(panels, _LABELS.items(), strict=True)):
        if quantity in floor.distances:
            value = floor.distances[quantity]
            axes.axvspan(value.value - value.error, value.value + value.error, color=_BAND, label="Geant4 floor")
            for (name, qualities), dashes in zip(sources.items(), ("--", ":"), strict=True):
                mean = float(np.mean([quality.distances[quantity].value for quality in qualities]))
                axes.axvline(mean, color="0.3", linestyle=dashes, label=f"{name}, frozen networks")
        series = [Series(told, _by_way(outcomes, part, quantity, words), {}) for part, told in _PARTS.items()]
        draw_rows(axes, tuple(words.values()), series, show_names=place % 3 == 0)
        axes.set_xlabel(label)
        if quantity in ("gap", "slope"):
            axes.axvline(0 if quantity == "gap" else 1, color="0.6", linewidth=0.9)
        if quantity == "moved":
            logarithmic(axes)
        if quantity.startswith("FPD") and any(one.part == "joint" for one in outcomes):
            logarithmic(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    return figure


def _by_way(outcomes: Sequence[Outcome], part: str, quantity: str, words: Mapping[str, str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in outcomes:
        if one.part == part and not one.diverged:
            found.setdefault(words[one.arm], []).append(_value(one, quantity))
    return found


def _value(outcome: Outcome, quantity: str) -> float:
    if quantity == "moved":
        return outcome.moved
    if quantity in ("gap", "slope"):
        number = outcome.gap if quantity == "gap" else outcome.slope
        return number.value if number is not None else np.nan
    return outcome.quality.distances[quantity].value if outcome.quality is not None else np.nan


@styled
def course_figure(outcomes: Sequence[Outcome], words: Mapping[str, str]) -> Figure:
    """Energy gap on the way, of machines learned alone.

    Args:
        outcomes: All machines.
        words: What the ways are, by their names, in the order of the legend.
    """
    figure, (axes,), _ = grid(1, width=7.0, height=4.2)
    for position, (arm, name) in enumerate(words.items()):
        courses = [one.course for one in outcomes if (one.part, one.arm) == ("alone", arm) and not one.diverged]
        if not courses:
            continue
        updates = [update for update, _ in courses[0]]
        gaps = np.array([[gap for _, gap in course] for course in courses])
        style = line_style(position)
        axes.plot(updates, gaps.mean(axis=0), label=name, **style)
        axes.fill_between(updates, gaps.min(axis=0), gaps.max(axis=0), color=style["color"], alpha=0.2, linewidth=0)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="update", ylabel="energy gap, batch - chains [nats]")
    axes.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
