r"""Tools to test samplers, machines and shower code with, for this package and for those who extend it.

The heart is :func:`assert_samples_boltzmann`. It draws its law from the formula

.. math:: E(z | c) = -\sum_i b_i z_i - \sum_{i<j} W_{ij} z_i z_j - \sum_{a,i} c_a A_{ai} z_i

with plain loops over states and couplers, and shares no line with the code that it tests. Two tests are made on
independent draws. The first compares the mean of every sufficient statistic and of the energy with its exact mean, in
units of its exact standard error: exact variances give it power against small errors of beta or of a bias. The second
is a chi-square test over states, with rare states pooled: it sees what the moments do not. A test of means against a
fixed tolerance would pass a beta that is 5 % wrong.

Neither sees draws that follow the law and hang together. :func:`assert_chains_independent` and
:func:`assert_pairs_independent` correlate every bit of one draw with every bit of another, with exact means and
variances: of chains next to each other and at distances of powers of two, which is where shared lanes of a random
generator would be, and of one chain at two times.

:func:`tiny_machine` has what real machines have and square examples lack: unequal partitions, an irregular graph and
a node without couplers. :func:`synthetic_showers` gives showers of roughly the right shape for any geometry, so that
tests need no data.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine

if TYPE_CHECKING:
    from calo4pqvae.showers.geometry import Geometry

__all__ = [
    "all_states",
    "assert_chains_independent",
    "assert_pairs_independent",
    "assert_samples_boltzmann",
    "synthetic_showers",
    "tiny_machine",
]

FloatArray = NDArray[np.float64]

_LEAST_EXPECTED = 5.0  # of a cell of the chi-square test
_LEAST_VARIANCE = 25.0  # of a sum over all draws, below which its law is not yet normal
_LEAST_COINCIDENCES = 100.0  # of two ones in pairs of draws, below which their correlation is not yet normal
_HIT_ENERGY = 0.5  # MeV, mean of one synthetic hit
_DEPTH = 20.0  # radiation lengths of a synthetic calorimeter


def tiny_machine(
    sizes: tuple[int, ...] = (3, 1, 2, 2),
    seed: int = 0,
    coupling_std: float = 0.8,
    n_condition: int = 0,
) -> BoltzmannMachine:
    """A small machine with an irregular graph, one node without couplers, and parameters of order one.

    Args:
        sizes: Nodes per partition, at least one partition with two or more.
        seed: Seed of graph and parameters.
        coupling_std: Standard deviation of the couplings.
        n_condition: Length of the condition.
    """
    rng = np.random.default_rng(seed)
    partition = np.repeat(np.arange(len(sizes)), sizes)
    isolated = int(np.flatnonzero(np.array(sizes)[partition] > 1)[-1])
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(partition)), 2)
        if partition[i] != partition[j] and isolated not in (i, j)
    ]
    degrees = np.bincount(np.ravel(pairs), minlength=len(partition))
    kept = set(pairs)
    for pair in [pairs[index] for index in rng.permutation(len(pairs))[: len(pairs) // 3]]:
        if degrees[list(pair)].min() > 2:
            kept.remove(pair)
            degrees[list(pair)] -= 1
    topology = Topology("tiny", tuple(sizes), np.array(sorted(kept), dtype=np.int64))
    machine = BoltzmannMachine(topology, n_condition)
    with torch.no_grad():
        machine.biases.copy_(torch.from_numpy(rng.normal(0, 0.6, topology.n_nodes)))
        machine.couplings.copy_(torch.from_numpy(rng.normal(0, coupling_std, topology.n_edges)))
        if machine.condition_weights is not None:
            machine.condition_weights.copy_(torch.from_numpy(rng.normal(0, 0.6, (n_condition, topology.n_nodes))))
    return machine


def all_states(n: int) -> Tensor:
    """All 2 ** n states of n bits as float32, the first bit changing slowest, shape (2 ** n, n)."""
    states = np.array(list(itertools.product((0.0, 1.0), repeat=n)), dtype=np.float32)
    return torch.from_numpy(states.reshape(2**n, n))


def assert_samples_boltzmann(
    states: Tensor,
    machine: BoltzmannMachine,
    *,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    beta: float = 1.0,
    condition: Tensor | None = None,
    alpha: float = 1e-4,
) -> None:
    """Fails unless independent draws follow the machine's exact law.

    Args:
        states: Independent draws, bits (n, N); draws of one chain count only if far apart.
        machine: The machine, with at most about 14 free bits.
        clamped: Mask (N,) of held bits, whose values must be the same in all draws.
        beta: Inverse temperature at which the states should be.
        condition: Condition (n_c,) at which the states should be, if the machine has one.
        alpha: Probability that right samples fail, for each of the two tests.

    Raises:
        AssertionError: If a state is not made of bits, a held bit varies, or a test fails.
    """
    draws, law = _law(states, machine, clamped, beta, condition)
    _check_moments(draws, law, alpha)
    _check_states(draws, law, alpha)


def assert_pairs_independent(
    first: Tensor,
    second: Tensor,
    machine: BoltzmannMachine,
    *,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    beta: float = 1.0,
    condition: Tensor | None = None,
    alpha: float = 1e-4,
) -> None:
    r"""Fails unless draws of the exact law are independent of other draws of it, row by row.

    With exact means and standard deviations of two statistics, over n pairs,

    .. math:: \zeta_{ij} = \frac{1}{\sqrt{n}} \sum_k \frac{x_{ki} - \mu_i}{\sigma_i} \frac{y_{kj} - \mu_j}{\sigma_j}

    is a standard normal number if they are. The statistics are all free bits, and whether the energy is above its
    mean; pairs too rare to be normal are left out.

    Args:
        first: Draws x of different chains, bits (n, N).
        second: Draws y, for example of the same chains many sweeps later, bits (n, N).
        machine: The machine, with at most about 14 free bits.
        clamped: Mask (N,) of held bits, whose values must be the same in all draws.
        beta: Inverse temperature of the draws.
        condition: Condition (n_c,) of the draws, if the machine has one.
        alpha: Probability that right samples fail.

    Raises:
        AssertionError: If a state is not made of bits, a held bit varies, draws are too few, or the test fails.
    """
    n_pairs = len(first)
    draws, law = _law(torch.cat([first, second]), machine, clamped, beta, condition)
    table = law.standardised(draws)
    _check_products({"the pairs of draws": (table[:n_pairs], table[n_pairs:])}, law, alpha)


def assert_chains_independent(
    states: Tensor,
    machine: BoltzmannMachine,
    *,
    clamped: Tensor | NDArray[np.bool_] | None = None,
    beta: float = 1.0,
    condition: Tensor | None = None,
    distances: Iterable[int] | None = None,
    alpha: float = 1e-4,
) -> None:
    """Fails unless chains are independent of each other: :func:`assert_pairs_independent` of chains k and k + d.

    Args:
        states: One draw of every chain, bits (n, N), in the order in which the sampler holds the chains.
        machine: The machine, with at most about 14 free bits.
        clamped: Mask (N,) of held bits, whose values must be the same in all draws.
        beta: Inverse temperature of the draws.
        condition: Condition (n_c,) of the draws, if the machine has one.
        distances: Distances d to test; powers of two and n / 2 if None.
        alpha: Probability that right samples fail.

    Raises:
        AssertionError: If a state is not made of bits, a held bit varies, a distance does not exist, draws are too
            few, or the test fails.
    """
    half = len(states) // 2
    powers = {2**power for power in range(half.bit_length())} | {half}
    steps = sorted(powers if distances is None else set(distances))
    if not steps or steps[0] < 1 or steps[-1] >= len(states):
        raise AssertionError(f"{len(states)} chains have no pairs {steps} apart")
    draws, law = _law(states, machine, clamped, beta, condition)
    table = law.standardised(draws)
    _check_products({f"chains {step} apart": (table[:-step], table[step:]) for step in steps}, law, alpha)


@dataclass(frozen=True)
class _Law:
    """The exact law of the free bits, from the formula."""

    held: NDArray[np.bool_]  # (N,)
    fields: list[float]
    couplings: dict[tuple[int, int], float]
    support: FloatArray  # (S, N)
    probabilities: FloatArray  # (S,)

    def energies(self, states: FloatArray) -> FloatArray:
        return np.array([_energy(state, self.fields, self.couplings) for state in states])

    def places(self, draws: FloatArray) -> NDArray[np.int64]:
        """Number of every draw's state in the support."""
        powers = 2 ** np.arange(int((~self.held).sum()))[::-1]
        return (draws[:, ~self.held] @ powers).astype(np.int64)

    def features(self) -> tuple[FloatArray, FloatArray]:
        """Free bits and whether the energy is above its mean, of all states (S, F + 1), and their means."""
        energies = self.energies(self.support)
        is_high = energies > self.probabilities @ energies
        features = np.column_stack([self.support[:, ~self.held], is_high])
        return features, self.probabilities @ features

    def standardised(self, draws: FloatArray) -> FloatArray:
        """Features of draws in units of their exact standard deviation, from their exact mean; 0 where constant."""
        features, means = self.features()
        spread = np.sqrt(means * (1 - means))
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9)
        scaled: FloatArray = (features[self.places(draws)] - means) * scale
        return scaled


