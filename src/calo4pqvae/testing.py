r"""Tools to test samplers, machines and shower code with, for this package and for those who extend it.

The heart is :func:`assert_samples_boltzmann`. It draws its law from the formula

.. math:: E(z | c) = -\sum_i b_i z_i - \sum_{i<j} W_{ij} z_i z_j - \sum_{a,i} c_a A_{ai} z_i

with plain loops over states and couplers, and shares no line with the code that it tests. Two tests are made on
independent draws. The first compares the mean of every sufficient statistic and of the energy with its exact mean, in
units of its exact standard error: exact variances give it power against small errors of beta or of a bias. The second
is a chi-square test over states, with rare states pooled: it sees what the moments do not. A test of means against a
fixed tolerance would pass a beta that is 5 % wrong.

:func:`tiny_machine` has what real machines have and square examples lack: unequal partitions, an irregular graph and
a node without couplers. :func:`synthetic_showers` gives showers of roughly the right shape for any geometry, so that
tests need no data.
"""

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.topology import Topology

if TYPE_CHECKING:
    from calo4pqvae.showers.geometry import Geometry

__all__ = ["all_states", "assert_samples_boltzmann", "synthetic_showers", "tiny_machine"]

FloatArray = NDArray[np.float64]

_LEAST_EXPECTED = 5.0  # of a cell of the chi-square test
_LEAST_VARIANCE = 25.0  # of a sum over all draws, below which its law is not yet normal
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
    probabilities = weights / weights.sum()
    _check_moments(draws, support, probabilities, fields, couplings, alpha)
    _check_states(draws, support, probabilities, held, alpha)


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


def _check_moments(
    draws: FloatArray,
    support: FloatArray,
    probabilities: FloatArray,
    fields: list[float],
    couplings: dict[tuple[int, int], float],
    alpha: float,
) -> None:
    def statistics(states: FloatArray) -> dict[str, FloatArray]:
        table = {f"bit {i}": states[:, i] for i in range(states.shape[1])}
        table |= {f"pair ({i}, {j})": states[:, i] * states[:, j] for i, j in couplings}
        table["energy"] = np.array([_energy(state, fields, couplings) for state in states])
        return table

    seen, counts = np.unique(draws, axis=0, return_counts=True)
    exact, drawn = statistics(support), statistics(seen)
    scores: dict[str, float] = {}
    for name, values in exact.items():
        mean = float(probabilities @ values)
        variance = float(probabilities @ (values - mean) ** 2)
        if variance * len(draws) > _LEAST_VARIANCE:
            mean_drawn = float(counts @ drawn[name]) / len(draws)
            scores[name] = (mean_drawn - mean) / math.sqrt(variance / len(draws))
    limit = float(stats.norm.isf(alpha / (2 * max(1, len(scores)))))
    worst = max(scores, key=lambda name: abs(scores[name]), default=None)
    if worst is not None and abs(scores[worst]) > limit:
        raise AssertionError(
            f"mean of {worst} is {scores[worst]:+.1f} standard errors from the exact law, limit {limit:.1f}"
        )


def _check_states(
    draws: FloatArray, support: FloatArray, probabilities: FloatArray, held: NDArray[np.bool_], alpha: float
) -> None:
    place = 2 ** np.arange(int((~held).sum()))[::-1]
    observed = np.bincount((draws[:, ~held] @ place).astype(np.int64), minlength=len(support)).astype(np.float64)
    expected = probabilities * len(draws)
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
