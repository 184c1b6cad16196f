r"""Modes of a Boltzmann machine: rotated variables, the linear theory of block Gibbs, and what is fitted to chains.

**Rotated variables.** For two partitions with couplings :math:`W = U \Sigma V^T`, :math:`x = U^T v`, :math:`y = V^T h`,

.. math:: E = -\sum_k (a_k x_k + b_k y_k + \sigma_k x_k y_k) - a_\perp \cdot v - b_\perp \cdot h ,

with :math:`a_k = (U^T a)_k`, :math:`b_k = (V^T b)_k`; the remainders are the biases outside the modes. The modes do not
meet in the energy. They meet because x is a rotation of *bits*: only some corners are allowed.

**Linear theory.** A sweep draws v given h, then h given v. The conditional mean of a bit is :math:`\sigma(f_i)`. For
Gaussian fields its best linear approximation has, by Stein's lemma, the slope

.. math:: g_i = \langle \sigma(f_i) (1 - \sigma(f_i)) \rangle ,

the mean gain, which is also the exact mean variance of the bit given the others. So around the means
:math:`\delta v' = G_v W \delta h + \eta_v`, :math:`\delta h' = G_h W^T \delta v' + \eta_h`, with noise of covariance
:math:`G_v`, :math:`G_h`. With the singular values :math:`\alpha_k` and vectors of :math:`G_v^{1/2} W G_h^{1/2} = P
\,\mathrm{diag}(\alpha)\, R^T` the variables :math:`\xi_k = p_k^T G_v^{-1/2} \delta v` decouple,

.. math:: \xi_k' = \alpha_k^2 \xi_k + \sqrt{1 + \alpha_k^2}\; \eta, \qquad
    \langle \xi_k^2 \rangle = \frac{1}{1 - \alpha_k^2}, \qquad \tau_k = -\frac{1}{\ln \alpha_k^2} :

an Ornstein-Uhlenbeck process in discrete time, as in the forward process of a diffusion model. For fair, weakly coupled
bits :math:`g = 1/4` and :math:`\alpha_k = \sigma_k / 4`. Where :math:`\alpha_k \ge 1` the Gaussian process has no
stationary law: the mode is held by the bounds of the bits alone, and the theory ends.

The fields are Gaussian if each is a sum over many bits that it hardly moves. In a dense random machine near the glass
a bit moves what it is moved by (the reaction of Onsager), its field is a mixture of two normal laws, and the theory is
off although gains are measured.

For any number of partitions the same linear map of a sweep is that of a block Gauss-Seidel step, :math:`(1 - L)^{-1}
R` with L and R the parts of :math:`G W` below and above the diagonal. Projections of the bits on its left eigenvectors
with real eigenvalues :math:`\lambda_k` are autoregressions with the memory :math:`\lambda_k`, which is
:math:`\alpha_k^2` for two partitions.

Toledo-Marin, Maiti, Fox and Melko, arXiv 2503.21536; Decelle, Fissore and Furtlehner, arXiv 1803.01960.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = [
    "LinearModes",
    "OrnsteinUhlenbeck",
    "RotatedMachine",
    "SweepModes",
    "coupling_block",
    "coupling_matrix",
    "fit_ornstein_uhlenbeck",
    "follow",
    "linear_modes",
    "mean_gains",
    "mode_machine",
    "pattern_machine",
    "rotate",
    "sweep_matrix",
    "sweep_modes",
]

FloatArray = NDArray[np.float64]

_N_BLOCKS = 16  # of chains, for jackknife errors
_LEAST_MODE = 1e-12  # singular value, relative to the largest, below which a mode is none


@dataclass(frozen=True)
class RotatedMachine:
    """A machine of two partitions in the variables of its modes, K = min(n_v, n_h) of them.

    Args:
        left: U, shape (n_v, K).
        values: Singular values, falling, shape (K,).
        right: V, shape (n_h, K).
        visible_fields: a_k, shape (K,).
        hidden_fields: b_k, shape (K,).
        remainder: Biases of all bits outside the modes, shape (N,).
    """

    left: FloatArray
    values: FloatArray
    right: FloatArray
    visible_fields: FloatArray
    hidden_fields: FloatArray
    remainder: FloatArray

    def variables(self, states: FloatArray) -> tuple[FloatArray, FloatArray]:
        """X and y of states (B, N), shape (B, K) each."""
        n_visible = len(self.left)
        return states[:, :n_visible] @ self.left, states[:, n_visible:] @ self.right

    def energies(self, states: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Energy of every mode, shape (B, K), and of the biases outside the modes, shape (B,), in nats."""
        x, y = self.variables(states)
        modes = -(self.visible_fields * x + self.hidden_fields * y + self.values * x * y)
        return modes, -(states @ self.remainder)


