r"""What the study of small machines measures: exact epsilon of many machines, sampled epsilon of some, energies.

**Pulls.** With :math:`c` the exact covariances and :math:`c_k` those of chains k sweeps away from fair coins, both
summed over all states, and :math:`\hat c_k` an estimate with errors :math:`\sigma`,

.. math:: \overline{(\hat c_k - c)^2 / \sigma^2} \approx 1 + \overline{(c_k - c)^2 / \sigma^2} ,

the bar over all parameters: the second term is the bias of chains that are too short, computed and not fitted.

**Degeneracy.** Among n independent states of the law p, the expected number of distinct ones is
:math:`\sum_s 1 - (1 - p_s)^n`, of variance below :math:`\sum_s (1 - p_s)^n [1 - (1 - p_s)^n]`: different states compete
for the same draws, so that the bound is safe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.phase_diagram.measurements import iid_machine
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable
from calo4pqvae.studies.theory.epsilon import exact_epsilon, parameter_groups, sampled_epsilon

__all__ = ["LAWS", "EnergyHistogram", "ExactPart", "SampledPart", "SamplingPlan", "exact_part", "sampled_part"]

FloatArray = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], FloatArray]

LAWS: Mapping[str, Draw] = MappingProxyType(
    {
        "N(0, std 0.1)": lambda rng, n: rng.normal(0, 0.1, n),
        "N(0, variance 0.1)": lambda rng, n: rng.normal(0, np.sqrt(0.1), n),
        "N(0, 1)": lambda rng, n: rng.normal(0, 1, n),
        "U(-1, 1)": lambda rng, n: rng.uniform(-1, 1, n),
    }
)
"""Laws that all parameters of a machine are drawn from."""

_N_BINS = 40
_LEAST_EXPECTED = 5.0
_RANGE = (0.05, 0.95)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SamplingPlan:
    """How machines are sampled.

    Args:
        n_states: Independent chains, each of which gives one state.
        sweeps: Lengths of the chains from coins, rising.
        sizes: Numbers of states that ranges are taken from, rising.
        n_bootstrap: Bootstrap replicas.
        kernel: Kernel of block Gibbs.
    """

    n_states: int
    sweeps: Sequence[int]
    sizes: Sequence[int]
    n_bootstrap: int
    kernel: KernelName


@dataclass(frozen=True, eq=False)
class ExactPart:
    """Exact epsilon of D machines of a law.

    Args:
        machines: The machines.
        couplings: Epsilon of the couplings (D, n^2).
        biases: Epsilon of the biases (D, 2 n).
        means: Means of the products over couplers, the denominators (D, n^2).
        relaxation: Exact relaxation times of block Gibbs in sweeps (D,).
    """

    machines: tuple[BoltzmannMachine, ...]
    couplings: FloatArray
    biases: FloatArray
    means: FloatArray
    relaxation: FloatArray

    @property
    def widths(self) -> FloatArray:
        """Width of the 5-95 % range of every machine by itself (D,)."""
        low, high = np.quantile(self.couplings, _RANGE, axis=1)
        return np.asarray(high - low)


@dataclass(frozen=True, eq=False)
class SampledPart:
    """Epsilon of the couplings of S of these machines from samples, K lengths of chains, Z numbers of states.

    Args:
        exact: Exact ratios (S, n^2).
        sampled: Ratios from the longest chains and all states (S, n^2).
        few: Ratios from the smallest number of states (S, n^2).
        pulls: Mean squared pull of the covariances (S, K).
        biases: Mean squared bias of chains of that length in units of the same errors, exact (S, K).
        range_pulls: Pulls of median, 5 % and 95 % quantile with the longest chains (S, 3).
        widths: Width of the 5-95 % range relative to the exact one, with all ratios and with those beyond noise,
            (S, Z, 2).
        shares: Share of ratios beyond noise (S, Z).
        states: States of the first machine from the longest chains (B, 2 n).
    """

    exact: FloatArray
    sampled: FloatArray
    few: FloatArray
    pulls: FloatArray
    biases: FloatArray
    range_pulls: FloatArray
    widths: FloatArray
    shares: FloatArray
    states: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class EnergyHistogram:
    """Energies of sampled states and the distinct states among them, bin by bin, with what is expected exactly.

    Args:
        edges: Bin edges in nats (bins + 1,).
        counts: Sampled states (bins,).
        expected: Their exact expectation.
        distinct: Distinct states met.
        distinct_expected: Their exact expectation.
        distinct_error: Its standard deviation, an upper bound.
        existing: States that exist.
        p_value: Chi-square probability of the counts.
        n_states: Sampled states.
    """

    edges: FloatArray
    counts: FloatArray
    expected: FloatArray
    distinct: FloatArray
    distinct_expected: FloatArray
    distinct_error: FloatArray
    existing: FloatArray
    p_value: float
    n_states: int

    @classmethod
    def of(cls, table: BipartiteTable, states: NDArray[np.uint8], n_bins: int = _N_BINS) -> Self:
        """Fills the histograms.

        Args:
            table: The law.
            states: Independent states (B, 2 n).
            n_bins: Equal bins between the lowest and the highest energy that exist.
        """
        energies, law = table.energies.ravel(), table.probabilities.ravel()
        edges = np.linspace(energies.min(), energies.max(), n_bins + 1)
        bins = np.clip(np.digitize(energies, edges) - 1, 0, n_bins - 1)
        met = table.numbers_of(states)
        n = len(met)
        counts = np.bincount(bins[met], minlength=n_bins).astype(np.float64)
        expected = n * np.bincount(bins, law, n_bins).astype(np.float64)
        seen = -np.expm1(n * np.log1p(-law))
        return cls(
            edges=edges,
            counts=counts,
            expected=expected,
            distinct=np.bincount(bins[np.unique(met)], minlength=n_bins).astype(np.float64),
            distinct_expected=np.bincount(bins, seen, n_bins).astype(np.float64),
            distinct_error=np.sqrt(np.bincount(bins, seen * (1 - seen), n_bins)),
            existing=np.bincount(bins, minlength=n_bins).astype(np.float64),
            p_value=_chi_square(counts, expected),
            n_states=n,
        )


def exact_part(law: str, n_units: int, n_draws: int, seed: int) -> ExactPart:
    """Exact epsilon of machines with parameters from a law.

    Args:
        law: Name of the law, a key of :data:`LAWS`.
        n_units: Units of each side.
        n_draws: Machines.
        seed: Seed of the parameters.
    """
    rng = np.random.default_rng(derive_seed(seed, "parameters", law))
    machines = tuple(iid_machine(LAWS[law], n_units, rng) for _ in range(n_draws))
    means, ratios, relaxation = [], [], []
    for machine in machines:
        table = BipartiteTable.of(machine)
        means.append(table.means())
        ratios.append(table.energy_covariances() / means[-1])
        relaxation.append(table.relaxation_time)
    values = np.array(ratios)
    return ExactPart(
        machines=machines,
        couplings=values[:, 2 * n_units :],
        biases=values[:, : 2 * n_units],
        means=np.array(means)[:, 2 * n_units :],
        relaxation=np.array(relaxation),
    )


def sampled_part(plan: SamplingPlan, exact: ExactPart, n_machines: int, law: str, seed: int) -> SampledPart:
    """Epsilon of the first machines of a law from block Gibbs.

    Args:
        plan: How they are sampled.
        exact: The machines with their exact epsilon.
        n_machines: Machines that are sampled.
        law: Name of the law, for the random streams.
        seed: Seed of chains and bootstrap.
    """
    rows = [_sampled_machine(plan, exact.machines[index], law, index, seed) for index in range(n_machines)]
    return SampledPart(
        exact=exact.couplings[:n_machines],
        sampled=np.array([row.ratios for row in rows]),
        few=np.array([row.few for row in rows]),
        pulls=np.array([row.pulls for row in rows]),
        biases=np.array([row.biases for row in rows]),
        range_pulls=np.array([row.range_pulls for row in rows]),
        widths=np.array([row.widths for row in rows]),
        shares=np.array([row.shares for row in rows]),
        states=rows[0].states,
    )


@dataclass(frozen=True, eq=False)
class _SampledMachine:
    """One row of a :class:`SampledPart`."""

    ratios: FloatArray
    few: FloatArray
    pulls: FloatArray
    biases: FloatArray
    range_pulls: FloatArray
    widths: FloatArray
    shares: FloatArray
    states: NDArray[np.uint8]


def _sampled_machine(plan: SamplingPlan, machine: BoltzmannMachine, law: str, index: int, seed: int) -> _SampledMachine:
    table = BipartiteTable.of(machine)
    groups = parameter_groups(machine, ("visible", "hidden"))
    truth, couplings = exact_epsilon(table, groups), groups["couplings"]
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", law, index))
    generator = stream(seed, "chains", law, index)
    sampler = BlockGibbsSampler(machine, plan.kernel)
    state, done, pulls, biases = sampler.init(plan.n_states, generator), 0, [], []
    for n_sweeps in plan.sweeps:
        state, done = sampler.sample(state, n_sweeps - done, generator), n_sweeps
        found = sampled_epsilon(machine, state.states, groups, rng, n_bootstrap=plan.n_bootstrap)
        short = table.energy_covariances(table.after(n_sweeps))
        pulls.append(_mean_square(found.covariance - truth.covariance, found.covariance_error))
        biases.append(_mean_square(short - truth.covariance, found.covariance_error))
    wanted, seen = truth.summaries["couplings"], found.summaries["couplings"]
    width = float(wanted.values[2] - wanted.values[1])
    widths, shares, few = [], [], found.values[couplings]
    for size in sorted(plan.sizes, reverse=True):
        part = sampled_epsilon(machine, state.states[:size], groups, rng, n_bootstrap=2)
        few, is_kept = part.values[couplings], part.resolved()[couplings]
        widths.append([_width(few[np.isfinite(few)]) / width, _width(few[is_kept]) / width])
        shares.append(is_kept.mean())
    return _SampledMachine(
        ratios=found.values[couplings],
        few=few,
        pulls=np.array(pulls),
        biases=np.array(biases),
        range_pulls=(seen.values[:3] - wanted.values[:3]) / seen.errors[:3],
        widths=np.array(widths[::-1]),
        shares=np.array(shares[::-1]),
        states=state.states.cpu().numpy().astype(np.uint8),
    )


def _mean_square(differences: FloatArray, errors: FloatArray) -> float:
    """Mean square in units of the errors; products that no state has shown have none and are left out."""
    is_seen = errors > _ROUNDING * errors.max()
    return float(((differences[is_seen] / errors[is_seen]) ** 2).mean())


def _width(values: FloatArray) -> float:
    """Width of the 5-95 % range; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    low, high = np.quantile(values, _RANGE)
    return float(high - low)


def _chi_square(counts: FloatArray, expected: FloatArray) -> float:
    """Probability of a worse chi-square; neighbouring bins are pooled until each expects enough."""
    pooled: list[list[float]] = [[0.0, 0.0]]
    for seen, wanted in zip(counts, expected, strict=True):
        if pooled[-1][1] >= _LEAST_EXPECTED:
            pooled.append([0.0, 0.0])
        pooled[-1][0] += seen
        pooled[-1][1] += wanted
    if len(pooled) > 1 and pooled[-1][1] < _LEAST_EXPECTED:
        last = pooled.pop()
        pooled[-1] = [pooled[-1][0] + last[0], pooled[-1][1] + last[1]]
    if len(pooled) < 2:
        return 1.0
    seen, wanted = np.array(pooled).T
    return float(chi2.sf(((seen - wanted) ** 2 / wanted).sum(), len(pooled) - 1))
