r"""Parallel tempering: replicas of one machine at several temperatures exchange their states.

Level :math:`k` samples :math:`e^{-\beta_k E} / Z_{\beta_k}` with :math:`\beta_1 < \dots < \beta_K = 1`. Two
neighbours :math:`i, j` exchange their states with probability

.. math:: \min\big(1, e^{(\beta_i - \beta_j)(E_i - E_j)}\big),

so every level keeps its law (Swendsen and Wang 1986; Hukushima and Nemoto 1996). At :math:`\beta = 0` bits are fair
coins and there is no barrier. All replicas are swept in one call, with an inverse temperature a chain.

**The ladder.** The share of refused exchanges between near neighbours adds up along the ladder to a barrier
:math:`\Lambda(\beta)` that hardly depends on where the levels stand. Levels at equal steps of :math:`\Lambda` have
equal acceptances and the highest rate of round trips (Syed, Bouchard-Côté, Deligiannidis and Doucet 2022, arXiv
1905.02939); :func:`tuned_ladder` measures :math:`\Lambda` and places them so.

**Its limit.** Where the law changes by a jump with temperature, as for strongly clustered data, no ladder of affordable
length passes; :mod:`~calo4pqvae.prior.sampling.trajectory` goes along the training instead (Bereux, Decelle,
Furtlehner, Rosset and Seoane 2024, arXiv 2405.15376).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import check_call, clamp_mask, fair_coins
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.replicas import ReplicaState, check_levels, check_rounds, run_replicas

__all__ = ["EVEN_LADDER", "TemperingSampler", "tuned_ladder"]

EVEN_LADDER = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Nine levels at equal distances: where to begin, not where to stay."""

_LEAST_REJECTION = 1e-3  # keeps the barrier rising where every exchange of a pilot run was accepted


class TemperingSampler:
    """Draws from a machine by parallel tempering; holds no chain and no generator.

    Args:
        machine: The machine; its parameters are read anew at every call.
        betas: Inverse temperatures of the levels, rising from 0 or more to 1, at least two.
        sweeps_per_swap: Sweeps of every level between two rounds of exchanges.
        gibbs: Makes the sampler of the sweeps.

    Raises:
        PriorError: If the ladder is none, or there is no sweep between exchanges.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        betas: Sequence[float] = EVEN_LADDER,
        sweeps_per_swap: int = 1,
        gibbs: Callable[[BoltzmannMachine], BlockGibbsSampler] = BlockGibbsSampler,
    ) -> None:
        self.machine = machine
        self.betas = _checked_ladder(betas)
        check_rounds(sweeps_per_swap)
        self.sweeps_per_swap = sweeps_per_swap
        self._gibbs = gibbs(machine)

    def init(self, n_chains: int, generator: torch.Generator) -> ReplicaState:
        """Chains whose levels all start at fair coins.

        Args:
            n_chains: Number of chains, at least one.
            generator: Source of randomness, on the machine's device.

        Raises:
            PriorError: If there is no chain.
        """
        coins = [fair_coins(self.machine, n_chains, generator) for _ in self.betas]
        return ReplicaState.start(torch.stack(coins))

    @torch.no_grad()
    def sample(
        self,
        state: ReplicaState,
        n_sweeps: int,
        generator: torch.Generator,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
    ) -> ReplicaState:
        """Continues the chains by a number of sweeps of every level, with exchanges between them.

        Args:
            state: Where the chains are; it is not changed. Held bits have the values of ``state.states``.
            n_sweeps: Updates of every free bit of every level; 0 gives the state back.
            generator: Source of randomness, on the machine's device.
            clamped: Mask (N,) of the bits to hold.
            condition: c of every chain, shape (chains, n_c), if the machine has a condition.

        Returns:
            The new state; ``states`` are bits of the machine's law, ``replicas`` those of all levels.

        Raises:
            PriorError: If a shape does not fit, a parameter is not finite, or ``n_sweeps`` is negative.
        """
        check_call(self.machine, state.states, n_sweeps, condition)
        check_levels(state, len(self.betas))
        device = self.machine.device
        rows = None if condition is None else condition.repeat(len(self.betas), 1)
        betas = torch.tensor(self.betas, device=device).repeat_interleave(state.n_chains)

        def update(replicas: Tensor, n: int) -> Tensor:
            flat = GibbsState(replicas.flatten(0, 1))
            return self._gibbs.sample(flat, n, generator, clamped, rows, betas).states.view_as(replicas)

        def log_ratios(replicas: Tensor, gaps: Tensor) -> Tensor:
            return self.log_ratios(replicas, condition)[gaps]

        held = clamp_mask(clamped, self.machine.n_nodes).to(device)
        return run_replicas(state, n_sweeps, self.sweeps_per_swap, held, update, log_ratios, generator)

    @torch.no_grad()
    def log_ratios(self, replicas: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logarithm of the odds to exchange the states of neighbouring levels, in nats.

        Args:
            replicas: Bits at all levels, shape (K, chains, N).
            condition: c of every chain, shape (chains, n_c), if the machine has a condition.

        Returns:
            Values (K - 1, chains), float64; an exchange is sure where they are positive.
        """
        rows = None if condition is None else condition.repeat(len(replicas), 1)
        energies = self.machine.energy(replicas.flatten(0, 1), rows).double().view(replicas.shape[:2])
        betas = torch.tensor(self.betas, dtype=torch.float64, device=energies.device)
        return betas.diff()[:, None] * energies.diff(dim=0)


