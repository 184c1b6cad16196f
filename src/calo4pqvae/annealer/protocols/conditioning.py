r"""Three ways to hold one partition of a machine at given bits on an annealer, and what to do when a bit slips.

- ``"fold"``: the bits :math:`z_a` are not on the chip. Their couplings are added to the fields of the other partitions,
  :math:`b_i \leftarrow b_i + \sum_a W_{ai} z_a`: exact, nothing can slip, and a quarter of the qubits is free.
- ``"fields"``: the bits are qubits, held by local fields :math:`h_a = \mp c`.
- ``"flux"``: the same by flux biases, which act earlier in the anneal and are the only biases of a fast anneal. They
  are converted with the constants of the chip, B(s*) at freeze-out among them (:mod:`~calo4pqvae.annealer.chip.table`).

**Strength.** The neighbours pull at a held spin with :math:`\sum_j |J_{aj}|` at most, so that it is read wrong with a
probability of at most :math:`\epsilon` if

.. math:: c = \max_a \sum_j |J_{aj}| + \frac{\ln(1 / \epsilon)}{2 \beta} .

Where the chip cannot give that much, the request is refused with what it would need; a weaker clamp would draw another
law. Errors of read-out come on top.

**Slips** are counted in every result (:class:`ClampReport`). A read with a wrong bit was drawn under another condition:
it is rejected (default), or repaired, that is the bit is set right and the others are left as drawn under the wrong
one, or only reported. Bits that are gone from the chip are folded in by the other two ways as well, so that all three
draw the same law.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calo4pqvae.annealer.chip.limits import FLUX_LIMIT
from calo4pqvae.annealer.chip.problem import FloatArray, IntArray, IsingProblem, ising_problem
from calo4pqvae.annealer.chip.table import Chip, fields_to_flux
from calo4pqvae.annealer.placing.placement import Placement
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["ClampReport", "Conditioned", "Conditioner", "FailurePolicy", "Method"]

BoolArray = NDArray[np.bool_]
BitArray = NDArray[np.uint8]
Method = Literal["fold", "fields", "flux"]
FailurePolicy = Literal["reject", "repair", "report"]


@dataclass(frozen=True)
class ClampReport:
    """How well bits were held.

    Args:
        n_reads: Reads looked at.
        n_held: Held bits of a read that were on the chip.
        n_wrong_bits: Wrong bits over all reads.
        n_wrong_reads: Reads with a wrong bit.
        worst_qubit: Chip label of the qubit that was wrong most often; None if none was.
        policy: What was done with these reads.
    """

    n_reads: int
    n_held: int
    n_wrong_bits: int
    n_wrong_reads: int
    worst_qubit: int | None
    policy: FailurePolicy

    @property
    def rate(self) -> float:
        """Share of wrong bits."""
        return self.n_wrong_bits / max(1, self.n_reads * self.n_held)

    @property
    def rate_error(self) -> float:
        """Standard error of the rate; with no wrong bit, that of one: bits of a read are taken to be independent."""
        n_bits = max(1, self.n_reads * self.n_held)
        share = max(self.n_wrong_bits, 1) / n_bits
        return math.sqrt(share * max(0.0, 1 - share) / n_bits)

    @property
    def read_rate(self) -> float:
        """Share of reads with a wrong bit."""
        return self.n_wrong_reads / max(1, self.n_reads)

    def __add__(self, other: "ClampReport") -> "ClampReport":
        """Both together; the worst qubit is that of the part with more wrong bits.

        Raises:
            AnnealerError: If policy or number of held bits differ.
        """
        if (self.policy, self.n_held) != (other.policy, other.n_held):
            raise AnnealerError("reports of different clamps cannot be added; report them one by one")
        worst = self if self.n_wrong_bits >= other.n_wrong_bits else other
        return ClampReport(
            self.n_reads + other.n_reads,
            self.n_held,
            self.n_wrong_bits + other.n_wrong_bits,
            self.n_wrong_reads + other.n_wrong_reads,
            worst.worst_qubit,
            self.policy,
        )


@dataclass(frozen=True, eq=False)
class Conditioned:
    """A problem that draws a machine under a condition.

    Args:
        problem: What to program. Its :meth:`~calo4pqvae.annealer.chip.problem.IsingProblem.machine_energy` is the
            energy of the machine where all held bits are right.
        nodes: Node of the machine on every row of the problem, shape (n,).
        held: Rows that are held, shape (n,).
        flux_biases: For every qubit of the ideal chip, or None.
        strength: Field c that holds them in units of h; 0 where nothing is held on the chip.
        condition_nodes: All nodes of the held partition.
        condition_bits: Their bits, in that order.
        reduced: Machine of the free bits on the chip, the condition in its biases (float64).
        offset: Energy of the machine less that of ``reduced``, in nats.
    """

    problem: IsingProblem
    nodes: IntArray
    held: BoolArray
    flux_biases: FloatArray | None
    strength: float
    condition_nodes: IntArray
    condition_bits: BitArray
    reduced: BoltzmannMachine
    offset: float

    @property
    def free_nodes(self) -> IntArray:
        """Nodes of the machine that are drawn, those of ``reduced``."""
        return self.nodes[~self.held]

    @torch.no_grad()
    def energies(self, bits: ArrayLike) -> FloatArray:
        """Energies of the machine with the held bits taken to be right, in nats, shape (reads,).

        Args:
            bits: Reads in the order of the problem, shape (reads, n).
        """
        free = np.asarray(bits)[:, ~self.held]
        energies: FloatArray = self.reduced.energy(torch.from_numpy(free.astype(np.float64))).numpy() + self.offset
        return energies

    def settle(self, bits: BitArray, policy: FailurePolicy = "reject") -> tuple[BitArray, BoolArray, ClampReport]:
        """Counts slips and does with them what is asked.

        Args:
            bits: Reads in the order of the problem, shape (reads, n).
            policy: ``"reject"`` drops reads with a wrong bit, ``"repair"`` sets it right, ``"report"`` leaves it.

        Returns:
            Reads that are kept, the mask (reads,) of these, and the report.

        Raises:
            AnnealerError: If there is no such policy.
        """
        if policy not in get_args(FailurePolicy):
            raise AnnealerError(f"there is no policy {policy!r}; choose one of {', '.join(get_args(FailurePolicy))}")
        wanted = self._wanted()
        wrong = bits[:, self.held] != wanted
        is_bad = wrong.any(axis=1)
        kept = ~is_bad if policy == "reject" else np.ones(len(bits), dtype=np.bool_)
        settled = bits[kept].copy()
        if policy == "repair":
            settled[:, self.held] = wanted
        counts = wrong.sum(axis=0)
        worst = int(self.problem.qubits[self.held][counts.argmax()]) if counts.any() else None
        report = ClampReport(len(bits), int(self.held.sum()), int(wrong.sum()), int(is_bad.sum()), worst, policy)
        return settled, kept, report

    def states(self, bits: BitArray, n_nodes: int) -> tuple[BitArray, BoolArray]:
        """Bits of the whole machine.

        Args:
            bits: Reads in the order of the problem, shape (reads, n).
            n_nodes: Nodes of the machine, N.

        Returns:
            Bits (reads, N), and the mask (N,) of those that are known; others are gone from the chip and zero here.
        """
        states = np.zeros((len(bits), n_nodes), dtype=np.uint8)
        is_known = np.zeros(n_nodes, dtype=np.bool_)
        is_known[self.condition_nodes] = is_known[self.nodes] = True
        states[:, self.condition_nodes] = self.condition_bits
        states[:, self.nodes] = bits
        return states, is_known

    def _wanted(self) -> BitArray:
        return self.condition_bits[np.searchsorted(self.condition_nodes, self.nodes[self.held])]


@dataclass(frozen=True, eq=False)
class Conditioner:
    """Imposes bits on a partition of a machine; the machine's parameters are read anew with each call.

    Args:
        machine: The machine.
        method: ``"fold"``, ``"fields"`` or ``"flux"``.
        chip: The chip, for the range of h and for flux; not needed to fold.
        n_flux: Entries of a list of flux biases (``num_qubits`` of the solver), for ``"flux"``.
        partition: Which partition is held; None for a machine that holds none.
        placement: What of the machine is on the chip; all of it if None.
        error_rate: Most probable wrong bits a held bit, epsilon.
        flux_limit: Largest flux bias in flux quanta.

    Raises:
        AnnealerError: If there is no such method or partition, or something that a method needs is missing.
    """

    machine: BoltzmannMachine
    method: Method = "fold"
    chip: Chip | None = None
    n_flux: int | None = None
    partition: int | None = 0
    placement: Placement | None = None
    error_rate: float = 1e-6
    flux_limit: float = FLUX_LIMIT

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise AnnealerError(f"there is no method {self.method!r}; choose one of {', '.join(get_args(Method))}")
        if self.method != "fold" and self.chip is None:
            raise AnnealerError(
                f"the method {self.method!r} needs the ranges of a chip; name it, or fold the condition"
            )
        if self.method == "flux" and self.n_flux is None:
            raise AnnealerError(
                "flux biases are given for all qubits of the ideal chip; say how many there are (n_flux)"
            )
        if not 0 < self.error_rate < 1:
            raise AnnealerError(
                f"an error rate of {self.error_rate:g} cannot be asked for; give a number between 0 and 1"
            )
        if self.placement is not None and self.placement.topology != self.machine.topology:
            raise AnnealerError("this placement was made for another graph; place the machine that is used")
        topology = self.machine.topology
        if self.partition is not None and not 0 <= self.partition < topology.n_partitions:
            raise AnnealerError(
                f"partition {self.partition} does not exist; choose from 0..{topology.n_partitions - 1}"
            )
        if not len(self._free):
            raise AnnealerError("no free bit of the machine is on the chip; nothing would be drawn")

    @cached_property
    def condition_nodes(self) -> IntArray:
        """Nodes of the held partition."""
        if self.partition is None:
            return np.empty(0, dtype=np.int64)
        nodes = self.machine.topology.slices[self.partition]
        return np.arange(nodes.start, nodes.stop, dtype=np.int64)

    @cached_property
    def _nodes(self) -> IntArray:
        return np.arange(self.machine.n_nodes, dtype=np.int64) if self.placement is None else self.placement.nodes

    @cached_property
    def _couplers(self) -> IntArray:
        n_edges = self.machine.topology.n_edges
        return np.arange(n_edges, dtype=np.int64) if self.placement is None else self.placement.couplers

    @cached_property
    def _free(self) -> IntArray:
        """Nodes that are on the chip and not held."""
        return np.setdiff1d(self._nodes, self.condition_nodes)

    @cached_property
    def _inner(self) -> IntArray:
        """Rows of the couplers between free nodes that are on the chip."""
        rows = self._couplers
        return rows[np.isin(self.machine.topology.edges[rows], self._free).all(axis=1)]

    @cached_property
    def _crossing(self) -> tuple[IntArray, IntArray, IntArray]:
        """Couplers between held and free nodes, on the chip or not: their rows, held ends and free ends."""
        edges = self.machine.topology.edges
        is_held = np.isin(edges, self.condition_nodes)
        rows = np.flatnonzero(is_held.any(axis=1) & np.isin(edges, self._free).any(axis=1))
        first = is_held[rows, 0]
        held, free = (np.where(first, edges[rows, a], edges[rows, 1 - a]) for a in (0, 1))
        return rows, held, free

    @cached_property
    def _reduced_topology(self) -> Topology:
        topology = self.machine.topology
        number = np.full(topology.n_nodes, -1, dtype=np.int64)
        number[self._free] = np.arange(len(self._free))
        sizes = np.bincount(topology.partition[self._free], minlength=topology.n_partitions)
        labels = np.array(topology.node_labels, dtype=np.int64)[self._free]
        return Topology(
            f"{topology.name}-free",
            tuple(sizes[sizes > 0].tolist()),
            number[topology.edges[self._inner]],
            tuple(labels.tolist()),
        )

    def impose(self, beta: float, bits: ArrayLike | None = None, condition: Tensor | None = None) -> Conditioned:
        """The problem of one condition.

        Args:
            beta: What the machine is divided by: the estimate of the annealer's inverse temperature.
            bits: Bits of the held partition, in the order of its nodes; None if no partition is held.
            condition: c of the machine's own folded condition, shape (n_c,), if it has one.

        Raises:
            AnnealerError: If the bits do not fit, or the chip cannot hold them strongly enough.
            PriorError: If the condition does not fit the machine.
        """
        values = self._checked_bits(bits)
        reduced, offset = self._reduce(values, condition)
        if self.method == "fold" or not np.isin(self.condition_nodes, self._nodes).any():
            problem = ising_problem(reduced, beta)
            problem = replace(problem, constant=problem.constant + offset)
            held, strength, flux = np.zeros(len(self._free), dtype=np.bool_), 0.0, None
            nodes = self._free
        else:
            nodes, held = self._nodes, np.isin(self._nodes, self.condition_nodes)
            problem, strength, flux = self._clamped(beta, values, condition, reduced, offset)
        return Conditioned(problem, nodes, held, flux, strength, self.condition_nodes, values, reduced, offset)

    def _checked_bits(self, bits: ArrayLike | None) -> BitArray:
        values = np.asarray([] if bits is None else bits)
        n_held = len(self.condition_nodes)
        if values.shape != (n_held,) or not np.isin(values, (0, 1)).all():
            raise AnnealerError(
                f"a condition of shape {values.shape} for a partition of {n_held} bits; give a zero or a one for each"
            )
        return values.astype(np.uint8)

    @torch.no_grad()
    def _reduce(self, bits: BitArray, condition: Tensor | None) -> tuple[BoltzmannMachine, float]:
        """Machine of the free bits under the condition, and the energy that it does not have."""
        if condition is not None and condition.ndim != 1:
            raise AnnealerError(f"a programming has one condition of shape (n_c,); got {tuple(condition.shape)}")
        fields = (
            self.machine.fields(None if condition is None else condition[None])
            .detach()
            .reshape(-1)
            .cpu()
            .double()
            .numpy()
        )
        weights = self.machine.couplings.detach().cpu().double().numpy()
        rows, held, free = self._crossing
        full = np.zeros(self.machine.n_nodes, dtype=np.float64)
        full[self.condition_nodes] = bits
        pull = np.bincount(free, weights=weights[rows] * full[held], minlength=self.machine.n_nodes)
        reduced = BoltzmannMachine(self._reduced_topology).double()
        reduced.biases.copy_(torch.from_numpy((fields + pull)[self._free]))
        reduced.couplings.copy_(torch.from_numpy(weights[self._inner]))
        return reduced, -float(fields[self.condition_nodes] @ bits)

    def _clamped(
        self, beta: float, bits: BitArray, condition: Tensor | None, reduced: BoltzmannMachine, offset: float
    ) -> tuple[IsingProblem, float, FloatArray | None]:
        """The problem with held qubits, the strength that holds them, and flux biases."""
        plain = ising_problem(self.machine, beta, condition, self.placement)
        held = np.isin(self._nodes, self.condition_nodes)
        full = np.zeros(self.machine.n_nodes)
        full[self.condition_nodes] = 2.0 * bits - 1
        spins = full[self._nodes]  # zero on free rows
        strength = self._strength(plain, held)
        folded = ising_problem(reduced, beta)
        # Fields of the free rows such that with all held spins right they are those of the reduced machine: what is
        # gone from the chip is folded in, what is there pulls by itself.
        pull = np.zeros(plain.n_qubits)
        for own, other in ((0, 1), (1, 0)):
            ends = plain.edges[:, own], plain.edges[:, other]
            pull += np.bincount(ends[0], weights=plain.couplings * spins[ends[1]], minlength=plain.n_qubits)
        fields = np.zeros(plain.n_qubits)
        fields[~held] = folded.fields - pull[~held]
        flux = None
        if self.method == "fields":
            fields[held] = -strength * spins[held]
        else:
            flux = self._flux(plain.qubits[held], -strength * spins[held])
        frozen = float(fields[held] @ spins[held])  # energy of the clamp itself
        constant = folded.constant + offset - beta * frozen
        return replace(plain, fields=fields, constant=constant), strength, flux

    def _strength(self, problem: IsingProblem, held: BoolArray) -> float:
        """Field that holds every held spin against all its neighbours, within the range of the chip."""
        sums = np.bincount(
            problem.edges.ravel(), weights=np.repeat(np.abs(problem.couplings), 2), minlength=problem.n_qubits
        )
        needed = float(sums[held].max()) + math.log(1 / self.error_rate) / (2 * problem.beta)
        limit = self._largest()
        if needed > limit:
            raise AnnealerError(
                f"holding the condition takes fields of {needed:.3g}, and {self.method} on this chip give {limit:.3g}; "
                f"fold the condition, divide by a larger beta than {problem.beta:.3g}, or accept more wrong bits than "
                f"{self.error_rate:g}"
            )
        return needed

    def _largest(self) -> float:
        if self.chip is None:
            raise AnnealerError("the range of h is not known without a chip; name it, or fold the condition")
        if self.method == "fields":
            return float(min(-self.chip.h_range[0], self.chip.h_range[1]))
        return float(self.flux_limit / abs(fields_to_flux(self.chip, np.array([1.0]))[0]))

    def _flux(self, qubits: IntArray, fields: FloatArray) -> FloatArray:
        if self.chip is None or self.n_flux is None or qubits.max() >= self.n_flux:
            raise AnnealerError(
                f"qubit {int(qubits.max())} is beyond the {self.n_flux} flux biases; give one for each qubit"
            )
        flux = np.zeros(self.n_flux)
        flux[qubits] = fields_to_flux(self.chip, fields)
        return flux