@dataclass(frozen=True)
class LinearModes:
    """Modes of the linear theory of a machine of two partitions.

    Args:
        amplitudes: alpha_k, falling, shape (K,).
        directions: Rows that give xi_k of the first partition, zero elsewhere, shape (K, N).
    """

    amplitudes: FloatArray
    directions: FloatArray

    @property
    def rates(self) -> FloatArray:
        """Memory per sweep, alpha_k squared."""
        return np.asarray(self.amplitudes**2)


@dataclass(frozen=True)
class SweepModes:
    """Slow modes of a sweep of any number of partitions.

    Args:
        rates: Memory per sweep, falling, shape (K,).
        directions: Rows of unit length to project bits on, shape (K, N).
    """

    rates: FloatArray
    directions: FloatArray


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """An autoregression of first order fitted to each mode, with jackknife errors over chains; shapes (K,).

    Args:
        memory: Slope of the next value on this one; 1 minus it is the drift per sweep.
        memory_error: Its error.
        noise: Variance of the residual.
        noise_error: Its error.
        variance: Stationary variance.
        variance_error: Its error.
        kurtosis: Excess kurtosis of the stationary law; 0 for a Gaussian.
        kurtosis_error: Its error.
        n_steps: Steps of each chain.
        n_chains: Chains.
    """

    memory: FloatArray
    memory_error: FloatArray
    noise: FloatArray
    noise_error: FloatArray
    variance: FloatArray
    variance_error: FloatArray
    kurtosis: FloatArray
    kurtosis_error: FloatArray
    n_steps: int
    n_chains: int


def coupling_matrix(machine: BoltzmannMachine) -> FloatArray:
    """The symmetric coupling matrix (N, N) in float64."""
    first, second = machine.topology.edges.T
    matrix = np.zeros((machine.n_nodes, machine.n_nodes))
    matrix[first, second] = machine.couplings.detach().cpu().double().numpy()
    return matrix + matrix.T


def coupling_block(machine: BoltzmannMachine, row: int = 0, column: int = 1) -> FloatArray:
    """Couplings between two partitions, (n_row, n_column)."""
    slices = machine.topology.slices
    return coupling_matrix(machine)[slices[row], slices[column]]


def rotate(machine: BoltzmannMachine) -> RotatedMachine:
    """The machine in the variables of its singular modes.

    Raises:
        PriorError: If it has not two partitions, or a parameter is not finite.
    """
    _check_bipartite(machine)
    left, values, right = np.linalg.svd(coupling_block(machine), full_matrices=False)
    biases = machine.biases.detach().cpu().double().numpy()
    visible, hidden = (biases[nodes] for nodes in machine.topology.slices)
    a, b = left.T @ visible, right @ hidden
    remainder = np.concatenate([visible - left @ a, hidden - right.T @ b])
    return RotatedMachine(left, values, right.T, a, b, remainder)


@torch.no_grad()
def mean_gains(machine: BoltzmannMachine, states: Tensor) -> FloatArray:
    """Mean over states of the variance of every bit given the others, shape (N,).

    Args:
        machine: The machine.
        states: Draws of its law (B, N).
    """
    odds = torch.sigmoid(machine.local_fields(states).double())
    return np.asarray((odds * (1 - odds)).mean(dim=0).cpu().numpy())


