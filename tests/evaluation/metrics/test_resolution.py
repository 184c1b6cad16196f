"""The fit of the resolution finds the terms that were put in, with errors that cover."""

from dataclasses import replace

import numpy as np
import pytest

from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.resolution import fit_resolution, resolution

TERMS = (0.14, 0.05, 0.01)


def law(energy: np.ndarray) -> np.ndarray:
    return np.asarray(TERMS[0] / np.sqrt(energy) + TERMS[1] / energy + TERMS[2])


def test_terms_of_exact_points() -> None:
    energy = np.geomspace(1, 100, 9)
    terms, chi_square, freedom = fit_resolution(energy, law(energy), 1e-3 * np.ones(9))
    assert [term.value for term in terms] == pytest.approx(TERMS, abs=1e-9)
    assert (chi_square, freedom) == (pytest.approx(0.0, abs=1e-12), 6)
    assert fit_resolution(energy[:3], law(energy[:3]), np.ones(3))[0] == ()


def test_errors_of_the_terms_cover() -> None:
    generator, energy, errors = np.random.default_rng(4), np.geomspace(1, 100, 9), 0.002 * np.ones(9)
    pulls = []
    for _ in range(300):
        terms, _, _ = fit_resolution(energy, law(energy) + errors * generator.standard_normal(9), errors)
        pulls.append([(term.value - true) / term.error for term, true in zip(terms, TERMS, strict=True)])
    assert np.abs(np.mean(pulls, axis=0)).max() < 4 / np.sqrt(300)
    assert np.std(pulls, axis=0) == pytest.approx(1.0, abs=0.15)


def test_showers_of_a_known_resolution(reference: ShowerFeatures) -> None:
    generator = np.random.default_rng(9)
    energy = np.exp(generator.uniform(np.log(1e3), np.log(1e5), 20_000))
    drawn = reference.select(generator.integers(0, reference.n_showers, len(energy)))
    response = 0.97 * (1 + law(energy / 1e3) * generator.standard_normal(len(energy)))
    made = replace(drawn, incident_energy=energy, total_energy=response * energy)
    found = resolution(made, EnergyBins.logarithmic(1e3, 1e5, 9))
    assert found.mean[0] == pytest.approx(0.97, abs=0.01)
    assert np.abs((found.width[0] - law(found.energy)) / found.width[1]).max() < 5
    assert abs(found.terms[0].value - TERMS[0]) < 4 * found.terms[0].error
    assert "%/√E" in str(found)
