r"""Epsilon: how far the mean energy is from standing in for ln Z, parameter by parameter.

Take :math:`-\langle \beta E \rangle` for :math:`\ln Z` and differentiate all of it, the law as well:

.. math::
    \partial_\theta (-\langle \beta E \rangle) = -\beta \langle \partial_\theta E \rangle
    + \beta^2\, \mathrm{Cov}(E, \partial_\theta E), \qquad
    \epsilon_\theta = \beta\, \frac{\langle E\, \partial_\theta E \rangle - \langle E \rangle \langle \partial_\theta E
    \rangle}{\langle \partial_\theta E \rangle} ,

so that the second term is :math:`-\epsilon` times the first, which is the exact gradient. With :math:`\partial_{W_{ij}}
E = -z_i z_j` and :math:`\partial_{b_i} E = -z_i` it is :math:`\beta\,\mathrm{Cov}(E, x) / \langle x \rangle` of the
statistic x that belongs to the parameter. At high temperature the bits are fair coins and the covariance a polynomial
in the parameters,

.. math::
    \frac{\epsilon_{b_i}}{\beta} \to -\frac{b_i}{2} - \frac{1}{4} \sum_{j \sim i} W_{ij}, \qquad
    \frac{\epsilon_{W_{ij}}}{\beta} \to -\frac{b_i + b_j}{2} - \frac{3}{4} W_{ij}
    - \frac{1}{4} \Big( \sum_{k \sim i, k \ne j} W_{ik} + \sum_{k \sim j, k \ne i} W_{jk} \Big) :

:math:`\epsilon` vanishes in proportion to :math:`\beta`.

**Denominators near zero.** :math:`\langle x \rangle` is a probability and may be as small as one likes, so that
ratios estimated from samples have heavy tails. A ratio counts only if its denominator is larger than a number of its
standard errors; the share of those left out is told. Without any ratio of single parameters, the lengths of the two
terms are compared, :math:`\beta \lVert \mathrm{Cov} \rVert / \lVert \langle x \rangle \rVert`, with the variance that
noise adds to squares taken off.

Errors are those of a bootstrap over states, which must be independent (the ends of independent chains); under several
conditions the covariance is that within each condition, averaged over them, and the bootstrap draws within each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.pairs import Neighbours, coupling_field, pair_sums
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.frame.study import estimate
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable

__all__ = [
    "SUMMARIES",
    "Epsilon",
    "EpsilonSummary",
    "exact_epsilon",
    "high_temperature_slopes",
    "parameter_groups",
    "sampled_epsilon",
    "weighted_epsilon",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SUMMARIES = ("median", "q05", "q95", "std", "median_abs", "norm_ratio")
_LEAST_SIGNIFICANCE = 3.0
_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class EpsilonSummary:
    """Summaries of epsilon over a group of parameters, in the order of :data:`SUMMARIES`.

    Args:
        values: Median, 5 % and 95 % quantile, standard deviation, median of the absolute value, ratio of lengths.
        errors: Their bootstrap errors; zeros for exact laws.
        n_parameters: Parameters of the group.
        n_kept: Those with a denominator beyond noise.
    """

    values: FloatArray
    errors: FloatArray
    n_parameters: int
    n_kept: int

    def as_data(self, seed: int | None) -> dict[str, Any]:
        """Plain data with errors, numbers of parameters and seed."""
        told: dict[str, Any] = {
            name: estimate(float(value), float(error), self.n_kept, seed)
            for name, value, error in zip(SUMMARIES, self.values, self.errors, strict=True)
        }
        return told | {"n_parameters": self.n_parameters, "share_left_out": 1 - self.n_kept / max(1, self.n_parameters)}


@dataclass(frozen=True, eq=False)
class Epsilon:
    """Epsilon of every parameter: biases of all bits, then couplings in the order of the graph; P = N + M.

    Args:
        covariance: beta Cov(E, x), shape (P,).
        mean: <x>, shape (P,).
        covariance_error: Standard errors (P,); zeros for exact laws.
        mean_error: Standard errors (P,).
        error: Standard errors of the ratio (P,).
        n_states: States that were averaged over; 0 for exact laws.
        summaries: Summaries of each group of parameters.
    """

    covariance: FloatArray
    mean: FloatArray
    covariance_error: FloatArray
    mean_error: FloatArray
    error: FloatArray
    n_states: int
    summaries: Mapping[str, EpsilonSummary]

    @property
    def values(self) -> FloatArray:
        """The ratio (P,); NaN where the denominator is zero."""
        return _ratio(self.covariance, self.mean)

    def resolved(self, significance: float = _LEAST_SIGNIFICANCE) -> NDArray[np.bool_]:
        """Parameters (P,) whose denominator is beyond that many of its standard errors."""
        return np.asarray((self.mean > significance * self.mean_error) & (self.mean > 0))


def parameter_groups(
    machine: BoltzmannMachine, names: tuple[str, ...] = (), clamped: NDArray[np.bool_] | None = None
) -> dict[str, IntArray]:
    """Places of the parameters of each kind among all P: biases a partition, couplings.

    Args:
        machine: The machine.
        names: Names of the partitions; their numbers if empty.
        clamped: Mask (N,) of bits that are held: their biases, and couplings between two of them, do not count.
    """
    topology = machine.topology
    held = np.zeros(topology.n_nodes, dtype=np.bool_) if clamped is None else clamped
    groups = {}
    for index, nodes in enumerate(topology.slices):
        places = np.arange(nodes.start, nodes.stop)[~held[nodes]]
        if len(places):
            groups[f"biases {names[index] if names else index}"] = places
    groups["couplings"] = topology.n_nodes + np.flatnonzero(~held[topology.edges].all(axis=1))
    return {name: places.astype(np.int64) for name, places in groups.items()}


def exact_epsilon(table: BipartiteTable, groups: Mapping[str, IntArray]) -> Epsilon:
    """Epsilon of a small machine from all of its states.

    Args:
        table: The law.
        groups: Parameters of each kind.
    """
    covariance, mean = table.beta * table.energy_covariances(), table.means()
    return _exact(covariance, mean, groups)


def weighted_epsilon(
    machine: BoltzmannMachine,
    states: Tensor,
    weights: Tensor,
    groups: Mapping[str, IntArray],
    beta: float = 1.0,
) -> Epsilon:
    """Epsilon of a machine on any graph from all states of its law.

    Args:
        machine: The machine, without a condition.
        states: All states (S, N).
        weights: Their probabilities at beta (S,).
        groups: Parameters of each kind.
        beta: Inverse temperature.

    Raises:
        PriorError: If the weights do not sum to one or the machine has a condition.
    """
    shares = weights.double()
    if abs(float(shares.sum()) - 1) > 1e-9:
        raise PriorError(f"weights that sum to {float(shares.sum()):.6g} are no law; normalise them")
    neighbours, energies = machine.neighbours, _energies(machine, states, None)
    centred = shares * (energies - shares @ energies)
    covariance, mean = beta * _sums(states, centred, neighbours), _sums(states, shares, neighbours)
    return _exact(covariance, mean, groups)


def sampled_epsilon(
    machine: BoltzmannMachine,
    states: Tensor,
    groups: Mapping[str, IntArray],
    rng: np.random.Generator,
    *,
    beta: float = 1.0,
    n_bootstrap: int = 50,
    significance: float = _LEAST_SIGNIFICANCE,
    condition: Tensor | None = None,
    laws: IntArray | None = None,
) -> Epsilon:
    """Epsilon from independent states, with bootstrap errors.

    Args:
        machine: The machine.
        states: Independent states (B, N).
        groups: Parameters of each kind.
        rng: Source of the bootstrap.
        beta: Inverse temperature at which the states were drawn.
        n_bootstrap: Bootstrap replicas.
        significance: Denominators count if they are larger than so many of their standard errors.
        condition: Conditions of the states (B, n_c), if the machine has a condition.
        laws: Number of the law (of the condition) that each state was drawn from (B,); one law if None.

    Raises:
        PriorError: If there are fewer than two states of a law or two replicas.
    """
    labels = np.zeros(len(states), dtype=np.int64) if laws is None else np.unique(laws, return_inverse=True)[1]
    sizes = np.bincount(labels)
    if len(states) == 0 or sizes.min() < 2 or n_bootstrap < 2:
        raise PriorError("a covariance needs at least two states of every law, and its error two replicas; give more")
    sample = _Sample(
        states.to(machine.device), _energies(machine, states, condition), labels, sizes, machine.neighbours, beta
    )
    covariance, mean = sample.terms(np.ones(len(states)))
    mean_error = np.sqrt((mean * (1 - mean)).clip(0) / len(states))
    kept = (mean > significance * mean_error) & (mean > 0)
    inside = {name: places[kept[places]] for name, places in groups.items()}
    spread, replicas = _Spread(len(mean)), []
    for _ in range(n_bootstrap):
        drawn = sample.terms(_resampled(labels, sizes, rng))
        spread.add(*drawn)
        replicas.append([_raw_summary(*drawn, groups[name], inside[name]) for name in groups])
    covariance_error, error = spread.errors()
    summaries = {}
    for index, (name, places) in enumerate(groups.items()):
        noise = float((covariance_error[places] ** 2).sum())
        raw = _raw_summary(covariance, mean, places, inside[name])
        # a squared replica carries the noise of the sample and that of the resampling
        spreads = np.array([_finished(replica[index], 2 * noise) for replica in replicas])
        summaries[name] = EpsilonSummary(_finished(raw, noise), _deviation(spreads), len(places), len(inside[name]))
    return Epsilon(covariance, mean, covariance_error, mean_error, error, len(states), summaries)


@torch.no_grad()
def high_temperature_slopes(
    machine: BoltzmannMachine,
    *,
    clamped: NDArray[np.bool_] | None = None,
    held: Tensor | None = None,
    condition: Tensor | None = None,
) -> tuple[FloatArray, FloatArray]:
    r"""Slopes of epsilon in beta at infinite temperature, for all parameters, and the denominators there.

    Free bits are fair coins of mean m = 1/2 and variance V = 1/4, held ones have their values and V = 0. With
    :math:`g_i = f_i + \sum_j W_{ij} m_j`,

    .. math:: -\mathrm{Cov}(E, z_i) = V_i g_i, \qquad -\mathrm{Cov}(E, z_i z_j) = m_j V_i (g_i - W_{ij} m_j)
        + m_i V_j (g_j - W_{ij} m_i) + W_{ij} m_i m_j (1 - m_i m_j) .

    Args:
        machine: The machine.
        clamped: Mask (N,) of bits that are held.
        held: States (L, N) with the values of the held bits, one for each law that is averaged over.
        condition: Conditions (L, n_c) of the laws, if the machine has a condition.

    Returns:
        Slopes and means of the statistics, shape (P,) each; NaN for products that are never one.
    """
    mask = np.zeros(machine.n_nodes, dtype=np.bool_) if clamped is None else clamped
    couplings = machine.couplings.detach().double()
    fields = machine.fields(condition).detach().double().reshape(-1, machine.n_nodes)
    rows = fields if held is None else held.to(fields)
    is_held = torch.from_numpy(mask).to(machine.device)
    m = torch.where(is_held, rows.expand(max(len(fields), len(rows)), -1), 0.5)
    v = m * (1 - m)
    g = fields + coupling_field(m, couplings, machine.neighbours)
    (m_i, m_j), (v_i, v_j), (g_i, g_j) = (part[:, machine.neighbours.ends].unbind(dim=2) for part in (m, v, g))
    both = m_i * m_j
    pairs = m_j * v_i * (g_i - couplings * m_j) + m_i * v_j * (g_j - couplings * m_i) + couplings * both * (1 - both)
    slopes = -torch.cat([(v * g).mean(dim=0), pairs.mean(dim=0)]).cpu().numpy()
    means = torch.cat([m.mean(dim=0), both.mean(dim=0)]).cpu().numpy()
    return _ratio(slopes, means), means


@dataclass(frozen=True, eq=False)
class _Sample:
    """States of one or several laws; terms of epsilon under any weights."""

    states: Tensor
    energies: Tensor
    labels: IntArray
    sizes: IntArray
    neighbours: Neighbours
    beta: float

    def terms(self, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Beta Cov(E, x) within laws and <x>, each state counted so many times."""
        energies = self.energies.cpu().numpy()
        means = np.bincount(self.labels, counts * energies) / self.sizes
        unbiased = (self.sizes / (self.sizes - 1))[self.labels]
        centred = counts * unbiased * (energies - means[self.labels]) / len(counts)
        device = self.states.device
        covariance = _sums(self.states, torch.from_numpy(centred).to(device), self.neighbours)
        mean = _sums(self.states, torch.from_numpy(counts / len(counts)).to(device), self.neighbours)
        return self.beta * covariance, mean


