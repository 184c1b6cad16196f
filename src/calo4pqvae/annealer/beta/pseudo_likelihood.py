r"""The inverse temperature of an annealer from its own reads, by maximum pseudo-likelihood.

If the reads of a problem with fields h and couplings J follow :math:`e^{-\beta H(s)}`, each spin follows, given all
others,

.. math::
    p(s_i | rest) = \sigma(\beta u_i), \qquad u_i = -2 s_i \Big( h_i + \sum_{j \sim i} J_{ij} s_j \Big),

whatever the partition function. The estimate maximises :math:`L(\beta) = \sum_n \sum_i \ln \sigma(\beta u_i^n)` over
reads n and spins i, which is concave; Newton steps are made in :math:`\ln \beta`. No classical sampling is needed, and
one programming is enough. Problems with different fields, as those of several conditions, enter one estimate.

**Errors.** Spins of one read are coupled, so that the curvature of L is no more than a guide. Reads are independent:
the quoted error is that of a bootstrap which draws as many reads as there are. Every replica is refitted: the score of
each read is taken at five values of ln beta over 3.5 errors to either side, and the root of their quartic is found for
each replica, which costs five passes over the spins however many replicas there are. Fewer reads than 20 cannot be
resampled; then the curvature is quoted, and :attr:`BetaEstimate.error_source` says so.

**Clamped qubits** are held by something that is not in the problem (or by a field that freezes them); they must be
excluded, which ``held`` does. Their values as read still act on their neighbours.

**Misfit.** Beta is no goodness of fit: control errors of fields barely move it. With the residuals
:math:`\rho_i = s_i - \tanh(\beta u_i s_i / 2)`, whose mean is zero given the rest,

.. math:: m = \frac{1}{n} \sum_i \frac{(\sum_n \rho_i^n)^2}{\sum_n (1 - \tanh^2)}

is one for a perfect law and grows with the number of reads if fields or couplings are not those that were programmed.

**Background susceptibility.** Early in the anneal qubits respond to their neighbours' neighbours:
:math:`h \to h + \chi J h`, :math:`J \to J + \chi J^2` (without the diagonal). In :math:`(\beta, \beta \chi)` the log
odds are linear, so that both are fitted at once (:func:`susceptibility_fit`).

Besag, The Statistician 24 (1975); Raymond, Yarkoni and Andriyash, Front. ICT 3 (2016), doi 10.3389/fict.2016.00023.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.annealer.chip.problem import FloatArray, IntArray, IsingProblem, Reads, bits_to_spins
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.pairs import Neighbours, compressed_rows, coupling_field

__all__ = [
    "BetaEstimate",
    "SusceptibilityFit",
    "maximum_pseudo_likelihood",
    "partition_temperatures",
    "susceptibility_fit",
]

BoolArray = NDArray[np.bool_]

BETA_RANGE = (1e-3, 1e3)
"""Least and largest inverse temperature that is looked for, in inverse units of h."""

_LEAST_READS = 20  # from which reads are resampled
_MAX_STEPS = 100
_TOLERANCE = 1e-6  # of ln beta
_LONGEST_STEP = 1.5  # of ln beta
_NODES = 5  # values of beta at which the bootstrap takes scores
_WINDOW = 3.5  # errors to either side over which they lie
_REFIT_STEPS = 8  # Newton steps of a refit


@dataclass(frozen=True)
class BetaEstimate:
    """An inverse temperature with its error and how it came about.

    Args:
        value: Inverse temperature in inverse units of h.
        error: Standard error.
        error_source: ``"bootstrap"``, ``"curvature"`` where reads are too few to resample, or ``"energies"``.
        n_reads: Reads that were used.
        n_programmings: Programmings that they come from.
        n_spins: Spins of a read that were used.
        n_excluded: Held spins that were left out.
        n_steps: Newton steps, or calls of an iterative rule.
        is_converged: Whether the rule stopped by itself; pseudo-likelihood raises otherwise.
        misfit: Mean squared residual of the spins in units of its variance, one for a perfect law; NaN if not known.
        curvature_error: Standard error if all spins were independent; NaN if not known.
        seed: Of the bootstrap.
        programmed_beta: What the machine was divided by when the reads were taken, their mean over programmings.
    """

    value: float
    error: float
    error_source: Literal["bootstrap", "curvature", "energies"]
    n_reads: int
    n_programmings: int
    n_spins: int
    n_excluded: int
    n_steps: int
    is_converged: bool
    misfit: float
    curvature_error: float
    seed: int
    programmed_beta: float

    @property
    def ratio(self) -> float:
        """Inverse temperature at which the machine was drawn, one if it was divided by the right beta."""
        return self.value / self.programmed_beta

    def __str__(self) -> str:
        return (
            f"beta = {self.value:.4f} +- {self.error:.4f} ({self.error_source}; {self.n_reads} reads of {self.n_spins} "
            f"spins in {self.n_programmings} programmings, {self.n_excluded} excluded, seed {self.seed})"
        )


@dataclass(frozen=True)
class SusceptibilityFit:
    """Inverse temperature and background susceptibility, fitted together.

    Args:
        beta: Inverse temperature in inverse units of h.
        beta_error: Standard error over reads.
        chi: Background susceptibility in inverse units of J.
        chi_error: Standard error over reads.
        correlation: Of the two errors.
        gain: Log pseudo-likelihood won over the fit with chi = 0; spins are coupled, so it is no test statistic.
        n_reads: Reads.
        n_spins: Spins of a read that were used.
        n_steps: Newton steps.
    """

    beta: float
    beta_error: float
    chi: float
    chi_error: float
    correlation: float
    gain: float
    n_reads: int
    n_spins: int
    n_steps: int


def maximum_pseudo_likelihood(
    reads: Reads | Sequence[Reads], held: BoolArray | None = None, *, n_bootstrap: int = 400, seed: int = 0
) -> BetaEstimate:
    """Inverse temperature of an annealer from reads.

    Args:
        reads: Reads of one problem, or of several with the same qubits.
        held: Mask (n,) of clamped qubits, which are left out.
        n_bootstrap: Replicas of the bootstrap, at least two.
        seed: Of the bootstrap.

    Raises:
        AnnealerError: If there is no read or no free spin, the reads know no temperature (all are local minima, or none
            follows its fields), or the optimum lies outside :data:`BETA_RANGE`.
    """
    batches = _batches(reads)
    free = _free(batches, held)
    odds, spins = _odds(batches, free)
    return _estimate(odds, spins, batches, len(free) - int(free.sum()), n_bootstrap, seed)


def partition_temperatures(
    reads: Reads | Sequence[Reads],
    partition: IntArray,
    held: BoolArray | None = None,
    *,
    n_bootstrap: int = 400,
    seed: int = 0,
) -> dict[int, BetaEstimate]:
    """Inverse temperatures of groups of qubits, each from the spins of its own given all others.

    Args:
        reads: Reads of one problem, or of several with the same qubits.
        partition: Group of every qubit, shape (n,); the partitions of the machine, for example.
        held: Mask (n,) of clamped qubits; a group without free qubits is left out.
        n_bootstrap: Replicas of the bootstrap, at least two.
        seed: Of the bootstrap; all groups resample the same reads.

    Raises:
        AnnealerError: As :func:`maximum_pseudo_likelihood`, or if the groups do not fit the qubits.
    """
    batches = _batches(reads)
    free = _free(batches, held)
    groups = np.asarray(partition)
    if groups.shape != free.shape:
        raise AnnealerError(f"{groups.shape} groups for {len(free)} qubits; give each qubit its partition")
    odds, spins = _odds(batches, free)
    result = {}
    for group in np.unique(groups[free]).tolist():
        columns = torch.from_numpy(np.flatnonzero(groups[free] == group))
        n_excluded = len(free) - len(columns)
        result[int(group)] = _estimate(odds[:, columns], spins[:, columns], batches, n_excluded, n_bootstrap, seed)
    return result


def susceptibility_fit(reads: Reads | Sequence[Reads], held: BoolArray | None = None) -> SusceptibilityFit:
    """Inverse temperature and background susceptibility from reads.

    Args:
        reads: Reads of one problem, or of several with the same qubits; 20 at least.
        held: Mask (n,) of clamped qubits, which are left out; they still pass on the response of their neighbours.

    Raises:
        AnnealerError: As :func:`maximum_pseudo_likelihood`; or if reads are too few, or the two parameters cannot be
            told apart (no couplings).
    """
    batches = _batches(reads)
    free = _free(batches, held)
    plain, _ = _odds(batches, free)
    response, _ = _odds(batches, free, _response)
    n_reads = len(plain)
    if n_reads < _LEAST_READS:
        raise AnnealerError(f"{n_reads} reads cannot tell beta and chi apart with errors; take {_LEAST_READS} or more")
    start, _ = _newton(plain, _programmed(batches))
    theta, slope, curvature, n_steps = _newton_pair(plain, response, start)
    inverse = np.linalg.inv(curvature)
    covariance = n_reads / (n_reads - 1) * inverse @ (slope.T @ slope) @ inverse  # sandwich: reads are independent
    chi = theta[1] / theta[0]
    jacobian = np.array([[1.0, 0.0], [-chi / theta[0], 1 / theta[0]]])
    errors = jacobian @ covariance @ jacobian.T
    gain = _log_likelihood(plain * theta[0] + response * theta[1]) - _log_likelihood(plain * start)
    beta_error, chi_error = np.sqrt(np.diag(errors)).tolist()
    return SusceptibilityFit(
        beta=float(theta[0]),
        beta_error=beta_error,
        chi=float(chi),
        chi_error=chi_error,
        correlation=float(errors[0, 1] / (beta_error * chi_error)),
        gain=gain,
        n_reads=n_reads,
        n_spins=plain.shape[1],
        n_steps=n_steps,
    )


class _Batch(NamedTuple):
    """Spins of one programming (reads, n) as float32, with its problem and the neighbours of its qubits."""

    spins: Tensor
    problem: IsingProblem
    neighbours: Neighbours


def _batches(reads: Reads | Sequence[Reads]) -> list[_Batch]:
    listed = [part for part in ([reads] if isinstance(reads, Reads) else reads) if part.n_reads]
    if not listed:
        raise AnnealerError("there are no reads to estimate beta from; take at least one")
    batches: list[_Batch] = []
    for part in listed:
        problem = part.problem
        if problem.n_qubits != listed[0].problem.n_qubits:
            raise AnnealerError(
                "reads of problems with different numbers of qubits cannot be joined; estimate them apart"
            )
        same = batches and np.array_equal(batches[-1].problem.edges, problem.edges)
        neighbours = batches[-1].neighbours if same else _neighbours(problem)
        batches.append(_Batch(torch.from_numpy(bits_to_spins(part.bits)).float(), problem, neighbours))
    return batches


def _neighbours(problem: IsingProblem) -> Neighbours:
    indices, offsets, couplers = compressed_rows(problem.edges, problem.n_qubits)
    return Neighbours(
        ends=torch.from_numpy(problem.edges.copy()),
        indices=torch.from_numpy(indices.astype(np.int32)),
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        couplers=torch.from_numpy(couplers),
    )


def _free(batches: Sequence[_Batch], held: BoolArray | None) -> BoolArray:
    n = batches[0].problem.n_qubits
    mask = np.zeros(n, dtype=np.bool_) if held is None else np.asarray(held)
    if mask.dtype != np.bool_ or mask.shape != (n,):
        raise AnnealerError(f"the mask of held qubits is {mask.dtype} of shape {mask.shape}; give {n} booleans")
    if mask.all():
        raise AnnealerError("all qubits are held, none tells the temperature; leave some free")
    return ~mask


def _field(batch: _Batch) -> Tensor:
    """Field h + J s on every spin (reads, n)."""
    couplings = torch.from_numpy(batch.problem.couplings.astype(np.float32))
    fields = torch.from_numpy(batch.problem.fields.astype(np.float32))
    return fields + coupling_field(batch.spins, couplings, batch.neighbours)


def _response(batch: _Batch) -> Tensor:
    """Field that a unit background susceptibility adds, J (h + J s) - diag(J^2) s."""
    couplings = torch.from_numpy(batch.problem.couplings.astype(np.float32))
    squares = np.bincount(
        batch.problem.edges.ravel(), weights=np.repeat(batch.problem.couplings**2, 2), minlength=batch.problem.n_qubits
    )
    own = torch.from_numpy(squares.astype(np.float32)) * batch.spins
    return coupling_field(_field(batch), couplings, batch.neighbours) - own


def _odds(
    batches: Sequence[_Batch], free: BoolArray, field: Callable[[_Batch], Tensor] = _field
) -> tuple[Tensor, Tensor]:
    """Log odds u of every free spin as it was read, at unit beta, and the spins, both (reads, free)."""
    columns = slice(None) if free.all() else torch.from_numpy(np.flatnonzero(free))
    spins = torch.cat([batch.spins for batch in batches])[:, columns]
    fields = torch.cat([field(batch) for batch in batches])[:, columns]
    return fields.mul_(spins).mul_(-2), spins


def _programmed(batches: Sequence[_Batch]) -> float:
    return float(np.mean([batch.problem.beta for batch in batches]))


def _estimate(
    odds: Tensor, spins: Tensor, batches: Sequence[_Batch], n_excluded: int, n_bootstrap: int, seed: int
) -> BetaEstimate:
    programmed = _programmed(batches)
    beta, n_steps = _newton(odds, programmed)
    score, curvature = _slopes(odds, beta)
    curvature_error = 1 / math.sqrt(-curvature.sum())
    is_resampled = len(odds) >= _LEAST_READS
    error = curvature_error
    if is_resampled:
        error = _bootstrap(odds, beta, math.sqrt((score**2).sum()) / -curvature.sum(), n_bootstrap, seed)
    return BetaEstimate(
        value=beta,
        error=error,
        error_source="bootstrap" if is_resampled else "curvature",
        n_reads=len(odds),
        n_programmings=len(batches),
        n_spins=odds.shape[1],
        n_excluded=n_excluded,
        n_steps=n_steps,
        is_converged=True,
        misfit=_misfit(odds, spins, beta),
        curvature_error=curvature_error,
        seed=seed,
        programmed_beta=programmed,
    )


def _newton(odds: Tensor, start: float) -> tuple[float, int]:
    """Root of the score by Newton steps in ln beta, and the number of steps."""
    if float(odds.sum()) <= 0:
        raise AnnealerError(
            "the reads do not follow their fields at any positive beta: the machine was divided by far too much, or "
            "signs or the order of the qubits are wrong; start from a smaller beta, or check them"
        )
    if float(odds.min()) >= 0:
        raise AnnealerError(
            "every read is a local minimum, so that beta has no upper bound; take more reads or divide by a larger "
            "beta. A sampler that looks for minima has no temperature: give simulated annealing a schedule that ends "
            "at one"
        )
    low, high = (math.log(bound) for bound in BETA_RANGE)
    position = min(max(math.log(start), low), high)
    for n_steps in range(1, _MAX_STEPS + 1):
        beta = math.exp(position)
        wrong = torch.sigmoid(odds * -beta)
        weighted = odds * wrong
        score = float(weighted.sum(dim=1).double().sum())
        curvature = float((weighted * odds).sub_(weighted.square_()).sum(dim=1).double().sum())
        step = math.copysign(_LONGEST_STEP, score) if curvature <= 0 else score / (beta * curvature)
        step = min(max(step, -_LONGEST_STEP), _LONGEST_STEP)
        if not low <= position + step <= high:
            raise AnnealerError(
                f"beta leaves [{BETA_RANGE[0]:g}, {BETA_RANGE[1]:g}] (score {score:.3g} at {beta:.3g}); check the "
                "problem that was programmed against the one that was read"
            )
        position += step
        if abs(step) < _TOLERANCE:
            return math.exp(position), n_steps
    raise AnnealerError(f"beta did not settle in {_MAX_STEPS} steps; take more reads")


def _slopes(odds: Tensor, beta: float) -> tuple[FloatArray, FloatArray]:
    """First two derivatives of the log pseudo-likelihood of every read at beta, both (reads,)."""
    wrong = torch.sigmoid(odds * -beta)
    first = odds * wrong
    second = first * odds * (wrong - 1)
    return first.sum(dim=1).double().numpy(), second.sum(dim=1).double().numpy()


def _bootstrap(odds: Tensor, beta: float, error: float, n_bootstrap: int, seed: int) -> float:
    """Standard deviation of beta over refits to replicas of as many reads as there are.

    Args:
        odds: Log odds at unit beta (reads, free).
        beta: The estimate.
        error: About its standard error, for the range in which refits are looked for.
        n_bootstrap: Replicas.
        seed: Of the replicas.
    """
    if n_bootstrap < 2:
        raise AnnealerError(f"{n_bootstrap} replicas give no error; ask for two or more")
    n_reads = len(odds)
    counts = np.random.default_rng(seed).multinomial(n_reads, np.full(n_reads, 1 / n_reads), n_bootstrap)
    width = min(_WINDOW * error / beta, _LONGEST_STEP)
    nodes = np.cos(np.pi * np.arange(_NODES) / (_NODES - 1))  # Chebyshev's, of shifts of ln beta in units of the width
    scores = np.stack([_score_at(odds, beta * math.exp(width * node)) for node in nodes], axis=1)
    quartics = np.linalg.solve(np.vander(nodes, increasing=True), (counts @ scores).T)
    shifts = np.zeros(n_bootstrap)
    for _ in range(_REFIT_STEPS):
        powers = shifts ** np.arange(_NODES)[:, None]
        slope = (np.arange(1, _NODES)[:, None] * quartics[1:] * powers[:-1]).sum(axis=0)
        shifts = np.clip(shifts - (quartics * powers).sum(axis=0) / slope, -1.5, 1.5)
    return float((beta * np.exp(width * shifts)).std(ddof=1))


def _score_at(odds: Tensor, beta: float) -> FloatArray:
    """Score of every read at beta, shape (reads,)."""
    scores: FloatArray = torch.sigmoid(odds * -beta).mul_(odds).sum(dim=1).double().numpy()
    return scores


def _misfit(odds: Tensor, spins: Tensor, beta: float) -> float:
    # Given the rest, s - <s> = 2 s sigma(-beta u), and its variance is 4 p (1 - p).
    wrong = torch.sigmoid(odds * -beta)
    residual = (spins * wrong).sum(dim=0).double()
    variance = (wrong - wrong.square()).sum(dim=0).double()
    is_alive = variance > 0
    return float((residual.square()[is_alive] / variance[is_alive]).mean()) if bool(is_alive.any()) else math.nan


def _newton_pair(plain: Tensor, response: Tensor, start: float) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """Optimum of (beta, beta chi), scores of the reads there (reads, 2), curvature (2, 2), and the number of steps."""
    theta = np.array([start, 0.0])
    value = _log_likelihood(plain * start)
    for n_steps in range(1, _MAX_STEPS + 1):
        slope, curvature = _slope_pair(plain, response, theta)
        if np.linalg.cond(curvature) > 1e12:
            raise AnnealerError("beta and chi cannot be told apart on this problem; fit beta alone")
        step = np.linalg.solve(curvature, slope.sum(axis=0))
        if abs(step[0]) < _TOLERANCE * theta[0] and abs(step[1]) < _TOLERANCE * theta[0]:
            return theta, slope, curvature, n_steps
        for _ in range(40):
            trial = theta + step
            trial_value = _log_likelihood(plain * trial[0] + response * trial[1])
            if trial[0] > 0 and trial_value >= value - 1e-7 * abs(value):  # rounding of float32 sums
                break
            step /= 2
        theta, value = trial, trial_value
    raise AnnealerError(f"beta and chi did not settle in {_MAX_STEPS} steps; take more reads or fit beta alone")


def _slope_pair(plain: Tensor, response: Tensor, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    wrong = torch.sigmoid(-(plain * theta[0] + response * theta[1]))
    spread = wrong * (1 - wrong)
    slope = torch.stack([(part * wrong).sum(dim=1) for part in (plain, response)], dim=1).double().numpy()
    entries = [
        float((a * b * spread).sum(dim=1).double().sum())
        for a, b in ((plain, plain), (plain, response), (response, response))
    ]
    return slope, np.array([[entries[0], entries[1]], [entries[1], entries[2]]])


def _log_likelihood(odds: Tensor) -> float:
    return float(torch.nn.functional.logsigmoid(odds).sum(dim=1).double().sum())
