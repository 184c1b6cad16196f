r"""Two-partite machines on a chip by minor embedding: each bit becomes a chain of qubits.

A restricted Boltzmann machine couples every visible to every hidden bit, which no chip does. A chain is a connected set
of qubits that are made to agree by couplings :math:`-c`, the chain strength:

.. math:: h_q = \frac{h_i}{|C_i|}, \qquad J_{qr} = \frac{J_{ij}}{|K_{ij}|}, \qquad J_{qq'} = -c,

for qubits q of chain :math:`C_i`, the couplers :math:`K_{ij}` between two chains and those inside one. While no chain
is broken, H differs by :math:`-c` for every coupler inside a chain, which the constant takes up. A weak chain breaks; a
strong one costs range, which is paid in temperature since all numbers are scaled to fit. The default is

.. math:: c = 1.414 \, \mathrm{rms}(J) \, \sqrt{\bar d}

with the mean degree :math:`\bar d`, as for D-Wave's "uniform torque compensation". Broken chains are read by majority,
ties by a coin, and counted: reads with broken chains do not follow the law of the machine even on a perfect chip.

Chains are found by the polynomial search of minorminer for bicliques (Boothby, King and Roy 2016, doi
10.1007/s11128-015-1150-6), which knows the graphs of chips with missing parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.annealer.chip.problem import IntArray, IsingProblem
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import Family
from calo4pqvae.prior.graph.topology import Topology

__all__ = ["ChainBreaks", "Embedding", "chain_strength", "embed", "embedded_problem", "majority_vote"]

_PREFACTOR = 1.414


@dataclass(frozen=True, eq=False)
class Embedding:
    """Chains of qubits on a chip.

    Args:
        chains: Qubits of every node of the machine.
        couplers: Couplers of the chip among all these qubits, shape (M, 2), as labels.

    Raises:
        AnnealerError: If a chain is empty or not connected, or two share a qubit.
    """

    chains: tuple[tuple[int, ...], ...]
    couplers: IntArray

    def __post_init__(self) -> None:
        used = [qubit for chain in self.chains for qubit in chain]
        if len(set(used)) != len(used) or not all(self.chains):
            raise AnnealerError("chains must have a qubit each and share none; embed the machine anew")
        owner = {qubit: node for node, chain in enumerate(self.chains) for qubit in chain}
        kept = [pair for pair in np.asarray(self.couplers).reshape(-1, 2).tolist() if set(pair) <= owner.keys()]
        couplers = np.array(kept, dtype=np.int64).reshape(-1, 2)
        object.__setattr__(self, "couplers", couplers)
        inside: list[list[tuple[int, int]]] = [[] for _ in self.chains]
        for first, second in kept:
            if owner[first] == owner[second]:
                inside[owner[first]].append((first, second))
        for node, (chain, pairs) in enumerate(zip(self.chains, inside, strict=True)):
            if not _is_connected(chain, pairs):
                raise AnnealerError(f"the chain of node {node}, qubits {list(chain)}, is not connected; embed anew")

    @property
    def qubits(self) -> IntArray:
        """All qubits, chain after chain."""
        return np.array([qubit for chain in self.chains for qubit in chain], dtype=np.int64)

    @property
    def owner(self) -> IntArray:
        """Node of every qubit, in the same order."""
        return np.repeat(np.arange(len(self.chains)), [len(chain) for chain in self.chains])

    @property
    def longest(self) -> int:
        """Qubits of the longest chain."""
        return max(len(chain) for chain in self.chains)


@dataclass(frozen=True, eq=False)
class ChainBreaks:
    """Logical bits of embedded reads, and how many chains were broken.

    Args:
        bits: Bits of the machine by majority, shape (reads, N).
        is_broken: Which chains of which reads did not agree, shape (reads, N).
    """

    bits: NDArray[np.uint8]
    is_broken: NDArray[np.bool_]

    @property
    def n_reads(self) -> int:
        """Number of reads."""
        return len(self.bits)

    @property
    def rate(self) -> float:
        """Share of broken chains among all chains of all reads."""
        return float(self.is_broken.mean())

    @property
    def rate_error(self) -> float:
        """Standard error of :attr:`rate`, reads taken as independent, chains of one read not."""
        return float(self.is_broken.mean(axis=1).std(ddof=1) / np.sqrt(self.n_reads)) if self.n_reads > 1 else np.nan

    @property
    def by_chain(self) -> NDArray[np.float64]:
        """Share of reads in which each chain is broken, shape (N,)."""
        return np.asarray(self.is_broken.mean(axis=0), dtype=np.float64)

    @property
    def is_clean(self) -> NDArray[np.bool_]:
        """Reads without a broken chain, shape (reads,)."""
        return np.asarray(~self.is_broken.any(axis=1), dtype=np.bool_)

    @property
    def clean_share(self) -> float:
        """Share of reads without a broken chain."""
        return float(self.is_clean.mean())


def embed(
    topology: Topology,
    family: Family,
    m: int,
    qubits: Iterable[int],
    couplers: Iterable[Sequence[int]],
    t: int = 4,
) -> Embedding:
    """Chains for a machine of two partitions.

    Args:
        topology: Graph of the machine.
        family: Family of the chip.
        m: Size of its ideal graph.
        qubits: Working qubits (``nodelist``).
        couplers: Working couplers (``edgelist``).
        t: Tile parameter of Zephyr chips.

    Raises:
        AnnealerError: If the machine has not two partitions, does not fit the chip, or minorminer is not installed.
    """
    if topology.n_partitions != 2:
        raise AnnealerError(
            f"{topology.name} has {topology.n_partitions} partitions, and two can be embedded; place it node by node"
        )
    working = [(int(a), int(b)) for a, b in couplers]
    chains = _bicliques(_graph(family, m, t, list(qubits), working)).find_biclique_embedding(*topology.sizes)
    if not chains:
        raise AnnealerError(
            f"a biclique of {topology.sizes[0]} x {topology.sizes[1]} does not fit the {family} m={m} working graph; "
            "use fewer bits or a larger chip"
        )
    ordered = tuple(tuple(int(qubit) for qubit in chains[node]) for node in range(topology.n_nodes))
    return Embedding(ordered, np.array(working, dtype=np.int64))


def _graph(family: Family, m: int, t: int, qubits: list[int], couplers: list[tuple[int, int]]) -> Any:  # noqa: ANN401
    from dwave.graphs import pegasus_graph, zephyr_graph

    if family == "zephyr":
        return zephyr_graph(m, t, node_list=qubits, edge_list=couplers)
    return pegasus_graph(m, node_list=qubits, edge_list=couplers)


def _bicliques(graph: Any) -> Any:  # noqa: ANN401
    try:
        search = import_module("minorminer.busclique")
    except ImportError as error:
        raise AnnealerError(
            "minor embedding needs minorminer, which is not installed: pip install minorminer"
        ) from error
    return search.busgraph_cache(graph)


def chain_strength(problem: IsingProblem, prefactor: float = _PREFACTOR) -> float:
    r"""The default chain strength, prefactor x rms(J) x sqrt(mean degree); 1 for a problem without couplings.

    Args:
        problem: The logical problem.
        prefactor: Its factor, usefully 0.5 to 2.
    """
    used = problem.couplings[problem.couplings != 0]
    if not used.size:
        return 1.0
    mean_degree = 2 * used.size / problem.n_qubits
    return float(prefactor * np.sqrt(np.mean(used**2)) * np.sqrt(mean_degree))


def embedded_problem(problem: IsingProblem, embedding: Embedding, strength: float | None = None) -> IsingProblem:
    """The problem over the qubits of the chains, in the order of ``embedding.qubits``.

    Args:
        problem: The logical problem, its rows the nodes of the machine.
        embedding: The chains.
        strength: Chain strength c in units of J; the default of :func:`chain_strength` if None.

    Returns:
        The physical problem, whose energy equals that of the machine while no chain is broken.

    Raises:
        AnnealerError: If the embedding is of another machine, lacks a coupler, or the strength is not positive.
    """
    if problem.n_qubits != len(embedding.chains):
        raise AnnealerError(f"{len(embedding.chains)} chains for {problem.n_qubits} nodes; embed this machine")
    c = chain_strength(problem) if strength is None else strength
    if not np.isfinite(c) or c <= 0:
        raise AnnealerError(f"a chain strength of {c:g} holds no chain; give a positive number")
    qubits, owner = embedding.qubits, embedding.owner
    row = {int(qubit): index for index, qubit in enumerate(qubits)}
    edges = np.array([[row[a], row[b]] for a, b in embedding.couplers.tolist()], dtype=np.int64).reshape(-1, 2)
    ends = np.sort(owner[edges], axis=1)
    is_inside = ends[:, 0] == ends[:, 1]
    couplings = _spread(problem, ends)
    couplings[is_inside] = -c
    kept = is_inside | (couplings != 0)
    return IsingProblem(
        fields=problem.fields[owner] / np.bincount(owner)[owner],
        couplings=couplings[kept],
        edges=edges[kept],
        constant=problem.constant + problem.beta * c * int(is_inside.sum()),
        beta=problem.beta,
        qubits=qubits,
    )


def _spread(problem: IsingProblem, ends: IntArray) -> NDArray[np.float64]:
    """Share of the logical coupling on each coupler between chains, by the nodes of its ends (M, 2)."""
    n = problem.n_qubits
    logical = np.sort(problem.edges, axis=1)
    value = dict(zip((logical[:, 0] * n + logical[:, 1]).tolist(), problem.couplings.tolist(), strict=True))
    keys = ends[:, 0] * n + ends[:, 1]
    kinds, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    lacking = [key for key in set(value) - set(kinds.tolist()) if value[key] != 0]
    if lacking:
        pair = divmod(min(lacking), n)
        raise AnnealerError(
            f"{len(lacking)} couplings have no coupler between their chains, among them {pair}; "
            "embed on the graph of today"
        )
    shares = np.array([value.get(key, 0.0) for key in kinds.tolist()]) / counts
    return np.asarray(shares[place], dtype=np.float64)


def majority_vote(bits: ArrayLike, embedding: Embedding, rng: np.random.Generator) -> ChainBreaks:
    """Bits of the machine from bits of the qubits.

    Args:
        bits: Reads in the order of ``embedding.qubits``, shape (reads, qubits).
        embedding: The chains.
        rng: Source of the coins that settle ties.

    Raises:
        AnnealerError: If the reads do not fit the chains.
    """
    values = np.asarray(bits)
    lengths = np.array([len(chain) for chain in embedding.chains])
    if values.ndim != 2 or values.shape[1] != lengths.sum():
        raise AnnealerError(f"reads have shape {values.shape}; they must be (reads, {lengths.sum()}), one bit a qubit")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    ones = np.add.reduceat(values.astype(np.int64), starts, axis=1)
    coins = rng.integers(0, 2, size=ones.shape)
    voted = np.where(2 * ones == lengths, coins, 2 * ones > lengths)
    return ChainBreaks(voted.astype(np.uint8), (ones != 0) & (ones != lengths))


def _is_connected(chain: Sequence[int], pairs: Sequence[tuple[int, int]]) -> bool:
    reached, border = {chain[0]}, [chain[0]]
    while border:
        node = border.pop()
        near = {other for pair in pairs if node in pair for other in pair} - reached
        reached |= near
        border.extend(near)
    return reached == set(chain)
