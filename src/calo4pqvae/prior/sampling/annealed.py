r"""Samples by annealing: every draw starts afresh and is cooled from a high temperature to the machine's law.

Chains start at independent bits, then make one sweep at each inverse temperature of a ramp

.. math:: \beta_k = \beta_0 + \frac{k (1 - \beta_0)}{n - 1} \text{ (linear)}, \qquad
    \beta_k = \beta_0^{1 - k / (n - 1)} \text{ (geometric)}, \qquad k = 0 \dots n - 1,

and then the sweeps that are asked for at :math:`\beta = 1`. This is simulated annealing (Kirkpatrick, Gelatt and
Vecchi, Science 220, 671, 1983) stopped at the temperature of the model.

**What it samples.** The chains follow the law only as far as the ramp is slow. Where a barrier grows during the ramp,
the weights of the two sides freeze at what they were then; sweeps at :math:`\beta = 1` mend the inside of a mode,
never the weights between modes. Draws are independent of each other in any case, and none needs a burn-in. If
the weights matter, use :mod:`~calo4pqvae.prior.sampling.tempering` or :mod:`~calo4pqvae.prior.sampling.trajectory`.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import check_call, clamp_mask, fair_coins
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["AnnealedSampler", "Schedule", "Start"]

Schedule = Literal["linear", "geometric"]
Start = Literal["coins", "fields"]


class AnnealedSampler:
    """Draws by a ramp in temperature; holds no chain and no generator.

    Args:
        machine: The machine; its parameters are read anew at every call.
        n_steps: Inverse temperatures on the ramp, one sweep at each; the last of two or more is 1.
        beta_start: The first of them, in [0, 1].
        schedule: How they are spaced.
        start: Fair coins, or bits drawn from the fields without the couplers.
        gibbs: Makes the sampler of the sweeps.

    Raises:
        PriorError: If the ramp does not exist.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        n_steps: int = 100,
        beta_start: float = 0.05,
        schedule: Schedule = "linear",
        start: Start = "coins",
        gibbs: Callable[[BoltzmannMachine], BlockGibbsSampler] = BlockGibbsSampler,
    ) -> None:
        if start not in get_args(Start):
            raise PriorError(f"a start from {start!r} does not exist; choose from {', '.join(get_args(Start))}")
        self.machine = machine
        self.start = start
        self.ramp = _ramp(n_steps, beta_start, schedule)
        self._gibbs = gibbs(machine)

    def init(self, n_chains: int, generator: torch.Generator) -> GibbsState:
        """Fair coins, which carry the held bits if some are set and are forgotten otherwise.

        Args:
            n_chains: Number of draws, at least one.
            generator: Source of randomness, on the machine's device.

        Raises:
            PriorError: If there is no chain.
        """
        return GibbsState(fair_coins(self.machine, n_chains, generator))

    @torch.no_grad()
    def sample(
        self,
        state: GibbsState,
        n_sweeps: int,
        generator: torch.Generator,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
    ) -> GibbsState:
        """Fresh draws, which do not continue those before.

        Args:
            state: Gives the number of draws and the values of held bits; its free bits are not used.
            n_sweeps: Sweeps at inverse temperature 1 after the ramp.
            generator: Source of randomness, on the machine's device.
            clamped: Mask (N,) of the bits to hold.
            condition: c of every draw, shape (chains, n_c), if the machine has a condition.

        Returns:
            The new state, exact bits.

        Raises:
            PriorError: If a shape does not fit, a parameter is not finite, or ``n_sweeps`` is negative.
        """
        check_call(self.machine, state.states, n_sweeps, condition)
        held = clamp_mask(clamped, self.machine.n_nodes).to(self.machine.device)
        states = state.states.to(self.machine.device)
        current = GibbsState(torch.where(held, states, self._fresh(len(states), generator, condition)))
        for beta in self.ramp:
            current = self._gibbs.sample(current, 1, generator, clamped, condition, beta)
        return self._gibbs.sample(current, n_sweeps, generator, clamped, condition)

    def _fresh(self, n_chains: int, generator: torch.Generator, condition: Tensor | None) -> Tensor:
        if self.start == "coins":
            return fair_coins(self.machine, n_chains, generator)
        odds = torch.sigmoid(self.machine.fields(condition))
        shape = (n_chains, self.machine.n_nodes)
        return (torch.rand(shape, generator=generator, device=self.machine.device) < odds).float()


def _ramp(n_steps: int, beta_start: float, schedule: Schedule) -> tuple[float, ...]:
    if n_steps < 1:
        raise PriorError(f"a ramp of {n_steps} steps does not exist; give at least one")
    if not 0 <= beta_start <= 1:
        raise PriorError(f"a ramp cannot start at beta = {beta_start}; give a number in [0, 1]")
    if schedule == "linear":
        return tuple(np.linspace(beta_start, 1.0, n_steps).tolist())
    if schedule != "geometric":
        raise PriorError(f"the schedule {schedule!r} does not exist; choose from {', '.join(get_args(Schedule))}")
    if beta_start == 0:
        raise PriorError("a geometric ramp cannot start at beta = 0; start it above, or use a linear one")
    return tuple(np.geomspace(beta_start, 1.0, n_steps).tolist())
