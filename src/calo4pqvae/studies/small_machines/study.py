r"""Small machines: epsilon and energies of 10 + 10 units, exact and by block Gibbs.

Machines of two partitions with all parameters drawn from one law are small enough for sums over all :math:`2^{20}`
states, so that block Gibbs can be judged state by state. Four laws: N(0, 0.1) read as standard deviation and as
variance, N(0, 1) and U(-1, 1).

**Epsilon** (:mod:`~calo4pqvae.studies.theory.epsilon`) is computed exactly for many machines of each law, and for some
of them from n independent chains of k sweeps from coins. Four things can make the two differ. Chains that are too
short: their bias is summed exactly (:mod:`~calo4pqvae.studies.small_machines.measurements`) and decays with the exact
relaxation time of the machine. Too few states: noise widens a distribution. Denominators near zero: ratios of noisy
numbers have heavy tails. And, if the two are not made from the very same parameters, the spread from one draw of the
parameters to the next. The first shows as the mean squared pull of the covariances, which is 1 if errors are all
there is; the second and third as the width of the 5-95 % range relative to the exact one, against n, with all ratios
and with those whose denominator is beyond noise; the fourth as the spread of that width over machines.

**Energies.** The histogram of sampled energies is compared with exact probabilities, and the number of distinct states
that are met in each bin, the degeneracy, with its exact expectation.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.stats import spearmanr

from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.seeds import derive_seed
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure, StudySettings, estimate, with_error
from calo4pqvae.studies.small_machines.figures import agreement_figure, energy_figure, epsilon_figure
from calo4pqvae.studies.small_machines.measurements import (
    LAWS,
    EnergyHistogram,
    ExactPart,
    SampledPart,
    SamplingPlan,
    exact_part,
    sampled_part,
)
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable

__all__ = ["REFERENCE", "STUDY", "SmallMachinesSettings"]

FloatArray = NDArray[np.float64]

REFERENCE: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "N(0, std 0.1)": {
            "median": -0.015, "q05": -0.24, "q95": 0.24, "std": 0.15, "median_abs": 0.11, "bias_std": 0.10,
        },
        "N(0, variance 0.1)": {
            "median": -0.085, "q05": -0.61, "q95": 0.96, "std": 0.50, "median_abs": 0.38, "bias_std": 0.34,
        },
        "N(0, 1)": {"median": 0.18, "q05": -0.67, "q95": 4.6, "std": 1.86, "median_abs": 0.62, "bias_std": 1.39},
        "U(-1, 1)": {"median": 0.01, "q05": -0.70, "q95": 2.3, "std": 0.95, "median_abs": 0.51, "bias_std": 0.70},
    }
)  # fmt: skip
"""Epsilon of couplings over 20 machines of 10 + 10 units of each law, from an enumeration with another program."""

_ENERGY_LAWS = ("N(0, 1)", "U(-1, 1)")
_N_BOOTSTRAP_DRAWS = 400
_AGREES = 3.0  # standard errors
_REFERENCE_UNITS, _REFERENCE_DRAWS = 10, 20
_NAMES = ("median", "q05", "q95", "std", "median_abs", "bias_std")
_LEAST_P = 1e-3
_NOTABLE = 0.01  # share of ratios left out
_MANY = 10  # relaxation times after which a chain is long


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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_sampled > self.n_draws:
            raise ValueError(f"n_sampled = {self.n_sampled} is more than n_draws = {self.n_draws}; lower it")
        if min(self.sizes) < 2 or max(self.sizes) > self.n_states:
            raise ValueError(f"sizes must lie between 2 and n_states = {self.n_states}")
        if min(self.sweeps) < 1:
            raise ValueError("sweeps must be 1 or more")
        return self

    @property
    def plan(self) -> SamplingPlan:
        """How machines are sampled."""
        return SamplingPlan(
            self.n_states, sorted(set(self.sweeps)), sorted(set(self.sizes)), self.n_bootstrap, self.kernel
        )


def work(settings: SmallMachinesSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    del folder  # nothing is trained
    plan = settings.plan
    exact: dict[str, ExactPart] = {}
    sampled: dict[str, SampledPart] = {}
    for place, law in enumerate(LAWS):
        exact[law] = exact_part(law, settings.n_units, settings.n_draws, seed)
        progress("small machines", 2 * place + 1, 2 * len(LAWS))
        sampled[law] = sampled_part(plan, exact[law], settings.n_sampled, law, seed)
        progress("small machines", 2 * place + 2, 2 * len(LAWS))
    histograms = {
        law: EnergyHistogram.of(BipartiteTable.of(exact[law].machines[0]), sampled[law].states) for law in _ENERGY_LAWS
    }
    numbers: dict[str, Any] = {}
    for law in LAWS:
        numbers[law] = _exact_numbers(settings, exact[law], law, seed) | _sampled_numbers(plan, sampled[law], seed)
    for law, histogram in histograms.items():
        numbers[law]["energies"] = _energy_numbers(histogram, seed)
    return Findings(numbers, _figures(settings, exact, sampled, histograms), _text(settings, numbers))


def _figures(
    settings: SmallMachinesSettings,
    exact: Mapping[str, ExactPart],
    sampled: Mapping[str, SampledPart],
    histograms: Mapping[str, EnergyHistogram],
) -> list[StudyFigure]:
    n, plan = settings.n_units, settings.plan
    return [
        StudyFigure(
            "epsilon",
            f"Epsilon of the couplings of {n} + {n} machines: exact over {settings.n_draws} machines (grey), "
            f"exact over the {settings.n_sampled} machines that were sampled, and from {settings.n_states} and "
            f"{plan.sizes[0]} independent states after {plan.sweeps[-1]} sweeps, all ratios; what lies outside is "
            "counted in the outermost bins.",
            lambda: epsilon_figure(exact, sampled, settings.n_states, plan.sizes[0]),
        ),
        StudyFigure(
            "agreement",
            f"Left: mean squared pull of the covariances from {settings.n_states} chains against their length; lines: "
            "1 for errors alone plus the squared bias of chains of that length, summed exactly. Right: width of the "
            "5-95 % range of epsilon relative to the exact one against the number of states, with all ratios (open) "
            "and with those whose denominator is beyond noise (filled). Bars: standard errors over "
            f"{settings.n_sampled} machines.",
            lambda: agreement_figure(sampled, plan.sweeps, plan.sizes),
        ),
        StudyFigure(
            "energies",
            f"Top: energies of {settings.n_states} sampled states of one machine (points, Poisson errors) and exact "
            "expectation (grey). Bottom: distinct states among them (points, bars: standard deviation of the exact "
            "law), their exact expectation (grey) and the states that exist (dotted).",
            lambda: energy_figure(histograms),
        ),
    ]


def _exact_numbers(settings: SmallMachinesSettings, part: ExactPart, law: str, seed: int) -> dict[str, Any]:
    """Summaries over all machines with errors over draws, beside the reference."""
    rng = np.random.default_rng(derive_seed(seed, "draws", law))
    values, n_draws = _summary(part.couplings, part.biases), len(part.couplings)
    picks = rng.integers(0, n_draws, (_N_BOOTSTRAP_DRAWS, n_draws))
    errors = np.std([_summary(part.couplings[pick], part.biases[pick]) for pick in picks], axis=0, ddof=1)
    exact = {
        name: estimate(float(value), float(error), n_draws, seed)
        for name, value, error in zip(_NAMES, values, errors, strict=True)
    }
    numbers: dict[str, Any] = {"exact": exact}
    if _has_reference(settings):
        spread = errors * np.sqrt(1 + n_draws / _REFERENCE_DRAWS)  # of the difference to as many draws as those
        pulls = (values - [REFERENCE[law][name] for name in _NAMES]) / spread
        numbers["reference, 20 draws"] = dict(REFERENCE[law])
        numbers["(exact - reference) / spread"] = dict(zip(_NAMES, pulls.tolist(), strict=True))
        numbers["agrees with the reference"] = bool((np.abs(pulls[:3]) < _AGREES).all())
    ranges = np.quantile(part.widths, (0, 0.5, 1))
    times = np.quantile(part.relaxation, (0, 0.5, 1))
    smallest = np.quantile(part.means.min(axis=1), (0, 0.5))
    return numbers | {
        "width of the 5-95 % range of one machine, least, median, largest": ranges.tolist(),
        "relaxation time in sweeps, least, median, largest": times.tolist(),
        "smallest denominator of a machine, least, median": smallest.tolist(),
        "rank correlation of epsilon and denominator": _over_machines(
            np.array([spearmanr(*pair).statistic for pair in zip(part.couplings, part.means, strict=True)]), seed
        ),
    }


def _has_reference(settings: SmallMachinesSettings) -> bool:
    """Whether there is a reference, and enough draws to know the spread of such numbers."""
    return settings.n_units == _REFERENCE_UNITS and settings.n_draws >= _REFERENCE_DRAWS


def _summary(couplings: FloatArray, biases: FloatArray) -> FloatArray:
    low, middle, high = np.quantile(couplings, (0.05, 0.5, 0.95))
    return np.array([middle, low, high, couplings.std(), np.median(np.abs(couplings)), biases.std()])


def _sampled_numbers(plan: SamplingPlan, part: SampledPart, seed: int) -> dict[str, Any]:
    pulls = {
        str(n): {
            "measured": _over_machines(part.pulls[:, index], seed),
            "exact expectation": 1 + float(part.biases[:, index].mean()),
        }
        for index, n in enumerate(plan.sweeps)
    }
    ranges = {
        str(n): {
            "all ratios": _over_machines(part.widths[:, index, 0], seed),
            "denominators beyond noise": _over_machines(part.widths[:, index, 1], seed),
            "share left out": _over_machines(1 - part.shares[:, index], seed),
        }
        for index, n in enumerate(plan.sizes)
    }
    squared = part.range_pulls**2
    return {
        "mean squared pull against sweeps": pulls,
        "width of the range over the exact one against states": ranges,
        "mean squared pull of median, q05, q95, longest chains": [
            _over_machines(column, seed) for column in squared.T
        ],
    }  # fmt: skip


def _over_machines(values: FloatArray, seed: int) -> dict[str, float | int | None]:
    found = values[np.isfinite(values)]
    error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
    return estimate(float(found.mean()) if len(found) else float("nan"), error, len(found), seed)


def _energy_numbers(histogram: EnergyHistogram, seed: int) -> dict[str, Any]:
    total, error = float(histogram.distinct_expected.sum()), float(np.sqrt((histogram.distinct_error**2).sum()))
    distinct = float(histogram.distinct.sum())
    return {
        "p_value": estimate(histogram.p_value, None, histogram.n_states, seed),
        "distinct states": estimate(distinct, error, histogram.n_states, seed),
        "distinct states, exact expectation": total,
        "states that exist": float(histogram.existing.sum()),
        "edges in nats": histogram.edges.round(6).tolist(),
        "states in bin": histogram.counts.tolist(),
        "states in bin, exact expectation": histogram.expected.round(4).tolist(),
        "distinct in bin": histogram.distinct.tolist(),
        "distinct in bin, exact expectation": histogram.distinct_expected.round(4).tolist(),
        "existing in bin": histogram.existing.tolist(),
    }


def _text(settings: SmallMachinesSettings, numbers: Mapping[str, Any]) -> list[str]:
    paragraphs = [_exact_text(settings, numbers), _chain_text(settings, numbers)]
    paragraphs += [_range_text(settings, law, numbers[law]) for law in LAWS]
    return [*paragraphs, _mismatch_text(settings, numbers["U(-1, 1)"]), _energy_text(settings, numbers)]


def _exact_text(settings: SmallMachinesSettings, numbers: Mapping[str, Any]) -> str:
    told = "; ".join(
        f"{law}: median {with_error(numbers[law]['exact']['median'])}, 5-95 % from "
        f"{with_error(numbers[law]['exact']['q05'])} to {with_error(numbers[law]['exact']['q95'])}"
        for law in LAWS
    )
    text = f"Exact epsilon of the couplings over {settings.n_draws} machines of each law: {told} (errors over draws)."
    if not _has_reference(settings):
        return text
    off = [law for law in LAWS if not numbers[law]["agrees with the reference"]]
    largest = max(abs(numbers[law]["(exact - reference) / spread"][name]) for law in LAWS for name in _NAMES[:3])
    verdict = "All medians and ranges agree" if not off else f"Those of {' and '.join(off)} do not agree"
    return (
        f"{text} {verdict} with the reference table within {_AGREES:g} times the spread of draws; the largest "
        f"difference is {largest:.1f} spreads."
    )


def _chain_text(settings: SmallMachinesSettings, numbers: Mapping[str, Any]) -> str:
    """What the length of the chains does."""
    plan = settings.plan
    times = {law: numbers[law]["relaxation time in sweeps, least, median, largest"] for law in LAWS}
    shortest, longest = str(plan.sweeps[0]), str(plan.sweeps[-1])
    key = "mean squared pull against sweeps"
    told = "; ".join(
        f"{law}: relaxation {times[law][1]:.2f} sweeps (at most {times[law][2]:.2f}), squared pull "
        f"{with_error(numbers[law][key][shortest]['measured'])} after {shortest} and "
        f"{with_error(numbers[law][key][longest]['measured'])} after {longest}"
        for law in LAWS
    )
    far = [law for law in LAWS if _is_off(numbers[law][key][longest]["measured"], 1.0)]
    verdict = (
        f"With {longest} sweeps every law agrees with the exact covariances within errors"
        if not far
        else f"With {longest} sweeps {' and '.join(far)} still differ from the exact covariances by more than errors"
    )
    slowest = max(times[law][2] for law in LAWS)
    meaning = (
        "chains of that length are long, and their length is not what makes sampled and exact ranges differ"
        if plan.sweeps[-1] > _MANY * slowest
        else "chains of that length are not long for it"
    )
    return (
        f"Length of the chains ({settings.n_states} of them, from coins): {told}. {verdict}; the slowest machine "
        f"forgets in {slowest:.1f} sweeps: {meaning}."
    )


def _is_off(number: Mapping[str, float | int | None], expected: float) -> bool:
    value, error = number["value"], number["error"]
    return value is not None and bool(error) and abs(value - expected) > _AGREES * float(error or 0)


def _range_text(settings: SmallMachinesSettings, law: str, numbers: Mapping[str, Any]) -> str:
    """Where sampled ranges leave the exact one, and why."""
    plan = settings.plan
    ranges = numbers["width of the range over the exact one against states"]
    few, many = (ranges[str(size)] for size in (plan.sizes[0], plan.sizes[-1]))
    least, median, largest = numbers["width of the 5-95 % range of one machine, least, median, largest"]
    smallest, typical = numbers["smallest denominator of a machine, least, median"]
    rank = numbers["rank correlation of epsilon and denominator"]
    text = (
        f"Ranges, {law}: from {plan.sizes[-1]} states the 5-95 % range is {with_error(many['all ratios'])} of the "
        f"exact one, from {plan.sizes[0]} states {with_error(few['all ratios'])} with all ratios and "
        f"{with_error(few['denominators beyond noise'])} with those whose denominator is beyond noise "
        f"({with_error(few['share left out'])} left out). The smallest denominator of a machine is {typical:.2g} "
        f"(median; least {smallest:.2g}). The exact range of one machine has a width of {least:.2f} to {largest:.2f} "
        f"(median {median:.2f}) over {settings.n_draws} draws of the parameters, a factor of {largest / least:.1f}"
    )
    if few["share left out"]["value"] > _NOTABLE and _is_off(rank, 0.0) and rank["value"] < 0:
        text += (
            f"; small denominators have large epsilon (rank correlation {with_error(rank)}), so that products too rare "
            "to be met, or left out for noise, take the upper end of the range with them"
        )
    return f"{text}."


def _mismatch_text(settings: SmallMachinesSettings, numbers: Mapping[str, Any]) -> str:
    """Which of the four reasons can make the ranges of U(-1, 1) differ, by size."""
    plan = settings.plan
    bias = numbers["mean squared pull against sweeps"][str(plan.sweeps[-1])]["exact expectation"] - 1
    ranges = numbers["width of the range over the exact one against states"]
    few, many = (ranges[str(size)]["all ratios"] for size in (plan.sizes[0], plan.sizes[-1]))
    least, _, largest = numbers["width of the 5-95 % range of one machine, least, median, largest"]
    verdict = "differs from" if _is_off(many, 1.0) else "agrees with"
    return (
        "The October 2024 presentation saw ranges of epsilon for U(-1, 1) that do not match. Of the four reasons that "
        f"could be, the length of the chains adds {bias:.1g} to the squared pull after {plan.sweeps[-1]} sweeps; "
        f"{plan.sizes[-1]} states give a range that {verdict} the exact one ({with_error(many)}), {plan.sizes[0]} "
        f"states one of {with_error(few)}; and two draws of the parameters differ by up to a factor of "
        f"{largest / least:.1f} in the exact range alone, so that exact and sampled numbers must be of the same draw."
    )


def _energy_text(settings: SmallMachinesSettings, numbers: Mapping[str, Any]) -> str:
    parts = []
    for law in _ENERGY_LAWS:
        energies = numbers[law]["energies"]
        p = energies["p_value"]["value"]
        verdict = "agrees with" if p > _LEAST_P else "differs from"
        parts.append(
            f"{law}: the histogram {verdict} exact probabilities (chi-square p = {p:.2g}), "
            f"{energies['distinct states']['value']:.0f} distinct states were met where "
            f"{energies['distinct states, exact expectation']:.0f} ± {energies['distinct states']['error']:.0f} are "
            f"expected, of {energies['states that exist']:.0f} that exist"
        )
    return f"Energies of {settings.n_states} states of one machine each: {'; '.join(parts)}."


STUDY = Study(
    name="small-machines",
    title="Epsilon and energies of small machines, exact and by block Gibbs",
    settings=SmallMachinesSettings,
    work=work,
    quick={
        "n_sampled": 5,
        "sweeps": (1, 2, 5, 10, 100),
        "sizes": (100, 1000, 10_000),
        "n_bootstrap": 40,
    },
)
