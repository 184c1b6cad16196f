"""Incident energies that a model is made for."""

import torch
from torch import Tensor

from calo4pqvae.errors import DataError

__all__ = ["check_energies"]

_SLACK = 1e-6  # relative: energies stored in float32 may miss an end of the range by rounding


def check_energies(incident_energies: Tensor, low_mev: float, high_mev: float) -> None:
    """Checks that incident energies are finite and inside a range.

    Raises:
        DataError: Naming the worst energy and the range, in MeV.
    """
    if not torch.isfinite(incident_energies).all():
        raise DataError("incident energies hold NaN or infinity: remove those events")
    lowest, highest = incident_energies.min().item(), incident_energies.max().item()
    if lowest < low_mev * (1 - _SLACK) or highest > high_mev * (1 + _SLACK):
        worst = lowest if lowest < low_mev * (1 - _SLACK) else highest
        raise DataError(
            f"incident energy {worst:.6g} MeV is outside the range {low_mev:g} to {high_mev:g} MeV that the "
            f"model is made for (data.energy_min_mev, data.energy_max_mev); energies are in MeV"
        )
