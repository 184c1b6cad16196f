r"""Small machines: epsilon and energies of 10 + 10 units, exact and by block Gibbs.

Machines of two partitions with all parameters drawn from one law are small enough for sums over all :math:`2^{20}`
states, so that block Gibbs can be judged state by state. Four laws: N(0, 0.1) read as standard deviation and as
variance, N(0, 1) and U(-1, 1).

**Epsilon** (:mod:`~calo4pqvae.studies.epsilon`) is computed exactly for many machines of each law, and for some of them
from n independent chains of k sweeps from coins. Three things can make the two differ: chains that are too short (bias
that shrinks with k, at a rate that the exact relaxation time of the machine tells), too few states (noise, which widens a
distribution of ratios), and denominators near zero (ratios with heavy tails). The first shows as the mean squared pull,
:math:`\overline{(\hat c - c)^2 / \sigma^2}` of the covariances, which is 1 if errors are all there is; the others as the
width of the 5-95 % range relative to the exact one, against n, with all ratios and with those beyond noise.

**Energies.** The histogram of sampled energies is compared with exact probabilities, and the number of distinct states
that are met in each bin, the degeneracy, with its expectation :math:`\sum_{s \in bin} 1 - (1 - p_s)^n`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from calo4pqvae.prior.gibbs import BlockGibbsSampler
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.topology import bipartite_topology
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.bipartite_table import BipartiteTable
from calo4pqvae.studies.epsilon import exact_epsilon, parameter_groups, sampled_epsilon
from calo4pqvae.studies.small_machines_figures import agreement_figure, energy_figure, epsilon_figure
from calo4pqvae.studies.study import Findings, Progress, StudyFigure, StudySettings, estimate

__all__ = ["LAWS", "REFERENCE", "STUDY", "EnergyHistogram", "SmallMachinesSettings"]

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

REFERENCE: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "N(0, std 0.1)": {"median": -0.015, "q05": -0.24, "q95": 0.24, "std": 0.15, "median_abs": 0.11, "bias_std": 0.10},
        "N(0, variance 0.1)": {
            "median": -0.085, "q05": -0.61, "q95": 0.96, "std": 0.50, "median_abs": 0.38, "bias_std": 0.34,
        },
        "N(0, 1)": {"median": 0.18, "q05": -0.67, "q95": 4.6, "std": 1.86, "median_abs": 0.62, "bias_std": 1.39},
        "U(-1, 1)": {"median": 0.01, "q05": -0.70, "q95": 2.3, "std": 0.95, "median_abs": 0.51, "bias_std": 0.70},
    }
)  # fmt: skip
"""Epsilon of couplings over 20 machines of 10 + 10 units of each law, from an enumeration with another program."""

_ENERGY_LAWS = ("N(0, 1)", "U(-1, 1)")
_N_BINS = 40
_LEAST_EXPECTED = 5.0
_N_BOOTSTRAP_DRAWS = 400
_AGREES = 3.0  # standard errors


class SmallMachinesSettings(StudySettings):
    """Settings of the study."""

    n_units: int = Field(10, ge=2, le=12, description="units of each of the two sides")
    n_draws: int = Field(20, ge=4, description="machines of each law that are summed exactly")
    n_sampled: int = Field(10, ge=3, description="machines of each law that are sampled as well")
    n_states: int = Field(10_000, ge=200, description="independent chains, each of which gives one state")
    sweeps: tuple[int, ...] = Field((1, 2, 5, 10, 100, 1000), min_length=1, description="sweeps from coins")
    sizes: tuple[int, ...] = Field(
        (100, 300, 1000, 3000, 10_000), min_length=1, description="numbers of states compared"
    )
    n_bootstrap: int = Field(100, ge=10, description="bootstrap replicas of sampled numbers")
    kernel: KernelName = Field("auto", description="kernel of block Gibbs")


@dataclass(frozen=True, eq=False)
class EnergyHistogram:
    """Energies of sampled states and the distinct states among them, bin by bin, with what is expected exactly.

    Args:
        edges: Bin edges in nats (bins + 1,).
        counts: Sampled states (bins,).
        expected: Their exact expectation.
        distinct: Distinct states met.
        distinct_expected: Their exact expectation.
        distinct_error: Its standard deviation.
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
    def of(cls, table: BipartiteTable, states: NDArray[np.uint8], n_bins: int = _N_BINS) -> "EnergyHistogram":
        """Of sampled states of a machine.

        Args:
            table: Exact law of the machine.
            states: Independent states (n, N).
            n_bins: Bins between the lowest and the highest energy.
        """
        energies, law = table.energies.ravel(), table.probabilities.ravel()
        edges = np.linspace(energies.min(), energies.max(), n_bins + 1)
        bins = np.clip(np.digitize(energies, edges) - 1, 0, n_bins - 1)
        met = table.numbers_of(states)
        n = len(met)
        counts = np.bincount(bins[met], minlength=n_bins).astype(np.float64)
        expected = n * np.bincount(bins, law, n_bins)
        seen = -np.expm1(n * np.log1p(-law))
        return cls(
            edges=edges,
            counts=counts,
            expected=expected,
            distinct=np.bincount(bins[np.unique(met)], minlength=n_bins).astype(np.float64),
            distinct_expected=np.bincount(bins, seen, n_bins),
            distinct_error=np.sqrt(np.bincount(bins, seen * (1 - seen), n_bins)),
            existing=np.bincount(bins, minlength=n_bins).astype(np.float64),
            p_value=_chi_square(counts, expected),
            n_states=n,
        )

    def as_data(self, seed: int) -> dict[str, Any]:
        """Plain data."""
        total, error = float(self.distinct_expected.sum()), float(np.sqrt((self.distinct_error**2).sum()))
        return {
            "p_value": estimate(self.p_value, None, self.n_states, seed),
            "distinct_states": estimate(float(self.distinct.sum()), error, self.n_states, seed),
            "distinct_states_expected": estimate(total, 0.0, int(self.existing.sum())),
            "edges_nats": self.edges.round(6).tolist(),
            "counts": self.counts.tolist(),
            "counts_expected": self.expected.round(4).tolist(),
            "distinct": self.distinct.tolist(),
            "distinct_expected": self.distinct_expected.round(4).tolist(),
            "states_in_bin": self.existing.tolist(),
        }


