r"""The dynamics of the emulator: block Gibbs sampling while the inverse temperature rises.

Reads start at fair coins. In the first half of the sweeps the inverse temperature rises in equal steps from zero to
:math:`\beta`, in the second half it stays: that stands for the part of the anneal after which nothing moves. Each read
has its own :math:`\beta`. Few sweeps leave reads out of equilibrium, as short anneals do.

.. math:: p(s) \propto e^{-\beta H(s)} \quad\text{is drawn as}\quad E(z) = H(2 z - 1) + \mathrm{const}, \qquad
    b_i = -2 h_i + 2 \sum_{j \sim i} J_{ij}, \qquad W_{ij} = -4 J_{ij} .

This is a classical heat bath. It says nothing about tunnelling, coherence or the quantum Boltzmann law of a transverse
field, nor how long a real anneal takes to reach equilibrium.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from calo4pqvae.annealer.chip.problem import FloatArray, IntArray
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["AnnealedPatch", "GraphPatch", "greedy_partition", "with_susceptibility"]

_STEPS = 20  # of the rising inverse temperature: more cost time in calls and change nothing that is seen
_READS_AT_A_TIME = 2048
_POLARISED_ROUNDS = 10
_POLARISED_SWEEPS = 5  # of a turn


@dataclass(frozen=True, eq=False)
class AnnealedPatch:
    """Qubits that are used together, ready to be sampled.

    Args:
        rows: Row of every node of the machine among the qubits of the caller, shape (n,).
        machine: The machine over them; its parameters are set by each call.
        sampler: Its sampler.
    """

    rows: IntArray
    machine: BoltzmannMachine
    sampler: BlockGibbsSampler

    @classmethod
    def of(cls, partition: IntArray, edges: IntArray, kernel: KernelName = "auto") -> "AnnealedPatch":
        """Builds the machine of a graph.

        Args:
            partition: Colour of every qubit, shape (n,); colours may be absent.
            edges: Couplers as pairs of rows, shape (m, 2), each once, the smaller row first, sorted.
            kernel: Kernel of its sampler.
        """
        rows = np.argsort(partition, kind="stable")
        number = np.empty(len(rows), dtype=np.int64)
        number[rows] = np.arange(len(rows))
        sizes = tuple(np.unique(partition, return_counts=True)[1].tolist())
        machine = _FieldMachine(Topology("patch", sizes, number[edges]))
        return cls(rows, machine, BlockGibbsSampler(machine, kernel))

    def draw(
        self,
        fields: FloatArray,
        couplings: "sparse.csr_array",
        betas: FloatArray,
        n_sweeps: int,
        generator: torch.Generator,
        polarisation: float = 0.0,
    ) -> NDArray[np.uint8]:
        """Reads of the problem.

        Args:
            fields: h in the order of the caller's qubits, shape (n,).
            couplings: J as a symmetric matrix (n, n).
            betas: Inverse temperature of every read, shape (reads,).
            n_sweeps: Sweeps a read.
            generator: Source of randomness.
            polarisation: Field towards the reads before and after, in units of h.

        Returns:
            Bits in the order of the caller's qubits, shape (reads, n).
        """
        self._program(fields, couplings)
        bits = np.empty((len(betas), len(fields)), dtype=np.uint8)
        previous: Tensor | None = None
        for start in range(0, len(betas), _READS_AT_A_TIME):
            beta = torch.from_numpy(betas[start : start + _READS_AT_A_TIME].astype(np.float32))
            states = self._anneal(beta, n_sweeps, generator)
            if polarisation:
                states, previous = self._polarised(states, previous, beta, polarisation, generator)
            bits[start : start + len(beta), self.rows] = states.states.numpy().astype(np.uint8)
        return bits

    @torch.no_grad()
    def _program(self, fields: FloatArray, couplings: "sparse.csr_array") -> None:
        edges = self.machine.topology.edges
        ends = self.rows[edges]
        values = np.asarray(couplings[ends[:, 0], ends[:, 1]]).reshape(-1) if len(edges) else np.zeros(0)
        biases = -2 * fields + 2 * np.asarray(couplings.sum(axis=1)).reshape(-1)
        self.machine.biases.copy_(torch.from_numpy(biases[self.rows]))
        self.machine.couplings.copy_(torch.from_numpy(-4 * values))

    def _anneal(self, betas: Tensor, n_sweeps: int, generator: torch.Generator) -> GibbsState:
        rising = n_sweeps // 2
        steps = min(_STEPS, rising)
        state = self.sampler.init(len(betas), generator)
        for step in range(steps):
            share = (rising * (step + 1)) // steps - (rising * step) // steps
            state = self.sampler.sample(state, share, generator, beta=betas * (step + 1) / (steps + 1))
        return self.sampler.sample(state, n_sweeps - rising, generator, beta=betas)

    def _polarised(
        self, state: GibbsState, previous: Tensor | None, betas: Tensor, polarisation: float, generator: torch.Generator
    ) -> tuple[GibbsState, Tensor]:
        """Lets reads settle in the fields of those next to them, and gives the spins of the last one on.

        The reads are a chain in time with a weak coupling from each to the next. Every other read is settled given its
        two neighbours, then the rest, in turns: free spins of neighbours end with the correlation tanh(beta p) of the
        one-dimensional Ising model.
        """
        bits = state.states.clone()
        edge = torch.zeros_like(bits[:1]) if previous is None else previous
        for _ in range(_POLARISED_ROUNDS):
            for first in (0, 1):
                if first >= len(bits):
                    continue
                spins = torch.cat([edge, 2 * bits - 1, torch.zeros_like(edge)])
                around = (spins[:-2] + spins[2:])[first::2]
                settled = self.sampler.sample(
                    GibbsState.of_bits(bits[first::2].contiguous()),
                    _POLARISED_SWEEPS,
                    generator,
                    condition=2 * polarisation * around,
                    beta=betas[first::2].contiguous(),
                )
                bits[first::2] = settled.states
        return GibbsState.of_bits(bits), 2 * bits[-1:] - 1


class _FieldMachine(BoltzmannMachine):
    """A machine whose condition is a field of its own for every bit of every chain."""

    def fields(self, condition: Tensor | None = None) -> Tensor:
        """Fields b + c, shape (N,), or (B, N) with c of this shape."""
        return self.biases if condition is None else self.biases + condition


def with_susceptibility(
    fields: FloatArray, couplings: "sparse.csr_array", chi: float
) -> tuple[FloatArray, "sparse.csr_array"]:
    """Fields h + chi J h and couplings J + chi J^2, the diagonal left out: qubits polarise those next to them.

    Args:
        fields: h (n,).
        couplings: J as a symmetric matrix (n, n).
        chi: Background susceptibility.
    """
    square = sparse.csr_array(couplings @ couplings)
    square.setdiag(0.0)
    total = sparse.csr_array(couplings + chi * square)
    total.eliminate_zeros()
    return fields + chi * np.asarray(couplings @ fields), total


def greedy_partition(n: int, edges: IntArray) -> IntArray:
    """A proper colouring (n,) of any graph: each node, most neighbours first, takes the least colour that is free.

    Args:
        n: Number of nodes.
        edges: Pairs of nodes, shape (m, 2).
    """
    ends = np.concatenate([edges, edges[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    degrees = np.bincount(ends[:, 0], minlength=n)
    around = np.split(ends[:, 1], np.cumsum(degrees)[:-1])
    colours = np.full(n, -1, dtype=np.int64)
    for node in np.argsort(-degrees, kind="stable"):
        taken = set(colours[around[node]].tolist())
        colours[node] = next(colour for colour in range(n) if colour not in taken)
    return colours


@dataclass(frozen=True, eq=False)
class GraphPatch:
    """Qubits of one problem with all working couplers between them: those without a coupling have errors too.

    Args:
        edges: Couplers as pairs of rows among the qubits of the problem, sorted, shape (m, 2).
        keys: One number a coupler, ascending, shape (m,).
        n_qubits: Qubits.
        dynamics: The patch, ready to be sampled.
    """

    edges: IntArray
    keys: IntArray
    n_qubits: int
    dynamics: AnnealedPatch

    @classmethod
    def of(cls, topology: Topology, rows: IntArray, kernel: KernelName = "auto") -> "GraphPatch":
        """The patch of the given nodes of a working graph, in ascending order, and the kernel of its sampler."""
        number = np.full(topology.n_nodes, -1, dtype=np.int64)
        number[rows] = np.arange(len(rows))
        edges = number[topology.edges]
        edges = edges[(edges >= 0).all(axis=1)]
        dynamics = AnnealedPatch.of(topology.partition[rows], edges, kernel)
        return cls(edges, edges[:, 0] * len(rows) + edges[:, 1], len(rows), dynamics)

    def strangers(self, edges: IntArray) -> IntArray:
        """Which couplers of a problem the patch does not have."""
        return np.flatnonzero(~np.isin(edges[:, 0] * self.n_qubits + edges[:, 1], self.keys))

    def places(self, edges: IntArray) -> IntArray:
        """Row of every coupler of a problem."""
        return np.searchsorted(self.keys, edges[:, 0] * self.n_qubits + edges[:, 1])
