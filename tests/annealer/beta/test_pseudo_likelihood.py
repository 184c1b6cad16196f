"""Inverse temperature by pseudo-likelihood: against brute force, errors by coverage, and what it must not swallow."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq

from calo4pqvae.annealer.beta.pseudo_likelihood import (
    BetaEstimate,
    maximum_pseudo_likelihood,
    partition_temperatures,
    susceptibility_fit,
)
from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.annealer.chip.problem import IsingProblem, Reads, ising_problem
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.testing import all_states

FloatArray = NDArray[np.float64]
N = 10
STATES = 2 * all_states(N).numpy().astype(np.float64) - 1


def small_problem(seed: int = 0, beta: float = 1.0, coupling: float = 0.35) -> IsingProblem:
    """Ten spins on an irregular graph with a triangle, labels out of order."""
    rng = np.random.default_rng(seed)
    edges = np.array([(i, j) for i in range(N) for j in range(i + 1, N) if rng.random() < 0.45 or (i, j) == (0, 1)])
    return IsingProblem(
        fields=rng.normal(0, 0.25, N),
        couplings=rng.normal(0, coupling, len(edges)),
        edges=edges,
        constant=0.3,
        beta=beta,
        qubits=rng.permutation(50)[:N],
    )


def matrix(problem: IsingProblem) -> FloatArray:
    full = np.zeros((problem.n_qubits, problem.n_qubits))
    for (i, j), value in zip(problem.edges, problem.couplings, strict=True):
        full[i, j] = full[j, i] = value
    return full


def draw(fields: FloatArray, couplings: FloatArray, beta: float, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exact independent draws of e^{-beta (h s + s J s / 2)}."""
    exponent = -beta * (STATES @ fields + np.einsum("ni,ij,nj->n", STATES, couplings, STATES) / 2)
    odds = np.exp(exponent - exponent.max())
    rows = rng.choice(len(STATES), n, p=odds / odds.sum())
    return ((STATES[rows] + 1) / 2).astype(np.uint8)


def reads_of(problem: IsingProblem, beta: float, n: int, seed: int) -> Reads:
    return Reads(draw(problem.fields, matrix(problem), beta, n, np.random.default_rng(seed)), problem)


def brute_force(reads: Reads, free: list[int], counts: NDArray[np.int64] | None = None) -> float:
    """Root of the score, spin by spin in plain loops over the free spins."""
    problem = reads.problem
    spins = 2.0 * reads.bits - 1
    weights = np.ones(len(spins)) if counts is None else counts
    full = matrix(problem)

    def score(beta: float) -> float:
        total = 0.0
        for i in free:
            odds = -2 * spins[:, i] * (problem.fields[i] + spins @ full[i])
            total += float(weights @ (odds / (1 + np.exp(beta * odds))))
        return total

    return float(brentq(score, 0.01, 50, xtol=1e-12))


def test_the_estimate_is_the_optimum_of_the_formula() -> None:
    reads = reads_of(small_problem(), 1.3, 150, 1)
    found = maximum_pseudo_likelihood(reads)
    assert found.value == pytest.approx(brute_force(reads, list(range(N))), rel=1e-5)
    assert (found.n_reads, found.n_spins, found.n_excluded, found.n_programmings) == (150, N, 0, 1)
    assert found.is_converged
    assert found.error_source == "bootstrap"


def test_held_spins_are_left_out_of_the_optimum() -> None:
    reads = reads_of(small_problem(), 1.3, 150, 1)
    held = np.zeros(N, dtype=np.bool_)
    held[[2, 5]] = True
    found = maximum_pseudo_likelihood(reads, held)
    assert found.value == pytest.approx(brute_force(reads, [i for i in range(N) if i not in (2, 5)]), rel=1e-5)
    assert (found.n_spins, found.n_excluded) == (N - 2, 2)


