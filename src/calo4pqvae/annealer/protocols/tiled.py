r"""The protocol of copies side by side: many conditions in one programming, beta from all reads of all copies.

A programming is paid for with its reads (14 to 34 ms against 0.1 to 0.2 ms a read), and a machine often fills a small
part of the chip. This protocol puts as many copies of it on the chip as there is room for
(:mod:`~calo4pqvae.annealer.placing.tiles`), gives each a condition, and programs them together:

- beta is one number for all copies, estimated from the very reads that are used, as in ``same-reads``; with T copies a
  programming of R reads is worth T R reads of one machine;
- a copy gives one sample a programming unless more are asked for, so that no two samples share the errors of control
  (h and J are programmed with errors that are drawn anew each time, and are other ones on other qubits). Samples of one
  condition are then spread over programmings and places as widely as if each had a programming of its own.

A programming has more reads than samples are taken from it, since beta wants about a hundred. Which of them become
samples is drawn by importance: the reads of a copy were drawn at :math:`r = \beta_\mathrm{eff} / \beta`, and k of
them are taken without replacement with odds of :math:`w = e^{-(1 - r) E}` (the largest of :math:`\ln w` plus Gumbel
noise). That mends the ratio, which lags where beta drifts or the chip warms up, without further reads and without
classical sampling, as far as k is small against the reads.

The price of a sample falls with the number of copies, down to the share of a programming that its copy has: nothing is
gained for a machine that fills the chip.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from calo4pqvae.annealer.beta.pseudo_likelihood import maximum_pseudo_likelihood
from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.chip.problem import Reads
from calo4pqvae.annealer.placing.tiles import Tile, read_apart, side_by_side, tiles_on
from calo4pqvae.annealer.protocols.base import Protocol, is_far
from calo4pqvae.annealer.protocols.conditioning import Conditioned, Conditioner
from calo4pqvae.annealer.protocols.run import Correction, ProtocolRun
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["Tiled"]

Slot = tuple[int, int]
"""Number of a condition, and samples of it that a copy gives in a programming."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiled(Protocol):
    """Copies of the machine side by side, each with a condition; beta of all reads of a programming.

    Args:
        reads_per_call: Most samples of a copy and programming; 0 for as few programmings as the chip lets.
        least_reads: Least reads of a programming, summed over its copies; those that are not wanted serve the estimate
            alone.
        is_pruned: Whether copies may lack parts that are gone from the chip.
        is_apart: Whether no coupler joins two copies.
        is_resampled: Whether samples are chosen among the reads by importance; never with the correction
            ``"importance"``, whose weights do the same.
        most_tiles: Most copies; None for all that there is room for.
        redo_beyond: Distance of ln r from zero, less two errors, beyond which reads are given up and programmed again.
        max_redos: Times that this may happen to a programming.
    """

    name: ClassVar[str] = "tiled"
    correction: Correction = "polish"
    least_reads: int = 100
    is_pruned: bool = False
    is_apart: bool = True
    is_resampled: bool = True
    most_tiles: int | None = None
    redo_beyond: float = 0.1
    max_redos: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditioning.method != "fold":
            raise AnnealerError(
                f"copies side by side take folded conditions, not {self.conditioning.method!r}; fold the condition or "
                "take another protocol"
            )
        if self.conditioning.placement is not None:
            raise AnnealerError("copies have places of their own; leave the placement out")
        if self.most_tiles is not None and self.most_tiles < 1:
            raise AnnealerError(f"{self.most_tiles} copies draw nothing; ask for one or more")

    def tiles(self, annealer: Annealer, machine: BoltzmannMachine) -> tuple[Tile, ...]:
        """The copies that are used on an annealer.

        Raises:
            AnnealerError: If there is no place for one.
        """
        partition = self.conditioning.partition
        folded = None if partition is None else machine.topology.is_in_partition(partition)
        found = tiles_on(machine, annealer, folded, prune=self.is_pruned, apart=self.is_apart)
        return found[: self.most_tiles]

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        conditioners = [
            replace(run.conditioner, machine=tile.machine, placement=tile.placement)
            for tile in self.tiles(run.annealer, run.machine)
        ]
        beta, size = self._first_beta(run.annealer), len(conditioners)
        slots = _dealt(counts, self._samples_per_tile(run, sum(counts), size))
        for start in range(0, len(slots), size):
            beta = self._program(run, conditioners, slots[start : start + size], beta)

    def _program(
        self, run: ProtocolRun, conditioners: Sequence[Conditioner], slots: Sequence[Slot], beta: float
    ) -> float:
        """Draws the samples of one programming and returns its beta."""
        used = conditioners[: len(slots)]
        n_reads = max(max(wanted for _, wanted in slots), math.ceil(self.least_reads / len(slots)))
        for n_redos in range(self.max_redos + 1):
            imposed = [run.impose(index, beta, own) for (index, _), own in zip(slots, used, strict=True)]
            problems = [one.problem for one in imposed]
            joint = run.annealer.read(side_by_side(problems), n_reads, label=self.name, **run.options)
            estimate = maximum_pseudo_likelihood(joint, seed=run.seed())
            beta = estimate.value
            if not is_far(beta, estimate.error, imposed[0], self.redo_beyond) or n_redos == self.max_redos:
                break
        for (index, wanted), one, reads in zip(slots, imposed, read_apart(joint, problems), strict=True):
            ordered = self._ordered(run, one, reads, estimate.ratio)
            run.keep(index, one, ordered, estimate, (beta, estimate.error), wanted)
        return beta

    def _ordered(self, run: ProtocolRun, imposed: Conditioned, reads: Reads, ratio: float) -> Reads:
        """The reads of a copy, those that become samples first."""
        if not self.is_resampled or self.correction == "importance":
            return reads
        coins = torch.rand(
            reads.n_reads, generator=run.generator, device=run.generator.device, dtype=torch.float64
        ).cpu()
        keys = -(1 - ratio) * imposed.energies(reads.bits) - (-coins.log()).log().numpy()
        return replace(reads, bits=reads.bits[np.argsort(-keys, kind="stable")])

    def _samples_per_tile(self, run: ProtocolRun, n_samples: int, n_tiles: int) -> int:
        most = run.annealer.most_reads(n_tiles * run.machine.n_nodes, **run.options)
        return min(self.reads_per_call or math.ceil(n_samples / n_tiles), most)


def _dealt(counts: Sequence[int], most: int) -> list[Slot]:
    """Samples of all conditions in slots of at most ``most``, the conditions taking turns."""
    missing = list(counts)
    slots: list[Slot] = []
    while any(missing):
        for index in (index for index, left in enumerate(missing) if left):
            slots.append((index, min(most, missing[index])))
            missing[index] -= slots[-1][1]
    return slots
