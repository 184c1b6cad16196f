r"""Spin-glass machines without a field, and the overlaps of their independent replicas.

Spins with couplings :math:`J_{ij}` and no field are bits with

.. math:: W_{ij} = 4 J_{ij}, \qquad b_i = -2 \sum_{j \sim i} J_{ij}, \qquad
    E(z) = -\sum_{i<j} J_{ij} s_i s_j + \mathrm{const}, \quad s = 2 z - 1 .

Two states a, b drawn independently from one machine have the overlap and the magnetisation

.. math:: q = \frac1N \sum_i s_i^a s_i^b, \qquad m = \frac1N \sum_i s_i .

In the paramagnet :math:`P(q)` is a peak of width :math:`\sqrt{\chi / N}` at zero, in a ferromagnet two peaks at
:math:`\pm m^2`, in the spin glass it is broad. Spins without a field have both signs of q and m with equal weight, so
moments are taken of squares and moduli.

**Is it equilibrium?** Independent normal couplings without a mean, of variance :math:`s^2`, give, by partial
integration over them and exactly for every size,

.. math:: \overline{\langle E \rangle} = -\beta s^2 M (1 - \overline{q_l}), \qquad
    q_l = \frac1M \sum_{(ij)} s_i^a s_i^b s_j^a s_j^b

with the link overlap :math:`q_l` over the M couplers. Chains that are too short start with an energy that is too high
and an overlap that is too low, so that the two sides meet only in equilibrium (Katzgraber, Palassini and Young, Phys.
Rev. B 63 (2001) 184422).

States come from parallel tempering. Because a level of it samples :math:`e^{-\beta E}`, one run gives a whole line of
temperatures :math:`kT / \tilde J` for the same couplings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.replicas import ReplicaState
from calo4pqvae.prior.sampling.tempering import TemperingSampler
from calo4pqvae.studies.theory.modes import coupling_matrix

__all__ = ["Overlaps", "coupling_variance", "measure_overlaps", "zero_field_machine"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Overlaps:
    """Overlaps of one machine along a ladder of temperatures.

    Args:
        betas: Inverse temperatures of the levels, shape (K,).
        overlaps: q of pairs of independent chains at every record, shape (K, records x pairs).
        magnetisations: m of every chain at every record, shape (K, records x chains).
        bit_overlaps: Mean over pairs of z_a z_b in every partition, shape (K, P).
        bit_means: Mean of the bits of every partition, shape (K, P).
        energies: Mean energy of the bits, shape (K,).
        link_overlaps: Mean link overlap, shape (K,).
        least_acceptance: Lowest accepted share of exchanges in a gap of the ladder.
    """

    betas: FloatArray
    overlaps: FloatArray
    magnetisations: FloatArray
    bit_overlaps: FloatArray
    bit_means: FloatArray
    energies: FloatArray
    link_overlaps: FloatArray
    least_acceptance: float


def zero_field_machine(topology: Topology, j0: float, j: float, rng: np.random.Generator) -> BoltzmannMachine:
    r"""Spins without a field and with independent normal couplings, as a machine of bits.

    Couplings have mean :math:`\tilde J_0 / \Lambda` and variance :math:`\tilde J^2 / \Lambda`, where :math:`\Lambda` is
    the largest eigenvalue of the matrix of partition sizes without diagonal, so that the coordinates are those of
    the diagram: :math:`\Lambda` is N - 1 for partitions of one spin, n for two partitions of n, 3 n for four.

    Args:
        topology: A complete multipartite graph.
        j0: J0~ at beta = 1.
        j: J~ at beta = 1.
        rng: Source of the couplings.

    Raises:
        PriorError: If the graph is not complete.
    """
    variance, _ = coupling_variance(topology)
    couplings = rng.normal(j0 * variance, j * math.sqrt(variance), topology.n_edges)
    sums = np.bincount(topology.edges.ravel(), np.repeat(couplings, 2), minlength=topology.n_nodes)
    machine = BoltzmannMachine(topology)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(4 * couplings))
        machine.biases.copy_(torch.from_numpy(-2 * sums))
    return machine


def coupling_variance(topology: Topology) -> tuple[float, int]:
    r"""Variance :math:`1 / \Lambda` of couplings at J~ = 1, and the number of couplers.

    Raises:
        PriorError: If the graph is not complete.
    """
    sizes = np.array(topology.sizes, dtype=np.float64)
    if topology.n_edges != (sizes.sum() ** 2 - (sizes**2).sum()) / 2:
        raise PriorError(f"the graph {topology.name} is not complete between partitions; use complete_topology")
    root = np.sqrt(sizes)
    return 1 / float(np.linalg.eigvalsh(np.outer(root, root) - np.diag(sizes)).max()), topology.n_edges


def measure_overlaps(
    machine: BoltzmannMachine,
    betas: Sequence[float],
    generator: torch.Generator,
    *,
    n_chains: int,
    n_burn: int,
    n_records: int,
    every: int,
    progress: Callable[[], None] | None = None,
) -> Overlaps:
    """Runs parallel tempering and takes the overlaps of pairs of chains.

    Args:
        machine: The machine.
        betas: Ladder of inverse temperatures, rising to 1.
        generator: Source of randomness.
        n_chains: Independent chains, an even number; chain c is paired with chain c + n_chains / 2.
        n_burn: Sweeps before the first record.
        n_records: Records.
        every: Sweeps between records.
        progress: Called after every record.

    Raises:
        PriorError: If the number of chains is odd or below two, or as the sampler.
    """
    if n_chains < 2 or n_chains % 2:
        raise PriorError(f"{n_chains} chains make no pairs; give an even number")
    sampler = TemperingSampler(machine, betas, sweeps_per_swap=2)
    state = sampler.sample(sampler.init(n_chains, generator), n_burn, generator)
    state = ReplicaState.start(state.replicas)
    adjacency = (coupling_matrix(machine) != 0).astype(np.float64)
    overlaps, magnetisations, others = [], [], []
    for _ in range(n_records):
        state = sampler.sample(state, every, generator)
        bits = state.replicas.cpu().double().numpy()
        energies = machine.energy(state.replicas.flatten(0, 1)).detach().cpu().double().numpy()
        overlap, magnetisation = _spin_overlaps(bits)
        overlaps.append(overlap)
        magnetisations.append(magnetisation)
        others.append(_means(bits, energies, machine.topology, adjacency))
        if progress is not None:
            progress()
    bit_overlaps, bit_means, energy, link = (np.mean(part, axis=0) for part in zip(*others, strict=True))
    return Overlaps(
        betas=np.array(sampler.betas),
        overlaps=np.concatenate(overlaps, axis=1),
        magnetisations=np.concatenate(magnetisations, axis=1),
        bit_overlaps=bit_overlaps,
        bit_means=bit_means,
        energies=energy,
        link_overlaps=link,
        least_acceptance=min(state.report().acceptance),
    )


def _spin_overlaps(bits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Overlaps of pairs of chains (K, pairs) and magnetisations (K, chains) of bits (K, chains, N)."""
    spins, half = 2 * bits - 1, bits.shape[1] // 2
    return (spins[:, :half] * spins[:, half:]).mean(axis=2), spins.mean(axis=2)


def _means(
    bits: FloatArray, energies: FloatArray, topology: Topology, adjacency: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Bit overlaps and bit means of every partition, energy, and link overlap, means over chains or pairs."""
    starts, sizes = [part.start for part in topology.slices], np.array(topology.sizes)
    half = bits.shape[1] // 2
    first, second = bits[:, :half], bits[:, half:]
    both = np.add.reduceat((first * second).mean(axis=1), starts, axis=1) / sizes
    ones = np.add.reduceat(bits.mean(axis=1), starts, axis=1) / sizes
    signs = (2 * first - 1) * (2 * second - 1)
    links = ((signs @ adjacency) * signs).sum(axis=2).mean(axis=1) / adjacency.sum()
    return both, ones, energies.reshape(bits.shape[:2]).mean(axis=1), links