@pytest.mark.parametrize("start", [0.02, 0.5, 40.0])
def test_the_start_does_not_matter(start: float) -> None:
    reads = reads_of(small_problem(beta=start), 1.3, 400, 3)
    reference = reads_of(small_problem(beta=1.0), 1.3, 400, 3)
    assert maximum_pseudo_likelihood(reads).value == pytest.approx(maximum_pseudo_likelihood(reference).value, rel=1e-5)


def z_scores(true: float, claimed: float, n_repeats: int = 60, n_reads: int = 150) -> FloatArray:
    problem = small_problem(4)
    scores = []
    for repeat in range(n_repeats):
        found = maximum_pseudo_likelihood(reads_of(problem, true, n_reads, 100 + repeat), seed=repeat)
        scores.append((found.value - claimed) / found.error)
    return np.array(scores)


def is_covered(scores: FloatArray) -> bool:
    """Normal scores of mean zero and width one, by limits that a right estimator fails once in a thousand times."""
    n = len(scores)
    inside = int((np.abs(scores) < 1).sum())
    return (
        abs(scores.mean()) < 3.5 / math.sqrt(n)
        and abs(inside - 0.683 * n) < 3.5 * math.sqrt(0.683 * 0.317 * n)
        and bool(np.abs(scores).max() < 4.5)
    )


def test_recovery_and_coverage() -> None:
    assert is_covered(z_scores(1.3, 1.3))


def test_coverage_test_has_power() -> None:
    assert not is_covered(z_scores(1.3, 1.3 * 1.05))


def test_recovery_at_chip_size_and_far_from_the_programmed_beta() -> None:
    topology = chip_topology("zephyr", 4)
    machine = BoltzmannMachine(topology)
    machine.initialise(torch.full((topology.n_nodes,), 0.4), 0.4, torch.Generator().manual_seed(11))
    generator = torch.Generator().manual_seed(12)
    sampler = BlockGibbsSampler(machine)
    states = sampler.sample(sampler.init(400, generator), 150, generator, beta=8.9 / 6.0).states
    found = maximum_pseudo_likelihood(Reads(states.numpy().astype(np.uint8), ising_problem(machine, 6.0)), seed=5)
    assert abs(found.value - 8.9) < 4 * found.error
    assert found.error < 0.01 * found.value
    assert found.ratio == pytest.approx(found.value / 6.0)
    assert abs(found.misfit - 1) < 0.3


@pytest.mark.parametrize("name", ["advantage2", "advantage4"])
def test_a_hundred_reads_of_a_full_chip_give_beta_within_half_a_per_cent(name: str) -> None:
    annealer = open_annealer(f"emulator:{name}", seed=3, mode="ideal")
    topology = chip_topology(annealer.chip.family, annealer.chip.m)
    machine = BoltzmannMachine(topology)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # in spins: couplings of 0.2 nats, fields of 0.1
        machine.couplings.copy_(0.8 * torch.randn(topology.n_edges, generator=generator))
        machine.biases.copy_(0.2 * torch.randn(topology.n_nodes, generator=generator))
    placement = place(topology, annealer.nodelist, annealer.edgelist, prune=True)
    problem = ising_problem(machine, 0.7 * annealer.chip.beta, placement=placement)
    found = [maximum_pseudo_likelihood(annealer.read(problem, 100)) for _ in range(12)]
    shifts = np.array([estimate.value for estimate in found]) / annealer.chip.beta - 1
    quoted = np.array([estimate.error for estimate in found]) / annealer.chip.beta
    assert np.sqrt((shifts**2).mean()) < 0.005
    assert abs(shifts.mean()) < 4.5 * quoted.mean() / np.sqrt(12)
    assert quoted.max() < 0.0045


def test_bootstrap_is_that_of_refits() -> None:
    reads = reads_of(small_problem(2), 1.1, 40, 7)
    rng = np.random.default_rng(21)
    refits = [brute_force(reads, list(range(N)), rng.multinomial(40, np.full(40, 1 / 40))) for _ in range(300)]
    found = maximum_pseudo_likelihood(reads, n_bootstrap=300, seed=21)
    assert found.error == pytest.approx(float(np.std(refits, ddof=1)), rel=0.02)