def linear_modes(machine: BoltzmannMachine, gains: FloatArray) -> LinearModes:
    """Modes of the linear theory at given gains.

    Args:
        machine: A machine of two partitions.
        gains: Mean gain of every bit, shape (N,), as of :func:`mean_gains`; a quarter for fair bits.

    Raises:
        PriorError: If it has not two partitions, or a gain is not in [0, 1/4].
    """
    _check_bipartite(machine)
    if gains.shape != (machine.n_nodes,) or not ((gains >= 0) & (gains <= 0.25 + 1e-9)).all():
        raise PriorError(f"gains must be {machine.n_nodes} numbers in [0, 1/4]; take them from draws of the machine")
    visible, hidden = machine.topology.slices
    block = coupling_block(machine)
    weighted = np.sqrt(gains[visible])[:, None] * block * np.sqrt(gains[hidden])
    _, amplitudes, right = np.linalg.svd(weighted, full_matrices=False)
    kept = amplitudes > _LEAST_MODE * amplitudes[0]
    # p_k / sqrt(g) without the division, which frozen bits would make infinite
    rows = (block @ (np.sqrt(gains[hidden])[:, None] * right[kept].T) / amplitudes[kept]).T
    directions = np.zeros((int(kept.sum()), machine.n_nodes))
    directions[:, visible] = rows
    return LinearModes(amplitudes[kept], directions)


def sweep_matrix(machine: BoltzmannMachine, gains: FloatArray) -> FloatArray:
    """Linear map (N, N) of deviations from the means over one sweep, for any number of partitions.

    Args:
        machine: The machine.
        gains: Mean gain of every bit, shape (N,).
    """
    response = gains[:, None] * coupling_matrix(machine)
    is_before = machine.topology.partition[None, :] < machine.topology.partition[:, None]
    below, above = np.where(is_before, response, 0.0), np.where(is_before, 0.0, response)
    return np.asarray(np.linalg.solve(np.eye(machine.n_nodes) - below, above))


def sweep_modes(machine: BoltzmannMachine, gains: FloatArray, n: int) -> SweepModes:
    """The slowest modes of a sweep with real memory.

    Args:
        machine: The machine.
        gains: Mean gain of every bit, shape (N,).
        n: Modes to give, or fewer if there are fewer.
    """
    values, vectors = np.linalg.eig(sweep_matrix(machine, gains).T)
    real = np.flatnonzero((np.abs(values.imag) <= _LEAST_MODE) & (values.real > _LEAST_MODE))
    chosen = real[np.argsort(-values.real[real])][:n]
    return SweepModes(values.real[chosen], vectors.real[:, chosen].T)


def mode_machine(
    shape: tuple[int, int], amplitudes: Sequence[float], bulk_std: float, rng: np.random.Generator
) -> BoltzmannMachine:
    r"""Fair bits with planted, spread-out modes and a random bulk: the machine for which the theory is meant.

    .. math:: W = 4 \sum_k \alpha_k u_k v_k^T + \mathrm{bulk}, \qquad b_i = -\tfrac12 \sum_j W_{ij}

    Args:
        shape: Bits of the two partitions.
        amplitudes: alpha_k of the planted modes at gains of a quarter, below 1.
        bulk_std: Standard deviation of the bulk couplings.
        rng: Source of randomness.
    """
    topology = bipartite_topology(*shape)
    block = rng.normal(0.0, bulk_std, shape)
    left, right = (np.linalg.qr(rng.normal(size=(size, len(amplitudes))))[0] for size in shape)
    block += 4 * (left * np.asarray(amplitudes)) @ right.T
    first, second = topology.edges.T
    return _fair(topology, block[first, second - shape[0]])


def pattern_machine(
    sizes: tuple[int, ...], strength: float, bulk_std: float, rng: np.random.Generator
) -> BoltzmannMachine:
    r"""Fair bits of any number of partitions with a planted normal pattern :math:`\xi` and a random bulk.

    .. math:: W_{ij} = \frac{4 \kappa}{N - \bar n}\, \xi_i \xi_j + \mathrm{bulk}

    Args:
        sizes: Bits of each partition, with a mean of n.
        strength: kappa, the eigenvalue of the pattern in the couplings of the spins.
        bulk_std: Standard deviation of the bulk couplings.
        rng: Source of randomness.
    """
    topology = complete_topology(sizes)
    pattern = rng.normal(size=topology.n_nodes)
    first, second = topology.edges.T
    unit = 4 * strength / (topology.n_nodes - np.mean(sizes))
    return _fair(topology, unit * pattern[first] * pattern[second] + rng.normal(0, bulk_std, topology.n_edges))