def _law(
    states: Tensor,
    machine: BoltzmannMachine,
    clamped: Tensor | NDArray[np.bool_] | None,
    beta: float,
    condition: Tensor | None,
) -> tuple[FloatArray, _Law]:
    draws = states.detach().cpu().numpy().astype(np.float64)
    held = np.zeros(machine.n_nodes, dtype=bool) if clamped is None else np.asarray(clamped, dtype=bool)
    if not np.isin(draws, (0.0, 1.0)).all():
        raise AssertionError("states are not exact bits")
    if (draws[:, held] != draws[:1, held]).any():
        raise AssertionError("held bits vary between draws")
    support = _support(draws[0], held)
    fields, couplings = _parameters(machine, condition)
    energies = np.array([_energy(state, fields, couplings) for state in support])
    weights = np.exp(-beta * (energies - energies.min()))
    return draws, _Law(held, fields, couplings, support, weights / weights.sum())


def _check_products(pairs: dict[str, tuple[FloatArray, FloatArray]], law: _Law, alpha: float) -> None:
    _, means = law.features()
    variances = means * (1 - means)
    names = [f"bit {node}" for node in np.flatnonzero(~law.held)] + ["the energy"]
    is_normal = {
        label: np.outer(variances, variances) * len(first) > _LEAST_COINCIDENCES for label, (first, _) in pairs.items()
    }
    n_tests = sum(int(kept.sum()) for kept in is_normal.values())
    if n_tests == 0:
        raise AssertionError("there are too few draws to see whether they are independent")
    limit = float(stats.norm.isf(alpha / (2 * n_tests)))
    for label, (first, second) in pairs.items():
        scores = np.where(is_normal[label], first.T @ second / math.sqrt(len(first)), 0.0)
        i, j = np.unravel_index(np.abs(scores).argmax(), scores.shape)
        if abs(scores[i, j]) > limit:
            raise AssertionError(
                f"{label} are not independent: {names[i]} of one and {names[j]} of the other are correlated by "
                f"{scores[i, j]:+.1f} standard errors, limit {limit:.1f}"
            )