def test_bootstrap_error_does_not_shrink_with_replicas() -> None:
    reads = reads_of(small_problem(2), 1.1, 60, 7)
    errors = [maximum_pseudo_likelihood(reads, n_bootstrap=n, seed=n).error for n in (50, 2000)]
    assert errors[0] == pytest.approx(errors[1], rel=0.35)


def test_few_reads_are_not_resampled() -> None:
    found = maximum_pseudo_likelihood(reads_of(small_problem(2), 1.0, 19, 7))
    assert found.error_source == "curvature"
    assert found.error == found.curvature_error


def held_far_up(n: int, seed: int) -> tuple[Reads, NDArray[np.bool_]]:
    """Four qubits held up by something that the problem does not know."""
    problem = small_problem(3)
    held = np.zeros(N, dtype=np.bool_)
    held[:4] = True
    outside = problem.fields - 30.0 * held
    return Reads(draw(outside, matrix(problem), 1.2, n, np.random.default_rng(seed)), problem), held


def test_held_qubits_bias_if_left_in() -> None:
    reads, held = held_far_up(2000, 8)
    without = maximum_pseudo_likelihood(reads, held)
    assert abs(without.value - 1.2) < 4 * without.error
    within = maximum_pseudo_likelihood(reads)
    assert abs(within.value - 1.2) > 6 * within.error


def test_conditions_enter_one_estimate() -> None:
    parts = []
    for index in range(5):
        base = small_problem(6)
        fields = base.fields + 0.2 * np.random.default_rng(index).normal(size=N)
        problem = IsingProblem(fields, base.couplings, base.edges, base.constant, base.beta, base.qubits)
        parts.append(reads_of(problem, 0.9, 300, 40 + index))
    joint = maximum_pseudo_likelihood(parts)
    single = [maximum_pseudo_likelihood(part) for part in parts]
    assert (joint.n_programmings, joint.n_reads) == (5, 1500)
    assert abs(joint.value - 0.9) < 4 * joint.error
    assert joint.error < 0.6 * min(part.error for part in single)
    wrong = [Reads(part.bits, parts[0].problem) for part in parts]
    assert maximum_pseudo_likelihood(wrong).misfit > 2 * joint.misfit


def with_susceptibility(problem: IsingProblem, chi: float) -> tuple[FloatArray, FloatArray]:
    full = matrix(problem)
    response = full + chi * full @ full
    np.fill_diagonal(response, 0.0)
    return problem.fields + chi * full @ problem.fields, response


def test_background_susceptibility_is_recovered_with_its_error() -> None:
    problem, scores = small_problem(5, coupling=0.4), []
    fields, couplings = with_susceptibility(problem, -0.1)
    for repeat in range(40):
        bits = draw(fields, couplings, 1.2, 600, np.random.default_rng(repeat))
        found = susceptibility_fit(Reads(bits, problem))
        scores.append(((found.beta - 1.2) / found.beta_error, (found.chi + 0.1) / found.chi_error))
    for values in np.array(scores).T:
        assert is_covered(values)


def test_one_parameter_is_biased_by_susceptibility() -> None:
    problem = small_problem(5, coupling=0.4)
    bits = draw(*with_susceptibility(problem, -0.2), 1.2, 4000, np.random.default_rng(0))
    plain = maximum_pseudo_likelihood(Reads(bits, problem))
    fitted = susceptibility_fit(Reads(bits, problem))
    assert abs(plain.value - 1.2) > 5 * plain.error
    assert abs(fitted.beta - 1.2) < 4 * fitted.beta_error
    assert fitted.gain > 10