def follow(
    machine: BoltzmannMachine,
    state: GibbsState,
    directions: FloatArray,
    n_sweeps: int,
    generator: torch.Generator,
    *,
    clamped: NDArray[np.bool_] | None = None,
    watch: Callable[[Tensor], Any] | None = None,
) -> tuple[FloatArray, GibbsState]:
    """Projections of block Gibbs chains after every sweep.

    Args:
        machine: The machine.
        state: Chains in equilibrium.
        directions: Rows to project on, shape (K, N).
        n_sweeps: Sweeps to follow.
        generator: Source of randomness.
        clamped: Mask (N,) of bits to hold.
        watch: Called with the states after every sweep.

    Returns:
        Series (sweeps, chains, K), and where the chains are.
    """
    sampler = BlockGibbsSampler(machine)
    rows = torch.from_numpy(directions.T.copy())
    series = np.empty((n_sweeps, state.n_chains, len(directions)))
    for sweep in range(n_sweeps):
        state = sampler.sample(state, 1, generator, clamped)
        series[sweep] = (state.states.double().cpu() @ rows).numpy()
        if watch is not None:
            watch(state.states)
    return series, state


def fit_ornstein_uhlenbeck(series: FloatArray) -> OrnsteinUhlenbeck:
    """Fits drift and noise of every mode from one sweep to the next.

    Args:
        series: Values in equilibrium, shape (steps, chains, K).

    Raises:
        PriorError: If there are fewer than four steps or chains, or a mode does not move.
    """
    n_steps, n_chains = series.shape[:2]
    if n_steps < 4 or n_chains < 4:
        raise PriorError(f"{n_chains} chains of {n_steps} sweeps are too few for a fit; give at least 4 of 4")
    centred = series - series.mean(axis=(0, 1))
    now, then = centred[:-1], centred[1:]
    # means over time of every chain: this squared, next squared, product, fourth power
    sums = np.stack([(now**2).mean(0), (then**2).mean(0), (now * then).mean(0), (centred**4).mean(0)])
    if not (sums[0].mean(axis=0) > 0).all():
        raise PriorError("a mode does not move, so that nothing can be fitted; leave it out")
    parts = np.array_split(np.arange(n_chains), min(_N_BLOCKS, n_chains))
    blocks = np.stack([sums[:, part].sum(axis=1) for part in parts])
    counts = np.array([len(part) for part in parts])[:, None, None]
    whole = _process(blocks.sum(axis=0) / n_chains)
    without = np.stack([_process(part) for part in (blocks.sum(axis=0) - blocks) / (n_chains - counts)])
    n = len(parts)
    errors = np.sqrt((n - 1) / n * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    memory, noise, variance, kurtosis = zip(whole, errors, strict=True)
    return OrnsteinUhlenbeck(*memory, *noise, *variance, *kurtosis, n_steps, n_chains)


def _process(moments: FloatArray) -> FloatArray:
    """Memory, residual variance, variance and excess kurtosis from mean squares, products and fourth powers."""
    now, then, product, fourth = moments
    memory = product / now
    variance = (now + then) / 2
    return np.stack([memory, then - memory * product, variance, fourth / variance**2 - 3])


def _fair(topology: Topology, couplings: FloatArray) -> BoltzmannMachine:
    """A machine whose biases take the fields away that the couplings of bits put on spins."""
    machine = BoltzmannMachine(topology)
    sums = np.bincount(topology.edges.ravel(), np.repeat(couplings, 2), minlength=topology.n_nodes)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(couplings))
        machine.biases.copy_(torch.from_numpy(-sums / 2))
    return machine


def _check_bipartite(machine: BoltzmannMachine) -> None:
    machine.check_finite()
    if machine.topology.n_partitions != 2:
        raise PriorError(
            f"a machine of {machine.topology.n_partitions} partitions has no singular modes; give one of two"
        )
