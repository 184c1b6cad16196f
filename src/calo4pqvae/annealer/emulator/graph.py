"""Working graphs of emulated chips, and the properties that an emulated solver shows.

An emulated chip has as many working qubits and couplers as the documented one, or the same shares of a smaller graph.
Which ones are broken is drawn once for each name and size: it is **not** the working graph of the real chip.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from calo4pqvae.annealer.chip.limits import coupling_groups
from calo4pqvae.annealer.chip.problem import IntArray
from calo4pqvae.annealer.chip.table import DEFAULT_ANNEAL_US, DEFAULT_THERMALIZATION_US, Chip
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import MissingParts, chip_topology
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.seeds import derive_seed

__all__ = ["WorkingGraph", "broken_graph", "listed_graph", "solver_properties", "whole_graph"]


@dataclass(frozen=True, eq=False)
class WorkingGraph:
    """Working qubits and couplers of an emulated chip.

    Args:
        entry: The chip whose numbers hold.
        m: Size of the ideal graph, which may be smaller than the chip's.
        topology: Working qubits in four partitions, with their labels, and working couplers.
    """

    entry: Chip
    m: int
    topology: Topology

    @property
    def n_labels(self) -> int:
        """Labels of the ideal graph, working or not: the length of a list of flux biases."""
        m, t = self.m, self.entry.t
        return 4 * t * m * (2 * m + 1) if self.entry.family == "zephyr" else 24 * m * (m - 1)

    @cached_property
    def labels(self) -> IntArray:
        """Label of every node of the topology."""
        return np.array(self.topology.node_labels, dtype=np.int64)

    @cached_property
    def qubits(self) -> list[int]:
        """Labels, sorted."""
        return sorted(self.topology.node_labels)

    @cached_property
    def couplers(self) -> list[tuple[int, int]]:
        """Pairs of labels, sorted."""
        pairs = np.sort(self.labels[self.topology.edges].reshape(-1, 2), axis=1)
        return sorted((int(a), int(b)) for a, b in pairs)

    @property
    def graph_id(self) -> str:
        """Short name of the content; it changes when a qubit is lost."""
        text = repr((self.entry.name, self.m, self.qubits, self.couplers)).encode()
        return "emulated-" + hashlib.sha256(text).hexdigest()[:10]

    def without(self, qubits: Iterable[int]) -> "WorkingGraph":
        """The graph after the loss of qubits."""
        kept = set(self.qubits) - set(qubits)
        couplers = [pair for pair in self.couplers if pair[0] in kept and pair[1] in kept]
        return listed_graph(self.entry, self.m, sorted(kept), couplers)


def listed_graph(
    entry: Chip, m: int, qubits: Iterable[int] | None = None, couplers: Iterable[Sequence[int]] | None = None
) -> WorkingGraph:
    """The working graph with the given qubits and couplers.

    Args:
        entry: The chip.
        m: Size of the ideal graph.
        qubits: Working qubits; all if None.
        couplers: Working couplers, in any order of the ends; all between working qubits if None.

    Raises:
        AnnealerError: If a part is not on the ideal graph, or nothing is left of a partition.
    """
    whole = _whole(entry, m)
    kept = set(whole.qubits) if qubits is None else {int(qubit) for qubit in qubits}
    if kept - set(whole.qubits) or not kept:
        strange = sorted(kept - set(whole.qubits))[:3]
        raise AnnealerError(
            f"qubits {strange} are not on {entry.family} m={m}, or none is listed; correct the nodelist"
        )
    between = {pair for pair in whole.couplers if pair[0] in kept and pair[1] in kept}
    works = between if couplers is None else {(min(pair), max(pair)) for pair in couplers}
    if works - between:
        strange_pair = min(works - between)
        raise AnnealerError(
            f"coupler {strange_pair} does not join working qubits of {entry.family} m={m}; correct the list"
        )
    if len(kept) == len(whole.qubits) and works == between:
        return whole
    dead = MissingParts(tuple(sorted(set(whole.qubits) - kept)), tuple(sorted(between - works)))
    return WorkingGraph(entry, m, chip_topology(entry.family, m, t=entry.t, missing=dead))


def broken_graph(entry: Chip, m: int | None = None) -> WorkingGraph:
    """A working graph with the documented share of broken parts.

    Args:
        entry: The chip.
        m: Size of the ideal graph; that of the chip if None.
    """
    size = entry.m if m is None else m
    whole = _whole(entry, size)
    nominal = _whole(entry, entry.m).topology
    rng = np.random.default_rng(derive_seed(0, "broken parts", entry.name, size))
    n_dead = round(len(whole.qubits) * (1 - entry.n_qubits / nominal.n_nodes))
    dead = rng.choice(whole.qubits, size=n_dead, replace=False)
    couplers = np.array(whole.couplers, dtype=np.int64)
    couplers = couplers[~np.isin(couplers, dead).any(axis=1)]
    wanted = round(whole.topology.n_edges * entry.n_couplers / nominal.n_edges)
    broken = couplers[rng.choice(len(couplers), size=max(0, len(couplers) - wanted), replace=False)]
    parts = MissingParts(tuple(dead.tolist()), tuple((int(a), int(b)) for a, b in broken))
    return WorkingGraph(entry, size, chip_topology(entry.family, size, t=entry.t, missing=parts))


def whole_graph(entry: Chip, m: int | None = None) -> WorkingGraph:
    """The ideal graph, nothing broken.

    Args:
        entry: The chip.
        m: Size of the graph; that of the chip if None.
    """
    return _whole(entry, entry.m if m is None else m)


@lru_cache(maxsize=4)
def _whole(entry: Chip, m: int) -> WorkingGraph:
    return WorkingGraph(entry, m, chip_topology(entry.family, m, t=entry.t))


def solver_properties(graph: WorkingGraph) -> dict[str, Any]:
    """Properties in the words of a D-Wave solver, marked as emulated."""
    entry = graph.entry
    shape = [graph.m, entry.t] if entry.family == "zephyr" else [graph.m]
    properties: dict[str, Any] = {
        "chip_id": f"emulated-{entry.name}",
        "category": "emulator",
        "emulated": True,
        "graph_id": graph.graph_id,
        "topology": {"type": entry.family, "shape": shape},
        "num_qubits": graph.n_labels,
        "qubits": list(graph.qubits),
        "couplers": list(graph.couplers),
        "supported_problem_types": ["ising", "qubo"],
        "h_range": list(entry.h_range),
        "j_range": [-1.0, 1.0],
        "extended_j_range": list(entry.j_range),
        "num_reads_range": list(entry.num_reads_range),
        "annealing_time_range": list(entry.annealing_range_us),
        "fast_anneal_time_range": list(entry.fast_annealing_range_us),
        "default_annealing_time": DEFAULT_ANNEAL_US,
        "programming_thermalization_range": list(entry.thermalization_range_us),
        "default_programming_thermalization": DEFAULT_THERMALIZATION_US,
        "readout_thermalization_range": list(entry.thermalization_range_us),
        "default_readout_thermalization": 0.0,
        "problem_run_duration_range": [0.0, entry.run_limit_us],
    }
    if entry.per_qubit_range is not None:
        properties["per_qubit_coupling_range"] = list(entry.per_qubit_range)
    if entry.per_group_range is not None:
        properties["per_group_coupling_range"] = list(entry.per_group_range)
        properties["coupling_groups"] = _groups(graph)
    return properties


def _groups(graph: WorkingGraph) -> list[list[tuple[int, int]]]:
    pairs = np.array(graph.couplers, dtype=np.int64).reshape(-1, 2)
    groups: dict[int, list[tuple[int, int]]] = {}
    for pair, keys in zip(graph.couplers, coupling_groups(pairs, graph.m, graph.entry.t).tolist(), strict=True):
        for key in keys:
            groups.setdefault(key, []).append(pair)
    return [groups[key] for key in sorted(groups)]