def test_partitions_agree_and_a_noisy_one_stands_out() -> None:
    reads = reads_of(small_problem(9), 1.1, 3000, 10)
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    clean = partition_temperatures(reads, groups)
    assert list(clean) == [0, 1, 2]
    assert all(abs(found.value - 1.1) < 4 * found.error for found in clean.values())
    bits = reads.bits.copy()
    bits[:, 3:7] ^= (np.random.default_rng(1).random((3000, 4)) < 0.1).astype(np.uint8)
    noisy = partition_temperatures(Reads(bits, reads.problem), groups)
    assert noisy[1].value < 1.1 - 10 * noisy[1].error
    assert min(noisy.values(), key=lambda found: found.value) is noisy[1]
    held = groups == 2
    assert list(partition_temperatures(reads, groups, held)) == [0, 1]


def test_misfit_sees_control_errors_that_beta_does_not() -> None:
    problem = small_problem(13)
    good = maximum_pseudo_likelihood(reads_of(problem, 1.0, 4000, 3))
    fields = problem.fields + np.random.default_rng(2).normal(0, 0.1, N)
    bad = maximum_pseudo_likelihood(Reads(draw(fields, matrix(problem), 1.0, 4000, np.random.default_rng(4)), problem))
    assert abs(good.misfit - 1) < 4 * math.sqrt(2 / N)
    assert bad.misfit > 10


def frozen(problem: IsingProblem) -> Reads:
    energies = problem.energy(STATES)
    ground = STATES[[int(energies.argmin())]]
    return Reads(np.repeat((ground + 1) / 2, 5, axis=0).astype(np.uint8), problem)


def test_refusals() -> None:
    problem = small_problem()
    with pytest.raises(AnnealerError, match="no reads"):
        maximum_pseudo_likelihood([])
    with pytest.raises(AnnealerError, match="local minimum"):
        maximum_pseudo_likelihood(frozen(problem))
    upside_down = Reads(
        1 - frozen(problem).bits,
        IsingProblem(problem.fields, 0 * problem.couplings, problem.edges, 0.0, 1.0, problem.qubits),
    )
    with pytest.raises(AnnealerError, match=r"do not follow|local minimum"):
        maximum_pseudo_likelihood(upside_down)
    reads = reads_of(problem, 1.0, 30, 0)
    with pytest.raises(AnnealerError, match="all qubits are held"):
        maximum_pseudo_likelihood(reads, np.ones(N, dtype=np.bool_))
    with pytest.raises(AnnealerError, match="10 booleans"):
        maximum_pseudo_likelihood(reads, np.ones(3, dtype=np.bool_))
    with pytest.raises(AnnealerError, match="replicas"):
        maximum_pseudo_likelihood(reads, n_bootstrap=1)
    with pytest.raises(AnnealerError, match="give each qubit its partition"):
        partition_temperatures(reads, np.zeros(3, dtype=np.int64))
    with pytest.raises(AnnealerError, match="20 or more"):
        susceptibility_fit(reads_of(problem, 1.0, 19, 0))
    other = Reads(
        np.zeros((1, 1), np.uint8), IsingProblem(np.ones(1), np.ones(0), np.ones((0, 2)), 0.0, 1.0, np.ones(1))
    )
    with pytest.raises(AnnealerError, match="different numbers of qubits"):
        maximum_pseudo_likelihood([reads, other])
    uncoupled = IsingProblem(problem.fields, np.ones(0), np.ones((0, 2)), 0.0, 1.0, problem.qubits)
    with pytest.raises(AnnealerError, match="told apart"):
        susceptibility_fit(reads_of(uncoupled, 1.0, 50, 0))


def test_beta_out_of_range_is_refused() -> None:
    base = small_problem()
    tiny = IsingProblem(base.fields * 1e-4, base.couplings * 1e-4, base.edges, 0.0, 1.0, base.qubits)
    with pytest.raises(AnnealerError, match="beta leaves"):
        maximum_pseudo_likelihood(Reads(reads_of(base, 1.0, 100, 0).bits, tiny))


def test_an_estimate_tells_all_it_rests_on() -> None:
    found = maximum_pseudo_likelihood(reads_of(small_problem(), 1.0, 30, 0), seed=17)
    assert isinstance(found, BetaEstimate)
    for word in ("bootstrap", "30 reads", "10 spins", "seed 17", "0 excluded"):
        assert word in str(found)
