r"""Exact draws and exact partition functions of machines whose graph is nearly a tree.

Bits are summed out one after the other. Summing out bit :math:`v` couples those of its neighbours that are still
there, the set :math:`S_v`:

.. math:: \phi_v(z_v, z_{S_v}) = \beta f_v z_v + \beta \sum_{j \in S_v} W_{vj} z_v z_j + \sum_u m_u, \qquad
    m_v(z_{S_v}) = \ln \sum_{z_v} e^{\phi_v(z_v, z_{S_v})},

the last sum over the messages of bits summed out before whose set has :math:`v` as its first member. What remains at
the end is :math:`\ln Z`. In the reverse order :math:`p(z_v = 1 | z_{S_v}) = \sigma(\phi_v(1) - \phi_v(0))` gives
independent draws from the exact law. This is bucket elimination (Dechter 1999, doi 10.1016/S0004-3702(99)00059-4).

A table has :math:`2^{|S_v|}` numbers, so all depends on the order. The next bit is always the one that couples the
fewest new pairs (minimum fill), ties by number; the largest :math:`|S_v|` is the *width*. Chains have width 1, grids
their shorter side, a Pegasus P2 chip with 40 qubits 9; real chips are out of reach. Held bits cost nothing:
clamping makes graphs narrower. All numbers are float64.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import check_call, clamp_mask, distinct_laws, fair_coins
from calo4pqvae.prior.sampling.gibbs import GibbsState

__all__ = ["MAX_WIDTH", "EliminationOrder", "TreewidthSampler", "elimination_order", "treewidth_log_z"]

FloatArray = NDArray[np.float64]

MAX_WIDTH = 22
_MOST_ENTRIES = 1 << 23  # of all tables that are held at a time, 64 MiB


@dataclass(frozen=True)
class EliminationOrder:
    """In which order the free bits are summed out.

    Args:
        nodes: Free bits, the first summed out first.
        later: S_v of each of them, in the same order.
    """

    nodes: tuple[int, ...]
    later: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Largest S_v; tables have 2 ** width numbers."""
        return max((len(scope) for scope in self.later), default=0)

    @property
    def n_entries(self) -> int:
        """Numbers in all tables together."""
        return sum(2 ** len(scope) for scope in self.later)


def elimination_order(
    topology: Topology, clamped: Tensor | NDArray[np.bool_] | None = None, max_width: int = MAX_WIDTH
) -> EliminationOrder:
    """Minimum-fill order of the free bits.

    Args:
        topology: The graph.
        clamped: Mask (N,) of the held bits.
        max_width: Largest width to allow.

    Raises:
        PriorError: If the width exceeds the limit, or the mask does not fit.
    """
    held = clamp_mask(clamped, topology.n_nodes).numpy()
    graph: dict[int, set[int]] = {int(node): set() for node in np.flatnonzero(~held)}
    for i, j in topology.edges[~held[topology.edges].any(axis=1)].tolist():
        graph[i].add(j)
        graph[j].add(i)
    fill = {node: _fill(graph, node) for node in graph}
    queue = [(fill[node], node) for node in graph]  # entries outlive changes; those that no longer hold are skipped
    heapify(queue)
    nodes, scopes = [], []
    while graph:
        n_new, node = heappop(queue)
        if fill.get(node) != n_new:
            continue
        scope = graph.pop(node)
        del fill[node]
        if len(scope) > max_width:
            raise PriorError(
                f"the graph is too wide for exact sums: {len(scope)} bits are coupled at once, the limit is "
                f"{max_width}; clamp more bits, or draw with a Markov chain"
            )
        for neighbour in scope:
            graph[neighbour] |= scope - {neighbour}
            graph[neighbour].discard(node)
        around = set().union(*(graph[member] for member in scope)) - scope
        for near in scope | {node for node in around if len(graph[node] & scope) > 1}:
            fill[near] = _fill(graph, near)
            heappush(queue, (fill[near], near))
        nodes.append(node)
        scopes.append(scope)
    place = {node: index for index, node in enumerate(nodes)}
    return EliminationOrder(tuple(nodes), tuple(tuple(sorted(scope, key=place.__getitem__)) for scope in scopes))


