"""What all protocols of an annealer take and do; :mod:`~calo4pqvae.annealer.protocols.named` has them by name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.protocols.conditioning import Conditioned
from calo4pqvae.annealer.protocols.run import Conditioning, Correction, ProtocolResult, ProtocolRun
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["Protocol", "is_far"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """What all protocols take.

    Args:
        conditioning: How conditions are imposed.
        start: First guess of beta; that of the chip table if None.
        reads_per_call: Most reads of a programming that are samples; 0 for as many as the chip takes.
        correction: ``"none"``, ``"polish"`` or ``"importance"``.
        polish_sweeps: Sweeps of a polish.
        reference_chains: Gibbs chains of a classical mean energy.
        reference_sweeps: Their sweeps.
        options: Parameters of the solver for every call.

    Raises:
        AnnealerError: If a number makes no sense.
    """

    name: ClassVar[str]

    conditioning: Conditioning = field(default_factory=Conditioning)
    start: float | None = None
    reads_per_call: int = 1
    correction: Correction = "none"
    polish_sweeps: int = 10
    reference_chains: int = 512
    reference_sweeps: int = 200
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.reads_per_call < 0 or self.polish_sweeps < 0 or (self.start is not None and not self.start > 0):
            raise AnnealerError(
                f"{self.reads_per_call} reads a call, {self.polish_sweeps} sweeps and a start at {self.start} make no "
                "protocol; give no negative numbers"
            )

    def sample(
        self,
        annealer: Annealer,
        machine: BoltzmannMachine,
        conditions: ArrayLike,
        n_per_condition: ArrayLike,
        generator: torch.Generator,
    ) -> ProtocolResult:
        """Draws samples of a machine under conditions.

        Args:
            annealer: The annealer; its ledger counts every call.
            machine: The machine.
            conditions: One row a condition, shape (C, n_c): bits of the held partition, or c of the machine. Equal rows
                are best joined first (:func:`~calo4pqvae.annealer.protocols.grouping.group_requests`).
            n_per_condition: Samples of each condition: one number for all, or one a condition, shape (C,).
            generator: Source of randomness of everything classical, on the machine's device.

        Raises:
            AnnealerError: If an estimate or a condition fails, or the annealer refuses.
        """
        rows = np.asarray(conditions, dtype=np.float64)
        counts = _counts(n_per_condition, len(rows))
        run = ProtocolRun(
            annealer,
            machine,
            rows,
            self.conditioning,
            generator,
            self.options,
            self.reference_chains,
            self.reference_sweeps,
        )
        self._draw(run, counts)
        return run.finish(self.name, self.correction, self.polish_sweeps)

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        raise NotImplementedError

    def _first_beta(self, annealer: Annealer) -> float:
        return annealer.chip.beta if self.start is None else self.start

    def _reads_per_call(self, run: ProtocolRun) -> int:
        most = run.annealer.most_reads(run.machine.n_nodes, **self.options)
        return min(self.reads_per_call or most, most)


def is_far(beta: float, error: float, imposed: Conditioned, limit: float) -> bool:
    """Whether reads were surely drawn too far from inverse temperature one: by the limit and two errors."""
    return abs(math.log(beta / imposed.problem.beta)) > limit + 2 * error / beta


def _counts(n_per_condition: ArrayLike, n_conditions: int) -> list[int]:
    """Samples of every condition.

    Raises:
        AnnealerError: If they are not whole numbers of one or more, one for all or one each.
    """
    numbers = np.asarray(n_per_condition)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (n_conditions,)) or (numbers < 1).any():
        raise AnnealerError(
            f"{n_per_condition!r} samples for {n_conditions} conditions make no work; give one whole number of 1 or "
            "more, or one a condition"
        )
    counts: list[int] = np.broadcast_to(numbers, n_conditions).tolist()
    return counts