def tuned_ladder(
    machine: BoltzmannMachine,
    n_levels: int,
    generator: torch.Generator,
    *,
    beta_start: float = 0.0,
    n_chains: int = 64,
    n_sweeps: int = 100,
    n_rounds: int = 6,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    values: Tensor | None = None,
    condition: Tensor | None = None,
) -> tuple[float, ...]:
    """Inverse temperatures with equal acceptances, from pilot runs.

    Each round runs the ladder, adds up the refused shares to the barrier, and moves the levels to equal steps of it.

    Args:
        machine: The machine.
        n_levels: Number of levels, at least two.
        generator: Source of randomness, on the machine's device.
        beta_start: The first level, in [0, 1).
        n_chains: Chains of the pilot runs.
        n_sweeps: Sweeps of each pilot run.
        n_rounds: Pilot runs.
        clamped: Mask (N,) of the bits to hold.
        values: Their values in every chain, shape (chains, N); fair coins if None.
        condition: c of every chain, shape (chains, n_c), if the machine has a condition.

    Returns:
        The ladder, from ``beta_start`` to 1. :meth:`~calo4pqvae.prior.sampling.replicas.ReplicaState.report` of a run
        with it gives its acceptances and their errors.

    Raises:
        PriorError: If a number or a shape is out of range.
    """
    if n_levels < 2 or not 0 <= beta_start < 1:
        raise PriorError(f"{n_levels} levels from beta = {beta_start} are no ladder; give two or more, from [0, 1)")
    if n_sweeps < 2 or n_rounds < 1:
        raise PriorError(f"{n_rounds} pilot runs of {n_sweeps} sweeps measure nothing; give 1 or more, of 2 or more")
    betas = np.linspace(beta_start, 1.0, n_levels)
    replicas = TemperingSampler(machine, betas.tolist()).init(n_chains, generator).replicas
    if values is not None:
        held = clamp_mask(clamped, machine.n_nodes).to(machine.device)
        if values.shape != replicas.shape[1:]:
            raise PriorError(f"values have shape {tuple(values.shape)}; they must be {tuple(replicas.shape[1:])}")
        replicas = torch.where(held, values.to(replicas), replicas)
    for _ in range(n_rounds):
        sampler = TemperingSampler(machine, betas.tolist())
        state = sampler.sample(ReplicaState.start(replicas), n_sweeps, generator, clamped, condition)
        replicas = state.replicas
        rejection = np.maximum(1 - np.array(state.report().acceptance), _LEAST_REJECTION)
        barrier = np.concatenate([[0.0], np.cumsum(rejection)])
        betas[1:-1] = np.interp(np.linspace(0, barrier[-1], n_levels)[1:-1], barrier, betas)
    return tuple(betas.tolist())


def _checked_ladder(betas: Sequence[float]) -> tuple[float, ...]:
    ladder = tuple(float(beta) for beta in betas)
    if len(ladder) < 2:
        raise PriorError(f"{len(ladder)} replicas have nothing to exchange; give two inverse temperatures or more")
    if not all(low < high for low, high in pairwise(ladder)):
        raise PriorError(f"the inverse temperatures {ladder} do not increase; sort them and drop repeated ones")
    if ladder[0] < 0 or ladder[-1] != 1:
        raise PriorError(f"the inverse temperatures {ladder} must start at 0 or more and end at 1")
    return ladder
