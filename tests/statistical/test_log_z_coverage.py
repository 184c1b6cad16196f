"""AIS and reverse AIS against exact log Z over many machines, and planted bugs against the test itself.

The statistic is the pull, (estimate - exact) / quoted error. Right estimators with right errors have pulls of mean near
zero and standard deviation near one, and nearly all within three.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.prior.estimates import partition_function
from calo4pqvae.prior.estimates.log_z import LogZ
from calo4pqvae.prior.estimates.partition_function import ais, base_biases, reverse_ais
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.collapsed import CollapsedLaw
from calo4pqvae.prior.sampling.exact import ExactLaw, enumerate_machine
from calo4pqvae.testing import tiny_machine

N_CHAINS = 300
N_TEMPERATURES = 30
BIAS = 0.35  # of log means in units of their errors: of second order, half the variance of the mean

FEW_TEMPERATURES, MANY_CHAINS = 3, 10_000  # where a wrong order within a sweep shows

Estimator = Callable[[BoltzmannMachine, ExactLaw, int, int, int], LogZ]


def forward(machine: BoltzmannMachine, law: ExactLaw, seed: int, n_temperatures: int, n_chains: int) -> LogZ:
    base = base_biases(exact_draws(law, 100, seed + 50_000))
    return ais(machine, n_chains=n_chains, betas=n_temperatures, seed=seed, base=base)


def forward_from_fields(machine: BoltzmannMachine, _: ExactLaw, seed: int, n_temperatures: int, n_chains: int) -> LogZ:
    return ais(machine, n_chains=n_chains, betas=n_temperatures, seed=seed)


def reverse(machine: BoltzmannMachine, law: ExactLaw, seed: int, n_temperatures: int, n_chains: int) -> LogZ:
    """From exact samples: those of chains would void the bound."""
    samples = exact_draws(law, n_chains, seed + 100_000)
    return reverse_ais(machine, samples, betas=n_temperatures, seed=seed, base=base_biases(samples))


def exact_draws(law: ExactLaw, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return law.states()[torch.multinomial(law.probabilities, n, replacement=True, generator=generator)].float()


ESTIMATORS: dict[str, Estimator] = {"ais": forward, "ais from fields": forward_from_fields, "reverse": reverse}


def machines(n: int, n_bits: tuple[int, int]) -> Iterator[BoltzmannMachine]:
    """Random machines of two to four partitions of unequal sizes, weak to strong couplings."""
    rng = np.random.default_rng(2024)
    for seed in range(n):
        n_parts = int(rng.integers(2, 5))
        total = int(rng.integers(n_bits[0], n_bits[1] + 1))
        cuts = np.sort(rng.choice(np.arange(1, total), n_parts - 1, replace=False))
        sizes = np.diff([0, *cuts.tolist(), total])
        if sizes.max() < 2 or (n_parts == 2 and sizes.min() < 2):
            sizes = np.array([total - 2, 2])
        yield tiny_machine(tuple(sizes.tolist()), seed=seed, coupling_std=float(rng.uniform(0.3, 2.0)))


def pulls(
    estimator: Estimator,
    n: int,
    n_bits: tuple[int, int],
    n_temperatures: int = N_TEMPERATURES,
    n_chains: int = N_CHAINS,
) -> np.ndarray:
    found = []
    for seed, machine in enumerate(machines(n, n_bits)):
        law = enumerate_machine(machine)
        estimate = estimator(machine, law, seed, n_temperatures, n_chains)
        assert estimate.is_reliable.all(), f"machine {seed} needs more temperatures"
        found.append((estimate.value[0] - law.log_z) / max(estimate.error[0], 1e-6))
    return np.array(found)


def assert_covered(found: np.ndarray) -> None:
    n = len(found)
    mean, spread, inside = float(found.mean()), float(found.std()), float((np.abs(found) < 3).mean())
    if abs(mean) > BIAS + 4 / math.sqrt(n):
        raise AssertionError(f"mean pull {mean:.2f} over {n} machines: estimates are not covered")
    if not 1 - 3 / math.sqrt(2 * n) < spread < 1.1 + 4 / math.sqrt(2 * n):
        raise AssertionError(f"pulls spread by {spread:.2f} over {n} machines: estimates are not covered")
    if inside < 0.95:
        raise AssertionError(f"only {inside:.2f} of the pulls are below three: estimates are not covered")


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=list(ESTIMATORS))
def test_errors_cover_the_exact_value(estimator: Estimator) -> None:
    assert_covered(pulls(estimator, 25, (8, 12)))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=list(ESTIMATORS))
def test_errors_cover_the_exact_value_over_a_hundred_machines(estimator: Estimator) -> None:
    assert_covered(pulls(estimator, 100, (8, 20)))


def weights_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    right = partition_function.anneal
    monkeypatch.setattr(partition_function, "anneal", lambda *given: -right(*given))


def base_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Z of the independent bits were one."""
    monkeypatch.setattr(CollapsedLaw, "base_log_z", property(lambda law: torch.zeros_like(law.constant)))


