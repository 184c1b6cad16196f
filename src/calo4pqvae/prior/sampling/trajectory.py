r"""Parallel trajectory tempering: replicas are machines saved along one training.

Level :math:`t` samples the machine :math:`\theta_t`, the last level the machine that is wanted. Neighbours exchange
their states :math:`x_t, x_{t+1}` with probability

.. math:: \min\big(1, e^{E_t(x_t) + E_{t+1}(x_{t+1}) - E_t(x_{t+1}) - E_{t+1}(x_t)}\big),

so every level keeps its law. Training learns one feature after the other through continuous transitions, and the
replicas go back along the same way, whereas a path in temperature may cross a jump (Bereux, Decelle, Furtlehner, Rosset
and Seoane 2024, arXiv 2405.15376). The first machine should be nearly a product law. With no couplings at all, one
sweep of it is an exact, independent draw, and every round trip brings a fresh state.

Machines must be saved often enough: :func:`select_checkpoints` keeps as few of them as a wanted acceptance allows, and
reports gaps that are too wide. An acceptance of 0.2 to 0.5 is a good rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import check_call, clamp_mask, fair_coins
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.replicas import ReplicaState, check_levels, check_rounds, run_replicas

__all__ = ["Selection", "TrajectorySampler", "select_checkpoints"]


class TrajectorySampler:
    """Draws from the last of several machines with the help of the others; holds no chain and no generator.

    Args:
        machines: Machines on one graph in the order of training, at least two; the last is the one to draw from.
            Their parameters are read anew at every call.
        sweeps_per_swap: Sweeps of every level between two rounds of exchanges.
        gibbs: Makes the sampler of the sweeps.

    Raises:
        PriorError: If the machines do not fit together, or there is no sweep between exchanges.
    """

    def __init__(
        self,
        machines: Sequence[BoltzmannMachine],
        sweeps_per_swap: int = 1,
        gibbs: Callable[[BoltzmannMachine], BlockGibbsSampler] = BlockGibbsSampler,
    ) -> None:
        self.machines = _checked_trajectory(machines)
        check_rounds(sweeps_per_swap)
        self.sweeps_per_swap = sweeps_per_swap
        self._gibbs = [gibbs(machine) for machine in self.machines]

    @property
    def machine(self) -> BoltzmannMachine:
        """The machine whose law is wanted."""
        return self.machines[-1]

    def init(self, n_chains: int, generator: torch.Generator) -> ReplicaState:
        """Chains whose levels all start at fair coins.

        Args:
            n_chains: Number of chains, at least one.
            generator: Source of randomness, on the machines' device.

        Raises:
            PriorError: If there is no chain.
        """
        return ReplicaState.start(torch.stack([fair_coins(self.machine, n_chains, generator) for _ in self.machines]))

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
            generator: Source of randomness, on the machines' device.
            clamped: Mask (N,) of the bits to hold.
            condition: c of every chain, shape (chains, n_c), if the machines have a condition.

        Returns:
            The new state; ``states`` are bits of the last machine's law, ``replicas`` those of all machines.

        Raises:
            PriorError: If a shape does not fit, a parameter is not finite, or ``n_sweeps`` is negative.
        """
        for machine in self.machines:
            check_call(machine, state.states, n_sweeps, condition)
        check_levels(state, len(self.machines))

        def update(replicas: Tensor, n: int) -> Tensor:
            levels = zip(self._gibbs, replicas, strict=True)
            drawn = [gibbs.sample(GibbsState(bits), n, generator, clamped, condition) for gibbs, bits in levels]
            return torch.stack([level.states for level in drawn])

        def log_ratios(replicas: Tensor, gaps: Tensor) -> Tensor:
            pairs = [self.log_ratio(t, replicas[t], replicas[t + 1], condition) for t in gaps.tolist()]
            return torch.stack(pairs) if pairs else torch.empty(0, replicas.shape[1], device=replicas.device)

        held = clamp_mask(clamped, self.machine.n_nodes).to(self.machine.device)
        return run_replicas(state, n_sweeps, self.sweeps_per_swap, held, update, log_ratios, generator)

    def log_ratio(self, gap: int, first: Tensor, second: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logarithm of the odds to exchange the states of two neighbouring machines, in nats.

        Args:
            gap: Number of the earlier machine.
            first: Its states (chains, N).
            second: States of the next machine (chains, N).
            condition: c of every chain, shape (chains, n_c), if the machines have a condition.

        Returns:
            Values (chains,), float64; an exchange is sure where they are positive.
        """
        return _log_ratio(self.machines[gap], self.machines[gap + 1], first, second, condition)


@dataclass(frozen=True)
class Selection:
    """Which saved machines to keep.

    Args:
        indices: Their numbers, rising; the first and the last machine are always among them.
        acceptance: Expected acceptance between each and the next, one number fewer.
        acceptance_error: Standard errors over the pilot chains.
        n_chains: Pilot chains.
        n_sweeps: Pilot sweeps at each machine.
    """

    indices: tuple[int, ...]
    acceptance: tuple[float, ...]
    acceptance_error: tuple[float, ...]
    n_chains: int
    n_sweeps: int


@torch.no_grad()
def select_checkpoints(
    machines: Sequence[BoltzmannMachine],
    generator: torch.Generator,
    *,
    target: float = 0.3,
    n_chains: int = 100,
    n_sweeps: int = 50,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    values: Tensor | None = None,
    condition: Tensor | None = None,
) -> Selection:
    """Thins a saved trajectory to the fewest machines whose neighbours still exchange states.

    Two independent sets of pilot chains follow the training from machine to machine. From the last machine backwards,
    the next one kept is the farthest before which the acceptance has not yet fallen below the target. Where even
    neighbours are below it, the neighbour is kept and the low acceptance is in the result: machines were then saved
    too rarely.

    Args:
        machines: Machines on one graph in the order of training, at least two.
        generator: Source of randomness, on their device.
        target: Least acceptance, in (0, 1).
        n_chains: Pilot chains in each of the two sets.
        n_sweeps: Sweeps of the pilot chains at each machine.
        clamped: Mask (N,) of the bits to hold.
        values: Their values in every chain, shape (chains, N); fair coins if None.
        condition: c of every chain, shape (chains, n_c), if the machines have a condition.

    Raises:
        PriorError: If the machines do not fit together, or a number or a shape is out of range.
    """
    trajectory = _checked_trajectory(machines)
    if not 0 < target < 1:
        raise PriorError(f"an acceptance of {target} cannot be aimed at; give a number between 0 and 1")
    if n_chains < 2 or n_sweeps < 1:
        raise PriorError(f"{n_chains} chains with {n_sweeps} sweeps measure nothing; give 2 or more, and 1 or more")
    pilots = [_pilot(trajectory, n_chains, n_sweeps, generator, clamped, values, condition) for _ in range(2)]

    def rates(first: int, second: int) -> Tensor:
        pair = trajectory[first], trajectory[second]
        one = _log_ratio(*pair, pilots[0][first].float(), pilots[1][second].float(), condition)
        other = _log_ratio(*pair, pilots[1][first].float(), pilots[0][second].float(), condition)
        return torch.cat([one, other]).clamp(max=0).exp()

    kept, found = [len(trajectory) - 1], []
    while kept[-1] > 0:
        best, acceptance = kept[-1] - 1, rates(kept[-1] - 1, kept[-1])
        while best > 0 and float(acceptance.mean()) >= target:
            further = rates(best - 1, kept[-1])
            if float(further.mean()) < target:
                break
            best, acceptance = best - 1, further
        kept.append(best)
        found.append(acceptance)
    return Selection(
        indices=tuple(reversed(kept)),
        acceptance=tuple(float(rate.mean()) for rate in reversed(found)),
        acceptance_error=tuple(float(rate.std()) / len(rate) ** 0.5 for rate in reversed(found)),
        n_chains=2 * n_chains,
        n_sweeps=n_sweeps,
    )


def _pilot(
    machines: Sequence[BoltzmannMachine],
    n_chains: int,
    n_sweeps: int,
    generator: torch.Generator,
    clamped: Tensor | NDArray[np.bool_] | None,
    values: Tensor | None,
    condition: Tensor | None,
) -> list[Tensor]:
    """States (chains, N) as booleans at every machine, of chains that follow the training."""
    state = GibbsState(fair_coins(machines[0], n_chains, generator))
    if values is not None:
        if values.shape != state.states.shape:
            raise PriorError(f"values have shape {tuple(values.shape)}; they must be {tuple(state.states.shape)}")
        held = clamp_mask(clamped, machines[0].n_nodes).to(state.states.device)
        state = GibbsState(torch.where(held, values.to(state.states), state.states))
    states = []
    for machine in machines:
        state = BlockGibbsSampler(machine).sample(state, n_sweeps, generator, clamped, condition)
        states.append(state.states.bool())
    return states


@torch.no_grad()
def _log_ratio(
    earlier: BoltzmannMachine, later: BoltzmannMachine, first: Tensor, second: Tensor, condition: Tensor | None
) -> Tensor:
    both = torch.cat([first, second])
    rows = None if condition is None else condition.repeat(2, 1)
    own, foreign = earlier.energy(both, rows).double().chunk(2)
    crossed, target = later.energy(both, rows).double().chunk(2)
    return own - foreign + target - crossed


def _checked_trajectory(machines: Sequence[BoltzmannMachine]) -> tuple[BoltzmannMachine, ...]:
    if len(machines) < 2:
        raise PriorError(f"{len(machines)} machines have nothing to exchange; give two checkpoints or more")
    last = machines[-1]
    for index, machine in enumerate(machines):
        if machine.topology != last.topology:
            raise PriorError(f"checkpoint {index} has another graph than the last; give checkpoints of one training")
        if machine.n_condition != last.n_condition or machine.device != last.device:
            raise PriorError(
                f"checkpoint {index} has another condition or device than the last; give checkpoints of one training "
                "on one device"
            )
    return tuple(machines)
