"""What an evaluation computes, and how: groups of metrics, judges, seeds and sizes.

========================  ==========================================================================================
group                     what
========================  ==========================================================================================
``distances``             FPD and KPD of the 362 features, in the settings of the CaloChallenge
``separation``            separation powers and chi-squares of the challenge's histograms, and of a fine spectrum
``wasserstein``           one-dimensional Wasserstein distance of every feature
``prdc``                  precision, recall, density, coverage of voxels
``correlations``          distance of the correlations of layers and of voxels
``calo4pqvae-226``        FPD and KPD of the 226 features and in the settings of the Calo4pQVAE line; only on request
========================  ==========================================================================================

Classifiers come in forms: ``quick`` networks for a CPU, ``plain`` ones (the same without symmetries), the challenge's
``full`` ones, and ``hard``, boosted trees on features made for the purpose. At most one form of the networks at a time.
"""

from dataclasses import dataclass

import torch

from calo4pqvae.errors import ConfigError
from calo4pqvae.evaluation.metrics.frechet import CHALLENGE_FPD, LIBRARY_FPD, FrechetSettings
from calo4pqvae.evaluation.metrics.kernel_distance import CHALLENGE_KPD, LIBRARY_KPD, KernelSettings

__all__ = ["ALL_GROUPS", "DEFAULT_GROUPS", "FORMS", "RefereeSettings"]

DEFAULT_GROUPS = ("distances", "separation", "wasserstein", "prdc", "correlations")
ALL_GROUPS = (*DEFAULT_GROUPS, "calo4pqvae-226")
NETWORK_FORMS = ("quick", "plain", "full")
FORMS = (*NETWORK_FORMS, "hard")


@dataclass(frozen=True)
class RefereeSettings:
    """What is computed, and how.

    Args:
        groups: Names of :data:`ALL_GROUPS`; none for the acceptance table alone.
        classifiers: Forms of :data:`FORMS` joined by commas, or ``off``.
        n_classifier_seeds: Trainings of each network.
        seed: Seed of splits, bootstraps and classifiers.
        is_official: Whether the caller declares the reference the official file of the data set.
        voxel_showers: At most so many showers of each sample, drawn at random, enter PRDC and voxel correlations; on
            grids larger than that of data set 2 only those that hold 65 million voxels, but at least 1,000.
        device: Where networks and PRDC run: ``cpu``, ``cuda`` or ``auto``.
        fpd: Batches of the FPD.
        kpd: Batches of the KPD.
        fpd_226: Batches of the FPD of 226 features.
        kpd_226: Batches of the KPD of 226 features.

    Raises:
        ConfigError: If a group or form is unknown, or a number is too small.
    """

    groups: tuple[str, ...] = DEFAULT_GROUPS
    classifiers: str = "off"
    n_classifier_seeds: int = 3
    seed: int = 1
    is_official: bool = False
    voxel_showers: int = 10_000
    device: str = "cpu"
    fpd: FrechetSettings = CHALLENGE_FPD
    kpd: KernelSettings = CHALLENGE_KPD
    fpd_226: FrechetSettings = LIBRARY_FPD
    kpd_226: KernelSettings = LIBRARY_KPD

    def __post_init__(self) -> None:
        unknown = [group for group in self.groups if group not in ALL_GROUPS]
        if unknown:
            raise ConfigError(f"there are no metrics '{unknown[0]}'; choose among {', '.join(ALL_GROUPS)}")
        if any(form not in FORMS for form in self.forms) or sum(form in NETWORK_FORMS for form in self.forms) > 1:
            raise ConfigError(
                f"classifiers cannot be '{self.classifiers}'; give off, or one of {', '.join(NETWORK_FORMS)}, hard, or "
                "both joined by a comma, such as quick,hard"
            )
        if self.n_classifier_seeds < 1 or self.voxel_showers < 100:
            raise ConfigError(
                f"{self.n_classifier_seeds} seeds of classifiers and {self.voxel_showers} showers with voxels are too "
                "few; give at least 1 and 100"
            )
        if self.device not in ("cpu", "cuda", "auto") or (self.device == "cuda" and not torch.cuda.is_available()):
            raise ConfigError(f"there is no device '{self.device}' here; use cpu or auto")

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of classifiers asked for, none for ``off``."""
        return () if self.classifiers == "off" else tuple(dict.fromkeys(self.classifiers.split(",")))

    @property
    def network_form(self) -> str | None:
        """The form of the networks; None if none are trained."""
        return next((form for form in self.forms if form in NETWORK_FORMS), None)

    @property
    def chosen_device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"