def _support(first: FloatArray, held: NDArray[np.bool_]) -> FloatArray:
    free = np.flatnonzero(~held)
    support = np.tile(first, (2 ** len(free), 1))
    support[:, free] = np.array(list(itertools.product((0.0, 1.0), repeat=len(free)))).reshape(len(support), -1)
    return support


def _parameters(
    machine: BoltzmannMachine, condition: Tensor | None
) -> tuple[list[float], dict[tuple[int, int], float]]:
    """Total bias of every node and coupling of every pair, as plain numbers."""
    fields: list[float] = machine.biases.tolist()
    if machine.condition_weights is not None and condition is not None:
        for value, row in zip(condition.tolist(), machine.condition_weights.tolist(), strict=True):
            fields = [field + value * weight for field, weight in zip(fields, row, strict=True)]
    pairs = [(int(i), int(j)) for i, j in machine.topology.edges]
    return fields, dict(zip(pairs, machine.couplings.tolist(), strict=True))


def _energy(state: FloatArray, fields: list[float], couplings: dict[tuple[int, int], float]) -> float:
    energy = 0.0
    for bit, field in zip(state, fields, strict=True):
        energy -= field * bit
    for (i, j), coupling in couplings.items():
        energy -= coupling * state[i] * state[j]
    return float(energy)


