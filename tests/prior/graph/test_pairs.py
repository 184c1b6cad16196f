"""The sums over couplers by all three ways, against loops over the edge list."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from calo4pqvae.prior.graph.pairs import Neighbours, coupling_field, pair_sums, partition_field, products, sums_at_nodes
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.testing import tiny_machine

TOPOLOGIES = {
    "sparse": tiny_machine(sizes=(5, 4, 6, 3)).topology,
    "dense": complete_topology((2, 3, 1, 4)),
    "bipartite": bipartite_topology(5, 3),
}


def case(topology: Topology) -> tuple[Neighbours, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = torch.rand(7, topology.n_nodes, generator=generator, dtype=torch.float64)
    others = torch.rand(7, topology.n_nodes, generator=generator, dtype=torch.float64)
    couplings = torch.randn(topology.n_edges, generator=generator, dtype=torch.float64)
    return Neighbours.of(topology), states, others, couplings


def loop_field(topology: Topology, states: Tensor, couplings: Tensor) -> Tensor:
    field = torch.zeros_like(states)
    for (i, j), strength in zip(topology.edges.tolist(), couplings, strict=True):
        field[:, i] += strength * states[:, j]
        field[:, j] += strength * states[:, i]
    return field


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_sums_follow_the_edge_list(topology: Topology) -> None:
    neighbours, states, others, couplings = case(topology)
    expected = loop_field(topology, states, couplings)
    torch.testing.assert_close(coupling_field(states, couplings, neighbours), expected)
    for nodes in topology.slices:
        torch.testing.assert_close(partition_field(states, couplings, neighbours, nodes), expected[:, nodes])
    torch.testing.assert_close(sums_at_nodes(couplings, states[0], neighbours), expected[0])
    edges = topology.edges.tolist()
    torch.testing.assert_close(
        pair_sums(states, others, neighbours), torch.stack([(states[:, i] * others[:, j]).sum() for i, j in edges])
    )
    torch.testing.assert_close(
        products(states[0], others[0], neighbours), torch.stack([states[0, i] * others[0, j] for i, j in edges])
    )


def test_only_the_whole_bipartite_graph_is_a_matrix() -> None:
    whole = bipartite_topology(4, 3)
    lacking = Topology("lacking", (4, 3), whole.edges[1:])
    assert Neighbours.of(whole).block == (4, 3)
    assert Neighbours.of(whole).to(torch.device("cpu")).block == (4, 3)
    assert Neighbours.of(lacking).block is None
    assert Neighbours.of(complete_topology((2, 2, 2))).block is None


def test_the_matrix_way_has_the_derivatives_of_the_list() -> None:
    neighbours, states, _, couplings = case(TOPOLOGIES["bipartite"])
    slopes = []
    for way in (neighbours, replace(neighbours, block=None)):
        z, w = states.clone().requires_grad_(), couplings.clone().requires_grad_()
        coupling_field(z, w, way).square().sum().backward()
        slopes.append((z.grad, w.grad))
    torch.testing.assert_close(slopes[0], slopes[1])
