r"""Coupled replicas of a chain, and the exchange of states between them.

Level :math:`k = 0 \dots K - 1` samples a law :math:`p_k \propto e^{-E_k}` of its own; the last level is the law that
is wanted. The levels are independent of each other, so their joint law is the product. Exchanging the states of two
neighbouring levels with probability

.. math:: \min\big(1, e^{\Delta}\big), \qquad
    \Delta = E_k(x_k) + E_{k+1}(x_{k+1}) - E_k(x_{k+1}) - E_{k+1}(x_k)

leaves that product unchanged (Metropolis' rule), while a state may travel to a level without barriers and come back
elsewhere. Levels of one machine at several temperatures are parallel tempering
(:mod:`~calo4pqvae.prior.sampling.tempering`); levels that are saved machines of one training are parallel trajectory
tempering (:mod:`~calo4pqvae.prior.sampling.trajectory`). Both take gaps 0, 2, 4, ... and 1, 3, 5, ... in turn, which
carries states faster than a random choice (Syed et al. 2022, arXiv 1905.02939).

A *walker* is a state that is followed through the exchanges. Its journey from the first level to the last and back
is a round trip; the rate of round trips says whether the replicas do what they are for, the acceptances where they
do not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from calo4pqvae.errors import PriorError

__all__ = ["ReplicaState", "SwapBook", "SwapReport", "check_levels", "check_rounds", "exchange", "run_replicas"]

_OUTWARD = 1  # a walker that was at the first level more recently than at the last
_HOMEWARD = 2  # one that came from the first level and has reached the last since


@dataclass(frozen=True)
class SwapReport:
    """How well replicas mix; errors are standard errors over the independent chains (NaN for a single chain).

    Args:
        acceptance: Accepted share of the exchanges tried in each gap, (K - 1) numbers; NaN where none was tried.
        acceptance_error: Their errors.
        round_trips: Round trips of all walkers of a chain together, mean over the chains.
        round_trips_error: Its error.
        n_chains: Number of chains.
        n_sweeps: Sweeps since the start of the count.
    """

    acceptance: tuple[float, ...]
    acceptance_error: tuple[float, ...]
    round_trips: float
    round_trips_error: float
    n_chains: int
    n_sweeps: int


@dataclass(frozen=True)
class SwapBook:
    """What happened in the exchanges so far.

    Args:
        attempts: Exchanges tried by every chain in each gap, shape (K - 1,).
        accepts: Exchanges made, shape (K - 1, chains).
        walkers: Walker at each level, shape (K, chains).
        legs: Where each walker stands on its round trip, shape (K, chains).
        round_trips: Completed round trips, shape (chains,).
    """

    attempts: Tensor
    accepts: Tensor
    walkers: Tensor
    legs: Tensor
    round_trips: Tensor

    @classmethod
    def blank(cls, n_levels: int, n_chains: int, device: torch.device) -> Self:
        """Nothing has happened: walker k is at level k, and the walker of the first level is outward bound."""
        legs = torch.zeros(n_levels, n_chains, dtype=torch.int64, device=device)
        legs[0] = _OUTWARD
        return cls(
            attempts=torch.zeros(n_levels - 1, dtype=torch.int64, device=device),
            accepts=torch.zeros(n_levels - 1, n_chains, dtype=torch.int64, device=device),
            walkers=torch.arange(n_levels, device=device)[:, None].repeat(1, n_chains),
            legs=legs,
            round_trips=torch.zeros(n_chains, dtype=torch.int64, device=device),
        )

    def after(self, gaps: Tensor, accepted: Tensor) -> Self:
        """The book after one round of exchanges.

        Args:
            gaps: Gaps tried, no two of them neighbours, shape (G,).
            accepted: Which exchanges were made, shape (G, chains).
        """
        attempts, accepts = self.attempts.clone(), self.accepts.clone()
        attempts[gaps] += 1
        accepts[gaps] += accepted
        walkers = _exchanged(self.walkers, gaps, accepted)
        legs = self.legs.clone()
        first, last = walkers[:1], walkers[-1:]
        is_home = legs.gather(0, first) == _HOMEWARD
        legs.scatter_(0, first, _OUTWARD)
        at_last = legs.gather(0, last)
        legs.scatter_(0, last, torch.where(at_last == _OUTWARD, _HOMEWARD, at_last))
        return type(self)(attempts, accepts, walkers, legs, self.round_trips + is_home[0])


@dataclass(frozen=True)
class ReplicaState:
    """Independent chains, each with one state a level; made by :meth:`start`.

    Args:
        states: Bits at the last level, which is the law that is wanted, shape (chains, N). Held bits have the values
            that they have here, at all levels.
        others: Bits at the levels before, shape (K - 1, chains, N).
        book: What happened in the exchanges.
        n_sweeps: Sweeps made since the start.

    Raises:
        PriorError: If the shapes of the levels differ.
    """

    states: Tensor
    others: Tensor
    book: SwapBook
    n_sweeps: int = 0

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.others.ndim != 3 or self.others.shape[1:] != self.states.shape:
            raise PriorError(
                f"levels have shapes {tuple(self.others.shape)} and {tuple(self.states.shape)}; "
                "give (levels, chains, nodes) and (chains, nodes)"
            )

    @classmethod
    def start(cls, replicas: Tensor) -> Self:
        """Chains with nothing counted yet; also what forgets the counts of a burn-in.

        Args:
            replicas: Bits at all levels, shape (K, chains, N).
        """
        book = SwapBook.blank(len(replicas), replicas.shape[1], replicas.device)
        return cls(replicas[-1], replicas[:-1], book)

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        return len(self.states)

    @property
    def n_levels(self) -> int:
        """Number of levels K."""
        return len(self.others) + 1

    @property
    def replicas(self) -> Tensor:
        """Bits at all levels, shape (K, chains, N)."""
        return torch.cat([self.others, self.states[None]])

    def report(self) -> SwapReport:
        """Acceptances and round trips since the start."""
        shares = self.book.accepts.double() / self.book.attempts[:, None]
        trips = self.book.round_trips.double()
        return SwapReport(
            acceptance=tuple(shares.mean(dim=1).tolist()),
            acceptance_error=tuple(_standard_error(share) for share in shares),
            round_trips=float(trips.mean()),
            round_trips_error=_standard_error(trips),
            n_chains=self.n_chains,
            n_sweeps=self.n_sweeps,
        )


def check_levels(state: ReplicaState, n_levels: int) -> None:
    """Refuses states with another number of levels.

    Raises:
        PriorError: If the numbers differ.
    """
    if state.n_levels != n_levels:
        raise PriorError(f"the state has {state.n_levels} levels, the sampler {n_levels}; start it with this sampler")


def check_rounds(sweeps_per_swap: int) -> None:
    """Refuses rounds without a sweep.

    Raises:
        PriorError: If there is none.
    """
    if sweeps_per_swap < 1:
        raise PriorError(f"{sweeps_per_swap} sweeps between exchanges are too few; give at least one")


def exchange(
    replicas: Tensor, book: SwapBook, gaps: Tensor, log_ratios: Tensor, generator: torch.Generator
) -> tuple[Tensor, SwapBook]:
    """One round of exchanges by Metropolis' rule.

    Args:
        replicas: Bits at all levels, shape (K, chains, N).
        book: What happened so far.
        gaps: Gaps to try, no two of them neighbours, shape (G,).
        log_ratios: Delta of each of them, in nats, shape (G, chains).
        generator: Source of randomness, on the same device.

    Returns:
        The new replicas and the new book.
    """
    odds = log_ratios.double().clamp(max=0).exp()
    accepted = torch.rand(odds.shape, generator=generator, dtype=torch.float64, device=odds.device) < odds
    return _exchanged(replicas, gaps, accepted[..., None]), book.after(gaps, accepted)


def run_replicas(
    state: ReplicaState,
    n_sweeps: int,
    sweeps_per_swap: int,
    held: Tensor,
    update: Callable[[Tensor, int], Tensor],
    log_ratios: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> ReplicaState:
    """Sweeps and exchanges in turn, in step with the sweeps of earlier calls.

    Calls of whole rounds, ``sweeps_per_swap`` sweeps or a multiple, give together what one call gives.

    Args:
        state: Where the chains are.
        n_sweeps: Sweeps to make.
        sweeps_per_swap: Sweeps between two rounds of exchanges.
        held: Mask of the held bits (N,); all levels take them from ``state.states``.
        update: Replicas (K, chains, N) after a number of sweeps within the levels.
        log_ratios: Delta (G, chains) of the given gaps of replicas.
        generator: Source of randomness of the exchanges.
    """
    if n_sweeps == 0:
        return state
    replicas, book, done = torch.where(held, state.states, state.replicas), state.book, state.n_sweeps
    end = done + n_sweeps
    while done < end:
        step = min(end - done, sweeps_per_swap - done % sweeps_per_swap)
        replicas = update(replicas, step)
        done += step
        if done % sweeps_per_swap == 0:
            parity = (done // sweeps_per_swap - 1) % 2
            gaps = torch.arange(parity, len(replicas) - 1, 2, device=replicas.device)
            replicas, book = exchange(replicas, book, gaps, log_ratios(replicas, gaps), generator)
    return ReplicaState(replicas[-1], replicas[:-1], book, done)


def _exchanged(levels: Tensor, gaps: Tensor, accepted: Tensor) -> Tensor:
    lower, upper = levels[gaps], levels[gaps + 1]
    result = levels.clone()
    result[gaps] = torch.where(accepted, upper, lower)
    result[gaps + 1] = torch.where(accepted, lower, upper)
    return result


def _standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