class _Spread:
    """Standard deviations over replicas, one replica held at a time."""

    def __init__(self, n: int) -> None:
        self._sums = np.zeros((2, 2, n))
        self._counts = np.zeros((2, n))

    def add(self, covariance: FloatArray, mean: FloatArray) -> None:
        for index, values in enumerate((covariance, _ratio(covariance, mean))):
            is_number = np.isfinite(values)
            clean = np.where(is_number, values, 0.0)
            self._counts[index] += is_number
            self._sums[index] += clean, clean**2

    def errors(self) -> tuple[FloatArray, FloatArray]:
        counts = np.maximum(self._counts, 2)
        variance = (self._sums[:, 1] - self._sums[:, 0] ** 2 / counts) / (counts - 1)
        errors = np.where(self._counts >= 2, np.sqrt(variance.clip(0)), np.inf)
        return errors[0], errors[1]


def _exact(covariance: FloatArray, mean: FloatArray, groups: Mapping[str, IntArray]) -> Epsilon:
    zeros, none = np.zeros_like(mean), np.zeros(len(SUMMARIES))
    summaries = {}
    for name, places in groups.items():
        inside = places[mean[places] > 0]
        values = _finished(_raw_summary(covariance, mean, places, inside), 0.0)
        summaries[name] = EpsilonSummary(values, none, len(places), len(inside))
    return Epsilon(covariance, mean, zeros, zeros, zeros, 0, summaries)


