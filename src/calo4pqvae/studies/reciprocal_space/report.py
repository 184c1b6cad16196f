"""What the reciprocal-space study tells: its numbers as plain data, and the text that is written from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.frame.study import estimate, with_error
from calo4pqvae.studies.reciprocal_space.dynamics import ModeDynamics, Transient
from calo4pqvae.studies.reciprocal_space.learning import ModeLearning
from calo4pqvae.studies.reciprocal_space.spectra import BlockSpectrum, GraphSpectrum, RandomGraphs
from calo4pqvae.studies.theory.marchenko_pastur import BulkFit, RandomBlocks, fit_bulk
from calo4pqvae.studies.theory.modes import coupling_matrix

__all__ = ["GraphPart", "ReciprocalResults", "reciprocal_numbers", "reciprocal_text"]

FloatArray = NDArray[np.float64]

_LEVEL = 0.05  # of the tests of a spectrum
_WRONG = 1.1  # factor of the variance in the planted error
_VISIBLE = 0.05  # memory from which on a relaxation rate is compared
_N_TOLD = 6  # singular values in the numbers
_WITHIN = 0.10
_FAR = 5.0  # standard deviations of chi-square


@dataclass(frozen=True)
class GraphPart:
    """A four-partite machine along its training.

    Args:
        label: Its name.
        graphs: Random couplings on its graph.
        spectra: Eigenvalues of every machine that was kept.
        dynamics: Slowest modes of some of them.
        final: The last machine, on its whole graph.
        origin: Where the data come from, if that must be said.
    """

    label: str
    graphs: RandomGraphs
    spectra: Sequence[GraphSpectrum]
    dynamics: Sequence[ModeDynamics]
    final: BoltzmannMachine
    origin: str


@dataclass(frozen=True)
class ReciprocalResults:
    """What was measured.

    Args:
        fair: Machines of fair bits, for which the theory is meant; the first has planted modes.
        transient: Planted modes from coins.
        log_z: Share of ln Z due to the modes: measured, its error, Gaussian theory.
        blocks: Random blocks of the shape of the machine with hidden bits.
        spectra: Its singular values along the training.
        stated_scale: Spread of the couplings that it was started with.
        trained: Its dynamics along the training.
        energies: Energy of correlations of every mode, (parts, K), for the same machines.
        learning: Growth of the modes of the data.
        graphs: Four-partite machines.
        seed: Seed of the study.
    """

    fair: Sequence[ModeDynamics]
    transient: Transient
    log_z: tuple[float, float, float]
    blocks: RandomBlocks
    spectra: Sequence[BlockSpectrum]
    stated_scale: float
    trained: Sequence[ModeDynamics]
    energies: Sequence[FloatArray]
    learning: ModeLearning
    graphs: Sequence[GraphPart]
    seed: int

    @property
    def least_gaussian(self) -> tuple[ModeDynamics, int]:
        """The trained machine and the mode whose drift is farthest from a line."""
        cases = [(one, k) for one in self.trained for k in range(len(one.drifts))]
        return max(cases, key=lambda case: case[0].drifts[case[1]].chi_square / case[0].drifts[case[1]].freedom)

    @property
    def start_tests(self) -> dict[str, BulkFit]:
        """The start against the law: scale fitted, as stated, and with a variance that is wrong by a tenth."""
        start = self.spectra[0].values
        scales = {
            "fitted scale": None,
            "stated scale": self.stated_scale,
            "variance 10 % too large": self.stated_scale * math.sqrt(_WRONG),
            "variance 10 % too small": self.stated_scale / math.sqrt(_WRONG),
        }
        return {name: fit_bulk(start, self.blocks, scale) for name, scale in scales.items()}


def reciprocal_numbers(results: ReciprocalResults) -> dict[str, Any]:
    """All numbers of the study as plain data."""
    seed = results.seed
    measured, error, gaussian = results.log_z
    pulls = (results.transient.variances - results.transient.theory) / results.transient.errors
    return {
        "start against Marchenko-Pastur": {name: _bulk_numbers(fit) for name, fit in results.start_tests.items()},
        "singular values along the training": [
            {"step": one.step, "largest": one.values[:_N_TOLD].tolist(), "p-value": one.fit.p_value,
             "beyond the bulk": one.fit.n_outside} for one in results.spectra
        ],
        "fair bits": {one.label: _dynamics_numbers(one, seed) for one in results.fair},
        "from coins": {
            "largest relative difference from theory": float(
                np.abs(results.transient.variances / results.transient.theory - 1).max()
            ),
            "root mean square pull": float(np.sqrt((pulls**2).mean())),
            "chains": results.transient.n_chains, "seed": seed,
        },
        "ln Z due to modes": {
            "annealed importance sampling": estimate(measured, error, results.transient.n_chains // 4, seed),
            "Gaussian modes": gaussian,
        },
        "bipartite, images": [
            {"step": one.step, **_dynamics_numbers(one, seed), "energy of correlations": _energy_numbers(parts, seed)}
            for one, parts in zip(results.trained, results.energies, strict=True)
        ],
        "learning": _learning_numbers(results.learning),
        **{part.label: _graph_numbers(part, seed) for part in results.graphs},
    }  # fmt: skip


def reciprocal_text(results: ReciprocalResults, numbers: Mapping[str, Any]) -> list[str]:
    """Paragraphs written from the numbers."""
    return [
        _spectra_text(results),
        _fair_text(results, numbers),
        _trained_text(results),
        _learning_text(results.learning),
        *(_graph_text(part) for part in results.graphs),
    ]


def _bulk_numbers(fit: BulkFit) -> dict[str, Any]:
    return {
        "scale": fit.scale,
        "distance": fit.distance,
        "p-value": fit.p_value,
        "random blocks": fit.n_draws,
        "singular values": fit.n_values,
    }


def _dynamics_numbers(one: ModeDynamics, seed: int) -> dict[str, Any]:
    fit, rows = one.fit, []
    n = fit.n_steps * fit.n_chains
    for k in range(len(one.rates)):
        drift = one.drifts[k]
        rows.append({
            "memory": estimate(fit.memory[k], fit.memory_error[k], n, seed),
            "theory": float(one.rates[k]),
            "noise over variance": estimate(
                fit.noise[k] / fit.variance[k], fit.noise_error[k] / fit.variance[k], n, seed
            ),
            "theory of the noise": float(1 - one.rates[k] ** 2),
            "excess kurtosis": estimate(fit.kurtosis[k], fit.kurtosis_error[k], n, seed),
            "drift from a line, chi-square": drift.chi_square,
            "degrees of freedom": drift.freedom,
            "largest over smallest noise": drift.noise_spread,
        })  # fmt: skip
    numbers: dict[str, Any] = {"modes": rows, "theory with gains of a quarter": one.bare_rates.tolist()}
    worst = _worst_rate(one)
    if worst is not None:
        numbers["largest relative difference of a relaxation rate"] = estimate(*worst, n, seed)
    return numbers


def _worst_rate(one: ModeDynamics) -> tuple[float, float] | None:
    """Largest relative difference of -ln(memory) from theory among modes with memory, and its error."""
    found = []
    for memory, error, rate in zip(one.fit.memory, one.fit.memory_error, one.rates, strict=True):
        if memory > _VISIBLE and _VISIBLE < rate < 1:
            theory = -math.log(rate)
            found.append((-math.log(memory) / theory - 1, error / memory / theory))
    return max(found, key=lambda pair: abs(pair[0])) if found else None


def _energy_numbers(parts: FloatArray, seed: int) -> dict[str, Any]:
    """Energy of correlations and the share of the leading modes, with errors over parts of the chains."""
    total = parts.sum(axis=1)
    error = float(total.std(ddof=1)) / math.sqrt(len(total))
    numbers: dict[str, Any] = {"total": estimate(float(total.mean()), error, len(total), seed)}
    for n in (1, 5):
        share = parts[:, :n].sum(axis=1).mean() / total.mean()
        spread = (parts[:, :n].sum(axis=1) - share * total).std(ddof=1) / abs(total.mean())
        numbers[f"share of the first {n}"] = estimate(
            float(share), float(spread) / math.sqrt(len(total)), len(total), seed
        )
    return numbers


def _learning_numbers(one: ModeLearning) -> dict[str, Any]:
    rows = [
        {
            "mu": float(one.strengths[k]),
            "growth": estimate(float(one.rates[k]), float(one.rate_errors[k]), one.n_window),
            "theory": float(one.theory[k]),
            "beyond the bulk from step": None if math.isnan(one.crossings[k]) else int(one.crossings[k]),
        }
        for k in range(len(one.strengths))
    ]
    return {
        "modes of the data": rows,
        "machines in the window": one.n_window,
        "last step of the window": one.steps[one.n_window],
        "rank correlation of mu and growth": one.rank_correlation,
        "leading singular vector within these modes": dict(
            zip(map(str, one.steps), one.alignment.tolist(), strict=True)
        ),
    }


def _graph_numbers(part: GraphPart, seed: int) -> dict[str, Any]:
    vector = np.linalg.eigh(coupling_matrix(part.final))[1][:, -1] ** 2
    weights = [float(vector[nodes].sum()) for nodes in part.final.topology.slices]
    return {
        "graph": part.graphs.topology.name,
        "eigenvalues along the training": [
            {"step": one.step, "largest": one.values[::-1][:_N_TOLD].tolist(), "smallest": float(one.values[0]),
             "p-value against random couplings": one.fit.p_value, "beyond the bulk": one.fit.n_outside,
             "edge of the bulk": one.fit.edge} for one in part.spectra
        ],
        "leading eigenvector, weight of every partition": weights,
        "leading eigenvector, participating nodes": float(1 / (vector**2).sum()),
        "dynamics": [{"step": one.step, **_dynamics_numbers(one, seed)} for one in part.dynamics],
    }  # fmt: skip


def _spectra_text(results: ReciprocalResults) -> str:
    tests, last = results.start_tests, results.spectra[-1]
    first_out = next((one.step for one in results.spectra if one.fit.n_outside), None)
    lost = next((one.step for one in results.spectra if one.fit.p_value < _LEVEL), None)
    n_values, n_draws = tests["fitted scale"].n_values, tests["fitted scale"].n_draws
    text = (
        f"Spectra: the {n_values} singular values of the machine with hidden bits at the start have p = "
        f"{tests['fitted scale'].p_value:.3g} against Marchenko-Pastur with the fitted scale and "
        f"{tests['stated scale'].p_value:.3g} with the stated one ({n_draws} random blocks); a law whose variance is "
        "wrong by "
        f"10 % has p = {tests['variance 10 % too large'].p_value:.3g} (too large) and "
        f"{tests['variance 10 % too small'].p_value:.3g} (too small). "
    )
    text += (
        "No singular value leaves the bulk"
        if first_out is None
        else f"The first value leaves the bulk at step {first_out}"
    )
    text += (
        ", the law holds to the end"
        if lost is None
        else f", the law fails at the level of {_LEVEL:g} from step {lost} on"
    )
    return text + f", and at step {last.step} {last.fit.n_outside} of {n_values} stand beyond the bulk of the rest."


def _fair_text(results: ReciprocalResults, numbers: Mapping[str, Any]) -> str:
    parts = []
    for one in results.fair:
        worst = _worst_rate(one)
        if worst is None:
            continue
        told = with_error(estimate(100 * worst[0], 100 * worst[1], 1))
        verdict = "within" if abs(worst[0]) <= _WITHIN else "not within"
        parts.append(
            f"{one.label} {told} %, {verdict} {100 * _WITHIN:g} % (slowest mode: memory "
            f"{with_error(estimate(one.fit.memory[0], one.fit.memory_error[0], 1))}, theory {one.rates[0]:.3f}, with "
            "gains of "
            f"a quarter {one.bare_rates[0]:.3f})"
        )
    coins, log_z = numbers["from coins"], numbers["ln Z due to modes"]
    return (
        "Fair bits: the largest relative difference of a relaxation rate from the theory with measured gains is, "
        "machine by "
        f"machine: {'; '.join(parts)}. From fair coins the variances of the planted modes follow the theory with a "
        "root "
        f"mean square pull of {coins['root mean square pull']:.2f} (largest relative difference "
        f"{100 * coins['largest relative difference from theory']:.1f} %). Modes add "
        f"{with_error(log_z['annealed importance sampling'])} to ln Z by annealed importance sampling, Gaussian modes "
        "would "
        f"add {log_z['Gaussian modes']:.3f}."
    )


def _trained_text(results: ReciprocalResults) -> str:
    one, k = results.least_gaussian
    drift, last = one.drifts[k], results.trained[-1]
    beyond = next((case.step for case in results.trained if case.bare_rates[0] >= 1), None)
    off = next((case.step for case in results.trained if _is_off(case)), None)
    parts = results.energies[-1]
    shares = _energy_numbers(parts, results.seed)
    limit = drift.freedom + _FAR * math.sqrt(2 * drift.freedom)
    verdict = "not a process of Ornstein and Uhlenbeck" if drift.chi_square > limit else "a line within its errors"
    text = "Trained machine with hidden bits: "
    text += (
        "no mode reaches an amplitude of one with gains of a quarter. "
        if beyond is None
        else f"with gains of a quarter the Gaussian process of the slowest mode has no law from step {beyond} on. "
    )
    text += (
        "With measured gains no memory is off the theory by more than 10 %. "
        if off is None
        else f"With measured gains a memory is off the theory by more than 10 % and three errors from step {off} on. "
    )
    return text + (
        f"Farthest from a line is the drift of mode {k + 1} at step {one.step} (chi-square {drift.chi_square:.0f} for "
        f"{drift.freedom} points, noise from end to end by a factor of {drift.noise_spread:.1f}, excess kurtosis "
        f"{with_error(estimate(one.fit.kurtosis[k], one.fit.kurtosis_error[k], 1))}): {verdict}. "
        "At the end the slowest mode has memory "
        f"{with_error(estimate(last.fit.memory[0], last.fit.memory_error[0], 1))} "
        f"(theory {last.rates[0]:.3f}), and the first five modes hold {with_error(shares['share of the first 5'])} of "
        "the energy "
        f"of correlations, {with_error(shares['total'])} nats."
    )


def _is_off(one: ModeDynamics) -> bool:
    gap = np.abs(one.fit.memory - one.rates)
    return bool(((gap > 3 * one.fit.memory_error) & (gap > _WITHIN * one.rates) & (one.fit.memory > _VISIBLE)).any())


def _learning_text(one: ModeLearning) -> str:
    ratio = one.rates / one.theory
    reached = [int(step) for step in one.crossings[~np.isnan(one.crossings)]]
    late = len(one.rates) - len(reached)
    order = (
        "in the order of their strength"
        if reached == sorted(reached)
        else "not strictly in the order of their strength"
    )
    return (
        f"Learning: up to step {one.steps[one.n_window]}, where couplings are small, the {len(one.rates)} strongest "
        f"modes of the data grow at {ratio.mean():.3f} (from {ratio.min():.3f} to {ratio.max():.3f}) of the rates mu / "
        "4 "
        f"of the linear theory (rank correlation {one.rank_correlation:.2f}; errors of a rate up to "
        f"{one.rate_errors.max():.4f}). They pass the edge of the bulk at steps {', '.join(map(str, reached))}, {order}"
        f"{f'; {late} of them never do' if late else ''}. Of the leading singular vector {one.alignment[-1]:.2f} lies "
        f"within these modes at the end, {one.alignment.max():.2f} at most."
    )


def _graph_text(part: GraphPart) -> str:
    first, last = part.spectra[0], part.spectra[-1]
    slow = part.dynamics[-1]
    return (
        f"{part.label[0].upper()}{part.label[1:]}: at the start the eigenvalues of the coupling matrix have p = "
        f"{first.fit.p_value:.3g} against random couplings on the same graph ({first.fit.n_draws} draws), at the end "
        f"{last.fit.p_value:.3g}, with {last.fit.n_outside} of {len(last.values)} beyond the bulk and the largest at "
        f"{last.values[-1]:.2f} (edge {last.fit.edge:.2f}). The slowest mode of a sweep has memory "
        f"{with_error(estimate(slow.fit.memory[0], slow.fit.memory_error[0], 1))} at the end, linear theory with "
        "measured gains "
        f"{slow.rates[0]:.3f}, excess kurtosis "
        f"{with_error(estimate(slow.fit.kurtosis[0], slow.fit.kurtosis_error[0], 1))}. "
        f"{part.origin}".rstrip()
    )
