"""The report of a training through an annealer: what it says, and that its numbers are those that were given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from calo4pqvae.annealed import page as annealer_page
from calo4pqvae.annealed.page import write_annealer_report
from calo4pqvae.annealed.plots import Points, beta_history, energy_panels, gap_history


def numbers(*, emulated: bool = True, reference: bool = True) -> dict[str, Any]:
    gap = {"gap": 0.5, "gap_error": 0.3}
    plan = {"chip": "Advantage2_system1", "fits": True, "programmings": 12, "reads": 1200, "access_seconds": 0.62}
    return {
        "annealer": "emulated-Advantage2_system1" if emulated else "Advantage2_system1",
        "emulated": emulated,
        "documented_beta": 8.93,
        "gap": gap,
        "reference_gap": gap if reference else None,
        "projection": [plan, {**plan, "chip": "Advantage2_system4", "fits": False}],
        "plain_hours": 111.1,
    }


def history(n: int = 6) -> list[dict[str, Any]]:
    common = {"n_programmings": 4, "programmed_beta": 8.9, "beta": 8.5, "beta_error": 0.1, "gap_error": 0.2}
    rows: list[dict[str, Any]] = [
        {"phase": phase, "energy_data": 2.0 + phase, "energy_model": 1.0} for phase in range(n)
    ]
    del rows[0]["energy_data"]  # a phase that served beta alone
    return [common | row for row in rows]


LOOKS = [{"phases": 3, "gap": -1.0, "gap_error": 0.4}, {"phases": 6, "gap": 0.7, "gap_error": 0.6}]
ENERGIES = {"annealer": (np.arange(50.0), np.arange(50.0) + 3), "gibbs": (np.arange(50.0), np.arange(60.0))}


@pytest.mark.parametrize("reference", [True, False])
def test_the_page_says_what_was_emulated(tmp_path: Path, reference: bool) -> None:
    energies = ENERGIES if reference else {"annealer": ENERGIES["annealer"]}
    write_annealer_report(tmp_path, "a headline.", numbers(reference=reference), energies, history(), LOOKS)
    page = (tmp_path / "report.html").read_text()
    for text in ("a headline.", "EMULATED annealer, not a real one", "too few qubits", "1,200"):
        assert text in page
    assert {path.name for path in tmp_path.glob("*.png")} == {"energies.png", "beta.png", "gap.png"}


def test_figures_name_the_annealer_and_hold_the_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: dict[str, Figure] = {}
    page = annealer_page._page
    monkeypatch.setattr(
        annealer_page, "_page", lambda head, told, figures: made.update(figures) or page(head, told, figures)
    )
    write_annealer_report(tmp_path, "", numbers(), ENERGIES, history(), LOOKS)
    titles = [axes.get_title() for figure in made.values() for axes in figure.axes]
    assert all("emulated Advantage2_system1" in title or "block Gibbs" in title for title in titles)
    gap = made["gap"].axes[0]
    curves = {container.get_label(): container[0].get_xydata() for container in gap.containers}
    np.testing.assert_allclose(curves["validation bits, Gibbs samples"], [[12.0, -1.0], [24.0, 0.5]])
    reads = curves["training bits, reads of the annealer"]
    np.testing.assert_allclose(reads, [[4.0 * phase + 4, 1.0 + phase] for phase in range(1, 6)])
    beta = made["beta"].axes[0]
    assert beta.get_xlabel() == "programmings"
    labels = [text.get_text() for text in made["energies"].axes[0].get_legend().get_texts()]
    assert labels == ["validation bits: 24.50 ± 2.06", "Gibbs samples: 27.50 ± 2.06"]


def test_live_annealers_are_called_live(tmp_path: Path) -> None:
    write_annealer_report(tmp_path, "", numbers(emulated=False), ENERGIES, history(), LOOKS)
    page = (tmp_path / "report.html").read_text()
    assert "a live annealer" in page
    assert "EMULATED" not in page


def test_figures_without_what_may_be_missing() -> None:
    one = Points(np.array([4.0]), np.array([8.0]), np.array([0.1]))
    assert len(beta_history(one, np.array([8.9]), None, "emulated").axes[0].get_legend().get_texts()) == 2
    assert len(gap_history(one, None, None, "emulated").axes[0].get_legend().get_texts()) == 1
    assert len(energy_panels({"emulated": ENERGIES["annealer"]}).axes) == 1
