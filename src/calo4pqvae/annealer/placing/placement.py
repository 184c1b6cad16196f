r"""Placing a machine on the working graph of today, node by node: bit i lives on the qubit of its label.

Working graphs shrink, so that a machine trained on the graph of last year may have qubits and couplers that are gone.
Placement is by identity: nothing is moved. Parts that are gone are refused, with their numbers, or pruned with a
report:

- a coupler that is gone leaves both its bits with unchanged biases :math:`b`; in spins the fields of both change, since
  :math:`h` holds a part of :math:`W`;
- a qubit that is gone takes its couplers with it. Its bit is not drawn by the chip; it acts on its neighbours like a
  bit held at zero, and :meth:`Placement.complete` draws it afterwards from :math:`p(z_i | rest)` of the whole machine.

The energy that is not programmed,

.. math:: \Delta E(z) = -\sum_{i \in \mathrm{gone}} b_i z_i - \sum_{(i, j) \in \mathrm{gone}} W_{ij} z_i z_j ,

lies in known bounds; with states of the machine at hand its mean and standard deviation are reported too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["Placement", "PruningReport", "place", "pruning_report"]

IntArray = NDArray[np.int64]

_NAMED = 8  # parts that a message names


@dataclass(frozen=True, eq=False)
class Placement:
    """Which nodes and couplers of a machine a working graph has.

    Args:
        topology: Graph of the machine.
        nodes: Nodes that are there, ascending, shape (n,).
        couplers: Rows of ``topology.edges`` that are there, ascending, shape (m,).
    """

    topology: Topology
    nodes: IntArray
    couplers: IntArray

    @property
    def qubits(self) -> IntArray:
        """Chip labels of the nodes that are there, shape (n,)."""
        return np.array(self.topology.node_labels, dtype=np.int64)[self.nodes]

    @property
    def missing_nodes(self) -> IntArray:
        """Nodes whose qubits are gone."""
        return np.setdiff1d(np.arange(self.topology.n_nodes), self.nodes)

    @property
    def missing_couplers(self) -> IntArray:
        """Rows of ``topology.edges`` that are gone, those of gone qubits included."""
        return np.setdiff1d(np.arange(self.topology.n_edges), self.couplers)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is gone."""
        return len(self.nodes) == self.topology.n_nodes and len(self.couplers) == self.topology.n_edges

    def lost(self) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Chip labels of the qubits and of the couplers that are gone."""
        labels = np.array(self.topology.node_labels, dtype=np.int64)
        pairs = labels[self.topology.edges[self.missing_couplers]].reshape(-1, 2)
        return tuple(labels[self.missing_nodes].tolist()), tuple((int(a), int(b)) for a, b in pairs)

    def with_folded(self, held: NDArray[np.bool_]) -> "Placement":
        """What is there if held bits are folded into the fields: these, and their couplers to bits that are there.

        Args:
            held: Mask (N,) of held nodes.
        """
        is_there = held.copy()
        is_there[self.nodes] = True
        edges = self.topology.edges
        is_folded = held[edges].any(axis=1) & is_there[edges].all(axis=1)
        couplers = np.union1d(self.couplers, np.flatnonzero(is_folded))
        return Placement(self.topology, np.flatnonzero(is_there), couplers)

    def complete(
        self,
        bits: ArrayLike,
        machine: BoltzmannMachine,
        generator: torch.Generator,
        condition: Tensor | None = None,
        n_sweeps: int = 20,
    ) -> Tensor:
        """States of the whole machine: bits of gone qubits drawn given those that were read.

        Args:
            bits: Reads in the order of :attr:`nodes`, shape (reads, n).
            machine: The machine.
            generator: Source of randomness, on the machine's device.
            condition: c of every read, shape (reads, n_c), if the machine has a condition.
            n_sweeps: Sweeps over the gone bits; one is exact if no two of them are coupled.

        Returns:
            Bits (reads, N) as float32 zeros and ones.

        Raises:
            AnnealerError: If the reads do not fit the placement.
        """
        values = torch.as_tensor(np.asarray(bits, dtype=np.float32))
        if values.ndim != 2 or values.shape[1] != len(self.nodes):
            raise AnnealerError(f"reads have shape {tuple(values.shape)}; they must be (reads, {len(self.nodes)})")
        held = torch.zeros(self.topology.n_nodes, dtype=torch.bool)
        held[torch.from_numpy(self.nodes)] = True
        sampler = BlockGibbsSampler(machine)
        states = sampler.init(len(values), generator).states.clone()
        states[:, held.to(machine.device)] = values.to(machine.device)
        if bool(held.all()):
            return states
        return sampler.sample(GibbsState(states), n_sweeps, generator, clamped=held, condition=condition).states


@dataclass(frozen=True)
class PruningReport:
    """What pruning leaves out.

    Args:
        qubits: Chip labels of the qubits that are gone.
        couplers: Chip labels of the couplers that are gone.
        n_qubits: Qubits that the machine wants.
        n_couplers: Couplers that it wants.
        energy_bounds: Least and largest energy that is left out, in nats.
        mean_energy: Mean over given states of the energy left out, or None.
        mean_energy_error: Its standard error, or None.
        energy_std: Standard deviation over the states; 1 or more changes the law noticeably.
        n_states: Number of states given.
    """

    qubits: tuple[int, ...]
    couplers: tuple[tuple[int, int], ...]
    n_qubits: int
    n_couplers: int
    energy_bounds: tuple[float, float]
    mean_energy: float | None = None
    mean_energy_error: float | None = None
    energy_std: float | None = None
    n_states: int = 0

    def __str__(self) -> str:
        low, high = self.energy_bounds
        text = (
            f"{len(self.qubits)} of {self.n_qubits} qubits and {len(self.couplers)} of {self.n_couplers} couplers are "
            f"gone; the energy left out lies in [{low:.4g}, {high:.4g}] nats"
        )
        if self.mean_energy is None:
            return text
        return (
            f"{text}, its mean is {self.mean_energy:.4g} +- {self.mean_energy_error:.2g} and its standard deviation "
            f"{self.energy_std:.4g} over {self.n_states} states"
        )


def place(
    topology: Topology,
    qubits: Iterable[int],
    couplers: Iterable[Sequence[int]],
    *,
    prune: bool = False,
) -> Placement:
    """Places a graph on a working graph by the labels of its nodes.

    Args:
        topology: Graph of the machine; its labels are those of the chip.
        qubits: Working qubits of the chip (``nodelist``).
        couplers: Working couplers (``edgelist``), in any order of the two ends.
        prune: Whether parts that are gone are left out; they are refused otherwise.

    Raises:
        AnnealerError: If parts are gone and ``prune`` is false, or no qubit is left.
    """
    labels = np.array(topology.node_labels, dtype=np.int64)
    is_there = np.isin(labels, np.fromiter(qubits, dtype=np.int64))
    wanted = _keys(labels[topology.edges])
    working = _keys(np.array([tuple(pair) for pair in couplers], dtype=np.int64))
    works = np.isin(wanted, working) & is_there[topology.edges].all(axis=1)
    placement = Placement(topology, np.flatnonzero(is_there), np.flatnonzero(works))
    if not is_there.any():
        raise AnnealerError(
            f"none of the {topology.n_nodes} qubits of {topology.name} is on this chip; choose its own chip"
        )
    if not placement.is_whole and not prune:
        raise AnnealerError(_refusal(placement))
    return placement


def _keys(pairs: IntArray) -> IntArray:
    """One number a pair, whatever the order of its ends."""
    ordered = np.sort(pairs.reshape(-1, 2), axis=1)
    return ordered[:, 0] * 2**31 + ordered[:, 1]


def _refusal(placement: Placement) -> str:
    topology = placement.topology
    qubits, couplers = placement.lost()
    own = [pair for pair in couplers if not set(pair) & set(qubits)]
    named = ", ".join(str(part) for part in [*qubits[:_NAMED], *own[: max(0, _NAMED - len(qubits))]])
    return (
        f"the working graph lacks {len(qubits)} of {topology.n_nodes} qubits and {len(couplers)} of {topology.n_edges} "
        f"couplers of {topology.name} ({len(own)} of them between working qubits), among them {named}; "
        "prune the machine (--prune), or train it on the graph of today"
    )


@torch.no_grad()
def pruning_report(
    placement: Placement, machine: BoltzmannMachine, states: Tensor | None = None, condition: Tensor | None = None
) -> PruningReport:
    """What a placement leaves out of a machine.

    Args:
        placement: The placement.
        machine: The machine.
        states: Independent states of the whole machine (B, N) to average over, or None.
        condition: c of every state (B, n_c), or of one row (1, n_c) for the bounds alone.

    Raises:
        AnnealerError: If the machine is not the one that was placed.
    """
    if machine.topology != placement.topology:
        raise AnnealerError("this placement was made for another graph; place the machine that is used")
    gone, rows = torch.from_numpy(placement.missing_nodes), torch.from_numpy(placement.missing_couplers)
    biases = machine.fields(condition).double().cpu().reshape(-1, machine.n_nodes)[:, gone]
    weights = machine.couplings.double().cpu()[rows]
    low = -float(biases.clamp(min=0).sum(dim=1).max()) - float(weights.clamp(min=0).sum())
    high = -float(biases.clamp(max=0).sum(dim=1).min()) - float(weights.clamp(max=0).sum())
    qubits, couplers = placement.lost()
    sizes = (placement.topology.n_nodes, placement.topology.n_edges)
    if states is None:
        return PruningReport(qubits, couplers, *sizes, (low, high))
    bits = states.double().cpu()
    ends = torch.from_numpy(placement.topology.edges.copy())[rows]
    left_out = -(bits[:, gone] * biases).sum(dim=1) - (bits[:, ends[:, 0]] * bits[:, ends[:, 1]]) @ weights
    spread = float(left_out.std()) if len(bits) > 1 else float("nan")
    error = spread / len(bits) ** 0.5
    return PruningReport(qubits, couplers, *sizes, (low, high), float(left_out.mean()), error, spread, len(bits))