def _energies(machine: BoltzmannMachine, states: Tensor, condition: Tensor | None) -> Tensor:
    """E of states in float64, whatever the type of the parameters."""
    with torch.no_grad():
        neighbours, couplings = machine.neighbours, machine.couplings.detach().double()
        fields = machine.fields(condition).detach().double()
        energies = []
        for start in range(0, len(states), _CHUNK):
            part = slice(start, start + _CHUNK)
            values = states[part].to(fields)
            own = fields[part] if fields.ndim == 2 else fields
            products = coupling_field(values, couplings, neighbours)
            energies.append(-(values * (own + products / 2)).sum(dim=1))
        return torch.cat(energies)


def _sums(states: Tensor, weights: Tensor, neighbours: Neighbours) -> FloatArray:
    """Weighted sums of all bits and of all products over couplers (P,), float64."""
    n_nodes = states.shape[1]
    sums = torch.zeros(n_nodes + len(neighbours.ends), dtype=torch.float64, device=states.device)
    for start in range(0, len(states), _CHUNK):
        values = states[start : start + _CHUNK].double()
        weighted = values * weights[start : start + _CHUNK, None]
        sums[:n_nodes] += weighted.sum(dim=0)
        sums[n_nodes:] += pair_sums(weighted, values, neighbours)
    return np.asarray(sums.cpu().numpy())