def _check_moments(draws: FloatArray, law: _Law, alpha: float) -> None:
    def statistics(states: FloatArray) -> dict[str, FloatArray]:
        table = {f"bit {i}": states[:, i] for i in range(states.shape[1])}
        table |= {f"pair ({i}, {j})": states[:, i] * states[:, j] for i, j in law.couplings}
        table["energy"] = law.energies(states)
        return table

    seen, counts = np.unique(draws, axis=0, return_counts=True)
    exact, drawn = statistics(law.support), statistics(seen)
    scores: dict[str, float] = {}
    for name, values in exact.items():
        mean = float(law.probabilities @ values)
        variance = float(law.probabilities @ (values - mean) ** 2)
        if variance * len(draws) > _LEAST_VARIANCE:
            mean_drawn = float(counts @ drawn[name]) / len(draws)
            scores[name] = (mean_drawn - mean) / math.sqrt(variance / len(draws))
    limit = float(stats.norm.isf(alpha / (2 * max(1, len(scores)))))
    worst = max(scores, key=lambda name: abs(scores[name]), default=None)
    if worst is not None and abs(scores[worst]) > limit:
        raise AssertionError(
            f"mean of {worst} is {scores[worst]:+.1f} standard errors from the exact law, limit {limit:.1f}"
        )


def _check_states(draws: FloatArray, law: _Law, alpha: float) -> None:
    observed = np.bincount(law.places(draws), minlength=len(law.support)).astype(np.float64)
    expected = law.probabilities * len(draws)
    order = np.argsort(expected)
    n_rare = int((expected < _LEAST_EXPECTED).sum())
    while 0 < n_rare < len(order) and expected[order[:n_rare]].sum() < _LEAST_EXPECTED:
        n_rare += 1
    cells = [order[:n_rare]] if n_rare else []
    cells += [order[index : index + 1] for index in range(n_rare, len(order))]
    if len(cells) < 2:
        return
    seen = np.array([observed[cell].sum() for cell in cells])
    due = np.array([expected[cell].sum() for cell in cells])
    chi_square = float(((seen - due) ** 2 / due).sum())
    p_value = float(stats.chi2.sf(chi_square, len(cells) - 1))
    if p_value < alpha:
        raise AssertionError(
            f"states do not follow the exact law: chi-square {chi_square:.1f} over {len(cells)} cells, "
            f"p = {p_value:.1e}"
        )


def synthetic_showers(geometry: "Geometry", n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fake showers of any geometry, for tests that need shapes and not physics.

    Energies are log-uniform over the geometry's range. Depth follows a gamma profile whose maximum moves with the log
    of the energy, radius an exponential; each voxel holds a Poisson number of hits. Depth and total fluctuate from
    shower to shower.

    Args:
        geometry: The voxel grid.
        n: Number of showers.
        seed: Seed.

    Returns:
        Incident energies (n, 1) and showers (n, n_voxels) in MeV, float32.
    """
    rng = np.random.default_rng(seed)
    low, high = geometry.energy_range or (1e3, 1e6)
    incident = np.exp(rng.uniform(math.log(low), math.log(high), (n, 1)))
    peak = 3.0 + 0.5 * np.log(incident / 1e3).clip(0) + rng.normal(0, 0.6, (n, 1))
    edges = np.linspace(0, _DEPTH, geometry.n_layers + 1)
    profile = np.diff(stats.gamma.cdf(edges, 1 + peak.clip(0.5) / 2, scale=2.0), axis=1)
    response = (0.9 + 0.3 * rng.normal(size=(n, 1)) / np.sqrt(incident / 100)).clip(0.3, 1.2)
    showers = np.empty((n, geometry.n_voxels), dtype=np.float32)
    for index, (layer, voxels) in enumerate(zip(geometry.layers, geometry.layer_slices, strict=True)):
        rings = np.array(layer.radial_edges)
        scale = 0.15 * rings[-1] * (1 + index / geometry.n_layers)
        share = np.tile(-np.diff(np.exp(-rings / scale)) / layer.n_alpha, layer.n_alpha)
        mean_hits = incident * response * profile[:, [index]] * share / _HIT_ENERGY
        hits = rng.poisson(mean_hits)
        showers[:, voxels] = np.where(hits > 0, rng.gamma(np.maximum(hits, 1), _HIT_ENERGY), 0.0)
    showers[showers < geometry.threshold_mev] = 0.0
    return incident.astype(np.float32), showers
