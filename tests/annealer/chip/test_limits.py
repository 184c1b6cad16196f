"""Limits: each is met, each names its worst offender, and numbers at the bound pass."""

from typing import Any

import numpy as np
import pytest

from calo4pqvae.annealer.chip.limits import (
    Call,
    check_call,
    check_problem,
    checked_limits,
    coupling_groups,
    smallest_beta,
    smallest_scale,
)
from calo4pqvae.annealer.chip.problem import IsingProblem
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.errors import AnnealerError

RANGES = {"h_range": [-4.0, 4.0], "extended_j_range": [-2.0, 1.0], "num_qubits": 6}
QUBITS = np.array([5, 3, 8, 1])
EDGES = np.array([[0, 1], [0, 2], [0, 3], [1, 2]])


def star(fields: Any = (0, 0, 0, 0), couplings: Any = (0, 0, 0, 0), beta: float = 2.0) -> IsingProblem:
    """Qubit 5 coupled to 3, 8 and 1, and 3 to 8."""
    return IsingProblem(np.array(fields), np.array(couplings), EDGES, 0.0, beta, QUBITS)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (
            star(fields=(1, -4.2, 4.6, 0)),
            r"h of qubit 8 is 4\.6, outside \[-4, 4\] \(2 of 4 out of range\).* beta of 2\.3 ",
        ),
        (star(couplings=(0, 1.5, -2.2, 0)), r"J of coupler \[5 8\] is 1\.5, outside \[-2, 1\] \(2 of 4 .* beta of 3 "),
        (star(couplings=(0, 0, -2.2, 0)), r"J of coupler \[5 1\] is -2\.2, outside"),
    ],
)
def test_the_worst_offender_is_named_with_a_beta_that_helps(problem: IsingProblem, told: str) -> None:
    with pytest.raises(AnnealerError, match=told):
        check_problem(problem, RANGES)


def test_numbers_at_the_bounds_pass() -> None:
    check_problem(star((4, -4, 0, 0), (1, -2, 0, 0)), RANGES)
    assert smallest_scale(star((4, -4, 0, 0), (1, -2, 0, 0)), RANGES) == 1.0


def test_sums_at_a_qubit() -> None:
    properties = RANGES | {"per_qubit_coupling_range": [-3.0, 2.0]}
    with pytest.raises(AnnealerError, match=r"the sum of J at qubit 5 is 2\.4, outside \[-3, 2\] \(1 of 4"):
        check_problem(star(couplings=(0.9, 0.8, 0.7, 0.4)), properties)
    with pytest.raises(AnnealerError, match=r"the sum of J at qubit 5 is -4\.5, outside"):
        check_problem(star(couplings=(-1.5, -1.5, -1.5, 0)), properties)
    check_problem(star(couplings=(0.9, 0.8, 0.2, 0.4)), properties)


def test_sums_in_a_listed_group() -> None:
    properties = RANGES | {"per_group_coupling_range": [-3.0, 1.5], "coupling_groups": [[(5, 3), (8, 5)], [(1, 5)]]}
    with pytest.raises(
        AnnealerError, match=r"the sum of J in the coupling group of couplers \[\(5, 3\), \(8, 5\)\] is 1\.7"
    ):
        check_problem(star(couplings=(0.9, 0.8, 1.0, 1.0)), properties)
    check_problem(star(couplings=(0.9, 0.5, 1.0, 1.0)), properties)


def full_zephyr() -> Emulator:
    from calo4pqvae.annealer.chip.table import chip
    from calo4pqvae.annealer.emulator.graph import whole_graph

    return Emulator("advantage2", seed=1, m=2, nodelist=whole_graph(chip("advantage2"), 2).qubits)


def uniform(sampler: Emulator, coupling: float) -> IsingProblem:
    labels = np.array(sampler.nodelist)
    edges = np.searchsorted(labels, np.array(sampler.edgelist))
    return IsingProblem(np.zeros(len(labels)), np.full(len(edges), coupling), edges, 0.0, 1.0, labels)


def test_sums_in_groups_of_a_zephyr_chip() -> None:
    sampler = full_zephyr()
    largest = max(len(group) for group in sampler.properties["coupling_groups"])
    check_problem(uniform(sampler, -13.0 / largest), sampler.properties)
    with pytest.raises(
        AnnealerError, match=rf"the sum of J in the coupling group of half [01] of qubit \d+ is -{2 * largest}"
    ):
        check_problem(uniform(sampler, -2.0), sampler.properties)