def _resampled(labels: IntArray, sizes: IntArray, rng: np.random.Generator) -> FloatArray:
    """How often each state is drawn when every law is drawn from again."""
    counts = np.zeros(len(labels))
    for law, size in enumerate(sizes):
        counts[labels == law] = rng.multinomial(size, np.full(size, 1 / size))
    return counts


def _ratio(covariance: FloatArray, mean: FloatArray) -> FloatArray:
    return np.asarray(np.divide(covariance, mean, out=np.full(mean.shape, np.nan), where=mean > 0))


def _raw_summary(covariance: FloatArray, mean: FloatArray, places: IntArray, inside: IntArray) -> FloatArray:
    """Summaries over a group, with the squared lengths of both terms in the place of their ratio."""
    lengths = [float((covariance[places] ** 2).sum()), float((mean[places] ** 2).sum())]
    values = _ratio(covariance[inside], mean[inside])
    values = values[np.isfinite(values)]
    if not len(values):
        return np.array([np.nan] * (len(SUMMARIES) - 1) + lengths)
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return np.array([middle, low, high, values.std(), np.median(np.abs(values)), *lengths])


def _finished(raw: FloatArray, noise: float) -> FloatArray:
    """Summaries in the order of their names; the ratio of lengths is NaN where noise is all there is."""
    length, scale = raw[-2] - noise, raw[-1]
    norm_ratio = np.sqrt(length / scale) if length > 0 and scale > 0 else np.nan
    return np.asarray([*raw[:-2], norm_ratio], dtype=np.float64)


def _deviation(replicas: FloatArray) -> FloatArray:
    """Standard deviation over replicas of each summary, of those that exist; NaN where fewer than two do."""
    spreads = np.full(replicas.shape[1], np.nan)
    for index, column in enumerate(replicas.T):
        column = column[np.isfinite(column)]
        if len(column) > 1:
            spreads[index] = column.std(ddof=1)
    return spreads
