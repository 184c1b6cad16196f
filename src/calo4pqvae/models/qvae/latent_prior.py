r"""The Boltzmann machine as prior of latent bits at a requested incident energy.

This is the seam between showers and machine: it writes the incident energy into partition 0 (``clamp``: the bits of the
code are nodes of the graph, held at their values) or into the fields of all nodes (``fold``:
:math:`b_i + \sum_a c_a A_{ai}`, no node is spent), and maps latent bits, level after level, to the other partitions.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from calo4pqvae.config import Config
from calo4pqvae.errors import PriorError
from calo4pqvae.models.qvae.condition import EnergyCode
from calo4pqvae.prior.graph.bands import Bands, find_bands
from calo4pqvae.prior.graph.chips import chip_topology, load_missing, smallest_chip
from calo4pqvae.prior.graph.topology import Topology, complete_topology, independent_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["LatentPrior", "build_topology", "find_latent_bands", "independent_baseline"]

_DEFAULT_FOLDED_BITS = 32


class LatentPrior(nn.Module):
    """A machine, the energy code, and which nodes hold which.

    Args:
        config: Settings of data range, condition, latents and prior.
        topology: The graph.

    Raises:
        PriorError: If the graph has not the partitions that the settings need.
    """

    def __init__(self, config: Config, topology: Topology) -> None:
        super().__init__()
        self.is_clamped = config.condition.mode == "clamp"
        n_needed = config.latent.levels + (1 if self.is_clamped else 0)
        if topology.n_partitions != n_needed:
            raise PriorError(
                f"the graph {topology.name} has {topology.n_partitions} partitions, but {config.latent.levels} levels "
                f"with condition.mode = '{config.condition.mode}' need {n_needed}; change latent.levels"
            )
        n_code = topology.sizes[0] if self.is_clamped else (config.condition.bits or _DEFAULT_FOLDED_BITS)
        data = config.data
        self.code = EnergyCode(config.condition.code, n_code, data.energy_min_mev, data.energy_max_mev)
        self.machine = BoltzmannMachine(topology, 0 if self.is_clamped else n_code)
        self.sampler = BlockGibbsSampler(self.machine, config.prior.kernel)
        self.clamped: NDArray[np.bool_] = np.zeros(topology.n_nodes, dtype=np.bool_)
        if self.is_clamped:
            self.clamped[topology.slices[0]] = True

    @property
    def topology(self) -> Topology:
        """The graph of the machine."""
        return self.machine.topology

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of bits of each level."""
        return self.topology.sizes[1:] if self.is_clamped else self.topology.sizes

    @property
    def n_bits(self) -> int:
        """Number of latent bits."""
        return sum(self.level_sizes)

    def states(self, bits: Tensor, incident_energies: Tensor) -> Tensor:
        """States (B, N) of all nodes: latent bits (B, n_bits) with the code of (B, 1) energies in MeV, if clamped."""
        if not self.is_clamped:
            return bits
        return torch.cat([self.code.encode(incident_energies).to(bits), bits], dim=1)

    def condition(self, incident_energies: Tensor) -> Tensor | None:
        """Condition (B, n_c) that is folded into the fields, or None."""
        return None if self.is_clamped else self.code.encode(incident_energies).to(self.machine.device)

    def energy(self, bits: Tensor, incident_energies: Tensor) -> Tensor:
        """E(z | E_inc) in nats, (B,); differentiable in relaxed bits."""
        return self.machine.energy(self.states(bits, incident_energies), self.condition(incident_energies))

    def sample(self, incident_energies: Tensor, n_sweeps: int, generator: Generator) -> Tensor:
        """Draws latent bits at given energies by block Gibbs from fair coins.

        Args:
            incident_energies: (B, 1) in MeV.
            n_sweeps: Block Gibbs sweeps.
            generator: Source of randomness, on the machine's device.

        Returns:
            Bits (B, n_bits), exact.

        Raises:
            DataError: If an energy is out of range.
        """
        start = self.sampler.init(len(incident_energies), generator).states
        state = GibbsState(self.states(self.latents(start), incident_energies.to(start.device)))
        condition = self.condition(incident_energies)
        drawn = self.sampler.sample(state, n_sweeps, generator, clamped=self.clamped, condition=condition)
        return self.latents(drawn.states)

    def latents(self, states: Tensor) -> Tensor:
        """Latent bits (B, n_bits) of node states (B, N)."""
        return states[:, states.shape[1] - self.n_bits :]


def build_topology(config: Config) -> Topology:
    """The graph that the settings ask for.

    Raises:
        PriorError: If no chip is large enough, or the working-graph file cannot be used.
    """
    sizes = (config.latent.bits_per_level,) * config.latent.levels
    if config.condition.mode == "clamp":
        sizes = (config.condition.bits or config.latent.bits_per_level, *sizes)
    family = config.prior.graph
    if family == "complete":
        return complete_topology(sizes)
    if family == "independent":
        return independent_topology(sizes)
    return _chip(config, family, sizes)


def find_latent_bands(prior: LatentPrior, n_factors: int, length: int) -> Bands:
    """Bands of latent nodes for the factors, in numbers of latent bits.

    Args:
        prior: Machine and mode of condition.
        n_factors: Number of bands.
        length: Nodes of a band.

    Raises:
        PriorError: If there are too few latent nodes.
    """
    bands = find_bands(prior.topology, n_factors, length, held=(0,) if prior.is_clamped else ())
    return Bands(bands.nodes - (prior.topology.n_nodes - prior.n_bits))


def _chip(config: Config, family: Literal["zephyr", "pegasus"], sizes: tuple[int, ...]) -> Topology:
    missing = load_missing(Path(config.prior.missing)) if config.prior.missing else None
    chip_size = config.prior.size or (missing.m if missing else None)
    wanted = None if config.prior.whole_chip else sizes
    if chip_size is not None:
        return chip_topology(family, chip_size, wanted, missing=missing)
    if wanted is None:
        raise PriorError("prior.whole_chip needs prior.size, for example 12 for Zephyr or 16 for Pegasus")
    return chip_topology(family, smallest_chip(family, sizes), wanted)


def independent_baseline(prior: LatentPrior, config: Config, bit_means: Tensor) -> LatentPrior:
    """A prior without couplings whose bits have the given means (n_bits,): what the couplings are measured against."""
    baseline = LatentPrior(config, independent_topology(prior.topology.sizes))
    n_held = baseline.machine.n_nodes - prior.n_bits
    means = torch.cat([torch.full((n_held,), 0.5), bit_means.cpu()])
    baseline.machine.initialise(means, 0.0, Generator().manual_seed(0))
    return baseline
