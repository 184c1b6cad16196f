"""The working graph of an annealer as it is now, and whether a problem fits on it."""

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from calo4pqvae.annealer.chip.problem import IsingProblem
from calo4pqvae.errors import AnnealerError

__all__ = ["WorkingParts"]

_NAMED = 3  # parts that a message names


@dataclass(frozen=True)
class WorkingParts:
    """Qubits and couplers that work.

    Args:
        name: The chip's own name of its working graph, or a hash of it.
        qubits: Labels.
        couplers: Pairs of labels, ascending.
    """

    name: str
    qubits: frozenset[int]
    couplers: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, sampler: Any) -> Self:  # noqa: ANN401
        """Those of a dimod structured sampler."""
        qubits = frozenset(int(qubit) for qubit in sampler.nodelist)
        couplers = frozenset((min(a, b), max(a, b)) for a, b in sampler.edgelist)
        digest = hashlib.sha256(np.array(sorted(qubits), dtype="<i8").tobytes())
        digest.update(np.array(sorted(couplers), dtype="<i8").tobytes())
        return cls(str(sampler.properties.get("graph_id") or digest.hexdigest()[:16]), qubits, couplers)

    def has_size_of(self, sampler: Any) -> bool:  # noqa: ANN401
        """Whether a sampler has as many parts: working graphs only lose them."""
        return (len(self.qubits), len(self.couplers)) == (len(sampler.nodelist), len(sampler.edgelist))

    def check(self, problem: IsingProblem, chip: str) -> None:
        """Refuses a problem with parts that do not work.

        Args:
            problem: The problem.
            chip: Name of the chip, for the message.

        Raises:
            AnnealerError: With the numbers of what is lacking.
        """
        lost = sorted(set(problem.qubits.tolist()) - self.qubits)
        pairs = np.sort(problem.qubits[problem.edges].reshape(-1, 2), axis=1).tolist()
        cut = [(a, b) for a, b in pairs if (a, b) not in self.couplers]
        if lost or cut:
            named = ", ".join(map(str, [*lost[:_NAMED], *cut[:_NAMED]]))
            raise AnnealerError(
                f"the working graph of {chip} lacks {len(lost)} qubits and {len(cut)} couplers of the problem, among "
                f"them {named}: it has changed, or the chip is another one; place the machine anew"
            )
