"""Figures of a prior that was trained through an annealer: energies, the annealer's beta, the gap along the training.

Every title says whether the annealer was emulated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled

__all__ = ["Points", "beta_history", "energy_panels", "gap_history"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Numbers with errors along an axis, all of shape (n,)."""

    places: FloatArray
    values: FloatArray
    errors: FloatArray


@styled
def energy_panels(panels: Mapping[str, tuple[FloatArray, FloatArray]]) -> Figure:
    """Histograms of energies, a panel for each prior.

    Args:
        panels: For each title the energies of encoded events and of samples, under the machine of that prior.
    """
    figure, axes, _ = grid(len(panels), width=5.4, height=3.9)
    for own, (title, pair) in zip(axes, panels.items(), strict=True):
        both = np.concatenate(pair)
        edges = np.linspace(both.min(), both.max() + 1e-9 * max(1.0, abs(both.max())), 31)
        for position, (name, values) in enumerate(zip(("validation bits", "Gibbs samples"), pair, strict=True)):
            counts = np.histogram(values, edges)[0]
            width = edges[1] - edges[0]
            heights, errors = counts / (len(values) * width), np.sqrt(counts) / (len(values) * width)
            mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
            style: dict[str, Any] = line_style(position)
            style |= {"fill": True, "alpha": 0.3} if position == 0 else {}
            own.stairs(heights, edges, label=f"{name}: {mean:.2f} ± {error:.2f}", **style)
            centres = edges[:-1] + (0.4 + 0.2 * position) * width
            own.errorbar(centres, heights, errors, fmt="none", ecolor=style["color"], elinewidth=0.9)
        own.set(title=title, xlabel="energy of the bits in nats", ylabel="density per nat")
        own.set_ylim(0, 1.35 * own.get_ylim()[1])
        own.legend()
    return figure


@styled
def beta_history(estimates: Points, programmed: FloatArray, documented: float | None, title: str) -> Figure:
    """Estimates of beta from the reads, and what the machine was divided by.

    Args:
        estimates: Over the number of programmings.
        programmed: What the machine was divided by when these reads were taken (n,).
        documented: Beta of the chip table, or None.
        title: Title.
    """
    figure, axes, _ = grid(1, width=7.2, height=3.8)
    own = axes[0]
    own.errorbar(
        estimates.places, estimates.values, estimates.errors,
        fmt="o", markersize=3, elinewidth=0.9, label="from the reads of each phase", color=line_style(0)["color"],
    )  # fmt: skip
    own.step(estimates.places, programmed, where="mid", linewidth=1.0, label="divided by", **_plain(1))
    if documented is not None:
        own.axhline(documented, linewidth=1.0, label="documented, single qubits", **_plain(3))
    own.set(title=title, xlabel="programmings", ylabel="inverse temperature (1 / h)")
    own.set_ylim(*_room(own.get_ylim()))
    own.legend(ncols=3, loc="upper center", fontsize=9)
    return figure


@styled
def gap_history(
    learned: Points, reference: tuple[float, float] | None, reads: Points | None, title: str, ends: Sequence[str] = ()
) -> Figure:
    """The validation energy gap against the number of programmings.

    Args:
        learned: Validation gap at the looks that were taken.
        reference: Gap of the Gibbs-trained prior and its error, or None.
        reads: Gap between the data and the reads of the phases, averaged over a few of them, or None.
        title: Title.
        ends: Names of the two curves, if others than the usual ones are wanted.
    """
    names = list(ends) or ["validation bits, Gibbs samples", "training bits, reads of the annealer"]
    figure, axes, _ = grid(1, width=7.2, height=3.9)
    own = axes[0]
    if reference is not None:
        low, high = reference[0] - reference[1], reference[0] + reference[1]
        own.axhspan(low, high, color="#a6a6a6", alpha=0.5, linewidth=0, label="Gibbs-trained prior ± its error")
        own.axhline(reference[0], color="#4d4d4d", linewidth=1.0)
    if reads is not None:
        own.errorbar(
            reads.places, reads.values, reads.errors, fmt="^", markersize=3, elinewidth=0.9, alpha=0.8,
            color=line_style(1)["color"], label=names[1],
        )  # fmt: skip
    own.errorbar(
        learned.places, learned.values, learned.errors, marker="o", markersize=4, elinewidth=1.0,
        label=names[0], **line_style(0),
    )  # fmt: skip
    own.axhline(0.0, color="black", linewidth=0.7, linestyle=":")
    own.set(title=title, xlabel="programmings", ylabel="energy of data less model in nats")
    own.set_ylim(*_room(own.get_ylim()))
    own.legend(loc="upper right", fontsize=9)
    return figure


def _plain(position: int) -> dict[str, Any]:
    return line_style(position)


def _room(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits with room for a legend at the top."""
    low, high = limits
    return low, high + 0.35 * (high - low)
