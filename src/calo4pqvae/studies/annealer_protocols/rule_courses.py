r"""Courses of the temperature rules: on small machines whose mean energies are exact, and on emulated chips.

The small machines are spin glasses with a field, :math:`E = \sum_i h_i s_i + \sum_{i<j} J_{ij} s_i s_j`, summed over
all states. An annealer of inverse temperature :math:`\beta_\mathrm{eff}` that is given the machine divided by
:math:`\beta` has the mean and the variance of the energy under :math:`e^{-(\beta_\mathrm{eff} / \beta) E}`: there is
no noise, and what a rule does then is its own. These courses are not stopped.

On an emulated chip the rules see reads and stop by themselves, as they do in a protocol.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealer.beta.energy_matching import EnergyMatch, EnergyRule, EnergySample, NewtonRule, match_energy
from calo4pqvae.annealer.beta.temperature_rules import AdditiveRule, MultiplicativeRule
from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.annealer.protocols.run import ProtocolRun
from calo4pqvae.errors import AnnealerError
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.annealer_protocols.machines import StudyMachine

__all__ = ["RULES", "TOYS", "RuleCourse", "Toy", "emulated_course", "toy_courses"]

FloatArray = NDArray[np.float64]

RULES: Mapping[str, EnergyRule] = MappingProxyType(
    {
        "additive, 0.01": AdditiveRule(),
        "additive, adaptive": AdditiveRule(is_adaptive=True),
        "additive, capped": AdditiveRule(is_adaptive=True, cap=0.5, lowest=0.01),
        "multiplicative, 4": MultiplicativeRule(),
        "multiplicative, adaptive": MultiplicativeRule(is_adaptive=True),
        "Newton in ln beta": NewtonRule(),
    }
)
"""The published rules with their published gains, and the one to use."""

_SWING = 0.05  # of beta from one programming to the next that is no rest
_SAME = 1e-3  # of beta, two programmings apart


@dataclass(frozen=True)
class Toy:
    """A small machine and an annealer.

    Args:
        n_spins: Spins.
        coupling: Spread of the couplings times the root of the number of spins; fields have a tenth of it.
        seed: Seed of couplings and fields.
        true: Inverse temperature of the annealer.
        start: First guess of the rules.
    """

    n_spins: int
    coupling: float
    seed: int
    true: float
    start: float

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.n_spins} spins, exact"

    def energies(self) -> FloatArray:
        """Energies of all states, (2^n,)."""
        rng = np.random.default_rng(self.seed)
        spread = self.coupling / math.sqrt(self.n_spins)
        couplings = np.triu(rng.normal(0, spread, (self.n_spins, self.n_spins)), 1)
        fields = rng.normal(0, 0.1 * self.coupling, self.n_spins)
        spins = 2.0 * ((np.arange(2**self.n_spins)[:, None] >> np.arange(self.n_spins)) & 1) - 1
        energies: FloatArray = spins @ fields + ((spins @ couplings) * spins).sum(axis=1)
        return energies


TOYS = (Toy(18, 1.2, 5, 3.8, 5.0), Toy(14, 1.6, 1, 4.0, 3.0))
"""The two machines of the study."""


@dataclass(frozen=True)
class RuleCourse:
    """Where a rule went.

    Args:
        setting: What it was tried on.
        rule: Its name in :data:`RULES`.
        betas: What was programmed, and where the rule ended.
        true: Inverse temperature of the annealer; the mean over programmings on an emulated chip.
        is_settled: Whether the rule stopped by itself; on exact machines, whether it ended within a thousandth.
        multiplier: What a small error of beta is multiplied by in a step at the fixed point.
        failure: Why the rule gave up, if it did.
    """

    setting: str
    rule: str
    betas: tuple[float, ...]
    true: float
    is_settled: bool
    multiplier: float
    failure: str = ""

    @property
    def has_diverged(self) -> bool:
        """Whether beta left the positive numbers."""
        return not (math.isfinite(self.betas[-1]) and self.betas[-1] > 0)

    @property
    def is_two_cycle(self) -> bool:
        """Whether the last programmings alternate between two values."""
        if self.has_diverged or len(self.betas) < 5:
            return False
        a, b, c, d = self.betas[-4:]
        return abs(a / c - 1) < _SAME and abs(b / d - 1) < _SAME and abs(c / d - 1) > _SWING

    @property
    def verdict(self) -> str:
        """How it ended, in words."""
        if self.failure:
            return "gives up"
        if self.has_diverged:
            return f"diverges in {len(self.betas) - 1} programmings"
        if self.is_two_cycle:
            low, high = sorted(self.betas[-2:])
            return f"swings between {low:.2f} and {high:.2f}"
        n = len(self.betas) - 1
        return f"ends at {self.betas[-1]:.2f} after {n} programmings" + ("" if self.is_settled else ", not settled")


@dataclass(frozen=True)
class _Endless:
    """A rule that is never settled."""

    rule: EnergyRule

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        return self.rule.step(beta, seen, wanted)

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        del seen, wanted
        return False

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        return self.rule.multiplier(beta, mean, variance)


def toy_courses(toy: Toy, n_steps: int) -> list[RuleCourse]:
    """All rules on one exact machine.

    Args:
        toy: The machine.
        n_steps: Programmings.
    """
    energies = toy.energies()
    wanted = EnergySample(*_moments(energies, 1.0), 128)
    courses = []
    for name, rule in RULES.items():
        found = match_energy(
            lambda beta: EnergySample(*_moments(energies, toy.true / beta), 128),
            wanted,
            _Endless(rule),
            start=toy.start,
            max_programmings=n_steps,
        )
        is_settled = abs(found.last_beta / toy.true - 1) < _SAME
        multiplier = rule.multiplier(toy.true, wanted.mean, wanted.variance)
        courses.append(RuleCourse(toy.name, name, _betas(found), toy.true, is_settled, multiplier))
    return courses


def emulated_course(
    machine: StudyMachine,
    rule: str,
    condition: FloatArray,
    *,
    mode: EmulatorMode,
    start: float,
    n_reads: int,
    most: int,
    seed: int,
) -> RuleCourse:
    """A rule on a new emulated chip, under one condition folded into the fields.

    Args:
        machine: The machine.
        rule: Name in :data:`RULES`.
        condition: Row of the condition, (1, n_c).
        mode: Mode of the emulator.
        start: First beta.
        n_reads: Reads of a programming.
        most: Most programmings.
        seed: Seed.
    """
    annealer = machine.annealer(mode, derive_seed(seed, "chip") % 2**31)
    generator = stream(seed, "course", rule)
    run = ProtocolRun(annealer, machine.prior.machine, condition, machine.conditioning("fold"), generator)
    wanted = run.reference_sample(0)
    tried: list[float] = []

    def read(beta: float) -> EnergySample:
        tried.append(beta)
        return EnergySample.of(run.energies(0, beta, n_reads))

    setting = f"{machine.name}, emulated, {mode}"
    failure, is_settled = "", False
    betas: tuple[float, ...] = (start,)
    try:
        found = match_energy(read, wanted, RULES[rule], start=start, max_programmings=most)
        betas, is_settled = _betas(found), found.is_converged
    except AnnealerError as error:
        failure, betas = str(error), tuple(tried)
    history = annealer.sampler.reveal()
    true = float(np.mean([programming.beta for programming in history])) if history else annealer.chip.beta
    multiplier = RULES[rule].multiplier(true, wanted.mean, wanted.variance)
    return RuleCourse(setting, rule, betas, true, is_settled, multiplier, failure)


def _betas(found: EnergyMatch) -> tuple[float, ...]:
    return (*found.betas, found.last_beta)


def _moments(energies: FloatArray, ratio: float) -> tuple[float, float]:
    weights = np.exp(-ratio * (energies - energies.min()))
    weights /= weights.sum()
    mean = float(weights @ energies)
    return mean, float(weights @ (energies - mean) ** 2)
