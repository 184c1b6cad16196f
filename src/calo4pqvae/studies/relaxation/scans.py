"""Scans of the study of relaxation: tiny machines, sizes, temperatures, machines along a training.

Chains are carried from one machine of a scan to the next, from hot to cold and from the start of a training to its end:
the law changes little from one to the next.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.prior.graph.chips import chip_topology, smallest_chip
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.frame.study import estimate
from calo4pqvae.studies.frame.trained import ShowerPrior
from calo4pqvae.studies.relaxation.measurements import ExactCheck, Times, at_beta, check_exactly, measure_times

__all__ = [
    "ChainSettings",
    "Situation",
    "SizePoint",
    "chip_patches",
    "dense_graphs",
    "exact_checks",
    "fair_machine",
    "image_situations",
    "mean_of",
    "situations_of",
    "size_scan",
    "temperature_scan",
]

FloatArray = NDArray[np.float64]

_FIELD_STD = 0.3  # of the fields of tiny machines, besides those that make bits fair
_TINY: Mapping[str, Topology] = {
    "two partitions": bipartite_topology(5, 4),
    "four partitions": complete_topology((3, 2, 2, 2)),
}
_N_LAWS = 16  # different held bits among the chains
_LEAST_CHAINS = 8  # with the same held bits


class ChainSettings(Protocol):
    """What a scan must know about chains."""

    @property
    def n_chains(self) -> int:
        """Chains."""

    @property
    def n_burn(self) -> int:
        """Sweeps before the first record at each machine."""

    @property
    def n_sweeps(self) -> int:
        """Sweeps that are followed."""

    @property
    def n_modes(self) -> int:
        """Modes that are followed."""

    @property
    def kernel(self) -> KernelName:
        """Kernel of block Gibbs."""


@dataclass(frozen=True)
class Situation:
    """A machine with what is held while it is sampled.

    Args:
        name: What it is called in results.
        machine: The machine.
        state: Where chains start.
        clamped: Mask (N,) of bits that are held, or None.
        condition: Condition of every chain, if the machine has one.
    """

    name: str
    machine: BoltzmannMachine
    state: GibbsState
    clamped: NDArray[np.bool_] | None = None
    condition: Tensor | None = None

    def measure(
        self, machine: BoltzmannMachine, state: GibbsState, settings: ChainSettings, generator: torch.Generator
    ) -> tuple[Times, GibbsState]:
        """Brings chains to a machine of the same graph, and measures there."""
        sampler = BlockGibbsSampler(machine, settings.kernel)
        state = sampler.sample(state, settings.n_burn, generator, self.clamped, self.condition)
        return measure_times(
            machine,
            state,
            settings.n_sweeps,
            settings.n_modes,
            generator,
            kernel=settings.kernel,
            clamped=self.clamped,
            condition=self.condition,
        )

    def along(
        self, machines: Sequence[BoltzmannMachine], settings: ChainSettings, generator: torch.Generator
    ) -> list[Times]:
        """Times at machines of the same graph, one after another, with the same chains."""
        state, found = self.state, []
        for machine in machines:
            times, state = self.measure(machine, state, settings, generator)
            found.append(times)
        return found


@dataclass(frozen=True, eq=False)
class SizePoint:
    """Relaxation of the leading mode of random machines of one size, over draws (D,); times in sweeps.

    Args:
        form: Form of the machines.
        n_units: Bits of each partition.
        measured: Relaxation time of the leading mode.
        theory: Its time in the linear theory with measured gains; infinite where that ends.
        fair: The same for fair bits.
        energy: Relaxation time of the energy.
    """

    form: str
    n_units: int
    measured: FloatArray
    theory: FloatArray
    fair: FloatArray
    energy: FloatArray

    def as_data(self, seed: int) -> dict[str, Any]:
        """Plain data; means over draws with their standard errors."""
        rows = {"measured": self.measured, "theory": self.theory, "theory_fair_bits": self.fair, "energy": self.energy}
        return {
            "form": self.form,
            "units_of_a_partition": self.n_units,
            **{name: estimate(*mean_of(values), len(values), seed) for name, values in rows.items()},
        }


def mean_of(values: FloatArray) -> tuple[float, float]:
    """Mean over draws and its standard error."""
    if not np.isfinite(values).all():
        return math.inf, math.inf
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def exact_checks(
    strengths: Sequence[float],
    betas: Sequence[float],
    n_draws: int,
    n_chains: int,
    kernel: KernelName,
    seed: int,
    tell: Callable[[int, int], None],
) -> list[ExactCheck]:
    """Tiny machines of two and four partitions, exact and measured; those whose memory oscillates are left out."""
    found: list[ExactCheck] = []
    total, done = len(_TINY) * len(strengths) * n_draws, 0
    for form, topology in _TINY.items():
        for strength in strengths:
            for draw in range(n_draws):
                machine = fair_machine(topology, strength, stream(seed, "tiny", form, str(strength), draw), _FIELD_STD)
                generator = stream(seed, "tiny chains", form, str(strength), draw)
                name = f"{form}, couplings N(0, {strength:g}), draw {draw + 1}"
                checks = (check_exactly(machine, name, n_chains, generator, beta=b, kernel=kernel) for b in betas)
                found += [one for one in checks if one is not None]
                done += 1
                tell(done, total)
    return found


@torch.no_grad()
def fair_machine(
    topology: Topology, coupling_std: float, generator: torch.Generator, field_std: float = 0.0
) -> BoltzmannMachine:
    """A machine with independent couplings and the fields that make its bits fair, besides random ones.

    Args:
        topology: The graph.
        coupling_std: Standard deviation of the couplings.
        generator: Source of randomness.
        field_std: Standard deviation of what is added to the fields.
    """
    machine = BoltzmannMachine(topology)
    couplings = coupling_std * torch.randn(topology.n_edges, generator=generator)
    ends = torch.from_numpy(topology.edges.copy())
    fields = torch.zeros(topology.n_nodes)
    for side in range(2):
        fields.index_add_(0, ends[:, side], -couplings / 2)
    machine.couplings.copy_(couplings)
    machine.biases.copy_(fields + field_std * torch.randn(topology.n_nodes, generator=generator))
    return machine


def size_scan(
    topologies: Mapping[int, Topology],
    form: str,
    coupling_std: float,
    n_draws: int,
    settings: ChainSettings,
    seed: int,
    tell: Callable[[int, int], None],
) -> list[SizePoint]:
    """Random machines with couplings of one strength and fair bits, by size."""
    points = []
    for place, (n_units, topology) in enumerate(topologies.items(), 1):
        rows = []
        for draw in range(n_draws):
            machine = fair_machine(topology, coupling_std, stream(seed, "size", form, n_units, draw))
            generator = stream(seed, "size chains", form, n_units, draw)
            start = BlockGibbsSampler(machine, settings.kernel).init(settings.n_chains, generator)
            times, _ = Situation(form, machine, start).measure(machine, start, settings, generator)
            rows.append((times.relaxation[1], times.theory[0], times.fair[0], times.relaxation[0]))
        points.append(SizePoint(form, n_units, *np.array(rows, dtype=np.float64).T))
        tell(place, len(topologies))
    return points


def dense_graphs(sizes: Sequence[int]) -> dict[int, Topology]:
    """Bipartite graphs of equal sides."""
    return {size: bipartite_topology(size, size) for size in sizes}


def chip_patches(sizes: Sequence[int]) -> dict[int, Topology]:
    """Compact patches of Zephyr chips with four partitions."""
    return {size: chip_topology("zephyr", smallest_chip("zephyr", (size,) * 4), (size,) * 4) for size in sizes}


def temperature_scan(
    situation: Situation, betas: Sequence[float], settings: ChainSettings, seed: int
) -> dict[float, Times]:
    """Times of a machine at several inverse temperatures, from hot to cold."""
    rising = sorted(betas)
    machines = [at_beta(situation.machine, beta) for beta in rising]
    generator = stream(seed, "temperature", situation.name)
    return dict(zip(rising, situation.along(machines, settings, generator), strict=True))


def situations_of(source: ShowerPrior, settings: ChainSettings, seed: int) -> list[Situation]:
    """The prior of a shower model with nothing held, if it has nodes for the energy, and at given incident energies."""
    prior = source.model.prior
    generator = stream(seed, "showers")
    per_law = max(_LEAST_CHAINS, settings.n_chains // _N_LAWS)
    ranks = np.linspace(0, len(source.incident_energies) - 1, _N_LAWS).round().astype(int)
    chosen = source.incident_energies.flatten().sort().values[torch.from_numpy(ranks)]
    energies = chosen.repeat_interleave(per_law)[:, None]
    sampler = BlockGibbsSampler(source.machine, settings.kernel)
    coins = sampler.init(len(energies), generator).states
    held = Situation(
        "shower prior at given energies",
        source.machine,
        GibbsState(prior.states(prior.latents(coins), energies)),
        source.clamped if source.clamped.any() else None,
        prior.condition(energies),
    )
    if not source.clamped.any():
        return [held]
    return [Situation("shower prior, nothing held", source.machine, sampler.init(settings.n_chains, generator)), held]


def image_situations(training: Training, settings: ChainSettings, seed: int) -> list[Situation]:
    """A machine of images with nothing held, and with the upper half of the image held at data."""
    machine = training.final
    generator = stream(seed, "images")
    sampler = BlockGibbsSampler(machine, settings.kernel)
    visible = np.flatnonzero(~training.hidden)
    mask = np.zeros(machine.n_nodes, dtype=np.bool_)
    mask[visible[: len(visible) // 2]] = True
    per_law = max(_LEAST_CHAINS, settings.n_chains // _N_LAWS)
    rows = np.random.default_rng(derive_seed(seed, "images")).choice(training.data.n_states, _N_LAWS, replace=False)
    images = torch.from_numpy(training.data.bits[rows].astype(np.float32)).repeat_interleave(per_law, dim=0)
    start = sampler.init(len(images), generator).states.clone()
    start[:, torch.from_numpy(mask)] = images[:, : int(mask.sum())]
    return [
        Situation("images, nothing held", machine, sampler.init(settings.n_chains, generator)),
        Situation("images, upper half held", machine, GibbsState(start), mask),
    ]
