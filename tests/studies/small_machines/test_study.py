"""The study of small machines: its exact part against a reference table, its sampled part against exact laws."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.frame.registry import load_study
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.small_machines.measurements import (
    LAWS,
    EnergyHistogram,
    SamplingPlan,
    exact_part,
    sampled_part,
)
from calo4pqvae.studies.small_machines.study import REFERENCE
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable

# standard deviation of median, 5 % and 95 % quantile over 15 sets of 20 machines, from a separate enumeration
SPREADS = {
    "N(0, std 0.1)": (0.014, 0.016, 0.016),
    "N(0, variance 0.1)": (0.039, 0.020, 0.072),
    "N(0, 1)": (0.100, 0.037, 0.294),
    "U(-1, 1)": (0.055, 0.021, 0.264),
}
TINY = {
    "n_units=4", "n_draws=5", "n_sampled=3", "n_states=400", "sweeps=[1, 20]", "sizes=[50, 400]", "n_bootstrap=10",
}  # fmt: skip


@pytest.mark.parametrize("law", list(LAWS))
def test_exact_epsilon_agrees_with_the_reference_table(law: str) -> None:
    """Both are of 20 draws, so that their difference has sqrt(2) times the spread of such a set."""
    part = exact_part(law, 10, 20, seed=4)
    found = [np.median(part.couplings), *np.quantile(part.couplings, (0.05, 0.95))]
    for value, name, spread in zip(found, ("median", "q05", "q95"), SPREADS[law], strict=True):
        # printed with two digits; 3 standard deviations
        assert abs(value - REFERENCE[law][name]) < 3 * math.sqrt(2) * spread + 0.005, name
    assert part.couplings.std() == pytest.approx(REFERENCE[law]["std"], rel=0.25)
    assert part.biases.std() == pytest.approx(REFERENCE[law]["bias_std"], rel=0.3)


def test_reference_would_not_be_met_by_another_law() -> None:
    """The thresholds tell the two readings of N(0, 0.1) apart, and spins from bits."""
    for law, other in itertools.permutations(LAWS, 2):
        values = [REFERENCE[other][name] for name in ("median", "q05", "q95")]
        wanted = [REFERENCE[law][name] for name in ("median", "q05", "q95")]
        pulls = np.abs(np.subtract(values, wanted)) / (3 * math.sqrt(2) * np.array(SPREADS[law]) + 0.005)
        assert pulls.max() > 1, (law, other)


def test_long_chains_agree_with_exact_covariances_and_short_ones_as_computed() -> None:
    law = "N(0, 1)"
    plan = SamplingPlan(4000, (1, 60), (100, 4000), 40, "auto")
    part = sampled_part(plan, exact_part(law, 5, 8, seed=2), 8, law, seed=2)
    assert 0.6 < part.pulls[:, 1].mean() < 1.5
    assert part.biases[:, 1].max() < 0.01
    assert part.biases[:, 0].mean() > 3
    assert part.pulls[:, 0].mean() == pytest.approx(1 + part.biases[:, 0].mean(), rel=0.35)


def test_energy_histogram_against_plain_counting() -> None:
    rng = np.random.default_rng(1)
    table = BipartiteTable(rng.normal(size=6), rng.normal(size=(3, 3)))
    law = table.probabilities.ravel()
    met = rng.choice(64, 500, p=law)
    states = np.array(list(itertools.product((0, 1), repeat=6)), dtype=np.uint8)[met]
    found = EnergyHistogram.of(table, states, 7)
    energies = table.energies.ravel()
    place = np.clip(((energies - energies.min()) / (energies.max() - energies.min()) * 7).astype(int), 0, 6)
    for index in range(7):
        inside = set(np.flatnonzero(place == index).tolist())
        assert found.counts[index] == sum(state in inside for state in met)
        assert found.distinct[index] == len({state for state in met.tolist() if state in inside})
        assert found.expected[index] == pytest.approx(500 * sum(law[state] for state in inside))
        assert found.distinct_expected[index] == pytest.approx(sum(1 - (1 - law[state]) ** 500 for state in inside))
        assert found.existing[index] == len(inside)
    assert found.p_value > 1e-3


def test_energy_histogram_sees_another_temperature() -> None:
    rng = np.random.default_rng(2)
    biases, matrix = rng.normal(size=10), rng.normal(size=(5, 5))
    table, other = BipartiteTable(biases, matrix), BipartiteTable(biases, matrix, beta=0.9)
    states = np.array(list(itertools.product((0, 1), repeat=10)), dtype=np.uint8)
    drawn = [states[rng.choice(1024, 10_000, p=one.probabilities.ravel())] for one in (table, other)]
    assert EnergyHistogram.of(table, drawn[0]).p_value > 1e-3
    assert EnergyHistogram.of(table, drawn[1]).p_value < 1e-4


def test_study_end_to_end(tmp_path: Path) -> None:
    study = load_study("small-machines")
    settings = study.configure(quick=True, overrides=[*TINY, "kernel=torch"])
    result = study.run(settings, tmp_path, 3)
    stored = json.loads((tmp_path / "small-machines" / "result.json").read_text())
    for law in LAWS:
        assert stored["numbers"][law]["exact"]["median"]["n"] == 5
        assert "agrees with the reference" not in stored["numbers"][law]  # which is of 10 + 10 units
        assert set(stored["numbers"][law]["mean squared pull against sweeps"]) == {"1", "20"}
    assert stored["numbers"]["U(-1, 1)"]["energies"]["states that exist"] == 256
    assert all((tmp_path / "small-machines" / f"{one.stem}.png").stat().st_size > 5000 for one in result.figures)
    assert "nan" not in " ".join(result.text)
    assert study.work(settings, tmp_path, 3, silent).numbers == result.numbers


@pytest.mark.parametrize(
    ("change", "words"),
    [("n_sampled=30", "more than n_draws"), ("sizes=[1]", "between 2"), ("sweeps=[0]", "1 or more")],
)
def test_settings_that_do_not_fit_are_refused(change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_study("small-machines").configure(quick=True, overrides=[change])
