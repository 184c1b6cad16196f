r"""Exact transition matrix of one block Gibbs sweep: how fast chains of a tiny machine really mix.

A sweep draws partition 0, 1, ..., P - 1 in this order, so its matrix is a product

.. math:: T = T_0 T_1 \cdots T_{P-1}, \qquad
    T_p(x, y) = \mathbb 1[x_{\setminus p} = y_{\setminus p}] \; p(y_p | y_{\setminus p}),

rows the state before and columns the state after the sweep. The law of the machine is stationary, :math:`\pi T = \pi`.
The product of reversible updates is not reversible, so eigenvalues may be complex; the slowest memory decays as
:math:`|\lambda_2|^n`, which gives

.. math:: \tau = -1 / \ln |\lambda_2|, \qquad
    t(\epsilon) = \min\Big\{n : \max_x \tfrac12 \sum_y |T^n(x, y) - \pi(y)| \le \epsilon\Big\} ,

the relaxation time and the mixing time from the worst start. This is the oracle of the estimates of
:mod:`~calo4pqvae.prior.estimates.autocorrelation`.

Levin, Peres and Wilmer, Markov Chains and Mixing Times, AMS (2009).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine

__all__ = ["ExactSweep", "exact_sweep"]

FloatArray = NDArray[np.float64]

MAX_FREE_BITS = 11
_MOST_DOUBLINGS = 40
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ExactSweep:
    """A sweep as a matrix over all S states of the free bits.

    Args:
        states: Bits of every state, uint8, shape (S, N); the first free bit changes slowest.
        matrix: Probability of going from row to column, float64, shape (S, S).
        stationary: Law of the machine, shape (S,).
    """

    states: Tensor
    matrix: FloatArray
    stationary: FloatArray

    @cached_property
    def eigenvalues(self) -> NDArray[np.complex128]:
        """Eigenvalues by falling modulus, the first of them 1, shape (S,)."""
        values = np.linalg.eigvals(self.matrix).astype(np.complex128)
        return values[np.argsort(-np.abs(values), kind="stable")]

    @property
    def gap(self) -> float:
        """Spectral gap 1 - abs(lambda_2); 1 if a sweep forgets everything."""
        return 1.0 - float(np.abs(self.eigenvalues[1])) if len(self.eigenvalues) > 1 else 1.0

    @property
    def relaxation_time(self) -> float:
        """Sweeps in which the slowest memory decays by e; 0 if a sweep forgets everything, infinite if none does."""
        slowest = 1.0 - self.gap
        if slowest <= _ROUNDING:
            return 0.0
        return -1.0 / math.log(slowest) if slowest < 1 - _ROUNDING else math.inf

    def distance(self, n_sweeps: int) -> float:
        """Total variation distance from the law of the machine after a number of sweeps, from the worst start.

        Raises:
            PriorError: If the number is negative.
        """
        if n_sweeps < 0:
            raise PriorError(f"{n_sweeps} sweeps cannot be made; ask for 0 or more")
        return self._distance(np.linalg.matrix_power(self.matrix, n_sweeps))

    def mixing_time(self, epsilon: float = 0.01) -> int:
        """Sweeps after which the worst start is within epsilon of the law in total variation.

        Args:
            epsilon: Distance, above rounding and below 1.

        Raises:
            PriorError: If epsilon is out of range, or the machine does not mix in 10 ** 12 sweeps.
        """
        if not _ROUNDING < epsilon < 1:
            raise PriorError(f"a distance of {epsilon} cannot be asked for; give one between {_ROUNDING} and 1")
        if self._distance(np.eye(len(self.matrix))) <= epsilon:
            return 0
        powers = [self.matrix]
        while self._distance(powers[-1]) > epsilon:
            if len(powers) > _MOST_DOUBLINGS:
                raise PriorError("the sweep does not mix in 10 ** 12 sweeps; weaken the couplings or raise epsilon")
            powers.append(powers[-1] @ powers[-1])
        if len(powers) == 1:
            return 1
        n_sweeps: int = 2 ** (len(powers) - 2)
        reached = powers[-2]
        for exponent in range(len(powers) - 3, -1, -1):
            further = reached @ powers[exponent]
            if self._distance(further) > epsilon:
                n_sweeps, reached = n_sweeps + 2**exponent, further
        return n_sweeps + 1

    def _distance(self, power: FloatArray) -> float:
        return float(np.abs(power - self.stationary).sum(axis=1).max() / 2)


def exact_sweep(
    machine: BoltzmannMachine,
    *,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    values: Tensor | None = None,
    condition: Tensor | None = None,
    beta: float = 1.0,
) -> ExactSweep:
    """Transition matrix of one block Gibbs sweep.

    Args:
        machine: The machine, with at most 11 free bits.
        clamped: Mask (N,) of the bits to hold.
        values: Bits (N,); those under the mask are used.
        condition: c, shape (n_c,), if the machine has one.
        beta: Inverse temperature.

    Raises:
        PriorError: If there are too many free bits, a parameter is not finite, or a shape does not fit.
    """
    mask = torch.zeros(machine.n_nodes, dtype=torch.bool) if clamped is None else torch.as_tensor(clamped).cpu()
    n_free = int((~mask).sum())
    if n_free > MAX_FREE_BITS:
        raise PriorError(
            f"a sweep of {n_free} free bits is too large a matrix; clamp some, the limit is {MAX_FREE_BITS}"
        )
    law = enumerate_machine(machine, condition, None if clamped is None else mask, values, beta)
    partition = machine.topology.partition[law.free_nodes.numpy()]
    exponents = -beta * law.energies.numpy().reshape((2,) * n_free)
    matrix = np.eye(2**n_free).reshape((2**n_free, *exponents.shape))
    for index in np.unique(partition):
        own = tuple(np.flatnonzero(partition == index).tolist())
        heights = np.exp(exponents - exponents.max(axis=own, keepdims=True))
        conditional = heights / heights.sum(axis=own, keepdims=True)
        matrix = matrix.sum(axis=tuple(axis + 1 for axis in own), keepdims=True) * conditional
    return ExactSweep(law.states(), matrix.reshape(2**n_free, 2**n_free), law.probabilities.numpy())
