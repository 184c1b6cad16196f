r"""A training sample sorted by condition, for learning with few programmings of an annealer.

An annealer draws under one condition a programming, so that a learning step looks at few conditions. They are taken at
equal distances along the events sorted by incident energy,

.. math:: i_k = \lfloor (u_t + k) / K \cdot n \rfloor, \qquad u_t = u_0 + t (\sqrt 5 - 1) / 2 \bmod 1 ,

so that every condition comes with the frequency that it has in the sample, low and high energies come in each step, and
all conditions come in turn. The positive phase of a step is the mean over all events of its conditions: it has no
noise of its own beyond that of the sample.

Energies that share a condition share a programming. A thermometer code of n bits has n + 1 conditions; with finer codes
energies can be put in bins first, which moves each by a known relative shift at most
(:mod:`~calo4pqvae.annealer.protocols.grouping`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.annealer.chip.problem import FloatArray
from calo4pqvae.annealer.protocols.grouping import BinnedEnergies, bin_energies
from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.prior.learning.gradients import Offsets
from calo4pqvae.seeds import stream

__all__ = ["ConditionedSample", "Turn"]

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Turn:
    """The conditions of one step.

    Args:
        groups: Numbers of the conditions, ascending, shape (K',).
        counts: How often each was taken (K',), adding up to K.
    """

    groups: Tensor
    counts: Tensor

    @property
    def shares(self) -> FloatArray:
        """Share of each condition in the step."""
        values = self.counts.double().numpy()
        return np.asarray(values / values.sum())


class ConditionedSample:
    """Posterior bits with their conditions.

    Args:
        prior: The prior that is to learn them.
        bits: Latent bits (n, n_bits).
        incident_energies: (n, 1) in MeV.
        n_events: Events to learn from, drawn without replacement; all if None.
        energy_shift: Largest relative shift of an energy by binning; 0 for none.
        seed: Of the draw of events and of the first turn.

    Attributes:
        bits: Bits of the chosen events (n, n_bits), float32.
        rows: The distinct conditions (C, n_c).
        binned: What binning did to the energies.

    Raises:
        DataError: If there are not so many events.
    """

    def __init__(
        self,
        prior: LatentPrior,
        bits: Tensor,
        incident_energies: Tensor,
        *,
        n_events: int | None,
        energy_shift: float,
        seed: int,
    ) -> None:
        if n_events is not None and not 2 <= n_events <= len(bits):
            raise DataError(f"a sample of {n_events} of {len(bits)} events cannot be taken; ask for 2 to {len(bits)}")
        chosen = torch.randperm(len(bits), generator=stream(seed, "events"))[:n_events]
        self.bits, energies = bits[chosen].float(), incident_energies[chosen]
        self.binned: BinnedEnergies = bin_energies(energies.double().numpy(), energy_shift)
        data = prior.code.low_mev, prior.code.high_mev
        binned = torch.from_numpy(self.binned.energies).float().clamp(*data)
        self.rows, self._group = torch.unique(prior.code.encode(binned), dim=0, return_inverse=True)
        self._states, self._condition = prior.states(self.bits, binned), prior.condition(binned)
        self._order = torch.argsort(energies[:, 0], stable=True)
        self._start = float(torch.rand(1, generator=stream(seed, "turns")))

    @property
    def n_events(self) -> int:
        """Events."""
        return len(self.bits)

    @property
    def offsets(self) -> Offsets:
        """Means of all bits, held ones included, and of the condition."""
        return Offsets(self._states.mean(dim=0), None if self._condition is None else self._condition.mean(dim=0))

    def turn(self, number: int, n_conditions: int) -> Turn:
        """The conditions of a step.

        Args:
            number: Number of the step.
            n_conditions: Conditions K; those that come twice count twice.
        """
        places = (np.arange(n_conditions) + (self._start + number * _GOLDEN) % 1.0) / n_conditions
        events = self._order[torch.from_numpy((places * self.n_events).astype(np.int64))]
        return Turn(*torch.unique(self._group[events], return_counts=True))

    def data(self, turn: Turn) -> tuple[Tensor, Tensor, Tensor | None]:
        """States (B, N), weights (B,) adding up to one, and conditions (B, n_c) or None, of the events of a turn."""
        weights = torch.zeros(len(self.rows), dtype=torch.float64)
        sizes = torch.bincount(self._group, minlength=len(self.rows))
        weights[turn.groups] = torch.from_numpy(turn.shares) / sizes[turn.groups]
        own = torch.nonzero(weights[self._group])[:, 0]
        condition = None if self._condition is None else self._condition[own]
        return self._states[own], weights[self._group[own]].float(), condition
