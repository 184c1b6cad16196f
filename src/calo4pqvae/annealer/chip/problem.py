r"""The Ising door: from bits to the spins of an annealer and back, with the constant kept.

A machine over bits z in {0, 1} has :math:`E(z) = -\sum_i b_i z_i - \sum_{i<j} W_{ij} z_i z_j` (the condition folded
into b). An annealer takes spins :math:`s = 2 z - 1` and draws, roughly, from
:math:`p(s) \propto e^{-\beta_\mathrm{eff} H(s)}` at an inverse temperature of its own. So that the machine is drawn at
inverse temperature one, its parameters are divided by an estimate :math:`\beta` of it:

.. math::
    h_i = -\frac{1}{\beta} \Big( \frac{b_i}{2} + \sum_{j \sim i} \frac{W_{ij}}{4} \Big), \qquad
    J_{ij} = -\frac{W_{ij}}{4 \beta}, \qquad
    C = -\sum_i \frac{b_i}{2} - \sum_{i<j} \frac{W_{ij}}{4},

.. math:: E(z) = \beta H(s) + C, \qquad H(s) = \sum_i h_i s_i + \sum_{i<j} J_{ij} s_i s_j .

:math:`\beta` only divides: an annealer at :math:`\beta_\mathrm{eff}` draws the machine at
:math:`\beta_\mathrm{eff} / \beta`. Everything here is float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from torch import Tensor

from calo4pqvae.annealer.placing.placement import Placement
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["FloatArray", "IntArray", "IsingProblem", "Reads", "bits_to_spins", "ising_problem", "spins_to_bits"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BitArray = NDArray[np.uint8]


def bits_to_spins(bits: ArrayLike) -> NDArray[np.int8]:
    """Spins s = 2 z - 1 of bits, in the same shape.

    Raises:
        AnnealerError: If a value is neither zero nor one.
    """
    values = np.asarray(bits)
    if not np.isin(values, (0, 1)).all():
        raise AnnealerError("bits must be zeros and ones; round relaxed bits before they go to an annealer")
    return (2 * values.astype(np.int8) - 1).astype(np.int8)


def spins_to_bits(spins: ArrayLike) -> BitArray:
    """Bits z = (s + 1) / 2 of spins, in the same shape.

    Raises:
        AnnealerError: If a value is neither minus one nor one; an unused qubit is often read as 3.
    """
    values = np.asarray(spins)
    if not np.isin(values, (-1, 1)).all():
        raise AnnealerError("spins must be -1 or 1; ask only for qubits that are part of the problem")
    return (values > 0).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class IsingProblem:
    """What is programmed on an annealer: n qubits, m couplers.

    Args:
        fields: h, shape (n,).
        couplings: J, shape (m,).
        edges: Couplers as pairs of rows 0 .. n-1, shape (m, 2).
        constant: C, in the nats of the machine.
        beta: What the machine's parameters were divided by.
        qubits: Chip label of every row, shape (n,).

    Raises:
        AnnealerError: If shapes do not fit, a number is not finite, a qubit is listed twice, or beta is not positive.
    """

    fields: FloatArray
    couplings: FloatArray
    edges: IntArray
    constant: float
    beta: float
    qubits: IntArray

    def __post_init__(self) -> None:
        for name, kind in (
            ("fields", np.float64),
            ("couplings", np.float64),
            ("edges", np.int64),
            ("qubits", np.int64),
        ):
            array = np.array(getattr(self, name), dtype=kind)
            array = array.reshape(-1, 2) if name == "edges" else array
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        n, m = len(self.qubits), len(self.edges)
        if self.fields.shape != (n,) or self.couplings.shape != (m,):
            raise AnnealerError(
                f"{self.fields.size} fields for {n} qubits, {self.couplings.size} couplings for {m} couplers; "
                "give one each"
            )
        if len(np.unique(self.qubits)) != n:
            raise AnnealerError("a qubit is listed twice; give each node a qubit of its own")
        if m and (self.edges.min() < 0 or self.edges.max() >= n):
            raise AnnealerError(f"a coupler names a row outside 0..{n - 1}; correct the edges")
        numbers = np.concatenate([self.fields, self.couplings, [self.constant, self.beta]])
        if not np.isfinite(numbers).all() or self.beta <= 0:
            raise AnnealerError(
                f"fields, couplings and beta ({self.beta:g}) must be finite, beta positive; correct them"
            )

    @property
    def n_qubits(self) -> int:
        """Number of qubits n."""
        return len(self.qubits)

    def energy(self, spins: ArrayLike) -> FloatArray:
        """H(s) in the units of the chip, shape (reads,).

        Args:
            spins: Minus ones and ones, shape (reads, n).

        Raises:
            AnnealerError: If the shape does not fit.
        """
        values = np.asarray(spins, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.n_qubits:
            raise AnnealerError(f"spins have shape {values.shape}; they must be (reads, {self.n_qubits})")
        n = self.n_qubits
        couplings = sparse.csr_array(sparse.coo_array((self.couplings, self.edges.T), shape=(n, n)))
        acting = self.fields[:, None] + couplings @ values.T  # of a coupler, one end feels all and the other nothing
        energies: FloatArray = np.einsum("ni,in->n", values, acting)
        return energies

    def machine_energy(self, bits: ArrayLike) -> FloatArray:
        """E(z) = beta H(2 z - 1) + C in nats, shape (reads,).

        Args:
            bits: Zeros and ones, shape (reads, n).

        Raises:
            AnnealerError: If the shape does not fit or a value is no bit.
        """
        return self.beta * self.energy(bits_to_spins(bits)) + self.constant

    def to_bqm(self) -> Any:  # noqa: ANN401
        """The problem as a spin-valued ``dimod.BinaryQuadraticModel`` over chip labels, constant left out."""
        import dimod

        ends = self.edges.T.copy()
        return dimod.BinaryQuadraticModel.from_numpy_vectors(
            self.fields, (ends[0], ends[1], self.couplings), 0.0, dimod.SPIN, variable_order=self.qubits.tolist()
        )


@dataclass(frozen=True, eq=False)
class Reads:
    """What came back from an annealer.

    Args:
        bits: Zeros and ones in the order of the problem's rows, shape (reads, n).
        problem: What was programmed.
        timing: Times of the call in microseconds, as the device reports them.
        info: Everything else that the device reports; ``info["emulated"]`` is true for an emulator.
    """

    bits: BitArray
    problem: IsingProblem
    timing: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bits = np.asarray(self.bits, dtype=np.uint8)
        if bits.ndim != 2 or bits.shape[1] != self.problem.n_qubits or (bits.size and bits.max() > 1):
            raise AnnealerError(f"reads must be bits of shape (reads, {self.problem.n_qubits}); got {bits.shape}")
        object.__setattr__(self, "bits", bits)

    @property
    def n_reads(self) -> int:
        """Number of reads."""
        return len(self.bits)

    @property
    def is_emulated(self) -> bool:
        """Whether no real annealer was involved."""
        return bool(self.info.get("emulated", False))


def ising_problem(
    machine: BoltzmannMachine,
    beta: float,
    condition: Tensor | None = None,
    placement: Placement | None = None,
) -> IsingProblem:
    """The machine as an Ising problem, its parameters divided by beta.

    Args:
        machine: The machine.
        beta: Estimate of the annealer's inverse temperature, in inverse units of its h.
        condition: c of this programming, shape (n_c,), if and only if the machine has one.
        placement: Which nodes and couplers the chip of today has
            (:func:`~calo4pqvae.annealer.placing.placement.place`); the whole machine on its own labels if None.

    Returns:
        The problem in the order of the machine's nodes; nodes and couplers without a place are left out.

    Raises:
        AnnealerError: If beta is not positive or a parameter is not finite.
        PriorError: If the condition does not fit the machine.
    """
    topology = machine.topology
    rows = np.arange(topology.n_nodes) if placement is None else placement.nodes
    kept = np.arange(topology.n_edges) if placement is None else placement.couplers
    qubits = np.array(topology.node_labels, dtype=np.int64)[rows] if placement is None else placement.qubits
    number = np.full(topology.n_nodes, -1, dtype=np.int64)
    number[rows] = np.arange(len(rows))
    edges = number[topology.edges[kept]].reshape(-1, 2)
    biases = _fields(machine, condition)[rows]
    weights = machine.couplings.detach().cpu().numpy().astype(np.float64)[kept]
    if not np.isfinite(beta) or beta <= 0:
        raise AnnealerError(f"beta = {beta:g} cannot divide the parameters; give a positive number")
    around = sum(np.bincount(ends, weights=weights, minlength=len(rows)) for ends in edges.T)
    return IsingProblem(
        fields=-(biases / 2 + around / 4) / beta,
        couplings=-weights / (4 * beta),
        edges=edges,
        constant=float(-biases.sum() / 2 - weights.sum() / 4),
        beta=float(beta),
        qubits=qubits,
    )


@torch.no_grad()
def _fields(machine: BoltzmannMachine, condition: Tensor | None) -> FloatArray:
    """Fields b + c A (N,) in float64."""
    if condition is not None and condition.ndim != 1:
        raise AnnealerError(f"a programming has one condition of shape (n_c,); got {tuple(condition.shape)}")
    machine.fields(None if condition is None else condition[None])  # its checks of the shape
    fields = machine.biases.detach().cpu().numpy().astype(np.float64)
    if condition is None or machine.condition_weights is None:
        return fields
    weights = machine.condition_weights.detach().cpu().numpy().astype(np.float64)
    total: FloatArray = fields + condition.detach().cpu().numpy().astype(np.float64) @ weights
    return total
