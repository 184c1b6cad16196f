"""Are the sweeps enough? Chains of a sampler followed for a while, and what their memory says.

The energy and the projections on the leading modes of the couplings are recorded, and for each of them the integrated
autocorrelation time, the relaxation time, R-hat and the effective sample size are estimated
(:mod:`~calo4pqvae.prior.estimates.autocorrelation`). Chains with different held bits or conditions sample different
laws; each law has a mean of its own. All times are in sweeps.

What is followed must be in equilibrium already: a diagnosis describes chains, it does not bring them there. Chains that
were started alike and sit in one mode agree with each other; starts from different places show that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.autocorrelation import (
    IntegratedTime,
    RelaxationTime,
    integrated_time,
    leading_modes,
    relaxation_time,
    split_r_hat,
)
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import clamp_mask, distinct_laws
from calo4pqvae.prior.sampling.samplers import ChainState, Sampler

__all__ = ["ChainDiagnosis", "SeriesDiagnosis", "chain_diagnosis"]

FloatArray = NDArray[np.float64]
StateT = TypeVar("StateT", bound=ChainState)

ENOUGH = 5.0  # relaxation times after which less than one per cent of a start is left
R_HAT_LIMIT = 1.1


@dataclass(frozen=True)
class SeriesDiagnosis:
    """What one followed quantity says; times in sweeps.

    Args:
        name: ``"energy"``, or ``"mode 1"`` and so on.
        integrated: Integrated autocorrelation time.
        relaxation: Exponential relaxation time.
        r_hat: Split R-hat; 1 if chains agree.
        ess: Effective number of independent records.
    """

    name: str
    integrated: IntegratedTime
    relaxation: RelaxationTime
    r_hat: float
    ess: float


@dataclass(frozen=True)
class ChainDiagnosis(Generic[StateT]):
    """What a stretch of chains says about their sampler.

    Args:
        series: Every quantity that moved.
        constant: Names of those that did not.
        n_sweeps: Sweeps followed.
        every: Sweeps between records.
        n_chains: Chains.
        n_laws: Different held bits and conditions among them.
        seed: Seed that the generator began with.
        state: Where the chains ended, to go on from.
    """

    series: tuple[SeriesDiagnosis, ...]
    constant: tuple[str, ...]
    n_sweeps: int
    every: int
    n_chains: int
    n_laws: int
    seed: int
    state: StateT

    @property
    def slowest(self) -> SeriesDiagnosis:
        """The series with the longest relaxation time."""
        return max(self.series, key=lambda one: one.relaxation.value)

    @property
    def tau(self) -> float:
        """Longest integrated autocorrelation time, in sweeps."""
        return max(one.integrated.value for one in self.series)

    @property
    def ess(self) -> float:
        """Smallest effective number of independent records."""
        return min(one.ess for one in self.series)

    @property
    def r_hat(self) -> float:
        """Largest R-hat."""
        return max(one.r_hat for one in self.series)

    @property
    def is_converged(self) -> bool:
        """Whether the chains were followed long enough for the numbers to mean anything, and agree."""
        return self.r_hat <= R_HAT_LIMIT and all(
            one.integrated.is_converged and one.relaxation.is_converged for one in self.series
        )

    def sweeps_are_enough(self, n_sweeps: int) -> bool:
        """Whether chains from any start are near the law after ``n_sweeps``: five relaxation times, and converged."""
        return self.is_converged and n_sweeps >= ENOUGH * self.slowest.relaxation.value

    def warning(self, n_sweeps: int) -> str | None:
        """One sentence on what is wrong with ``n_sweeps``, for people; None if they are enough."""
        slowest = self.slowest
        time = f"{slowest.relaxation.value:.3g} +- {slowest.relaxation.error:.1g} sweeps ({slowest.name})"
        if self.sweeps_are_enough(n_sweeps):
            return None
        if not self.is_converged:
            return (
                f"the chains were not in equilibrium, or {self.n_sweeps} sweeps are too few to tell: R-hat "
                f"{self.r_hat:.3f}, relaxation time at least about {time}; follow them for longer"
            )
        return f"{n_sweeps} sweeps are fewer than {ENOUGH:g} relaxation times of {time}; make more sweeps"


def chain_diagnosis(
    machine: BoltzmannMachine,
    sampler: Sampler[StateT],
    state: StateT,
    n_sweeps: int,
    every: int,
    generator: torch.Generator,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    condition: Tensor | None = None,
    n_modes: int = 3,
) -> ChainDiagnosis[StateT]:
    """Follows chains and diagnoses them.

    Args:
        machine: The machine whose law the chains sample.
        sampler: The sampler to diagnose.
        state: Chains in equilibrium, better several with different starts.
        n_sweeps: Sweeps to follow, at least eight records.
        every: Sweeps between records; memory shorter than that is not resolved.
        generator: Source of randomness, on the machine's device.
        clamped: Mask (N,) of the bits to hold.
        condition: c of every chain, shape (chains, n_c), if the machine has a condition.
        n_modes: Leading modes to follow besides the energy; fewer if there are fewer free bits.

    Raises:
        PriorError: If there are too few records, nothing moves, or as the sampler.
    """
    if every < 1 or n_sweeps // every < 8:
        raise PriorError(
            f"{n_sweeps} sweeps in steps of {every} give fewer than 8 records; follow the chains for longer"
        )
    mask = clamp_mask(clamped, machine.n_nodes).numpy()
    groups = distinct_laws(state.states, torch.from_numpy(mask), condition)[1].numpy()
    modes = leading_modes(machine, min(n_modes, int((~mask).sum())), mask)
    directions = torch.from_numpy(modes).to(machine.biases)
    tables = []
    for _ in range(n_sweeps // every):
        state = sampler.sample(state, every, generator, clamped, condition)
        tables.append(_record(machine, state.states, directions, condition))
    names = ["energy", *(f"mode {index}" for index in range(1, len(modes) + 1))]
    table = np.stack(tables)
    moves = [_varies(table[:, :, index], groups) for index in range(len(names))]
    if not any(moves):
        raise PriorError("no followed quantity moves, so that there is nothing to diagnose; free some bits")
    return ChainDiagnosis(
        series=_diagnose(
            [name for name, kept in zip(names, moves, strict=True) if kept], table[..., moves], groups, every
        ),
        constant=tuple(name for name, kept in zip(names, moves, strict=True) if not kept),
        n_sweeps=n_sweeps,
        every=every,
        n_chains=state.n_chains,
        n_laws=len(np.unique(groups)),
        seed=generator.initial_seed(),
        state=state,
    )


@torch.no_grad()
def _record(machine: BoltzmannMachine, states: Tensor, directions: Tensor, condition: Tensor | None) -> FloatArray:
    """Energy and projections of every chain, (chains, 1 + modes)."""
    projections = states.to(directions) @ directions.t()
    values = torch.cat([machine.energy(states, condition)[:, None], projections], dim=1)
    record: FloatArray = values.double().cpu().numpy()
    return record


def _varies(series: FloatArray, groups: NDArray[np.int64]) -> bool:
    """Whether a series differs in time, or between chains of one law."""
    return any(float(np.ptp(series[:, groups == group])) > 0 for group in np.unique(groups))


def _diagnose(
    names: Sequence[str], table: FloatArray, groups: NDArray[np.int64], every: int
) -> tuple[SeriesDiagnosis, ...]:
    """Every series (steps, chains, series), with steps turned into sweeps."""
    found = []
    for index, name in enumerate(names):
        series = table[:, :, index]
        steps, tail = integrated_time(series, groups), relaxation_time(series, groups)
        found.append(
            SeriesDiagnosis(
                name=name,
                integrated=replace(steps, value=steps.value * every, error=steps.error * every),
                relaxation=replace(tail, value=tail.value * every, error=tail.error * every),
                r_hat=split_r_hat(series, groups),
                ess=series.size / steps.value,
            )
        )
    return tuple(found)
