"""All numbers of an evaluation, computed once and shown by the report, the command line and the JSON file alike."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.correlations import PriorRow, prior_comparison
from calo4pqvae.evaluation.metrics.separation import SeparationPower, separation_powers
from calo4pqvae.evaluation.metrics.targets import TargetTable, check_targets

__all__ = ["Scores", "score_samples"]

_LEAST_SHOWERS = 100
_SAME_ENERGIES_P = 1e-3


@dataclass(frozen=True)
class Scores:
    """What was found about the generated samples; the first one is the one that the report is about.

    Args:
        bins: Bins of incident energy.
        targets: Acceptance table of each sample.
        separation: Separation powers of each sample, by the bin in words; "all" is the whole range.
        priors: Widths and correlations of layer energies, of each sample and bin.
        sizes: Number of showers of the reference ("Geant4") and of each sample.
        seed: Seed of splits and bootstraps.
        warnings: Sentences on what makes the comparison doubtful.
    """

    bins: EnergyBins
    targets: Mapping[str, TargetTable]
    separation: Mapping[str, Mapping[str, list[SeparationPower]]]
    priors: list[PriorRow]
    sizes: Mapping[str, int]
    seed: int
    warnings: tuple[str, ...]

    @property
    def main(self) -> str:
        """Name of the sample that the report is about."""
        return next(iter(self.targets))

    def to_dict(self) -> dict[str, object]:
        """All numbers as plain data without NaN."""
        return {
            "energy_bins_mev": list(self.bins.edges),
            "n_showers": dict(self.sizes),
            "seed": self.seed,
            "warnings": list(self.warnings),
            "targets": {name: table.to_dict() for name, table in self.targets.items()},
            "separation_powers": {
                name: {label: [power.to_dict() for power in powers] for label, powers in by_bin.items()}
                for name, by_bin in self.separation.items()
            },
            "prior_comparison": [row.to_dict() for row in self.priors],
        }


def score_samples(
    reference: ShowerFeatures,
    generated: Mapping[str, ShowerFeatures],
    bins: EnergyBins | None = None,
    *,
    seed: int = 0,
) -> Scores:
    """Computes all numbers of an evaluation.

    Args:
        reference: Geant4 showers that the model never saw.
        generated: Generated samples by name, the main one first.
        bins: Bins of incident energy; by default thirds of log E over the range of the reference.
        seed: Seed of splits and bootstraps.

    Raises:
        DataError: If there is no generated sample, or a sample is too small, of another geometry, or outside the
            energy range of the reference.
    """
    if not generated:
        raise DataError("there is no generated sample to evaluate; give at least one")
    thirds = bins or EnergyBins.thirds_of(reference.incident_energy)
    for name, sample in {"the reference": reference, **generated}.items():
        _check(name, sample, reference, thirds)
    targets = {name: check_targets(reference, sample, thirds, seed=seed) for name, sample in generated.items()}
    separation: dict[str, dict[str, list[SeparationPower]]] = {}
    for name, sample in generated.items():
        separation[name] = {"all": separation_powers(reference, sample, seed=seed)}
        for label, expected, found in zip(thirds.labels, thirds.split(reference), thirds.split(sample), strict=True):
            separation[name][label] = separation_powers(expected, found, seed=seed)
    return Scores(
        bins=thirds,
        targets=targets,
        separation=separation,
        priors=prior_comparison(reference, generated, thirds, seed=seed),
        sizes={"Geant4": reference.n_showers, **{name: sample.n_showers for name, sample in generated.items()}},
        seed=seed,
        warnings=tuple(_energy_warnings(reference, generated)),
    )


def _check(name: str, sample: ShowerFeatures, reference: ShowerFeatures, bins: EnergyBins) -> None:
    if sample.n_showers < _LEAST_SHOWERS:
        raise DataError(
            f"{name} has only {sample.n_showers} showers; an evaluation needs at least {_LEAST_SHOWERS} in each sample"
        )
    if sample.geometry.layers != reference.geometry.layers:
        raise DataError(
            f"{name} is on the grid {sample.geometry.name} and the reference on {reference.geometry.name}; "
            "compare samples of one geometry"
        )
    inside = np.sum(bins.masks(sample.incident_energy))
    outside = sample.n_showers - int(inside)
    if outside:
        lowest, highest = sample.incident_energy.min(), sample.incident_energy.max()
        raise DataError(
            f"{name} has {outside} showers with incident energies outside {bins.edges[0]:.6g} to {bins.edges[-1]:.6g} "
            f"MeV (they go from {lowest:.6g} to {highest:.6g}); keep to that range, and check that energies are in MeV"
        )


def _energy_warnings(reference: ShowerFeatures, generated: Mapping[str, ShowerFeatures]) -> list[str]:
    warnings = []
    for name, sample in generated.items():
        p = float(ks_2samp(reference.incident_energy, sample.incident_energy).pvalue)
        if p < _SAME_ENERGIES_P:
            warnings.append(
                f"The incident energies of {name} are not distributed as those of the reference (Kolmogorov-Smirnov "
                f"p = {p:.1g}): histograms and separation powers are distorted by it, while the acceptance table is "
                "taken at equal energies."
            )
    return warnings
