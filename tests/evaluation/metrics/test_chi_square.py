import numpy as np
import pytest
from scipy.stats import chi2_contingency, kstest

from calo4pqvae.evaluation.metrics.chi_square import bunched_chi_square, chi_square


def test_by_hand() -> None:
    # N = 40, M = 20: (sqrt(1/2) 10 - sqrt(2) 10)^2 / 20 and (sqrt(1/2) 30 - sqrt(2) 10)^2 / 40
    found = chi_square(np.array([10.0, 30.0]), np.array([10.0, 10.0]))
    assert found.values == (pytest.approx(50 / 20 + 50 / 40),)
    assert found.freedom == (1,)


def test_equals_a_contingency_table() -> None:
    first, second = (
        np.array([[20.0, 35.0, 45.0], [50.0, 30.0, 20.0]]),
        np.array([[60.0, 50.0, 90.0], [90.0, 60.0, 50.0]]),
    )
    found = chi_square(first, second)
    for row in range(2):
        expected = chi2_contingency([first[row], second[row]], correction=False)
        assert found.values[row] == pytest.approx(expected.statistic)
        assert found.freedom[row] == expected.dof == 2
        assert found.p_values is not None
        assert found.p_values[row] == pytest.approx(expected.pvalue)
    assert found.per_freedom == pytest.approx(sum(found.values) / 4)


def test_probabilities_of_one_law_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p = np.linspace(1, 20, 12) / np.linspace(1, 20, 12).sum()
    found = chi_square(rng.multinomial(800, p, 400).astype(float), rng.multinomial(1500, p, 400).astype(float))
    assert found.p_values is not None
    assert kstest(found.p_values, "uniform").pvalue > 1e-3
    assert found.per_freedom == pytest.approx(1.0, abs=0.05)


def test_thin_bins_are_joined() -> None:
    first, second = np.array([5.0, 0.0, 1.0, 20.0, 2.0]), np.array([4.0, 0.0, 1.0, 25.0, 1.0])
    # 9 + 0 + 2 make one bin; 45 the next; the last three entries are joined to it
    joined = chi_square(np.array([6.0, 22.0]), np.array([5.0, 26.0]))
    assert chi_square(first, second) == joined
    assert chi_square(np.zeros(4), np.ones(4) * 20).freedom == (0,)
    assert np.isnan(chi_square(np.zeros(4), np.zeros(4)).per_freedom)
    assert chi_square(np.zeros(4), np.zeros(4)).to_dict()["per_degree_of_freedom"] is None


def test_bunched_entries_of_one_law_give_one_per_freedom() -> None:
    """Showers of 1 to 200 entries that share a fluctuating slope: plain errors would be far too small."""
    rng = np.random.default_rng(1)

    def sample(n: int) -> np.ndarray:
        sizes = rng.integers(1, 200, n)
        slopes = rng.normal(0, 0.4, n)
        laws = np.exp(np.outer(slopes, np.linspace(-1, 1, 8)))
        return np.array([rng.multinomial(size, law / law.sum()) for size, law in zip(sizes, laws, strict=True)])

    bunched, plain = [], []
    for _ in range(60):
        first, second = sample(150), sample(250)
        bunched.append(bunched_chi_square(first, second).per_freedom)
        plain.append(chi_square(first.sum(axis=0).astype(float), second.sum(axis=0).astype(float)).per_freedom)
    assert np.mean(bunched) == pytest.approx(1.0, abs=0.25)
    assert np.mean(plain) > 2
    assert bunched_chi_square(sample(5), np.zeros((4, 8))).freedom == (0,)
