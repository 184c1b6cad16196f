r"""Learning from weighted samples: the update of a machine whose negative phase comes from an annealer.

Data and reads of a phase share their conditions. With shares :math:`a_k` of the conditions :math:`c_k`, the direction
is the contrastive gradient of

.. math:: \sum_k a_k \big( \langle \cdot \rangle_{d, c_k} - \langle \cdot \rangle_{m, c_k} \big) ,

in its centred form (:mod:`~calo4pqvae.prior.learning.gradients`), the data mean over all events of the condition and
the model mean over its weighted reads. If conditions are drawn with the frequency that they have in the data, this is
an unbiased estimate of the gradient over all of them. The offsets are the data's own means, which do not change.

Reads of different phases are independent, so that noise of the direction averages out over steps; a step size that
falls geometrically does this. Held bits, and couplers that the chip does not have, do not move; the latter have no part
in the centred form either, or the biases at their ends would be pulled by correlations that nothing can learn. After
each step couplings and fields are brought back into the range that can be programmed at the beta of now
(:mod:`~calo4pqvae.prior.learning.constraints`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from calo4pqvae.annealer.learning.negative_phase import ChipPatch
from calo4pqvae.prior.graph.pairs import pair_sums, sums_at_nodes
from calo4pqvae.prior.learning.constraints import ProgrammableRange
from calo4pqvae.prior.learning.gradients import Gradient, Offsets, contrastive_gradient
from calo4pqvae.prior.machine import BoltzmannMachine, Moments

__all__ = ["ReadLearner", "StepNumbers", "programmable_range", "weighted_moments"]


@dataclass(frozen=True)
class StepNumbers:
    """One step; energies in nats at the parameters before it.

    Args:
        energy_data: Mean energy of the data of the phase.
        energy_model: Mean energy of its weighted reads.
        gap_error: Standard error of their difference, for independent states.
        gradient_norm: Euclidean length of the direction.
        learning_rate: Step size.
        at_limit: Shares of couplers and of nodes that lie at the end of the programmable range after the step.
    """

    energy_data: float
    energy_model: float
    gap_error: float
    gradient_norm: float
    learning_rate: float
    at_limit: tuple[float, float]


@torch.no_grad()
def weighted_moments(machine: BoltzmannMachine, states: Tensor, weights: Tensor, condition: Tensor | None) -> Moments:
    """Weighted means of the sufficient statistics.

    Args:
        machine: The machine.
        states: Bits (B, N).
        weights: Weights (B,), adding up to one.
        condition: c of every state (B, n_c), or None.
    """
    values = states.to(machine.biases)
    weighted = weights.to(values)[:, None] * values
    first, second = weighted.sum(dim=0), pair_sums(weighted, values, machine.neighbours)
    if condition is None:
        return Moments(first, second)
    own = condition.to(values)
    return Moments(first, second, own.t() @ weighted, weights.to(values) @ own)


def programmable_range(properties: Mapping[str, Any], beta: float) -> ProgrammableRange | None:
    """The range of a solver at an inverse temperature; None if it tells none.

    Args:
        properties: Properties of the solver.
        beta: What the machine is divided by.
    """
    coupling, field = properties.get("extended_j_range") or properties.get("j_range"), properties.get("h_range")
    if coupling is None or field is None:
        return None
    return ProgrammableRange((float(coupling[0]), float(coupling[1])), (float(field[0]), float(field[1])), beta)


class ReadLearner:
    """Moves a machine by weighted samples.

    Args:
        machine: The machine; its parameters are changed in place.
        patch: What of it is on the chip.
        offsets: Data means of bits and of the condition.
        rates: First and last step size.
        n_steps: Steps after which the last one is reached.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        patch: ChipPatch,
        offsets: Offsets,
        rates: tuple[float, float],
        n_steps: int,
    ) -> None:
        self.machine, self.offsets, self.rates, self.n_steps = machine, offsets, rates, n_steps
        self.n_done = 0
        self._held = torch.from_numpy(patch.held.copy())
        self._dead = torch.from_numpy(patch.dead_couplers.copy())

    @property
    def learning_rate(self) -> float:
        """Step size of the next step."""
        first, last = self.rates
        return float(first * (last / first) ** min(1.0, self.n_done / self.n_steps))

    @torch.no_grad()
    def step(
        self,
        data: tuple[Tensor, Tensor, Tensor | None],
        model: tuple[Tensor, Tensor, Tensor | None],
        limits: ProgrammableRange | None = None,
    ) -> StepNumbers:
        """One step.

        Args:
            data: States (B, N), weights (B,) and conditions (B, n_c) or None of the data.
            model: Likewise of the reads.
            limits: Range in which the parameters are kept.
        """
        machine = self.machine
        of_data, of_model = (weighted_moments(machine, *part) for part in (data, model))
        gradient = self._without_dead(
            contrastive_gradient(of_data, of_model, machine.neighbours, "centred", self.offsets)
        ).hold(self._held, machine.neighbours.ends)
        energies = [_mean_energy(machine, *part) for part in (data, model)]
        rate = self.learning_rate
        machine.biases.add_(gradient.biases, alpha=rate)
        machine.couplings.add_(gradient.couplings, alpha=rate)
        if machine.condition_weights is not None and gradient.condition_weights is not None:
            machine.condition_weights.add_(gradient.condition_weights, alpha=rate)
        at_limit = (0.0, 0.0)
        if limits is not None:
            limits.project(machine)
            at_limit = limits.share_at_limit(machine)
        self.n_done += 1
        return StepNumbers(
            energy_data=energies[0][0],
            energy_model=energies[1][0],
            gap_error=(energies[0][1] + energies[1][1]) ** 0.5,
            gradient_norm=gradient.norm,
            learning_rate=rate,
            at_limit=at_limit,
        )

    def _without_dead(self, gradient: Gradient) -> Gradient:
        """Takes couplers out that do not exist, with their part in the biases of the centred form."""
        withheld = torch.zeros_like(gradient.couplings)
        withheld[self._dead] = gradient.couplings[self._dead]
        return replace(
            gradient,
            biases=gradient.biases + sums_at_nodes(withheld, self.offsets.bits, self.machine.neighbours),
            couplings=gradient.couplings - withheld,
        )


def _mean_energy(
    machine: BoltzmannMachine, states: Tensor, weights: Tensor, condition: Tensor | None
) -> tuple[float, float]:
    """Weighted mean energy and the variance of that mean, in nats."""
    energies, shares = machine.energy(states, condition).double(), weights.double()
    mean = shares @ energies
    return float(mean), float(shares.square() @ (energies - mean).square())
