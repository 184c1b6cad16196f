r"""What the study of the high-temperature gradient measures: epsilon of a large machine against sweeps and temperature.

A large machine is known through independent chains of block Gibbs alone. Chains from fair coins are recorded after
several numbers of sweeps, and so are chains that start at the data: where the two disagree after the last sweep,
neither is the law of the machine, and epsilon is a number of the procedure. At other inverse temperatures chains
start at coins.

Under a condition (a partition that is clamped, or fields of an incident energy) every condition is a law of its own;
the covariance is that within a condition, averaged over them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.frame.trained import ShowerPrior
from calo4pqvae.studies.theory.epsilon import (
    Epsilon,
    EpsilonSummary,
    high_temperature_slopes,
    parameter_groups,
    sampled_epsilon,
)

__all__ = ["Case", "EpsilonPlan", "Measured", "Start", "image_case", "measure", "random_case", "shower_case"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Start = Literal["coins", "data"]

_NAMES = ("visible", "hidden")


@dataclass(frozen=True)
class EpsilonPlan:
    """How machines are sampled.

    Args:
        n_chains: Independent chains.
        sweeps: Numbers of sweeps after which they are looked at, rising.
        betas: Further inverse temperatures.
        beta_sweeps: Sweeps at these.
        n_bootstrap: Bootstrap replicas.
        kernel: Kernel of block Gibbs.
    """

    n_chains: int
    sweeps: Sequence[int]
    betas: Sequence[float]
    beta_sweeps: int
    n_bootstrap: int
    kernel: KernelName


@dataclass(frozen=True, eq=False)
class Case:
    """A machine that is looked at, with where its chains may start.

    Args:
        label: Its name.
        machine: The machine.
        groups: Parameters of each kind.
        data: States (B, N) at the data, one a chain, with the values of clamped bits; None without data.
        clamped: Mask (N,) of bits that are held, or None.
        condition: Conditions (B, n_c) of the chains, or None.
        laws: Number of the condition of every chain (B,); None where there is one law.
    """

    label: str
    machine: BoltzmannMachine
    groups: Mapping[str, IntArray]
    data: Tensor | None = None
    clamped: NDArray[np.bool_] | None = None
    condition: Tensor | None = None
    laws: IntArray | None = None

    def start(self, kind: Start, n_chains: int, generator: torch.Generator) -> GibbsState:
        """Chains at coins or at the data, clamped bits at their values."""
        if kind == "data" and self.data is not None:
            return GibbsState(self.data)
        state = BlockGibbsSampler(self.machine).init(n_chains, generator)
        if self.data is None or self.clamped is None:
            return state
        held = torch.from_numpy(self.clamped).to(state.states.device)
        return GibbsState(torch.where(held, self.data, state.states))


@dataclass(frozen=True, eq=False)
class Measured:
    """Epsilon of one machine.

    Args:
        label: Its name.
        epsilon: From coins after the last sweep, at beta = 1, parameter by parameter.
        groups: Parameters of each kind.
        by_sweeps: Summaries of each kind by start and number of sweeps.
        by_beta: Summaries of each kind by inverse temperature, beta = 1 included.
        slopes: Slope in beta, at infinite temperature, of the ratio of lengths of each kind; exact.
        starts_apart: Mean squared difference of the means of all bits after the last sweep from the two starts, in
            units of its error: about 1 where both have come to one law. None where there is one start.
        ones: Mean of all free bits from coins after the last sweep, and at the data; None without data.
    """

    label: str
    epsilon: Epsilon
    groups: Mapping[str, IntArray]
    by_sweeps: Mapping[Start, Mapping[int, Mapping[str, EpsilonSummary]]]
    by_beta: Mapping[float, Mapping[str, EpsilonSummary]]
    slopes: Mapping[str, float]
    starts_apart: float | None
    ones: tuple[float, float] | None


def random_case(machine: BoltzmannMachine, std: float, seed: int) -> Case:
    """A machine of the same graph with all parameters from N(0, std^2).

    Args:
        machine: Gives the graph of two partitions.
        std: Standard deviation.
        seed: Seed of the parameters.
    """
    generator = stream(seed, "untrained")
    untrained = BoltzmannMachine(machine.topology)
    with torch.no_grad():
        for parameter in (untrained.biases, untrained.couplings):
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return Case("untrained", untrained, parameter_groups(untrained, _NAMES))


def image_case(label: str, training: Training, n_chains: int, seed: int) -> Case:
    """The final machine of a training on images, with chains that may start at training images.

    Args:
        label: Its name.
        training: The training.
        n_chains: Chains.
        seed: Seed of the choice of images and of their hidden bits.
    """
    machine = training.final
    rows = np.random.default_rng(derive_seed(seed, "images", label)).integers(0, training.data.n_states, n_chains)
    states = torch.zeros(n_chains, machine.n_nodes)
    states[:, torch.from_numpy(~training.hidden)] = torch.from_numpy(training.data.bits[rows].astype(np.float32))
    state = BlockGibbsSampler(machine).sample(GibbsState(states), 1, stream(seed, "hidden", label), ~training.hidden)
    return Case(label, machine, parameter_groups(machine, _NAMES), state.states)


def shower_case(label: str, shower: ShowerPrior, n_chains: int, n_energies: int) -> Case:
    """The prior of a shower model at several incident energies, equally spaced in their logarithm.

    Args:
        label: Its name.
        shower: The trained model.
        n_chains: Chains, shared among the energies.
        n_energies: Incident energies.
    """
    prior, data = shower.model.prior, shower.model.config.data
    energies = torch.from_numpy(np.geomspace(data.energy_min_mev, data.energy_max_mev, n_energies))
    laws = np.sort(np.arange(n_chains) % n_energies)
    incident = energies[torch.from_numpy(laws)][:, None]
    nearest = []
    for law, energy in enumerate(energies):
        order = torch.argsort((shower.incident_energies.double().flatten() / energy).log().abs())
        wanted = int((laws == law).sum())
        nearest.append(order[torch.arange(wanted) % len(order)])
    states = prior.states(shower.bits[torch.cat(nearest)], incident)
    clamped = shower.clamped if shower.clamped.any() else None
    groups = parameter_groups(shower.machine, clamped=clamped)
    return Case(label, shower.machine, groups, states, clamped, prior.condition(incident), laws)


def measure(case: Case, plan: EpsilonPlan, seed: int, tell: Callable[[], None]) -> Measured:
    """Epsilon of a machine against start, sweeps and temperature.

    Args:
        case: The machine.
        plan: How it is sampled.
        seed: Seed of chains and bootstrap.
        tell: Called after every measurement.
    """
    sampler = BlockGibbsSampler(case.machine, plan.kernel)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", case.label))
    by_sweeps: dict[Start, dict[int, Mapping[str, EpsilonSummary]]] = {}
    ends: dict[Start, Epsilon] = {}
    starts: tuple[Start, ...] = ("coins",) if case.data is None else ("data", "coins")
    for kind in starts:
        generator, done = stream(seed, "chains", case.label, kind), 0
        state, by_sweeps[kind] = case.start(kind, plan.n_chains, generator), {}
        for n_sweeps in plan.sweeps:
            state = sampler.sample(state, n_sweeps - done, generator, case.clamped, case.condition)
            ends[kind], done = _epsilon(case, plan, state, rng, 1.0), n_sweeps
            by_sweeps[kind][n_sweeps] = ends[kind].summaries
            tell()
    last = ends["coins"]
    by_beta: dict[float, Mapping[str, EpsilonSummary]] = {1.0: last.summaries}
    for beta in plan.betas:
        generator = stream(seed, "chains", case.label, f"beta {beta}")
        state = case.start("coins", plan.n_chains, generator)
        state = sampler.sample(state, plan.beta_sweeps, generator, case.clamped, case.condition, beta)
        by_beta[beta] = _epsilon(case, plan, state, rng, beta).summaries
        tell()
    apart = ones = None
    if case.data is not None:
        bits = _free_bits(case)
        apart = _apart(ends["data"], last, bits)
        ones = float(last.mean[bits].mean()), float(case.data[:, torch.from_numpy(bits)].mean())
    return Measured(case.label, last, case.groups, by_sweeps, by_beta, _slopes(case), apart, ones)


def _epsilon(case: Case, plan: EpsilonPlan, state: GibbsState, rng: np.random.Generator, beta: float) -> Epsilon:
    return sampled_epsilon(
        case.machine, state.states, case.groups, rng, beta=beta, n_bootstrap=plan.n_bootstrap,
        condition=case.condition, laws=case.laws,
    )  # fmt: skip


def _free_bits(case: Case) -> IntArray:
    return np.concatenate([places for name, places in case.groups.items() if name != "couplings"])


def _apart(one: Epsilon, other: Epsilon, bits: IntArray) -> float:
    """Mean squared difference of the means of bits in units of its error, of those that have one."""
    variances = one.mean_error[bits] ** 2 + other.mean_error[bits] ** 2
    squares = (one.mean[bits] - other.mean[bits]) ** 2
    return float((squares[variances > 0] / variances[variances > 0]).mean())


def _slopes(case: Case) -> dict[str, float]:
    """Slope of the ratio of lengths of each kind."""
    firsts = None if case.laws is None else torch.from_numpy(np.unique(case.laws, return_index=True)[1])
    held = None if firsts is None or case.clamped is None or case.data is None else case.data[firsts]
    condition = None if firsts is None or case.condition is None else case.condition[firsts]
    slopes, means = high_temperature_slopes(case.machine, clamped=case.clamped, held=held, condition=condition)
    return {
        name: float(np.linalg.norm(np.nan_to_num(slopes[places]) * means[places]) / np.linalg.norm(means[places]))
        for name, places in case.groups.items()
    }