def base_of_fair_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the independent bits had no biases."""
    size = property(lambda law: torch.full_like(law.constant, law.collapse.n_free * math.log(2)))
    monkeypatch.setattr(CollapsedLaw, "base_log_z", size)


def summed_bits_drawn_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are drawn given bits of the summed partition left over from another temperature."""

    def sweep(law: CollapsedLaw, values: Tensor, _: Tensor, beta: float, generator: torch.Generator) -> None:
        order = [*range(1, len(law.strengths)), 0]
        for index in order:
            wiring = law.collapse.wirings[index]
            full = wiring.field(law.strengths[index], values) + law.fields[wiring.rows]
            odds = torch.sigmoid(torch.lerp(law.base[wiring.rows], full, beta))
            values[wiring.rows] = (torch.rand(odds.shape, generator=generator) < odds).float()

    monkeypatch.setattr(CollapsedLaw, "sweep", sweep)


def sweep_at_the_end_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CollapsedLaw.sweep
    monkeypatch.setattr(
        CollapsedLaw, "sweep", lambda law, values, field, _, generator: right(law, values, field, 1.0, generator)
    )


def wrong_law_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marginals without the energy of couplers among the bits that are left."""
    right = CollapsedLaw.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[CollapsedLaw], *given: object, **named: object) -> CollapsedLaw:
        law: CollapsedLaw = right(cls, *given, **named)
        law.inner.zero_()
        return law

    monkeypatch.setattr(CollapsedLaw, "of", classmethod(of))


PLANTED = [
    weights_flipped,
    base_forgotten,
    base_of_fair_coins,
    sweep_at_the_end_of_the_path,
    wrong_law_weighted,
]


@pytest.mark.parametrize("bug", PLANTED)
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=list(ESTIMATORS))
def test_planted_bugs_are_found(
    bug: Callable[[pytest.MonkeyPatch], None], estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=r"not covered|needs more"):
        assert_covered(pulls(estimator, 25, (8, 12)))


@pytest.mark.parametrize("is_planted", [False, True])
@pytest.mark.parametrize("estimator", [forward, reverse])
def test_the_order_within_a_sweep_shows_where_temperatures_are_few(
    estimator: Estimator, is_planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_planted:
        summed_bits_drawn_last(monkeypatch)
    found = pulls(estimator, 25, (8, 12), FEW_TEMPERATURES, MANY_CHAINS)
    if not is_planted:
        assert_covered(found)
        return
    with pytest.raises(AssertionError, match="not covered"):
        assert_covered(found)


def test_reverse_ais_from_samples_that_are_not_of_the_law_is_not_covered() -> None:
    def from_coins(machine: BoltzmannMachine, law: ExactLaw, seed: int, n_temperatures: int, n_chains: int) -> LogZ:
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randint(0, 2, (n_chains, machine.n_nodes), generator=generator).float()
        base = base_biases(exact_draws(law, 100, seed))
        return reverse_ais(machine, samples, betas=n_temperatures, seed=seed, base=base)

    with pytest.raises(AssertionError, match=r"not covered|needs more"):
        assert_covered(pulls(from_coins, 25, (8, 12)))
