r"""What the prior is for: widths and correlations of the layer energies at a given incident energy.

The mean shower can be had from any prior, even from independent bits. How the layers fluctuate, and how they
fluctuate together, is what a Boltzmann machine adds. With the fractions f_l = E_l / E_tot of the layers that hold
more than 1 % of the reference's energy, and their trend with ln E (a quadratic within the bin) taken out,

.. math:: \text{width ratio} = \frac1L \sum_l \frac{\mathrm{std}\, f_l^\mathrm{gen}}{\mathrm{std}\, f_l^\mathrm{ref}},
          \qquad \text{correlation distance} = \lVert C^\mathrm{gen} - C^\mathrm{ref} \rVert_F ,

C being the matrix of correlation coefficients. One is the aim of the first, the floor that of the second: a finite
sample is never at distance zero. Errors are bootstrap ones over showers of both samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits, energy_weights, split_halves
from calo4pqvae.evaluation.metrics.targets import large_layers

__all__ = ["PriorRow", "layer_correlations", "prior_comparison"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PriorRow:
    """One sample in one bin of incident energy.

    Args:
        sample: Name of the sample, for example "independent bits".
        third: The bin in words.
        n_layers: Number of layers compared.
        width_ratio: Mean over layers of the ratio of standard deviations; 1 is right.
        width_floor: Size of (width ratio - 1) between random halves of the reference.
        correlation_distance: Frobenius distance between correlation matrices.
        correlation_matched: Between random halves of the reference and as many generated showers, to hold against the
            floor.
        correlation_floor: Between random halves of the reference.
    """

    sample: str
    third: str
    n_layers: int
    width_ratio: Estimate
    width_floor: Splits
    correlation_distance: Estimate
    correlation_matched: Splits
    correlation_floor: Splits

    def to_dict(self) -> dict[str, object]:
        """The row as plain data."""
        return {
            "sample": self.sample,
            "third": self.third,
            "n_layers": self.n_layers,
            "width_ratio": self.width_ratio.to_dict(),
            "width_geant4_against_geant4": self.width_floor.to_dict(),
            "correlation_distance": self.correlation_distance.to_dict(),
            "correlation_matched": self.correlation_matched.to_dict(),
            "correlation_geant4_against_geant4": self.correlation_floor.to_dict(),
        }


def layer_correlations(features: ShowerFeatures, layers: list[int]) -> FloatArray:
    """Correlation coefficients of the energy fractions of ``layers`` at given incident energy, (layers, layers)."""
    return _correlations(_fluctuations(features, layers))


def prior_comparison(
    reference: ShowerFeatures,
    samples: Mapping[str, ShowerFeatures],
    thirds: EnergyBins | None = None,
    *,
    n_splits: int = 100,
    seed: int = 0,
) -> list[PriorRow]:
    """Compares priors, or any samples, by the fluctuations of their layer energies.

    Args:
        reference: Geant4 showers that the model never saw.
        samples: Generated showers by the name of their prior.
        thirds: Bins of incident energy; by default thirds of log E over the range of the reference.
        n_splits: Bootstrap repetitions, and random splits of the reference for the floors.
        seed: Seed of both.

    Returns:
        One row for each sample and bin, sample by sample.
    """
    bins = thirds or EnergyBins.thirds_of(reference.incident_energy)
    expected = bins.split(reference)
    layers = [large_layers(part) for part in expected]
    fluctuations = [_fluctuations(part, kept) for part, kept in zip(expected, layers, strict=True)]
    floors = [_floors(part, n_splits, seed) for part in fluctuations]
    rows = []
    for name, sample in samples.items():
        for k, part in enumerate(bins.split(sample)):
            found = _fluctuations(part, layers[k])
            ratio, distance = _compare_with_errors(fluctuations[k], found, n_splits, seed)
            matched = _matched_distance(fluctuations[k], found, n_splits, seed)
            width_floor, distance_floor = floors[k]
            rows.append(
                PriorRow(name, bins.labels[k], len(layers[k]), ratio, width_floor, distance, matched, distance_floor)
            )
    return rows


def _fluctuations(features: ShowerFeatures, layers: list[int]) -> FloatArray:
    """Layer fractions less their trend with ln E, (N, layers)."""
    fractions = features.layer_fractions[:, layers]
    _, basis = energy_weights(features.incident_energy, features.incident_energy)
    return np.asarray(fractions - basis @ (basis.T @ fractions))


def _correlations(fluctuations: FloatArray) -> FloatArray:
    """Correlation coefficients of columns; a column that does not vary is uncorrelated with the others."""
    centred = fluctuations - fluctuations.mean(axis=0)
    norm = np.sqrt(np.sum(centred**2, axis=0))
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    matrix = unit.T @ unit
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix)


def _compare(reference: FloatArray, found: FloatArray) -> tuple[float, float]:
    """Width ratio and correlation distance."""
    expected = reference.std(axis=0)
    ratios = np.divide(found.std(axis=0), expected, out=np.ones_like(expected), where=expected > 0)
    return float(ratios.mean()), float(np.linalg.norm(_correlations(found) - _correlations(reference)))


def _compare_with_errors(
    reference: FloatArray, found: FloatArray, n_repeats: int, seed: int
) -> tuple[Estimate, Estimate]:
    generator = np.random.default_rng(seed)
    repeats = np.array(
        [
            _compare(
                reference[generator.integers(len(reference), size=len(reference))],
                found[generator.integers(len(found), size=len(found))],
            )
            for _ in range(n_repeats)
        ]
    )
    errors = repeats.std(axis=0, ddof=1)
    ratio, distance = _compare(reference, found)
    n = min(len(reference), len(found))
    return Estimate(ratio, float(errors[0]), n), Estimate(distance, float(errors[1]), n)


def _floors(reference: FloatArray, n_splits: int, seed: int) -> tuple[Splits, Splits]:
    splits = split_halves(len(reference), n_splits, seed)
    pairs = np.array([_compare(reference[first], reference[second]) for first, second in splits])
    sizes = (len(reference) // 2, len(reference) // 2)
    return Splits.of(np.abs(pairs[:, 0] - 1.0), sizes), Splits.of(pairs[:, 1], sizes)


def _matched_distance(reference: FloatArray, found: FloatArray, n_splits: int, seed: int) -> Splits:
    generator = np.random.default_rng(seed)
    size = min(len(reference) // 2, len(found))
    distances = [
        _compare(reference[half], found[generator.choice(len(found), size, replace=False)])[1]
        for half, _ in split_halves(len(reference), n_splits, seed, size)
    ]
    return Splits.of(np.array(distances), (size, size))
