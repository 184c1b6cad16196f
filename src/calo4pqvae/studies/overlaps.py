r"""Spin-glass machines without a field, and the overlaps of their independent replicas.

Spins with couplings :math:`J_{ij}` and no field are bits with

.. math:: W_{ij} = 4 J_{ij}, \qquad b_i = -2 \sum_{j \sim i} J_{ij}, \qquad
    E(z) = -\sum_{i<j} J_{ij} s_i s_j + \mathrm{const}, \quad s = 2 z - 1 .

Two states a, b drawn independently from one machine have the overlap and the magnetisation

.. math:: q = \frac1N \sum_i s_i^a s_i^b, \qquad m = \frac1N \sum_i s_i .

In the paramagnet :math:`P(q)` is a peak of width :math:`\sqrt{\chi / N}` at zero, in a ferromagnet two peaks at
:math:`\pm m^2`, in the spin glass it is broad. Spins without a field have both signs of q and m with equal weight, so
moments are taken of squares and moduli.

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
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.replicas import ReplicaState
from calo4pqvae.prior.tempering import TemperingSampler
from calo4pqvae.prior.topology import Topology

__all__ = ["Overlaps", "measure_overlaps", "zero_field_machine"]

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
        least_acceptance: Lowest accepted share of exchanges in a gap of the ladder.
    """

    betas: FloatArray
    overlaps: FloatArray
    magnetisations: FloatArray
    bit_overlaps: FloatArray
    bit_means: FloatArray
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
    sizes = np.array(topology.sizes, dtype=np.float64)
    if topology.n_edges != (sizes.sum() ** 2 - (sizes**2).sum()) / 2:
        raise PriorError(f"the graph {topology.name} is not complete between partitions; use complete_topology")
    root = np.sqrt(sizes)
    scale = float(np.linalg.eigvalsh(np.outer(root, root) - np.diag(sizes)).max())
    couplings = rng.normal(j0 / scale, j / math.sqrt(scale), topology.n_edges)
    sums = np.bincount(topology.edges.ravel(), np.repeat(couplings, 2), minlength=topology.n_nodes)
    machine = BoltzmannMachine(topology)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(4 * couplings))
        machine.biases.copy_(torch.from_numpy(-2 * sums))
    return machine


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
    starts = [part.start for part in machine.topology.slices]
    sizes = np.array(machine.topology.sizes)
    overlaps, magnetisations, bit_overlaps, bit_means = [], [], [], []
    for _ in range(n_records):
        state = sampler.sample(state, every, generator)
        bits = state.replicas.cpu().double().numpy()
        spins = 2 * bits - 1
        half = n_chains // 2
        overlaps.append((spins[:, :half] * spins[:, half:]).mean(axis=2))
        magnetisations.append(spins.mean(axis=2))
        both = (bits[:, :half] * bits[:, half:]).mean(axis=1)
        bit_overlaps.append(np.add.reduceat(both, starts, axis=1) / sizes)
        bit_means.append(np.add.reduceat(bits.mean(axis=1), starts, axis=1) / sizes)
        if progress is not None:
            progress()
    return Overlaps(
        betas=np.array(sampler.betas),
        overlaps=np.concatenate(overlaps, axis=1),
        magnetisations=np.concatenate(magnetisations, axis=1),
        bit_overlaps=np.mean(bit_overlaps, axis=0),
        bit_means=np.mean(bit_means, axis=0),
        least_acceptance=min(state.report().acceptance),
    )
