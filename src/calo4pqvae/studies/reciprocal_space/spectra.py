r"""Spectra along a training: what has left the bulk of random couplings.

For two partitions the singular values of the block are tested against the law of Marchenko and Pastur
(:mod:`~calo4pqvae.studies.theory.marchenko_pastur`). For more partitions, and for the sparse graphs of chips, the
eigenvalues of the symmetric coupling matrix take their place. On a complete graph of equal partitions with independent
entries of variance :math:`s^2` they follow a semicircle of radius :math:`2 s \sqrt{(P - 1) n}`, because every row has
the same sum of variances; on a chip there is no closed law, so that the reference is the spectrum of random couplings
on the same graph, and so is the law of the distance from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.theory.marchenko_pastur import BulkFit, RandomBlocks, fit_bulk
from calo4pqvae.studies.theory.modes import coupling_block, coupling_matrix

__all__ = [
    "BlockSpectrum",
    "GraphFit",
    "GraphSpectrum",
    "RandomGraphs",
    "block_spectra",
    "fit_graph",
    "graph_spectra",
    "random_graphs",
    "semicircle_cdf",
]

FloatArray = NDArray[np.float64]

_EDGE_QUANTILE = 0.99  # of the largest eigenvalue of random couplings


@dataclass(frozen=True)
class BlockSpectrum:
    """Singular values of a machine of two partitions.

    Args:
        step: Learning step.
        values: Singular values, falling.
        fit: The law of random blocks, fitted to all of them.
    """

    step: int
    values: FloatArray
    fit: BulkFit


@dataclass(frozen=True)
class RandomGraphs:
    """What independent normal couplings of unit variance on one graph show.

    Args:
        topology: The graph.
        reference: Eigenvalues of half of the draws, rising, at unit root mean square couplings.
        distances: Largest distance of the distribution function of each other draw from that of the reference.
        reach: Largest eigenvalue that one draw in a hundred exceeds.
    """

    topology: Topology
    reference: FloatArray
    distances: FloatArray
    reach: float


@dataclass(frozen=True)
class GraphFit:
    """Eigenvalues of a machine against those of random couplings on its graph.

    Args:
        scale: Root mean square of the couplings.
        distance: Largest distance of the two distribution functions.
        p_value: Share of random draws with a larger distance, counting the machine itself.
        n_outside: Eigenvalues above the largest that random couplings of the size of what is left may have.
        edge: That largest eigenvalue.
        n_draws: Random draws behind the p-value.
    """

    scale: float
    distance: float
    p_value: float
    n_outside: int
    edge: float
    n_draws: int


@dataclass(frozen=True)
class GraphSpectrum:
    """Eigenvalues of the coupling matrix of a machine.

    Args:
        step: Learning step.
        values: Eigenvalues, rising.
        fit: Random couplings on the same graph.
    """

    step: int
    values: FloatArray
    fit: GraphFit


def block_spectra(
    steps: Sequence[int], machines: Sequence[BoltzmannMachine], blocks: RandomBlocks
) -> list[BlockSpectrum]:
    """Singular values of machines of two partitions with their bulk.

    Args:
        steps: Learning step of each machine.
        machines: The machines.
        blocks: Random blocks of their shape.
    """
    values = [np.asarray(np.linalg.svd(coupling_block(machine), compute_uv=False), np.float64) for machine in machines]
    return [BlockSpectrum(step, one, fit_bulk(one, blocks)) for step, one in zip(steps, values, strict=True)]


def random_graphs(topology: Topology, n_draws: int, rng: np.random.Generator) -> RandomGraphs:
    """Draws random couplings on a graph; half of the draws are the reference, half show its fluctuation.

    Args:
        topology: The graph, with couplers.
        n_draws: Draws, at least 38.
        rng: Source of randomness.

    Raises:
        PriorError: If there are too few draws or no couplers.
    """
    if n_draws < 38 or topology.n_edges == 0:
        raise PriorError(f"{n_draws} draws on {topology.n_edges} couplers are no basis for a test; give at least 38")
    first, second = topology.edges.T
    spectra: list[FloatArray] = []
    for _ in range(n_draws):
        matrix = np.zeros((topology.n_nodes, topology.n_nodes))
        matrix[first, second] = rng.normal(size=topology.n_edges)
        values = np.asarray(np.linalg.eigvalsh(matrix + matrix.T), np.float64)
        spectra.append(values / math.sqrt(float((values**2).sum()) / (2 * topology.n_edges)))
    half = n_draws // 2
    reference = np.sort(np.concatenate(spectra[:half]))
    distances = np.array([_distance(values, reference) for values in spectra[half:]])
    reach = float(np.quantile([values[-1] for values in spectra], _EDGE_QUANTILE))
    return RandomGraphs(topology, reference, distances, reach)


def fit_graph(values: FloatArray, graphs: RandomGraphs) -> GraphFit:
    """Compares eigenvalues with those of random couplings on the graph.

    Args:
        values: All eigenvalues of the coupling matrix, rising, shape (N,).
        graphs: Random couplings on the graph of the machine.

    Raises:
        PriorError: If their number does not fit the graph.
    """
    topology = graphs.topology
    if values.shape != (topology.n_nodes,):
        raise PriorError(f"{values.shape} eigenvalues do not belong to {topology.n_nodes} nodes; give them all")
    scale = math.sqrt(float((values**2).sum()) / (2 * topology.n_edges))
    distance = _distance(values / scale, graphs.reference)
    n_outside, edge = _outside(values, graphs)
    beyond = int((graphs.distances >= distance).sum())
    n_draws = len(graphs.distances)
    return GraphFit(scale, distance, (1 + beyond) / (1 + n_draws), n_outside, edge, n_draws)


def graph_spectra(
    steps: Sequence[int], machines: Sequence[BoltzmannMachine], graphs: RandomGraphs
) -> list[GraphSpectrum]:
    """Eigenvalues of the coupling matrices of machines with their bulk.

    Args:
        steps: Learning step of each machine.
        machines: The machines.
        graphs: Random couplings on their graph.
    """
    values = [np.asarray(np.linalg.eigvalsh(coupling_matrix(machine)), np.float64) for machine in machines]
    return [GraphSpectrum(step, one, fit_graph(one, graphs)) for step, one in zip(steps, values, strict=True)]


def semicircle_cdf(values: FloatArray, radius: float) -> FloatArray:
    """Distribution function of Wigner's semicircle.

    Args:
        values: Eigenvalues.
        radius: Its radius.
    """
    share = np.clip(np.asarray(values) / radius, -1, 1)
    return np.asarray(0.5 + (share * np.sqrt(1 - share**2) + np.arcsin(share)) / math.pi)


def _outside(values: FloatArray, graphs: RandomGraphs) -> tuple[int, float]:
    """Eigenvalues beyond the bulk of what is left when they are taken out, one after the other, and its edge."""
    edge = 0.0
    for n_out in range(len(values)):
        rest = values[: len(values) - n_out]
        edge = graphs.reach * math.sqrt(float((rest**2).sum()) / (2 * graphs.topology.n_edges))
        if rest[-1] <= edge:
            return n_out, edge
    return len(values), edge


def _distance(values: FloatArray, reference: FloatArray) -> float:
    law = np.searchsorted(reference, values) / len(reference)
    steps = np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - law).max(), (law - steps[:-1]).max()))
