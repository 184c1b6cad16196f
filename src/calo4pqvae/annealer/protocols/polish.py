r"""A short Gibbs polish of annealer reads, and what it did to them.

Reads of an annealer are close to the law of the machine and off by its errors: a beta that was not known exactly,
control errors, an anneal that fell out of equilibrium. D-Wave's own advice is to go on classically from there. A few
block Gibbs sweeps at inverse temperature one move the reads towards the machine's law, and each sweep is stationary for
it: nothing that was right is spoiled. What a few sweeps cannot mend are the weights of modes that they do not cross.

The number of sweeps is always stated, and so is the effect: the mean energy before and after with the paired error of
the change (reads are independent), and the changes of bit and coupler means beyond what their noise explains.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["Change", "PolishReport", "polish", "told_error"]


@dataclass(frozen=True)
class Change:
    """Means over bits or couplers before and after.

    Args:
        rms: Root of the mean squared change of a mean.
        rms_error: Root of the mean squared standard error of these changes; None for a single read.
    """

    rms: float
    rms_error: float | None

    @property
    def significance(self) -> float:
        """Mean squared change in units of its variance: about one if nothing but noise changed."""
        return (self.rms / self.rms_error) ** 2 if self.rms_error else math.nan


@dataclass(frozen=True)
class PolishReport:
    """Effect of a polish.

    Args:
        n_sweeps: Sweeps made.
        n_reads: Reads.
        energy_before: Mean energy in nats.
        energy_before_error: Its standard error; None for a single read, as all errors.
        energy_after: Mean energy in nats.
        energy_after_error: Its standard error.
        energy_change: After less before.
        energy_change_error: Its standard error, from the changes of single reads.
        bits: Change of the means of free bits.
        couplers: Change of the means of products over couplers.
        flipped_share: Share of free bits that have another value.
    """

    n_sweeps: int
    n_reads: int
    energy_before: float
    energy_before_error: float | None
    energy_after: float
    energy_after_error: float | None
    energy_change: float
    energy_change_error: float | None
    bits: Change
    couplers: Change
    flipped_share: float

    def __str__(self) -> str:
        return (
            f"{self.n_sweeps} sweeps over {self.n_reads} reads: mean energy {self.energy_before:.2f} +- "
            f"{told_error(self.energy_before_error)} to {self.energy_after:.2f} +- "
            f"{told_error(self.energy_after_error)} (change {self.energy_change:+.2f} +- "
            f"{told_error(self.energy_change_error)}), rms change of bit means "
            f"{self.bits.rms:.2g} (noise {told_error(self.bits.rms_error, 'g')}), of coupler means "
            f"{self.couplers.rms:.2g} (noise {told_error(self.couplers.rms_error, 'g')})"
        )


@torch.no_grad()
def polish(
    machine: BoltzmannMachine,
    states: Tensor,
    n_sweeps: int,
    generator: torch.Generator,
    held: NDArray[np.bool_] | None = None,
    condition: Tensor | None = None,
    sampler: BlockGibbsSampler | None = None,
) -> tuple[Tensor, PolishReport]:
    """Goes on from reads by block Gibbs at inverse temperature one.

    Args:
        machine: The machine whose law is wanted.
        states: Bits of all nodes (reads, N), one read or more; of a single read no errors are known.
        n_sweeps: Sweeps, zero or more.
        generator: Source of randomness, on the machine's device.
        held: Mask (N,) of bits that keep their values.
        condition: c of every read (reads, n_c), if the machine has a condition.
        sampler: Block Gibbs of this machine, to keep its plan between calls.

    Returns:
        The polished bits as float32 (reads, N), and the report.

    Raises:
        AnnealerError: If there are no reads.
        PriorError: If a shape does not fit or ``n_sweeps`` is negative.
    """
    if not len(states):
        raise AnnealerError("there are no reads to polish; give one or more")
    before = GibbsState(states.to(machine.device))
    gibbs = BlockGibbsSampler(machine) if sampler is None else sampler
    after = gibbs.sample(before, n_sweeps, generator, clamped=held, condition=condition)
    return after.states, _report(machine, before.states, after.states, n_sweeps, held, condition)


def _report(
    machine: BoltzmannMachine,
    before: Tensor,
    after: Tensor,
    n_sweeps: int,
    held: NDArray[np.bool_] | None,
    condition: Tensor | None,
) -> PolishReport:
    mask = np.zeros(machine.n_nodes, dtype=np.bool_) if held is None else held
    free = torch.from_numpy(np.flatnonzero(~mask)).to(before.device)
    ends = torch.from_numpy(machine.topology.edges[~mask[machine.topology.edges].all(axis=1)]).to(before.device)
    first, last = (machine.energy(part, condition).double() for part in (before, after))
    change = last - first
    return PolishReport(
        n_sweeps=n_sweeps,
        n_reads=len(before),
        energy_before=float(first.mean()),
        energy_before_error=_error(first),
        energy_after=float(last.mean()),
        energy_after_error=_error(last),
        energy_change=float(change.mean()),
        energy_change_error=_error(change),
        bits=_change((after - before)[:, free]),
        couplers=_pair_change(before, after, ends),
        flipped_share=float((before != after)[:, free].double().mean()),
    )


def _error(values: Tensor) -> float | None:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None


def told_error(error: float | None, kind: Literal["f", "g"] = "f") -> str:
    """A standard error in words, with two decimals or digits."""
    return "unknown" if error is None else f"{error:.2{kind}}"


def _change(differences: Tensor) -> Change:
    """Of means, from the differences of single reads (reads, k): these are paired."""
    values = differences.double()
    if not values.shape[1]:
        return Change(0.0, 0.0)
    rms = float(values.mean(dim=0).square().mean().sqrt())
    return Change(rms, float((values.var(dim=0) / len(values)).mean().sqrt()) if len(values) > 1 else None)


def _pair_change(before: Tensor, after: Tensor, ends: Tensor) -> Change:
    squares, variances = 0.0, 0.0
    for part in torch.split(ends, 4096):
        i, j = part.unbind(1)
        change = _change(after[:, i] * after[:, j] - before[:, i] * before[:, j])
        squares += change.rms**2 * len(part)
        variances += (change.rms_error or 0.0) ** 2 * len(part)
    n = max(1, len(ends))
    return Change(math.sqrt(squares / n), math.sqrt(variances / n) if len(before) > 1 else None)
