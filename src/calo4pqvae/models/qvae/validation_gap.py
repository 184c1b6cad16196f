r"""The energy gap of a prior on validation bits: data energy less model energy at the same incident energies.

For validation event i with bits :math:`z_i` at incident energy :math:`c_i`, and the mean over samples of the prior at
that very energy,

.. math:: d_i = E(z_i | c_i) - \langle E(z | c_i) \rangle_m, \qquad \mathrm{gap} = \frac{1}{n} \sum_i d_i ,

which is zero in the mean for a prior that has learned the law of the data. It is no proof: bits that are independent
but have the right means have no gap either, since their energy is linear in the bits. What the couplings have learned
shows in the **correlation slope** (:mod:`~calo4pqvae.prior.learning.diagnostics`), one for a machine that has the
correlations of the data over its couplers.

The events are independent, so that the standard error of the gap is that of the mean of the :math:`d_i`; the noise of
the few samples an event is in it. Two priors are compared on the same events, by the paired differences of their
:math:`d_i`.

Samples are drawn by block Gibbs from fair coins, whatever trained the prior: what is judged is the machine, as it will
be used on a computer.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.prior.learning.diagnostics import watch
from calo4pqvae.seeds import stream

__all__ = ["EnergyGap", "correlation_slope", "energy_gap", "paired_difference"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EnergyGap:
    """Energies of data and model under one prior, in nats.

    Args:
        data: Energy of every event (n,).
        model: Energies of the samples (draws, n), at the incident energies of the events.
        n_sweeps: Sweeps of a draw.
        seed: Of the draws.
    """

    data: FloatArray
    model: FloatArray
    n_sweeps: int
    seed: int

    @property
    def differences(self) -> FloatArray:
        """Data energy less mean model energy of every event (n,)."""
        return np.asarray(self.data - self.model.mean(axis=0))

    @property
    def value(self) -> float:
        """The gap."""
        return float(self.differences.mean())

    @property
    def error(self) -> float:
        """Its standard error."""
        return float(self.differences.std(ddof=1) / math.sqrt(len(self.data)))

    def to_dict(self) -> dict[str, float | int]:
        """The numbers for JSON."""
        return {
            "gap": self.value,
            "gap_error": self.error,
            "energy_data": float(self.data.mean()),
            "energy_model": float(self.model.mean()),
            "energy_spread": float(self.data.std(ddof=1)),
            "n_data": len(self.data),
            "n_model": self.model.size,
            "n_sweeps": self.n_sweeps,
            "seed": self.seed,
        }

    def __str__(self) -> str:
        return (
            f"{self.value:+.2f} +- {self.error:.2f} nats ({len(self.data)} events, {self.model.size} samples of "
            f"{self.n_sweeps} Gibbs sweeps, seed {self.seed})"
        )


@torch.no_grad()
def energy_gap(
    prior: LatentPrior, bits: Tensor, incident_energies: Tensor, *, draws: int, n_sweeps: int, seed: int
) -> EnergyGap:
    """Energies of validation bits and of samples at the same incident energies.

    Args:
        prior: The prior.
        bits: Latent bits (n, n_bits) of the events.
        incident_energies: (n, 1) in MeV.
        draws: Samples an event.
        n_sweeps: Block Gibbs sweeps of a sample.
        seed: Of the samples.

    Raises:
        DataError: If there are fewer than two events or no sample is asked for.
    """
    if len(bits) < 2 or draws < 1:
        raise DataError(f"{len(bits)} events with {draws} samples each have no energy gap; give two events or more")
    data = prior.energy(bits.float(), incident_energies)
    model = [
        prior.energy(prior.sample(incident_energies, n_sweeps, stream(seed, "gap", draw)), incident_energies)
        for draw in range(draws)
    ]
    return EnergyGap(data.double().numpy(), torch.stack(model).double().numpy(), n_sweeps, seed)


@torch.no_grad()
def correlation_slope(
    prior: LatentPrior, bits: Tensor, incident_energies: Tensor, *, n_sweeps: int, seed: int
) -> tuple[float, float]:
    """Slope of the correlations of samples against those of data, over the couplers, and its standard error.

    Args:
        prior: The prior.
        bits: Latent bits (n, n_bits) of the data, twenty or more.
        incident_energies: (n, 1) in MeV; one sample is drawn at each.
        n_sweeps: Block Gibbs sweeps of a sample.
        seed: Of the samples.

    Returns:
        Slope and error; NaN where the data have no correlation to see.

    Raises:
        PriorError: If there are too few states.
    """
    drawn = prior.sample(incident_energies, n_sweeps, stream(seed, "slope"))
    states, samples = (prior.states(part, incident_energies) for part in (bits.float(), drawn))
    condition = prior.condition(incident_energies)
    found = watch(prior.machine, states, samples, condition, held=prior.clamped)
    return found.slope, found.slope_error


def paired_difference(one: EnergyGap, other: EnergyGap) -> tuple[float, float]:
    """Gap of one prior less that of another on the same events, and its standard error.

    Raises:
        DataError: If the events are not the same in number.
    """
    if len(one.data) != len(other.data):
        raise DataError(f"{len(one.data)} and {len(other.data)} events cannot be paired; use the same events for both")
    change = one.differences - other.differences
    return float(change.mean()), float(change.std(ddof=1) / math.sqrt(len(change)))
