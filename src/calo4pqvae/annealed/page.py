"""The report of a prior that was trained through an annealer: figures, the cost on other chips, all numbers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.annealed.plots import Points, beta_history, energy_panels, gap_history
from calo4pqvae.atomic import atomic_path, write_text
from calo4pqvae.evaluation.pages.canvas import figure_style
from calo4pqvae.evaluation.pages.page import Section, figure_html, mapping_html, page_html, paragraph, table_html

__all__ = ["write_annealer_report"]

FloatArray = NDArray[np.float64]
Row = Mapping[str, Any]

_POOLED = 40  # points that the history of the reads is averaged to


def write_annealer_report(
    folder: Path,
    headline: str,
    numbers: Row,
    energies: Mapping[str, tuple[FloatArray, FloatArray]],
    history: Sequence[Row],
    looks: Sequence[Row],
) -> None:
    """Writes ``report.html`` and its figures as PNG.

    Args:
        folder: Where they go.
        headline: The result in a sentence.
        numbers: All numbers of the training, as in ``metrics.json``.
        energies: Energies of validation bits and of samples under the prior called ``"annealer"`` and, if there is
            one, under that called ``"gibbs"``.
        history: One row a phase.
        looks: One row for each look at the validation gap.

    Raises:
        OutputError: If a file cannot be written.
    """
    figures = _figures(numbers, energies, history, looks)
    for name, figure in figures.items():
        with atomic_path(folder / f"{name}.png") as partial, figure_style():
            figure.savefig(partial, format="png")
    write_text(folder / "report.html", _page(headline, numbers, figures))


def _figures(
    numbers: Row,
    energies: Mapping[str, tuple[FloatArray, FloatArray]],
    history: Sequence[Row],
    looks: Sequence[Row],
) -> dict[str, Figure]:
    kind = "emulated" if numbers["emulated"] else "live"
    chip = str(numbers["annealer"]).removeprefix("emulated-")
    titles = {"annealer": f"trained through {kind} {chip}", "gibbs": "trained by block Gibbs"}
    spent = np.cumsum([row["n_programmings"] for row in history]).astype(np.float64)
    estimates = Points(spent, _column(history, "beta"), _column(history, "beta_error"))
    by_phase = {row["phase"]: place for row, place in zip(history, spent, strict=True)}
    n_phases = history[-1]["phase"] + 1
    ends = [*(row for row in looks if row["phases"] != n_phases), {**numbers["gap"], "phases": n_phases}]
    learned = Points(
        np.array([by_phase[row["phases"] - 1] for row in ends]), _column(ends, "gap"), _column(ends, "gap_error")
    )
    other = numbers["reference_gap"]
    return {
        "energies": energy_panels({titles[name]: pair for name, pair in energies.items()}),
        "beta": beta_history(
            estimates,
            _column(history, "programmed_beta"),
            numbers["documented_beta"],
            f"inverse temperature of {kind} {chip}",
        ),
        "gap": gap_history(
            learned,
            None if other is None else (other["gap"], other["gap_error"]),
            _pooled(history, spent),
            f"learning through the reads of {kind} {chip}",
        ),
    }


def _pooled(history: Sequence[Row], spent: FloatArray) -> Points | None:
    """Gap between data and reads, averaged over successive phases: one phase says little."""
    stepped = [(place, row) for place, row in zip(spent, history, strict=True) if "energy_data" in row]
    places, values, errors = [], [], []
    for part in np.array_split(np.arange(len(stepped)), max(1, min(_POOLED, len(stepped)))):
        own = [stepped[index][1] for index in part]
        if own:
            places.append(float(np.mean([stepped[index][0] for index in part])))
            values.append(float(np.mean([row["energy_data"] - row["energy_model"] for row in own])))
            errors.append(math.sqrt(sum(row["gap_error"] ** 2 for row in own)) / len(own))
    return Points(np.array(places), np.array(values), np.array(errors)) if places else None


def _column(rows: Sequence[Row], name: str) -> FloatArray:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _page(headline: str, numbers: Row, figures: Mapping[str, Figure]) -> str:
    kind = "an EMULATED annealer, not a real one" if numbers["emulated"] else "a live annealer"
    captions = {
        "energies": "Energies of validation bits and of Gibbs samples of the prior at the same incident energies.",
        "beta": "Inverse temperature as the reads of each phase tell it, and what the machine was divided by.",
        "gap": "Energy gap along the training; the grey band is the Gibbs-trained prior of the run it started from.",
    }
    plans = [
        {
            "chip": row["chip"],
            "programmings": f"{row['programmings']:,}" if row["fits"] else "too few qubits",
            "reads": f"{row['reads']:,}",
            "access time (s)": f"{row['access_seconds']:.1f}",
        }
        for row in numbers["projection"]
    ]
    shown = {key: value for key, value in numbers.items() if key not in ("projection", "plain_hours")}
    sections = [
        Section("gap", "Energy gap", figure_html(figures["energies"], captions["energies"])
                + figure_html(figures["gap"], captions["gap"])),
        Section("beta", "Inverse temperature", figure_html(figures["beta"], captions["beta"])),
        Section("time", "Access time of the same calls", table_html(plans)),
        Section("numbers", "All numbers", mapping_html(shown)),
    ]  # fmt: skip
    lead = paragraph(f"Trained through {numbers['annealer']}: {kind}.", "note") + paragraph(headline, "summary")
    return page_html("A prior trained through an annealer", lead, sections)
