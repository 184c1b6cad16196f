r"""Does a negative phase have sweeps enough? Measured while a machine is learned.

The chains of the negative phase are followed for a while at fixed parameters
(:mod:`~calo4pqvae.prior.estimates.chain_diagnosis`). Fewer sweeps a step than the relaxation time :math:`\tau` mean
that a sample still remembers where it was a step before: the machine then becomes right for its own protocol, the same
start and the same number of sweeps, but not in equilibrium. The relaxation time grows during learning, most where a new
mode of the couplings is learned; with growing sweeps

.. math:: k \leftarrow \max\big(k, \min(\lceil g \tau \rceil, k_{max})\big)

follows it. The measurement draws from a copy of the generator and leaves the chains where they are, so that looking
does not change what is learned.

Decelle, Furtlehner and Seoane, NeurIPS (2021), arXiv 2105.13889.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.prior.estimates.chain_diagnosis import chain_diagnosis
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.samplers import Sampler, StateT

__all__ = ["MixingReport", "grown_sweeps", "measure_mixing"]

LEAST_SWEEPS = 20  # of a measurement


@dataclass(frozen=True)
class MixingReport:
    """How chains mix at fixed parameters; times in sweeps.

    Args:
        relaxation_time: Longest relaxation time among energy and leading modes.
        relaxation_error: Its error.
        slowest: What has this time.
        tau_energy: Integrated autocorrelation time of the energy; NaN if the energy does not move.
        r_hat: Largest R-hat.
        ess: Smallest effective number of independent states.
        n_chains: Chains followed.
        measured_sweeps: Sweeps they were followed for.
        n_sweeps: Sweeps a step that were judged.
        is_converged: Whether the chains were followed long enough for the times to be more than lower limits.
        warning: One sentence if the sweeps a step are fewer than the relaxation time; None if not.
    """

    relaxation_time: float
    relaxation_error: float
    slowest: str
    tau_energy: float
    r_hat: float
    ess: float
    n_chains: int
    measured_sweeps: int
    n_sweeps: int
    is_converged: bool
    warning: str | None


def measure_mixing(
    machine: BoltzmannMachine,
    sampler: Sampler[StateT],
    state: StateT,
    generator: torch.Generator,
    *,
    measured_sweeps: int,
    n_sweeps: int,
    clamped: NDArray[np.bool_] | None = None,
    condition: Tensor | None = None,
) -> MixingReport:
    """Follows the chains of a negative phase.

    Args:
        machine: The machine.
        sampler: Its sampler.
        state: The chains; they are not changed.
        generator: Source of randomness; its state is copied and not moved.
        measured_sweeps: Sweeps to follow the chains for, at least 20.
        n_sweeps: Sweeps a step, to be judged.
        clamped: Mask (N,) of the clamped bits.
        condition: Conditions of the chains, if the machine has a condition.

    Raises:
        PriorError: If nothing moves or a parameter is not finite.
    """
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    found = chain_diagnosis(machine, sampler, state, measured_sweeps, 1, copy, clamped, condition)
    relaxation = found.slowest.relaxation
    energies = [one.integrated.value for one in found.series if one.name == "energy"]
    warning = None
    if n_sweeps < relaxation.value:
        warning = (
            f"{n_sweeps} sweeps a step are fewer than the relaxation time of {relaxation.value:.3g} sweeps "
            f"({found.slowest.name}): the machine is learned out of equilibrium; raise n_sweeps or set sweeps_growth"
        )
    return MixingReport(
        relaxation_time=relaxation.value,
        relaxation_error=relaxation.error,
        slowest=found.slowest.name,
        tau_energy=energies[0] if energies else math.nan,
        r_hat=found.r_hat,
        ess=found.ess,
        n_chains=found.n_chains,
        measured_sweeps=measured_sweeps,
        n_sweeps=n_sweeps,
        is_converged=found.is_converged,
        warning=warning,
    )


def grown_sweeps(report: MixingReport, growth: float, most: int) -> int:
    """Sweeps of the next steps: so many relaxation times, at most ``most``, and never fewer than now.

    Args:
        report: The measurement.
        growth: Relaxation times in a step.
        most: Upper limit.
    """
    wanted = growth * report.relaxation_time
    return max(report.n_sweeps, most if not math.isfinite(wanted) else min(math.ceil(wanted), most))
