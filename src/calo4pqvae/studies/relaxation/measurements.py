r"""What the study of relaxation measures at one machine: times of energy and modes, beside theory and exact values.

**Theory.** The linear map of one sweep (:func:`~calo4pqvae.studies.theory.modes.sweep_matrix`) sends deviations from
the means to deviations. Its left eigenvectors :math:`w_k` are the modes: :math:`\langle w_k \cdot \delta' | \delta
\rangle = \rho_k\, w_k \cdot \delta` and :math:`\tau_k = -1 / \ln \rho_k`. For two partitions with uniform gains
:math:`q_v, q_h` this is :math:`\rho_k = (\beta \sigma_k)^2 q_v q_h`; for fair bits :math:`q = 1/4`. The gains are
measured, or taken as a quarter (the *fair* theory). Where :math:`\rho_k \ge 1` the linear theory has no stationary law
and no time.

**Exact.** For tiny machines the matrix of a sweep is known (:mod:`~calo4pqvae.prior.estimates.transition`). Its right
eigenvector f of the second eigenvalue obeys :math:`\langle f(z') | z \rangle = \lambda_2 f(z)`, so that its
autocorrelation in equilibrium is exactly :math:`\lambda_2^t`: followed along chains, it must relax in
:math:`-1/\ln \lambda_2` sweeps. Energy and modes may be blind to the slowest eigenvector, and then relax faster.
A sweep is not reversible, so over one or two lags another observable may also remember more than :math:`\lambda_2`
tells: times well below a sweep rest on such lags only.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse.linalg import eigs
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.autocorrelation import RelaxationTime, integrated_time, leading_modes, relaxation_time
from calo4pqvae.prior.estimates.transition import exact_sweep
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import distinct_laws
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.studies.frame.study import estimate
from calo4pqvae.studies.theory.modes import sweep_matrix

__all__ = ["ExactCheck", "Times", "at_beta", "check_exactly", "linear_times", "measure_times"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_DENSE_BELOW = 400  # bits up to which a full diagonalisation is quicker
_REAL = 1e-9  # relative imaginary part below which an eigenvalue is real
_FAIR = 0.25
_LEAST_SWEEPS = 200
_IN_RELAXATION_TIMES = 50
_N_BLOCKS = 20  # of chains, of the jackknife of relaxation times


@dataclass(frozen=True, eq=False)
class Times:
    """Times at one machine in sweeps, of the energy (first) and K modes; arrays of shape (1 + K,) or (K,).

    Args:
        integrated: Integrated autocorrelation times.
        integrated_error: Their errors.
        relaxation: Relaxation times.
        relaxation_error: Their errors.
        is_lower_limit: Where the chains were too short for more than a lower limit.
        is_upper_limit: Where memory was gone within a sweep.
        theory: Times of the modes from the linear theory with measured gains; infinite where it ends, (K,).
        fair: The same for fair bits, in falling order, (K,).
        n_sweeps: Sweeps followed.
        n_chains: Chains.
    """

    integrated: FloatArray
    integrated_error: FloatArray
    relaxation: FloatArray
    relaxation_error: FloatArray
    is_lower_limit: BoolArray
    is_upper_limit: BoolArray
    theory: FloatArray
    fair: FloatArray
    n_sweeps: int
    n_chains: int

    @property
    def slowest(self) -> int:
        """Place of the longest relaxation time."""
        return int(np.argmax(self.relaxation))

    def as_data(self, seed: int) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = {"n_sweeps": self.n_sweeps}
        for place in range(len(self.relaxation)):
            row: dict[str, Any] = {
                "integrated": estimate(self.integrated[place], self.integrated_error[place], self.n_chains, seed),
                "relaxation": estimate(self.relaxation[place], self.relaxation_error[place], self.n_chains, seed),
                "limit": self._limit(place),
            }
            if place:
                row["theory"] = estimate(self.theory[place - 1], None, self.n_chains, seed)
                row["theory_fair_bits"] = estimate(self.fair[place - 1], None, 1)
            data[f"mode {place}" if place else "energy"] = row
        return data

    def _limit(self, place: int) -> str:
        """What the relaxation time is, if it is no more than a limit."""
        if self.is_lower_limit[place]:
            return "lower"
        return "upper" if self.is_upper_limit[place] else "none"


@dataclass(frozen=True)
class ExactCheck:
    """Relaxation of a tiny machine, exact and measured; times in sweeps.

    Args:
        name: Form of the machine.
        beta: Inverse temperature.
        exact: Relaxation time from the second eigenvalue.
        gap: Spectral gap.
        measured: Relaxation time of the slowest eigenfunction along chains.
        energy: That of the energy.
        mode: That of the leading mode of the couplings.
        n_sweeps: Sweeps followed.
        n_chains: Chains.
    """

    name: str
    beta: float
    exact: float
    gap: float
    measured: RelaxationTime
    energy: RelaxationTime
    mode: RelaxationTime
    n_sweeps: int
    n_chains: int

    @property
    def pull(self) -> float:
        """Deviation of the measured time from the exact one, as a standard normal deviate.

        In standard errors it is a Student's t, since the error comes from a jackknife over few blocks of chains.
        """
        deviation = (self.measured.value - self.exact) / self.measured.error
        n_free = min(_N_BLOCKS, self.n_chains) - 1
        return float(np.sign(deviation) * stats.norm.isf(stats.t.sf(abs(deviation), n_free)))

    def as_data(self, seed: int) -> dict[str, Any]:
        """Plain data."""
        measured = {"slowest_function": self.measured, "energy": self.energy, "leading_mode": self.mode}
        return {
            "machine": self.name,
            "beta": self.beta,
            "exact": estimate(self.exact, 0.0, 1),
            "spectral_gap": estimate(self.gap, 0.0, 1),
            **{name: estimate(one.value, one.error, self.n_chains, seed) for name, one in measured.items()},
            "pull": self.pull,
            "n_sweeps": self.n_sweeps,
        }


@torch.no_grad()
def at_beta(machine: BoltzmannMachine, beta: float) -> BoltzmannMachine:
    """A machine whose law at inverse temperature one is that of ``machine`` at ``beta``."""
    copy = BoltzmannMachine(machine.topology, machine.n_condition)
    for own, other in zip(copy.parameters(), machine.parameters(), strict=True):
        own.copy_(beta * other)
    return copy


def linear_times(machine: BoltzmannMachine, gains: FloatArray, n_modes: int) -> tuple[FloatArray, FloatArray]:
    """Slowest modes of the linear theory.

    Args:
        machine: The machine.
        gains: Mean gain of every bit, 0 for held ones, shape (N,).
        n_modes: How many; fewer are given if there are fewer with a real, positive memory.

    Returns:
        Relaxation times in sweeps, falling, infinite where the theory ends, (K,); unit rows to project on, (K, N).
    """
    matrix = sweep_matrix(machine, gains).T
    n_wanted = 3 * n_modes  # some may be complex
    if machine.n_nodes <= _DENSE_BELOW or n_wanted + 2 >= machine.n_nodes:
        values, vectors = np.linalg.eig(matrix)
    else:
        start = np.random.default_rng(0).standard_normal(machine.n_nodes)
        values, vectors = eigs(matrix, k=n_wanted, v0=start)
    usable = (np.abs(values.imag) < _REAL * np.abs(values)) & (values.real > _REAL)
    order = np.flatnonzero(usable)[np.argsort(-values.real[usable])][:n_modes]
    memories, rows = values.real[order], vectors.real[:, order].T
    times = np.array([math.inf if memory >= 1 else -1 / math.log(memory) for memory in memories])
    return times, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure_times(
    machine: BoltzmannMachine,
    state: GibbsState,
    n_sweeps: int,
    n_modes: int,
    generator: torch.Generator,
    *,
    kernel: KernelName = "auto",
    clamped: BoolArray | None = None,
    condition: Tensor | None = None,
) -> tuple[Times, GibbsState]:
    """Follows chains in equilibrium and takes the times of the energy and of the slowest modes of the linear theory.

    Args:
        machine: The machine.
        state: Chains in equilibrium.
        n_sweeps: Sweeps to follow.
        n_modes: Modes to follow.
        generator: Source of randomness.
        kernel: Kernel of block Gibbs.
        clamped: Mask (N,) of bits to hold; chains that hold different bits have means of their own.
        condition: Condition of every chain, if the machine has one.

    Returns:
        The times, and where the chains ended.

    Raises:
        PriorError: If nothing moves or a parameter is not finite.
    """
    mask = np.zeros(machine.n_nodes, dtype=np.bool_) if clamped is None else clamped
    gains = np.where(mask, 0.0, _gains(machine, state.states, condition))
    theory, rows = linear_times(machine, gains, n_modes)
    if not len(theory):
        raise PriorError("no mode remembers anything from one sweep to the next; free bits of two partitions at least")
    fair, _ = linear_times(machine, np.where(mask, 0.0, _FAIR), len(theory))
    series, state = _follow(machine, state, rows, n_sweeps, generator, kernel, mask, condition)
    groups = distinct_laws(state.states, torch.from_numpy(mask), condition)[1].numpy()
    parts = [np.ascontiguousarray(series[:, :, place]) for place in range(series.shape[2])]
    whole = [integrated_time(part, groups) for part in parts]
    tails = [relaxation_time(part, groups) for part in parts]
    return Times(
        integrated=np.array([one.value for one in whole]),
        integrated_error=np.array([one.error for one in whole]),
        relaxation=np.array([one.value for one in tails]),
        relaxation_error=np.array([one.error for one in tails]),
        is_lower_limit=np.array(
            [not (tail.is_converged and one.is_converged) for tail, one in zip(tails, whole, strict=True)]
        ),
        is_upper_limit=np.array([one.is_bound for one in tails]),
        theory=theory,
        fair=fair,
        n_sweeps=n_sweeps,
        n_chains=state.n_chains,
    ), state


def check_exactly(
    machine: BoltzmannMachine,
    name: str,
    n_chains: int,
    generator: torch.Generator,
    *,
    beta: float = 1.0,
    clamped: BoolArray | None = None,
    values: Tensor | None = None,
    kernel: KernelName = "auto",
) -> ExactCheck | None:
    """Exact and measured relaxation time of a tiny machine.

    The chains start at exact draws and are followed for 50 exact relaxation times, 200 sweeps at least.

    Args:
        machine: A machine of at most 11 free bits.
        name: What it is called in the result.
        n_chains: Chains to follow.
        generator: Source of randomness.
        beta: Inverse temperature.
        clamped: Mask (N,) of bits to hold.
        values: Bits (N,); those under the mask are used.
        kernel: Kernel of block Gibbs.

    Returns:
        The check; None if the slowest eigenvalue is complex, so that its memory oscillates.

    Raises:
        PriorError: If the machine is too large.
    """
    scaled = at_beta(machine, beta)
    exact = exact_sweep(scaled, clamped=clamped, values=values)
    eigenvalues, vectors = np.linalg.eig(exact.matrix)
    second = np.argsort(-np.abs(eigenvalues))[1]
    if abs(eigenvalues[second].imag) > _REAL:
        return None
    function = np.ascontiguousarray(vectors[:, second].real)
    n_sweeps = max(_LEAST_SWEEPS, math.ceil(_IN_RELAXATION_TIMES * exact.relaxation_time))
    picks = torch.multinomial(torch.from_numpy(exact.stationary), n_chains, replacement=True, generator=generator)
    state = GibbsState(exact.states[picks].float())
    free = np.ones(machine.n_nodes, dtype=np.bool_) if clamped is None else ~clamped
    places = torch.from_numpy(2.0 ** np.arange(int(free.sum()))[::-1].copy())
    mode = torch.from_numpy(leading_modes(scaled, 1, ~free)[0])
    energies = scaled.energy(exact.states.float()).detach().double().numpy()
    projections = (exact.states.double() @ mode).numpy()
    sampler, numbers = BlockGibbsSampler(scaled, kernel), np.empty((n_sweeps, n_chains), dtype=np.int64)
    for sweep in range(n_sweeps):
        state = sampler.sample(state, 1, generator, None if clamped is None else clamped)
        numbers[sweep] = (state.states[:, torch.from_numpy(free)].double() @ places).long().numpy()
    measured, energy, along = (relaxation_time(table[numbers]) for table in (function, energies, projections))
    return ExactCheck(name, beta, exact.relaxation_time, exact.gap, measured, energy, along, n_sweeps, n_chains)


@torch.no_grad()
def _gains(machine: BoltzmannMachine, states: Tensor, condition: Tensor | None) -> FloatArray:
    """Mean variance of every bit given the others."""
    odds = torch.sigmoid(machine.local_fields(states, condition).double())
    return np.asarray((odds * (1 - odds)).mean(dim=0).cpu().numpy())


@torch.no_grad()
def _follow(
    machine: BoltzmannMachine,
    state: GibbsState,
    rows: FloatArray,
    n_sweeps: int,
    generator: torch.Generator,
    kernel: KernelName,
    clamped: BoolArray,
    condition: Tensor | None,
) -> tuple[FloatArray, GibbsState]:
    """Energy and projections after every sweep, (sweeps, chains, 1 + K), and where the chains are."""
    sampler, directions = BlockGibbsSampler(machine, kernel), torch.from_numpy(rows.T.copy()).float()
    series = np.empty((n_sweeps, state.n_chains, 1 + len(rows)))
    held = clamped if clamped.any() else None
    for sweep in range(n_sweeps):
        state = sampler.sample(state, 1, generator, held, condition)
        series[sweep, :, 0] = machine.energy(state.states, condition).numpy()
        series[sweep, :, 1:] = (state.states @ directions).numpy()
    return series, state
