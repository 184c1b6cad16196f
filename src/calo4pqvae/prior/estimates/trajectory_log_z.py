r"""Log Z of every checkpoint while a machine is being trained: annealing along the training trajectory.

Training is itself a path of laws. Chains that follow it carry, after the update from :math:`\theta_{t-1}` to
:math:`\theta_t`, the weights

.. math:: \ln w_t = \ln w_{t-1} + F_{t-1}(x_{t-1}) - F_t(x_{t-1}), \qquad \ln Z_t = \ln Z_0 + \ln \langle w_t \rangle,

with F the free energy after summing out one partition (:mod:`~calo4pqvae.prior.sampling.collapsed`), and are then moved
by Gibbs sweeps of the new law. Updates are small, so the weights stay even, and the path crosses phase transitions
where learning did, not at once as a path in temperature may. The first law is reached from independent bits by AIS,
which is easy before learning.

The chains must be of their own: chains that also make the gradient depend on the updates they made. Where few chains
carry the mean, chains of that case are drawn again in proportion to their weights (systematic resampling) and go on
with equal weights; the variance so far is added to that of what follows. Such an estimate tends to be low, as all
forward estimates do.

Bereux, Decelle, Furtlehner, Rosset and Seoane, arXiv 2405.15376; Neal, Statistics and Computing 11 (2001).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.log_z import LogZ
from calo4pqvae.prior.estimates.partition_function import anneal_from_base, schedule
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.collapsed import Cases, Collapse, CollapsedLaw

__all__ = ["TrajectoryLogZ"]

FloatArray = NDArray[np.float64]


class TrajectoryLogZ:
    """Chains that follow a machine through its training and know its log Z at any time.

    Args:
        machine: The machine before training; its parameters are copied.
        n_chains: Chains a case.
        seed: Seed of the chains.
        n_temperatures: Temperatures of the AIS run from independent bits to the first law.
        base: Biases of the independent bits, (N,) or (C, N); None takes the machine's fields without couplers.
        clamped: Mask (N,) of the bits to hold.
        values: Bits of the cases (C, N), those under the mask are used.
        condition: Conditions of the cases (C, n_c), if the machine has one.
        resample_below: Effective share of the chains below which they are resampled.

    Raises:
        PriorError: If there are fewer than two chains, ``resample_below`` is not in [0, 1), or as in
            :func:`~calo4pqvae.prior.estimates.partition_function.ais`.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        *,
        n_chains: int = 256,
        seed: int = 0,
        n_temperatures: int = 100,
        base: Tensor | None = None,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        values: Tensor | None = None,
        condition: Tensor | None = None,
        resample_below: float = 0.5,
    ) -> None:
        if n_chains < 2 or not 0 <= resample_below < 1:
            raise PriorError("trajectory annealing needs 2 chains or more and resample_below in [0, 1)")
        self.seed = seed
        self.n_updates = 0
        self._resample_below = resample_below
        self._n_chains = n_chains
        self._base = "fields" if base is None else "given"
        self._cases = Cases.of(machine, clamped, values, condition)
        self._topology = machine.topology
        self._collapse = Collapse.of(machine.topology, self._cases.clamped, machine.device)
        self._generator = torch.Generator(machine.device).manual_seed(seed)
        law = CollapsedLaw.of(machine, self._cases, self._collapse, base)
        places = schedule(n_temperatures)
        with torch.no_grad():
            self._states, weights = anneal_from_base(law, places, n_chains, 1, self._generator)
        self._log_weights = weights.view(self._cases.n_cases, n_chains)
        self._law = CollapsedLaw.of(machine, self._cases, self._collapse).spread(n_chains)
        self._past_variance = np.zeros(self._cases.n_cases)
        self._least_ess = np.full(self._cases.n_cases, float(n_chains))
        self._n_resampled = np.zeros(self._cases.n_cases, dtype=np.int64)
        self._move(1)

    @torch.no_grad()
    def update(self, machine: BoltzmannMachine, n_sweeps: int = 1) -> None:
        """Follows the machine to new parameters; to be called after every step, or every few steps, of training.

        Args:
            machine: The machine on the same graph, after the step.
            n_sweeps: Gibbs sweeps with the new parameters.

        Raises:
            PriorError: If the graph is another one, a parameter is not finite, or no sweep is asked for.
        """
        if machine.topology != self._topology:
            raise PriorError("the machine has another graph than the one that is followed; start a new estimate")
        if n_sweeps < 1:
            raise PriorError(f"{n_sweeps} sweeps leave the chains where they are; make at least 1")
        law = CollapsedLaw.of(machine, self._cases, self._collapse).spread(self._n_chains)
        before = self._law.log_marginal(self._states, self._law.field(self._states))[0]
        after = law.log_marginal(self._states, law.field(self._states))[0]
        self._log_weights = self._log_weights + (after - before).view(self._log_weights.shape)
        self._law = law
        self.n_updates += 1
        self._resample()
        self._move(n_sweeps)

    def estimate(self) -> LogZ:
        """Log Z of the parameters of the latest update, with the number of resamplings so far."""
        return self._current().with_history(np.sqrt(self._past_variance), self._least_ess, self._n_resampled)

    def _current(self) -> LogZ:
        return LogZ.from_weights(
            self._log_weights.cpu().numpy(),
            n_temperatures=self.n_updates,
            base=self._base,
            direction="trajectory",
            seed=self.seed,
        )

    def _move(self, n_sweeps: int) -> None:
        for _ in range(n_sweeps):
            self._law.sweep(self._states, self._law.field(self._states), 1.0, self._generator)

    def _resample(self) -> None:
        weights = torch.softmax(self._log_weights, dim=1)
        poor = 1 / weights.square().sum(dim=1) < self._resample_below * self._n_chains
        if not bool(poor.any()):
            return
        now = self._current()
        for index in torch.nonzero(poor).flatten().tolist():
            columns = slice(index * self._n_chains, (index + 1) * self._n_chains)
            chosen = self._systematic(weights[index])
            self._states[:, columns] = self._states[:, columns][:, chosen]
            total = torch.logsumexp(self._log_weights[index], dim=0) - np.log(self._n_chains)
            self._log_weights[index] = total
            self._past_variance[index] += now.error[index] ** 2
            self._least_ess[index] = min(self._least_ess[index], now.ess[index])
            self._n_resampled[index] += 1

    def _systematic(self, weights: Tensor) -> Tensor:
        """Chains drawn in proportion to their weights, with one random number and evenly spaced places."""
        start = torch.rand(1, generator=self._generator, dtype=torch.float64, device=weights.device)
        places = (torch.arange(self._n_chains, device=weights.device) + start) / self._n_chains
        return torch.searchsorted(weights.cumsum(dim=0), places).clamp(max=self._n_chains - 1)