def test_the_groups_by_geometry_are_those_of_the_list() -> None:
    sampler = full_zephyr()
    pairs = np.array(sampler.edgelist)
    groups = coupling_groups(pairs, 2)
    by_key: dict[int, set[tuple[int, int]]] = {}
    for pair, keys in zip(sampler.edgelist, groups.tolist(), strict=True):
        for own, key in zip(pair, keys, strict=True):
            assert key // 2 == own
            by_key.setdefault(key, set()).add(pair)
    listed = [{tuple(pair) for pair in group} for group in sampler.properties["coupling_groups"]]
    assert sorted(map(sorted, by_key.values())) == sorted(map(sorted, listed))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (Call(0), r"num_reads is 0; give a number in \[1, 10000\]"),
        (Call(10_001), "num_reads is 10001"),
        (Call(1, anneal_us=0.4), r"the annealing time in microseconds is 0\.4; give a number in \[0\.5, 2000\]"),
        (Call(1, anneal_us=0.004, is_fast=True), r"is 0\.004; give a number in \[0\.005, 2000\]"),
        (Call(1, programming_thermalization_us=2e4), "programming_thermalization in microseconds is 20000"),
        (Call(1, readout_thermalization_us=-1.0), "readout_thermalization in microseconds is -1"),
        (Call(9000, readout_us=100.0), r"9000 reads run for 1\.081 s, more than the 1 s of a call; ask for 8325 reads"),
        (Call(1, flux_biases=np.zeros(5)), r"flux biases have shape \(5,\); give one for each of the 6 qubits"),
        (Call(1, flux_biases=np.array([0, 0, np.inf, 0, 0, 0.0])), "flux bias of qubit 2 is not a number"),
        (Call(1, flux_biases=np.zeros(6), is_scaled=True), "flux biases and auto_scale exclude each other"),
        (Call(1, flux_biases=np.array([0, 0, 0.009, -0.011, 0, 0.0])), r"the flux bias of qubit 3 is -0\.011"),
        (Call(1, is_fast=True), r"a fast anneal takes no fields, and h = -0\.7 on qubit 3; give them as flux biases"),
    ],
)
def test_calls_outside_a_limit(call: Call, told: str) -> None:
    properties = RANGES | {
        "num_reads_range": [1, 10_000],
        "annealing_time_range": [0.5, 2000.0],
        "fast_anneal_time_range": [0.005, 2000.0],
        "programming_thermalization_range": [0.0, 1e4],
        "readout_thermalization_range": [0.0, 1e4],
        "problem_run_duration_range": [0.0, 1e6],
    }
    with pytest.raises(AnnealerError, match=told):
        check_call(call, properties, star(fields=(0.2, -0.7, 0, 0)))
    check_call(Call(8325, readout_us=100.0, flux_biases=np.full(6, 0.01)), properties, star(fields=(0.2, -0.7, 0, 0)))


def test_what_a_solver_does_not_say_is_not_checked_and_told_so() -> None:
    check_problem(star((100, 0, 0, 0), (50, 0, 0, 0)), {})
    check_call(Call(10**9), {}, star())
    assert checked_limits({}) == ()
    assert checked_limits(RANGES) == ("h_range", "extended_j_range")


def test_the_plain_range_of_couplings_stands_in() -> None:
    with pytest.raises(AnnealerError, match=r"outside \[-1, 1\]"):
        check_problem(star(couplings=(-1.5, 0, 0, 0)), {"j_range": [-1.0, 1.0]})


def test_the_smallest_beta_is_the_one_at_which_it_just_fits() -> None:
    problem = star((9.0, 0, 0, 0), (0, 0, -3.0, 0), beta=2.0)
    beta = smallest_beta(problem, RANGES)
    assert beta == pytest.approx(4.5)
    for trial, fits in ((beta * 1.001, True), (beta * 0.999, False)):
        scaled = star(problem.fields * 2 / trial, problem.couplings * 2 / trial, trial)
        if fits:
            check_problem(scaled, RANGES)
        else:
            with pytest.raises(AnnealerError, match="h of qubit 5"):
                check_problem(scaled, RANGES)
