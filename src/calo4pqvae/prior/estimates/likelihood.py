r"""Log-likelihood of bits under a machine, and the lower bound for data whose latents they are.

With :math:`\ln Z(c)` at hand, bits have the log-probability

.. math:: \ln p(z | c) = -E(z | c) - \ln Z(c) ,

and if some bits are hidden, that of the others is :math:`-F(z_R | c) - \ln Z(c)` with the free energy of
:mod:`~calo4pqvae.prior.sampling.collapsed`. Every state takes the :math:`\ln Z` of its own condition: mean energies
alone cannot be compared between machines.

Data x that a decoder makes of latent bits, with an encoder q, have the bound

.. math:: \ln p(x | c) \ge \big\langle \ln p(x | z, c) - E(z | c) - \ln q(z | x, c) \big\rangle_q - \ln Z(c) ,

the same with each estimate of :math:`\ln Z`. AIS tends to put :math:`\ln Z` too low and thereby the likelihood too
high; reverse AIS the other way round. The errors of the mean over states and of :math:`\ln Z` are kept apart, because
more data reduce only the first.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.log_z import Bracket, LogZ
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.collapsed import free_energy

__all__ = ["LatentBound", "LogLikelihood", "latent_bound", "log_likelihood"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LogLikelihood:
    """Mean log-likelihood of states, in nats a state.

    Args:
        value: Mean.
        error: Its standard error over the states.
        log_z_error: Its error from log Z; independent of ``error``.
        per_state: Log-likelihood of every state, shape (B,).
        direction: How log Z was found; with ``"ais"`` the value tends to be high, with ``"reverse"`` low.
        is_reliable: Whether every log Z that was used is.
        seed: Seed of the chains behind log Z.
    """

    value: float
    error: float
    log_z_error: float
    per_state: FloatArray
    direction: str
    is_reliable: bool
    seed: int

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.per_state)

    @property
    def total_error(self) -> float:
        """Both errors together."""
        return math.hypot(self.error, self.log_z_error)


@dataclass(frozen=True)
class LatentBound:
    """Lower bound of the log-likelihood of data with latent bits, with log Z from both directions.

    Args:
        forward: With log Z from AIS; tends to be high.
        reverse: With log Z from reverse AIS; tends to be low.
    """

    forward: LogLikelihood
    reverse: LogLikelihood


def log_likelihood(
    machine: BoltzmannMachine,
    states: Tensor,
    log_z: LogZ,
    *,
    condition: Tensor | None = None,
    hidden: int | NDArray[np.bool_] | None = None,
    case: Tensor | NDArray[np.int64] | None = None,
) -> LogLikelihood:
    """Mean log-likelihood of bits under a machine.

    Args:
        machine: The machine.
        states: Bits (B, N) with clamped bits at their values; hidden bits do not matter.
        log_z: Log Z of the cases, with the same clamped bits and conditions as the states.
        condition: c of every state, shape (B, n_c), if the machine has one.
        hidden: Partition or mask (N,) of bits that are summed out, none of them clamped.
        case: Which of the C cases each state belongs to, shape (B,); needed if there are several.

    Raises:
        PriorError: If there are fewer than two states, a shape does not fit, or hidden bits are coupled.
    """
    if states.ndim != 2 or states.shape[1] != machine.n_nodes or len(states) < 2:
        raise PriorError(f"states have shape {tuple(states.shape)}; give at least two, (states, {machine.n_nodes})")
    machine.check_finite()
    if hidden is None:
        mask = np.zeros(machine.n_nodes, dtype=np.bool_)
    elif isinstance(hidden, int):
        mask = machine.topology.is_in_partition(hidden)
    else:
        mask = hidden
    unnormalised = -free_energy(machine, states, mask, condition)
    return _mean(unnormalised.cpu().numpy(), log_z, _cases(case, len(states), log_z))


def latent_bound(
    log_reconstruction: Tensor,
    log_posterior: Tensor,
    log_prior_unnormalised: Tensor,
    log_z: Bracket,
    case: Tensor | NDArray[np.int64] | None = None,
) -> LatentBound:
    r"""Lower bound of :math:`\ln p(x)` from latents drawn from the posterior, with both directions of log Z.

    Args:
        log_reconstruction: :math:`\ln p(x | z)`, shape (B,), or (S, B) for S draws of the latents.
        log_posterior: :math:`\ln q(z | x)` of the bits that were drawn, same shape.
        log_prior_unnormalised: :math:`-E(z)`, same shape.
        log_z: Both estimates of log Z.
        case: Case of every x, shape (B,); needed if there are several.

    Raises:
        PriorError: If shapes differ, a number is not finite, or there are fewer than two x.
    """
    shapes = {tuple(term.shape) for term in (log_reconstruction, log_posterior, log_prior_unnormalised)}
    if len(shapes) != 1 or log_posterior.ndim not in (1, 2):
        raise PriorError(f"terms of the bound have shapes {sorted(shapes)}; give all of (B,) or all of (draws, B)")
    terms = log_reconstruction.double() + log_prior_unnormalised.double() - log_posterior.double()
    bound = terms.detach().reshape(-1, terms.shape[-1]).mean(dim=0).cpu().numpy()
    if len(bound) < 2 or not np.isfinite(bound).all():
        raise PriorError("the bound needs two or more finite terms; look for bits with probability zero")
    cases = _cases(case, len(bound), log_z.forward)
    return LatentBound(_mean(bound, log_z.forward, cases), _mean(bound, log_z.reverse, cases))


def _cases(case: Tensor | NDArray[np.int64] | None, n_states: int, log_z: LogZ) -> NDArray[np.int64]:
    n_cases = len(log_z.value)
    if case is None:
        if n_cases > 1:
            raise PriorError(f"log Z has {n_cases} cases; say with 'case' to which each state belongs")
        return np.zeros(n_states, dtype=np.int64)
    index = np.asarray(torch.as_tensor(case).cpu())
    if index.shape != (n_states,) or index.dtype.kind != "i" or index.min() < 0 or index.max() >= n_cases:
        raise PriorError(f"case must be {n_states} integers from 0 to {n_cases - 1}, one a state; correct it")
    return index.astype(np.int64)


def _mean(unnormalised: FloatArray, log_z: LogZ, case: NDArray[np.int64]) -> LogLikelihood:
    per_state = unnormalised - log_z.value[case]
    share = np.bincount(case, minlength=len(log_z.value)) / len(case)
    return LogLikelihood(
        value=float(per_state.mean()),
        error=float(per_state.std(ddof=1) / math.sqrt(len(per_state))),
        log_z_error=float(np.sqrt(((share * log_z.error) ** 2).sum())),
        per_state=per_state,
        direction=log_z.direction,
        is_reliable=bool(log_z.is_reliable[share > 0].all()),
        seed=log_z.seed,
    )
