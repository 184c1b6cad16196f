r"""What keeps parameters small, sparse, or within the reach of an annealer. Nothing of it is on by default.

- **L1**: after each step :math:`W \leftarrow \mathrm{sign}(W) \max(|W| - \eta \lambda, 0)`, the proximal step of
  :math:`\lambda \sum |W|`, which makes couplings exactly zero.
- **Largest norm**: the couplings of every node have a Euclidean norm of at most r. A coupler is scaled by the smaller
  of the factors :math:`\min(1, r / |W_i|)` of its two ends, which brings all nodes below r in one pass.
- **Programmable range**: an annealer at effective inverse temperature :math:`\beta` is programmed with

  .. math:: J_{ij} = -\frac{W_{ij}}{4 \beta}, \qquad
      h_i = -\frac{1}{\beta} \Big( \frac{b_i}{2} + \sum_{j \sim i} \frac{W_{ij}}{4} \Big) ,

  and its couplings and fields have limits. The projection clips J, then h with the clipped J. Fields that a condition
  adds are not known here and not limited.

(L2 decay of the couplings is part of the optimiser.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.graph.pairs import sums_at_nodes
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["Constraints", "ProgrammableRange"]


@dataclass(frozen=True)
class ProgrammableRange:
    """Couplings and fields that an annealer can be programmed with, in its own dimensionless units.

    Args:
        coupling: Smallest and largest J.
        field: Smallest and largest h.
        beta: Effective inverse temperature of the annealer.

    Raises:
        ConfigError: If a range does not hold zero or the temperature is not positive.
    """

    coupling: tuple[float, float]
    field: tuple[float, float]
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name, (low, high) in (("coupling", self.coupling), ("field", self.field)):
            if not low < 0 < high:
                raise ConfigError(f"the programmable {name} range {low} to {high} must hold zero; give low < 0 < high")
        if not self.beta > 0:
            raise ConfigError(f"beta = {self.beta} of the programmable range must be above 0")

    @torch.no_grad()
    def project(self, machine: BoltzmannMachine) -> None:
        """Moves the parameters to the nearest programmable ones, couplings first."""
        scale = 4 * self.beta
        machine.couplings.clamp_(-scale * self.coupling[1], -scale * self.coupling[0])
        shift = _coupling_sums(machine) / 2
        low, high = (-2 * self.beta * limit for limit in reversed(self.field))
        machine.biases.copy_((machine.biases + shift).clamp_(low, high) - shift)

    @torch.no_grad()
    def share_at_limit(self, machine: BoltzmannMachine) -> tuple[float, float]:
        """Shares of couplers and of nodes that lie on or beyond a limit."""
        j = -machine.couplings / (4 * self.beta)
        h = -(machine.biases + _coupling_sums(machine) / 2) / (2 * self.beta)
        return _share_beyond(j, self.coupling), _share_beyond(h, self.field)


@dataclass(frozen=True)
class Constraints:
    """Constraints that act after each step.

    Args:
        l1: Strength of the L1 term.
        max_norm: Largest norm of the couplings of a node.
        programmable: Range of an annealer.

    Raises:
        ConfigError: If a value is out of range.
    """

    l1: float = 0.0
    max_norm: float | None = None
    programmable: ProgrammableRange | None = None

    def __post_init__(self) -> None:
        if not self.l1 >= 0:
            raise ConfigError(f"l1 = {self.l1} is out of range; it must be 0 or more")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ConfigError(f"max_norm = {self.max_norm} is out of range; it must be above 0")

    @torch.no_grad()
    def apply(self, machine: BoltzmannMachine, learning_rate: float) -> None:
        """Brings the machine back after a step of the given size."""
        couplings = machine.couplings
        if self.l1:
            couplings.copy_(couplings.sign() * (couplings.abs() - learning_rate * self.l1).clamp_(min=0))
        if self.max_norm is not None:
            squares = sums_at_nodes(couplings.square(), torch.ones_like(machine.biases), machine.neighbours)
            factors = (self.max_norm / squares.sqrt().clamp_(min=self.max_norm)).to(couplings)
            couplings.mul_(factors[machine.neighbours.ends].amin(dim=1))
        if self.programmable is not None:
            self.programmable.project(machine)


def _coupling_sums(machine: BoltzmannMachine) -> Tensor:
    """Sum of the couplings at every node, shape (N,)."""
    return sums_at_nodes(machine.couplings, torch.ones_like(machine.biases), machine.neighbours)


def _share_beyond(values: Tensor, limits: tuple[float, float]) -> float:
    if values.numel() == 0:
        return 0.0
    slack = 1e-5 * (limits[1] - limits[0])
    return float(((values <= limits[0] + slack) | (values >= limits[1] - slack)).float().mean())
