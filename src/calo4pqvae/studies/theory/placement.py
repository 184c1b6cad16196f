r"""Where a machine stands in the diagram of Sherrington and Kirkpatrick, and its own replica-symmetric law.

**Coordinates.** The diagram is that of :math:`\pm 1` spins on a complete graph. Its axes for a machine of N units whose
couplers have mean :math:`J_0` and standard deviation J are

.. math:: \tilde J_0 = N J_0, \qquad \tilde J = \sqrt N J \qquad (\text{complete graph}),

at kT = 1. Two things must be said with every point. *Units*: a coupling W of bits is J = W/4 between spins. *Form*: in
a graph of partitions only pairs across partitions exist. Let :math:`\bar J_{pq}` and :math:`\overline{J^2}_{pq}` be the
mean and the variance over all pairs of two partitions, missing couplers counted as zeros. Then the linear stability of
the paramagnet of zero-field spins gives the same lines as on the complete graph, at

.. math:: \tilde J_0 = \lambda_{\max}\big(\bar J_{pq}\, n_q\big), \qquad
    \tilde J^2 = \lambda_{\max}\big(\overline{J^2}_{pq}\, n_q\big) :

:math:`\tilde J = s (n_v n_h)^{1/4}` for two partitions, :math:`s \sqrt{3 n}` for four equal ones. With equal
partitions all order parameters coincide with those of the complete graph, not only the lines.

**Fields.** Zero bias on bits is not zero field on spins: the map gives :math:`h_i = b_i/2 + \sum_j W_{ij}/4`, which
is large and tied to the couplings. So the law of bits with independent couplings is solved on bits. Replicas share
:math:`Q_p = \overline{\langle z \rangle^2}`, and because :math:`z^2 = z` the mean :math:`\rho_p = \overline{\langle z
\rangle}` enters as well:

.. math:: \rho_p = \overline{\int Dz\, \sigma(u)}, \quad Q_p = \overline{\int Dz\, \sigma(u)^2}, \quad
    u = b_i + \sum_q n_q \bar W_{pq} \rho_q + \tfrac12 \sum_q n_q \overline{W^2}_{pq} (\rho_q - Q_q)
    + z \sqrt{\textstyle\sum_q n_q \overline{W^2}_{pq} Q_q},

the bar over the biases of a partition. One order parameter is enough while the largest eigenvalue of
:math:`n_q \overline{W^2}_{pq} \overline{\int Dz\, [\sigma (1 - \sigma)]^2}_q` is below one (the condition of de
Almeida and Thouless). A trained machine's couplings are not independent; how far its measured overlaps are from this
law says how much structure it has learned.

**Leading mode.** Mean and variance of the couplings are blind to learned patterns. A pattern :math:`\xi` of signs adds
:math:`J_{ij} \propto \xi_i \xi_j`; the gauge :math:`s_i \to \xi_i s_i` (Mattis) turns it into a ferromagnet of
strength :math:`\tilde J_0`. In a bulk of spread :math:`\tilde J` its eigenvalue in the coupling matrix of the spins is
:math:`\lambda = \tilde J_0 + \tilde J^2 / \tilde J_0` if :math:`\tilde J_0 > \tilde J`; below, it drowns in the bulk,
whose edge is at :math:`2 \tilde J` (Baik, Ben Arous and Péché; exact for equal partitions, all pairs coupled). So the
largest eigenvalue, solved for :math:`\tilde J_0`, with what is left of the variance without that mode as :math:`\tilde
J`, is a third point for every machine. Other patterns count as bulk in it.

Sherrington and Kirkpatrick, Phys. Rev. Lett. 35 (1975) 1792; Bates, Sloman and Sohn, J. Stat. Phys. 174 (2019) 333,
arXiv 1810.08261 (several species); Hartnett, Parker and Geist, arXiv 1803.06442 (two partitions).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.theory.modes import coupling_matrix

__all__ = [
    "BitOrder",
    "BlockStatistics",
    "DiagramPoint",
    "UnitKind",
    "bit_order",
    "block_statistics",
    "mode_point",
    "paramagnet_susceptibility",
    "place",
]

FloatArray = NDArray[np.float64]
UnitKind = Literal["bits", "spins", "mode"]

_HERMITE_NODES, _HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(81)
_MOST_ITERATIONS = 20_000
_STILL = 1e-12
_DAMPING = 0.5


@dataclass(frozen=True)
class BlockStatistics:
    """Couplings between partitions, in the units of the bits.

    Args:
        sizes: Units of each partition, shape (P,).
        means: Mean over all pairs of two partitions, missing couplers as zeros, shape (P, P), zero diagonal.
        variances: Variance about that mean, shape (P, P).
        coupler_mean: Mean over the couplers that exist.
        coupler_std: Their standard deviation.
    """

    sizes: FloatArray
    means: FloatArray
    variances: FloatArray
    coupler_mean: float
    coupler_std: float

    @property
    def n_units(self) -> int:
        """All units N."""
        return int(self.sizes.sum())


@dataclass(frozen=True)
class DiagramPoint:
    """Coordinates of a machine at kT = 1.

    Args:
        units: Whether couplings are those of bits or of spins (a quarter), or J0~ is that of the leading mode of spins.
        j0: Complete-graph form, N J0 over the couplers that exist.
        j: Complete-graph form, sqrt(N) J.
        j0_form: J0~ in the form of the machine's graph.
        j_form: J~ in the form of the machine's graph.
    """

    units: UnitKind
    j0: float
    j: float
    j0_form: float
    j_form: float


@dataclass(frozen=True)
class BitOrder:
    """Replica-symmetric order parameters of bits with independent couplings.

    Args:
        means: rho of each partition, shape (P,).
        overlaps: Q of each partition, shape (P,).
        stability: Largest eigenvalue of the condition of de Almeida and Thouless; replica symmetry breaks above one.
        n_iterations: Iterations made.
    """

    means: FloatArray
    overlaps: FloatArray
    stability: float
    n_iterations: int


def block_statistics(machine: BoltzmannMachine) -> BlockStatistics:
    """Means and variances of the couplings between partitions.

    Raises:
        PriorError: If the machine has no couplers or a parameter is not finite.
    """
    machine.check_finite()
    topology = machine.topology
    if topology.n_edges == 0:
        raise PriorError("a machine without couplers has no place in the diagram; give one with couplers")
    values = machine.couplings.detach().cpu().double().numpy()
    first, second = topology.partition[topology.edges].T
    sums, squares = (np.zeros((topology.n_partitions, topology.n_partitions)) for _ in range(2))
    np.add.at(sums, (first, second), values)
    np.add.at(squares, (first, second), values**2)
    sizes = np.array(topology.sizes, dtype=np.float64)
    pairs = np.outer(sizes, sizes)
    means, seconds = (sums + sums.T) / pairs, (squares + squares.T) / pairs
    return BlockStatistics(sizes, means, seconds - means**2, float(values.mean()), float(values.std()))


def place(statistics: BlockStatistics, units: Literal["bits", "spins"]) -> DiagramPoint:
    """Coordinates of a machine at kT = 1, couplings of bits taken as they are or as those of spins.

    Args:
        statistics: Its couplings.
        units: ``"spins"`` divides couplings by four, as the map from bits does; ``"bits"`` does not.
    """
    scale = 0.25 if units == "spins" else 1.0
    n = statistics.n_units
    return DiagramPoint(
        units=units,
        j0=scale * n * statistics.coupler_mean,
        j=scale * math.sqrt(n) * statistics.coupler_std,
        j0_form=scale * _largest(statistics.means, statistics.sizes),
        j_form=scale * math.sqrt(_largest(statistics.variances, statistics.sizes)),
    )


def mode_point(machine: BoltzmannMachine) -> DiagramPoint:
    """Coordinates of the leading mode of the spins at kT = 1: its strength, and the spread of all else.

    ``j0`` and ``j`` are those of the complete-graph form of what is left without the mode.

    Raises:
        PriorError: If the machine has no couplers or a parameter is not finite.
    """
    matrix = coupling_matrix(machine) / 4
    values, vectors = np.linalg.eigh(matrix)
    rest = matrix - values[-1] * np.outer(vectors[:, -1], vectors[:, -1])
    first, second = machine.topology.edges.T
    without = BoltzmannMachine(machine.topology)
    with torch.no_grad():
        without.couplings.copy_(torch.from_numpy(4 * rest[first, second]))
    left = place(block_statistics(without), "spins")
    return DiagramPoint("mode", left.j0, left.j, _strength(float(values[-1]), left.j_form), left.j_form)


def bit_order(statistics: BlockStatistics, biases: FloatArray, topology: Topology) -> BitOrder:
    """Solves the replica-symmetric equations of bits.

    Args:
        statistics: Couplings between the partitions.
        biases: Biases of all bits, shape (N,).
        topology: The graph, for the partition of every bit.

    Raises:
        PriorError: If the shapes differ or the iteration does not settle.
    """
    if biases.shape != (topology.n_nodes,) or len(statistics.sizes) != topology.n_partitions:
        raise PriorError(f"{biases.shape} biases do not belong to {topology.n_nodes} bits; give one a bit")
    strengths = statistics.variances * statistics.sizes
    pulls = statistics.means * statistics.sizes
    rho, overlap = np.full(topology.n_partitions, 0.5), np.full(topology.n_partitions, 0.3)
    for iteration in range(1, _MOST_ITERATIONS + 1):
        shift = pulls @ rho + strengths @ (rho - overlap) / 2
        new = _site_averages(biases, topology, shift, np.sqrt(strengths @ overlap))
        step = max(float(np.abs(new[0] - rho).max()), float(np.abs(new[1] - overlap).max()))
        rho, overlap = (_DAMPING * old + (1 - _DAMPING) * now for old, now in zip((rho, overlap), new[:2], strict=True))
        if step < _STILL:
            return BitOrder(rho, overlap, _largest(statistics.variances, statistics.sizes * new[2]), iteration)
    raise PriorError(f"the replica-symmetric equations move by {step:.1g} after {_MOST_ITERATIONS} iterations")


def paramagnet_susceptibility(statistics: BlockStatistics, beta: float = 1.0) -> float:
    r"""Spin-glass susceptibility :math:`N \langle q^2 \rangle` of zero-field spins above the transition.

    .. math:: \chi = \sum_{pq} \frac{n_p}{N} \big[(1 - M)^{-1}\big]_{pq}, \qquad
        M_{pq} = \beta^2 \overline{J^2}_{pq} n_q

    to leading order in 1/N; :math:`1 / (1 - \beta^2 \tilde J^2)` on the complete graph. The couplings of the bits are
    taken as four times those of the spins.

    Args:
        statistics: Couplings of the bits.
        beta: Inverse temperature.

    Raises:
        PriorError: If the temperature is not above the transition.
    """
    matrix = beta**2 * statistics.variances / 16 * statistics.sizes
    if np.abs(np.linalg.eigvals(matrix)).max() >= 1:
        raise PriorError(f"beta = {beta} is not above the spin-glass transition; lower it")
    response = np.linalg.inv(np.eye(len(matrix)) - matrix)
    return float((statistics.sizes @ response).sum() / statistics.n_units)


def _strength(eigenvalue: float, spread: float) -> float:
    """J0~ of a pattern whose eigenvalue in a bulk of spread J~ is given; J~ itself if it does not leave the bulk."""
    beyond = max(0.0, eigenvalue**2 - 4 * spread**2)
    return max(spread, (eigenvalue + math.sqrt(beyond)) / 2) if beyond else spread


def _site_averages(
    biases: FloatArray, topology: Topology, shift: FloatArray, width: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Partition means of the averages of sigma, sigma^2 and [sigma (1 - sigma)]^2, shape (P,) each."""
    weights = _HERMITE_WEIGHTS / math.sqrt(2 * math.pi)
    averages = []
    for index, nodes in enumerate(topology.slices):
        odds = expit(biases[nodes, None] + shift[index] + width[index] * _HERMITE_NODES)
        moments = (odds, odds**2, (odds * (1 - odds)) ** 2)
        averages.append([float((moment @ weights).mean()) for moment in moments])
    rho, overlap, gain = np.array(averages).T
    return rho, overlap, gain


def _largest(matrix: FloatArray, weights: FloatArray) -> float:
    """Largest eigenvalue of matrix @ diag(weights), weights not negative, by its symmetric form."""
    root = np.sqrt(weights)
    return float(np.linalg.eigvalsh(root[:, None] * matrix * root).max())
