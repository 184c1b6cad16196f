r"""Exact law of a small restricted Boltzmann machine as a table over its two sides.

With all states v of one side as rows and all states h of the other as columns,

.. math:: E_{vh} = -a \cdot v - b \cdot h - v^T W h, \qquad P_{vh} = e^{-\beta E_{vh}} / Z_\beta ,

and every mean of a product over a coupler is a product of three small matrices: :math:`\langle v\,g(E)\,h^T\rangle =
V^T (P \circ g(E)) H` with the states as rows of V and H. Ten bits on a side give :math:`2^{20}` states in some
hundredths of a second, so that many machines can be averaged over; for any other graph there is
:func:`~calo4pqvae.prior.sampling.exact.enumerate_machine`.

Block Gibbs forgets one side in every half sweep. What it remembers is the chain on the other side alone,

.. math:: T(v, v') = \sum_h p(h | v)\, p(v' | h), \qquad \tau = -1 / \ln \lambda_2 ,

which is reversible with respect to :math:`p(v)`: its second eigenvalue is that of the whole sweep and gives the exact
relaxation time of the machine. The law of chains that are k sweeps away from fair coins is a product of the same two
conditional laws, so that what is missing after k sweeps is known as well.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["BipartiteTable"]

FloatArray = NDArray[np.float64]

MAX_SIDE = 12
_FORGOTTEN = 1e-12  # second eigenvalue that is rounding


@dataclass(frozen=True, eq=False)
class BipartiteTable:
    """All states of a machine of two completely coupled partitions.

    Args:
        biases: Biases of all bits (n_v + n_h,), float64.
        matrix: Couplings (n_v, n_h), float64.
        beta: Inverse temperature of the law.

    Raises:
        PriorError: If a side has more than 12 bits or shapes do not fit.
    """

    biases: FloatArray
    matrix: FloatArray
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.biases.shape != (sum(self.matrix.shape),):
            raise PriorError(
                f"{self.biases.shape} biases do not fit couplings {self.matrix.shape}; give one for each bit"
            )
        if max(self.matrix.shape) > MAX_SIDE:
            raise PriorError(f"sides of {self.matrix.shape} bits are too many to list; use at most {MAX_SIDE} each")

    @classmethod
    def of(cls, machine: BoltzmannMachine, beta: float = 1.0) -> "BipartiteTable":
        """The table of a machine.

        Raises:
            PriorError: If the machine has a condition, another graph, or too many bits.
        """
        block = machine.neighbours.block
        if block is None or machine.n_condition:
            raise PriorError("only a machine of two completely coupled partitions without condition has such a table")
        biases, couplings = (part.detach().cpu().double().numpy() for part in (machine.biases, machine.couplings))
        return cls(biases, couplings.reshape(block), beta)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bits of the two sides."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @cached_property
    def left(self) -> FloatArray:
        """States of the first side (2 ** n_v, n_v), the first bit changing slowest."""
        return _all_bits(self.sizes[0])

    @cached_property
    def right(self) -> FloatArray:
        """States of the second side (2 ** n_h, n_h)."""
        return _all_bits(self.sizes[1])

    @cached_property
    def energies(self) -> FloatArray:
        """E of every state (2 ** n_v, 2 ** n_h)."""
        a, b = np.split(self.biases, [self.sizes[0]])
        energies: FloatArray = -(self.left @ self.matrix @ self.right.T)
        energies -= (self.left @ a)[:, None]
        energies -= self.right @ b
        return energies

    @cached_property
    def probabilities(self) -> FloatArray:
        """P of every state (2 ** n_v, 2 ** n_h)."""
        heights = np.exp(-self.beta * (self.energies - self.energies.min()))
        return np.asarray(heights / heights.sum())

    @property
    def energy_mean(self) -> float:
        """Mean of E."""
        return float((self.probabilities * self.energies).sum())

    @property
    def energy_variance(self) -> float:
        """Variance of E."""
        return float((self.probabilities * (self.energies - self.energy_mean) ** 2).sum())

    def means(self) -> FloatArray:
        """Means of all bits, then of the products over all couplers row by row, shape (n_v + n_h + n_v n_h,)."""
        return self._sums(self.probabilities)

    def energy_covariances(self, law: FloatArray | None = None) -> FloatArray:
        """Covariances of E with all bits and with the products over all couplers, in the order of :meth:`means`.

        Args:
            law: Probability of every state (2 ** n_v, 2 ** n_h), such as :meth:`after`; the machine's own if None.
        """
        weights = self.probabilities if law is None else law
        centred = self.energies - float((weights * self.energies).sum())
        return self._sums(weights * centred)

    def after(self, n_sweeps: int) -> FloatArray:
        """Law (2 ** n_v, 2 ** n_h) of chains of block Gibbs that have made some sweeps from fair coins.

        Args:
            n_sweeps: Sweeps, the first side drawn first.

        Raises:
            PriorError: If the number is negative.
        """
        if n_sweeps < 0:
            raise PriorError(f"{n_sweeps} sweeps cannot be made; ask for 0 or more")
        n_left, n_right = self.probabilities.shape
        if n_sweeps == 0:
            return np.full((n_left, n_right), 1 / (n_left * n_right))
        given_left = self.probabilities / self.probabilities.sum(axis=1, keepdims=True)
        given_right = self.probabilities / self.probabilities.sum(axis=0)
        right = np.full(n_right, 1 / n_right)
        for _ in range(n_sweeps):
            left = given_right @ right
            right = left @ given_left
        return np.asarray(left[:, None] * given_left)

    @cached_property
    def relaxation_time(self) -> float:
        """Sweeps of block Gibbs in which the slowest memory decays by e; 0 if a sweep forgets everything."""
        given_left = self.probabilities / self.probabilities.sum(axis=1, keepdims=True)
        root = np.sqrt(self.probabilities.sum(axis=1))
        scaled = root[:, None] * given_left / np.sqrt(self.probabilities.sum(axis=0))
        n_states = len(scaled)
        second = float(eigvalsh(scaled @ scaled.T, subset_by_index=[n_states - 2, n_states - 2])[0])
        if second <= _FORGOTTEN:
            return 0.0
        return -1 / math.log(second) if second < 1 else math.inf

    def numbers_of(self, states: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Number of every state (B, n_v + n_h) in the flattened table."""
        powers = 2 ** np.arange(sum(self.sizes) - 1, -1, -1)
        return np.asarray(states.astype(np.int64) @ powers)

    def _sums(self, weights: FloatArray) -> FloatArray:
        pairs = self.left.T @ weights @ self.right
        return np.concatenate([weights.sum(axis=1) @ self.left, weights.sum(axis=0) @ self.right, pairs.ravel()])


def _all_bits(n_bits: int) -> FloatArray:
    numbers = np.arange(1 << n_bits)[:, None]
    return ((numbers >> np.arange(n_bits - 1, -1, -1)) & 1).astype(np.float64)