class TreewidthSampler:
    """Independent draws from the exact law of a machine of small width; holds no generator.

    Chains with equal held bits and condition share one elimination; a call with many different ones takes as many.

    Args:
        machine: The machine; its parameters are read anew at every call.
        max_width: Largest width to allow; memory and time double with every step.
    """

    def __init__(self, machine: BoltzmannMachine, max_width: int = MAX_WIDTH) -> None:
        self.machine = machine
        self.max_width = max_width

    def init(self, n_chains: int, generator: torch.Generator) -> GibbsState:
        """Fair coins, which carry the held bits if some are set and are forgotten otherwise.

        Args:
            n_chains: Number of draws, at least one.
            generator: Source of randomness, on the machine's device.

        Raises:
            PriorError: If there is no chain.
        """
        return GibbsState(fair_coins(self.machine, n_chains, generator))

    @torch.no_grad()
    def sample(
        self,
        state: GibbsState,
        n_sweeps: int,
        generator: torch.Generator,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
        beta: float = 1.0,
    ) -> GibbsState:
        """Fresh independent draws.

        Args:
            state: Gives the number of draws and the values of held bits; its free bits are not used.
            n_sweeps: 0 gives the state back; any other number gives one draw a chain.
            generator: Source of randomness, on the machine's device.
            clamped: Mask (N,) of the bits to hold.
            condition: c of every draw, shape (chains, n_c), if the machine has a condition.
            beta: Inverse temperature.

        Raises:
            PriorError: If the width exceeds the limit, a shape does not fit, a parameter is not finite, or
                ``n_sweeps`` is negative.
        """
        problem = _Problem.of(self.machine, state, n_sweeps, clamped, condition, beta, self.max_width)
        if n_sweeps == 0:
            return state
        draws = state.states.detach().cpu().numpy().astype(np.int64)
        for first, tables in problem.tables():
            rows = np.flatnonzero((problem.group >= first) & (problem.group < first + len(tables.log_z)))
            noise_shape = (len(problem.order.nodes), len(rows))
            noise = torch.rand(noise_shape, generator=generator, dtype=torch.float64, device=self.machine.device)
            draws[rows] = tables.draw(problem.order, draws[rows], problem.group[rows] - first, noise.cpu().numpy())
        return GibbsState(torch.from_numpy(draws).to(self.machine.device))

    @torch.no_grad()
    def log_z(
        self,
        state: GibbsState,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
        beta: float = 1.0,
    ) -> Tensor:
        """Logarithm of the sum of exp(-beta E) over the free bits of every chain, shape (chains,), float64, in nats.

        Args:
            state: Gives the values of held bits.
            clamped: Mask (N,) of the held bits, whose own energy counts.
            condition: c of every chain, shape (chains, n_c), if the machine has a condition.
            beta: Inverse temperature.

        Raises:
            PriorError: If the width exceeds the limit, a shape does not fit or a parameter is not finite.
        """
        problem = _Problem.of(self.machine, state, 0, clamped, condition, beta, self.max_width)
        sums = np.concatenate([tables.log_z for _, tables in problem.tables()])
        return torch.from_numpy((sums + problem.constant)[problem.group])


def treewidth_log_z(
    machine: BoltzmannMachine,
    condition: Tensor | None = None,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    values: Tensor | None = None,
    beta: float = 1.0,
    max_width: int = MAX_WIDTH,
) -> float:
    """Logarithm of the sum of exp(-beta E) over the free bits, in nats; as ``enumerate_machine(...).log_z``.

    Args:
        machine: The machine.
        condition: c, shape (n_c,), if the machine has one.
        clamped: Mask (N,) of the bits to hold; none if None.
        values: Bits (N,); those under the mask are used.
        beta: Inverse temperature.
        max_width: Largest width to allow.

    Raises:
        PriorError: If the width exceeds the limit, or a mask comes without values or with a wrong shape.
    """
    if (clamped is None) != (values is None):
        raise PriorError("clamping needs a mask and values; give both or neither")
    bits = torch.zeros(machine.n_nodes) if values is None else values
    if bits.shape != (machine.n_nodes,):
        raise PriorError(f"values have shape {tuple(bits.shape)}; give {machine.n_nodes} bits")
    rows = None if condition is None else condition[None]
    return float(TreewidthSampler(machine, max_width).log_z(GibbsState(bits[None]), clamped, rows, beta))


@dataclass(frozen=True)
class _Tables:
    """Result of an elimination for G laws at once."""

    log_z: FloatArray  # (G,), without the held part
    log_odds: tuple[FloatArray, ...]  # of each bit given S_v, (G, 2 ** |S_v|), first member slowest

    def draw(
        self, order: EliminationOrder, states: NDArray[np.int64], group: NDArray[np.int64], noise: FloatArray
    ) -> NDArray[np.int64]:
        """Free bits drawn into states (n, N), the last summed out first; noise (free bits, n)."""
        steps = zip(order.nodes, order.later, self.log_odds, noise, strict=True)
        for node, scope, log_odds, uniform in reversed(list(steps)):
            place = np.zeros(len(states), dtype=np.int64)
            for member in scope:
                place = 2 * place + states[:, member]
            states[:, node] = uniform < _sigmoid(log_odds[group, place])
        return states