@dataclass(frozen=True, eq=False)
class ExactPart:
    """Exact epsilon of many machines of a law."""

    couplings: FloatArray
    biases: FloatArray
    means: FloatArray
    relaxation: FloatArray
    tables: tuple[BipartiteTable, ...]


@dataclass(frozen=True, eq=False)
class SampledPart:
    """Epsilon of the couplings of some of these machines from samples.

    Args:
        exact: Exact ratios, one row a machine.
        sampled: Ratios from the longest chains and all states.
        few: Ratios from the smallest number of states.
        pulls: Mean squared pull of every machine (machines, lengths of chains).
        widths: Width of the 5-95 % range relative to the exact one, with all ratios and with those beyond noise, of
            every machine (machines, numbers of states, 2).
        states: States of the first machine from the longest chains.
    """

    exact: FloatArray
    sampled: FloatArray
    few: FloatArray
    pulls: FloatArray
    widths: FloatArray
    states: NDArray[np.uint8]


def _work(settings: SmallMachinesSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    del folder  # nothing is trained
    exact: dict[str, ExactPart] = {}
    sampled: dict[str, SampledPart] = {}
    for place, law in enumerate(LAWS):
        exact[law] = _exact_part(settings, law, seed)
        progress("small machines", 2 * place + 1, 2 * len(LAWS))
        sampled[law] = _sampled_part(settings, exact[law], law, seed)
        progress("small machines", 2 * place + 2, 2 * len(LAWS))
    histograms = {law: EnergyHistogram.of(exact[law].tables[0], sampled[law].states) for law in _ENERGY_LAWS}
    numbers = {
        law: _exact_numbers(exact[law], law, seed) | _sampled_numbers(settings, sampled[law], seed) for law in LAWS
    }
    for law, histogram in histograms.items():
        numbers[law]["energies"] = histogram.as_data(seed)
    figures = [
        StudyFigure(
            "epsilon",
            f"epsilon of the couplings of {settings.n_units} + {settings.n_units} machines: exact over "
            f"{settings.n_draws} machines (grey), exact over the {settings.n_sampled} machines that were sampled, and "
            f"from {settings.n_states} and {min(settings.sizes)} independent states, all ratios; what lies outside is "
            "counted in the outermost bins.",
            lambda: epsilon_figure(exact, sampled, settings.n_states, min(settings.sizes)),
        ),
        StudyFigure(
            "agreement",
            "Left: mean squared pull of sampled covariances against the length of the chains (1 if errors are all there "
            "is). Right: width of the 5-95 % range of epsilon relative to the exact one against the number of states, "
            "with all ratios (open) and with those whose denominator is beyond noise (filled). Bars: standard errors "
            f"over {settings.n_sampled} machines.",
            lambda: agreement_figure(sampled, settings.sweeps, settings.sizes),
        ),
        StudyFigure(
            "energies",
            f"Energies of {settings.n_states} sampled states (points, Poisson errors) and exact expectation (grey), and "
            "the distinct states among them against their exact expectation and the number of states that exist.",
            lambda: energy_figure(histograms),
        ),
    ]
    return Findings(numbers, figures, _text(settings, numbers))


def _exact_part(settings: SmallMachinesSettings, law: str, seed: int) -> ExactPart:
    rng = np.random.default_rng(derive_seed(seed, "parameters", law))
    n, n_bits = settings.n_units, 2 * settings.n_units
    draw = LAWS[law]
    tables = tuple(BipartiteTable(draw(rng, n_bits), draw(rng, n * n).reshape(n, n)) for _ in range(settings.n_draws))
    rows = []
    for table in tables:
        means = table.means()
        rows.append((table.energy_covariances() / means, means, table.relaxation_time))
        table.forget()
    ratios = np.array([row[0] for row in rows])
    return ExactPart(
        couplings=ratios[:, n_bits:],
        biases=ratios[:, :n_bits],
        means=np.array([row[1][n_bits:] for row in rows]),
        relaxation=np.array([row[2] for row in rows]),
        tables=tables,
    )


def _sampled_part(settings: SmallMachinesSettings, exact: ExactPart, law: str, seed: int) -> SampledPart:
    rows = [_sampled_machine(settings, exact.tables[index], law, index, seed) for index in range(settings.n_sampled)]
    return SampledPart(
        exact=exact.couplings[: settings.n_sampled],
        sampled=np.array([row[0] for row in rows]),
        few=np.array([row[1] for row in rows]),
        pulls=np.array([row[2] for row in rows]),
        widths=np.array([row[3] for row in rows]),
        states=rows[0][4],
    )


def _sampled_machine(
    settings: SmallMachinesSettings, table: BipartiteTable, law: str, index: int, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, NDArray[np.uint8]]:
    """Sampled ratios of couplings from all and from few states, pulls, widths, states."""
    machine = _machine(table)
    groups = parameter_groups(machine, ("visible", "hidden"))
    truth, couplings = exact_epsilon(table, groups), groups["couplings"]
    table.forget()
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", law, index))
    generator = stream(seed, "chains", law, index)
    sampler = BlockGibbsSampler(machine, settings.kernel)
    state, done, pulls = sampler.init(settings.n_states, generator), 0, []
    for n_sweeps in sorted(settings.sweeps):
        state, done = sampler.sample(state, n_sweeps - done, generator), n_sweeps
        found = sampled_epsilon(machine, state.states, groups, rng, n_bootstrap=settings.n_bootstrap)
        pulls.append(np.mean(((found.covariance - truth.covariance) / found.covariance_error) ** 2))
    wanted = np.subtract(*truth.summaries["couplings"].values[[2, 1]])
    widths, few = [], found.values[couplings]
    for size in sorted(settings.sizes, reverse=True):
        part = sampled_epsilon(machine, state.states[:size], groups, rng, n_bootstrap=2)
        few = part.values[couplings]
        kept = few[part.resolved()[couplings]]
        widths.append([_width(few[np.isfinite(few)]) / wanted, _width(kept) / wanted])
    states = state.states.numpy().astype(np.uint8)
    return found.values[couplings], few, np.array(pulls), np.array(widths[::-1]), states


def _machine(table: BipartiteTable) -> BoltzmannMachine:
    machine = BoltzmannMachine(bipartite_topology(*table.sizes))
    with torch.no_grad():
        machine.biases.copy_(torch.from_numpy(table.biases))
        machine.couplings.copy_(torch.from_numpy(table.matrix.ravel()))
    return machine
