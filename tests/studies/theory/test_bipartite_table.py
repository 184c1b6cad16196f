"""The table of a small machine against sums and transition matrices that are built state by state."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable
from calo4pqvae.testing import tiny_machine

A = np.array([0.3, -1.1, 0.4])
B = np.array([0.7, -0.2])
W = np.array([[1.5, -0.8], [0.2, 1.9], [-1.3, 0.6]])


def table(beta: float = 1.0) -> BipartiteTable:
    return BipartiteTable(np.concatenate([A, B]), W, beta)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def sweep(beta: float) -> NDArray[np.float64]:
    """Transition matrix of one sweep over all 32 states, first side first, bit by bit from the formula."""
    states = list(itertools.product((0, 1), repeat=5))
    matrix = np.zeros((32, 32))
    for row, old in enumerate(states):
        for column, new in enumerate(states):
            p = 1.0
            for i in range(3):
                q = sigmoid(beta * (A[i] + sum(W[i, j] * old[3 + j] for j in range(2))))
                p *= q if new[i] else 1 - q
            for j in range(2):
                q = sigmoid(beta * (B[j] + sum(W[i, j] * new[i] for i in range(3))))
                p *= q if new[3 + j] else 1 - q
            matrix[row, column] = p
    return matrix


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_law_is_stationary_under_a_sweep(beta: float) -> None:
    law = table(beta).probabilities.ravel()
    np.testing.assert_allclose(law @ sweep(beta), law, atol=1e-14)
    assert law.sum() == pytest.approx(1)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_relaxation_time_is_that_of_the_whole_transition_matrix(beta: float) -> None:
    values = np.sort(np.abs(np.linalg.eigvals(sweep(beta))))[::-1]
    assert table(beta).relaxation_time == pytest.approx(-1 / np.log(values[1]))


@pytest.mark.parametrize("n_sweeps", [0, 1, 2, 5])
def test_law_after_sweeps_from_coins_is_the_power_of_the_transition_matrix(n_sweeps: int) -> None:
    expected = np.full(32, 1 / 32) @ np.linalg.matrix_power(sweep(1.0), n_sweeps)
    np.testing.assert_allclose(table().after(n_sweeps).ravel(), expected, atol=1e-14)


def test_covariances_of_another_law_are_taken_about_its_own_mean() -> None:
    one = table()
    law = one.after(1)
    states = np.array(list(itertools.product((0, 1), repeat=5)))
    energies = -(states @ np.concatenate([A, B])) - np.einsum("si,ij,sj->s", states[:, :3], W, states[:, 3:])
    weights = law.ravel()
    expected = [(weights * energies) @ states[:, i] - (weights @ energies) * (weights @ states[:, i]) for i in range(5)]
    np.testing.assert_allclose(one.energy_covariances(law)[:5], expected, atol=1e-12)
    assert np.abs(one.energy_covariances(law) - one.energy_covariances()).max() > 0.01


def test_numbers_of_states_point_into_the_flattened_table() -> None:
    states = np.array(list(itertools.product((0, 1), repeat=5)), dtype=np.uint8)
    assert table().numbers_of(states).tolist() == list(range(32))


def test_a_machine_that_forgets_at_once_has_no_relaxation_time() -> None:
    assert BipartiteTable(np.zeros(4), np.zeros((2, 2))).relaxation_time == 0


def test_what_has_no_table_is_refused() -> None:
    with pytest.raises(PriorError, match="two completely coupled partitions"):
        BipartiteTable.of(tiny_machine())
    with pytest.raises(PriorError, match="at most 12"):
        BipartiteTable(np.zeros(15), np.zeros((13, 2)))
    with pytest.raises(PriorError, match="one for each bit"):
        BipartiteTable(np.zeros(3), np.zeros((2, 2)))
    with pytest.raises(PriorError, match="0 or more"):
        table().after(-1)