@dataclass(frozen=True)
class _Problem:
    """What is to be summed: fields of the free bits in G different laws."""

    order: EliminationOrder
    couplings: dict[tuple[int, int], float]  # beta W of free pairs, both ways
    fields: FloatArray  # beta times field with the held neighbours, (G, N)
    constant: FloatArray  # -beta times energy of the held bits, (G,)
    group: NDArray[np.int64]  # law of every chain

    @classmethod
    def of(
        cls,
        machine: BoltzmannMachine,
        state: GibbsState,
        n_sweeps: int,
        clamped: Tensor | NDArray[np.bool_] | None,
        condition: Tensor | None,
        beta: float,
        max_width: int,
    ) -> "_Problem":
        check_call(machine, state.states, n_sweeps, condition)
        mask = clamp_mask(clamped, machine.n_nodes)
        order = elimination_order(machine.topology, mask, max_width)
        member, group = distinct_laws(state.states, mask, condition)
        held = (state.states.detach().cpu()[member].double() * mask).numpy()
        biases = np.tile(beta * machine.biases.detach().cpu().double().numpy(), (len(member), 1))
        if condition is not None and machine.condition_weights is not None:
            weights = machine.condition_weights.detach().cpu().double().numpy()
            biases += beta * condition.detach().cpu()[member].double().numpy() @ weights
        ends, couplings = machine.topology.edges, beta * machine.couplings.detach().cpu().double().numpy()
        fields = biases.copy()
        np.add.at(fields.T, ends[:, 0], (held[:, ends[:, 1]] * couplings).T)
        np.add.at(fields.T, ends[:, 1], (held[:, ends[:, 0]] * couplings).T)
        pairs = {(i, j): w for (i, j), w in zip(ends.tolist(), couplings.tolist(), strict=True)}
        pairs |= {(j, i): w for (i, j), w in pairs.items()}
        return cls(order, pairs, fields, (held * (biases + fields) / 2).sum(axis=1), group.numpy())

    def tables(self) -> Iterable[tuple[int, _Tables]]:
        """Eliminations of as many laws at a time as fit into memory, each with the number of its first law."""
        step = max(1, _MOST_ENTRIES // max(1, self.order.n_entries))
        for first in range(0, len(self.fields), step):
            yield first, self._eliminated(self.fields[first : first + step])

    def _eliminated(self, fields: FloatArray) -> _Tables:
        messages: dict[int, list[tuple[tuple[int, ...], FloatArray]]] = {node: [] for node in self.order.nodes}
        log_z, log_odds = np.zeros(len(fields)), []
        for node, scope in zip(self.order.nodes, self.order.later, strict=True):
            own, kept = self._own_odds(node, scope, fields), np.zeros((len(fields), *[1] * len(scope)))
            for senders, message in messages.pop(node):
                shape = [2 if member in senders else 1 for member in scope]
                off, on = message[:, 0], message[:, 1]
                own = own + (on - off).reshape(len(fields), *shape)
                kept = kept + off.reshape(len(fields), *shape)
            log_odds.append(np.broadcast_to(own, (len(fields), *[2] * len(scope))).reshape(len(fields), -1))
            total = np.broadcast_to(kept + np.logaddexp(0.0, own), (len(fields), *[2] * len(scope)))
            if scope:
                messages[scope[0]].append((scope, total))
            else:
                log_z = log_z + total
        return _Tables(log_z, tuple(log_odds))

    def _own_odds(self, node: int, scope: tuple[int, ...], fields: FloatArray) -> FloatArray:
        """Field and couplers of a bit to those after it, (G, 2, ..., 2) or broadcast to it."""
        odds = fields[:, node].reshape(-1, *[1] * len(scope))
        for axis, member in enumerate(scope):
            weight = self.couplings.get((node, member), 0.0)
            if weight != 0:
                shape = [1, *[2 if index == axis else 1 for index in range(len(scope))]]
                odds = odds + np.array([0.0, weight]).reshape(shape)
        return odds


def _fill(graph: dict[int, set[int]], node: int) -> int:
    """Pairs of neighbours that summing out a node would couple anew."""
    scope = graph[node]
    present = sum(len(graph[member] & scope) for member in scope)
    return (len(scope) * (len(scope) - 1) - present) // 2


def _sigmoid(values: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.tanh(values / 2)
