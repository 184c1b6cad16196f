r"""Maximum pseudo-likelihood: a machine from data without a single Markov chain.

.. math:: \mathrm{PL} = \Big\langle \sum_{i\ \mathrm{free}} \ln p(z_i \mid z_{\partial i}, c) \Big\rangle_d
          - \frac{\lambda}{2} \sum_{i<j} W_{ij}^2, \qquad \ln p(z_i | rest) = z_i f_i - \ln(1 + e^{f_i})

is a sum of logistic regressions that share couplings; it is concave, so that its maximum is unique and does not
depend on a start. It is consistent: with a machine that can have the data's law, it finds that machine. For codes
with one sharp wall in a band all couplers of the wall are determined locally, and couplings of 6 to 10 are found in
seconds for which contrastive learning from zero needs thousands of updates. What is beyond the couplers is not
matched on the average, so that contrastive learning should follow.

Besag, The Statistician 24, 179 (1975). The maximum is climbed by L-BFGS with a strong Wolfe search, all data at once,
so that the result is a function of the data.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["PseudoLikelihoodReport", "maximise_pseudo_likelihood"]

_HISTORY = 20


@dataclass(frozen=True)
class PseudoLikelihoodReport:
    """What a climb has reached.

    Args:
        start: Pseudo-likelihood at the start, nats a state.
        end: At the end.
        largest_coupling: Largest absolute coupling.
        n_evaluations: Evaluations of function and gradient.
    """

    start: float
    end: float
    largest_coupling: float
    n_evaluations: int


def maximise_pseudo_likelihood(
    machine: BoltzmannMachine,
    states: Tensor,
    condition: Tensor | None = None,
    clamped: Tensor | None = None,
    *,
    ridge: float = 1e-4,
    most_steps: int = 100,
) -> PseudoLikelihoodReport:
    """Moves the parameters of a machine to the maximum of the pseudo-likelihood, from where they are.

    Args:
        machine: The machine; changed in place.
        states: Bits (B, N), clamped ones included.
        condition: Conditions (B, n_c), if the machine has a condition.
        clamped: Mask (N,) of bits that are given; their own laws do not count, nor do couplers between two of them.
        ridge: lambda, which keeps a bit that its neighbours determine completely at finite couplings.
        most_steps: L-BFGS steps at most.

    Raises:
        PriorError: If a shape does not fit, there is no state, or the result is not finite.
    """
    if len(states) == 0:
        raise PriorError("there are no states to learn from; give at least one")
    free = torch.ones_like(machine.biases)
    if clamped is not None:
        free = (~clamped.to(machine.device)).to(free)
    values = states.to(machine.biases)
    own = None if condition is None else condition.to(machine.biases)
    parameters = [parameter for parameter in machine.parameters() if parameter.numel()]
    climber = torch.optim.LBFGS(
        parameters, max_iter=most_steps, history_size=_HISTORY, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )
    losses: list[float] = []

    def closure() -> Tensor:
        climber.zero_grad()
        fields = machine.local_fields(values, own)
        nats = ((softplus(fields) - values * fields) @ free).mean()
        loss = nats + ridge / 2 * sum(part.square().sum() for part in parameters)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(nats.detach()))
        return loss

    climber.step(closure)  # type: ignore[no-untyped-call]
    climber.zero_grad(set_to_none=True)
    machine.check_finite()
    largest = float(machine.couplings.detach().abs().max()) if machine.couplings.numel() else 0.0
    return PseudoLikelihoodReport(-losses[0], -min(losses), largest, len(losses))
