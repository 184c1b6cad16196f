"""Grouping and binning: every request is served, by as few programmings as can be, and what that shifted is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calo4pqvae.annealer.protocols.grouping import bin_energies, group_requests
from calo4pqvae.errors import AnnealerError


def test_equal_conditions_are_read_together_in_the_order_of_their_first_request() -> None:
    rows = np.array([[0, 1], [1, 1], [0, 1], [0, 0], [1, 1], [0, 1]])
    groups = group_requests(rows)
    assert [group.members.tolist() for group in groups] == [[0, 2, 5], [1, 4], [3]]
    assert [group.condition.tolist() for group in groups] == [[0, 1], [1, 1], [0, 0]]
    assert [group.n_reads for group in groups] == [3, 2, 1]


def test_large_groups_are_split_into_equal_parts() -> None:
    groups = group_requests(np.zeros((25, 1)), most_reads=10)
    assert [group.n_reads for group in groups] == [9, 8, 8]
    assert sorted(np.concatenate([group.members for group in groups]).tolist()) == list(range(25))


@given(st.lists(st.floats(1e3, 1e6), min_size=1, max_size=60), st.floats(0, 0.5))
def test_no_energy_is_shifted_by_more_than_was_accepted(energies: list[float], shift: float) -> None:
    binned = bin_energies(energies, shift)
    assert np.abs(binned.energies / np.array(energies) - 1).max() <= shift + 1e-9
    assert binned.largest_shift <= shift + 1e-9
    assert len(np.unique(binned.energies)) <= binned.n_bins <= len(set(energies))


def fewest(energies: np.ndarray[tuple[int], np.dtype[np.float64]], shift: float) -> int:
    """Fewest intervals of ratio (1 + shift)^2 that cover all, by trying every split of the sorted energies."""
    n = len(energies)
    best = [0] + [n] * n
    for stop in range(1, n + 1):
        for start in range(stop):
            if energies[stop - 1] <= (1 + shift) ** 2 * energies[start]:
                best[stop] = min(best[stop], best[start] + 1)
    return best[n]


@pytest.mark.parametrize("shift", [0.01, 0.05, 0.2])
def test_bins_are_as_few_as_can_be(shift: float) -> None:
    energies = np.sort(np.exp(np.random.default_rng(1).uniform(7, 11, 80)))
    assert bin_energies(energies, shift).n_bins == fewest(energies, shift)


def test_no_shift_joins_equal_energies_only_and_shape_is_kept() -> None:
    energies = np.array([[5.0], [7.0], [5.0]])
    binned = bin_energies(energies, 0.0)
    np.testing.assert_array_equal(binned.energies, energies)
    assert (binned.n_bins, binned.largest_shift, binned.mean_shift) == (2, 0.0, 0.0)


def test_what_binning_did_is_told() -> None:
    binned = bin_energies([100.0, 110.25], 0.05)
    np.testing.assert_allclose(binned.energies, [105.0, 105.0])
    np.testing.assert_allclose(binned.shifts, [0.05, 105 / 110.25 - 1])
    assert binned.mean_shift == pytest.approx((0.05 + 105 / 110.25 - 1) / 2)
    assert str(binned).startswith("2 energies in 1 bins: relative shift 0.05 at most")


def test_refusals() -> None:
    for energies, shift in (([], 0.1), ([-1.0], 0.1), ([np.nan], 0.1)):
        with pytest.raises(AnnealerError, match="must be positive numbers"):
            bin_energies(energies, shift)
    for shift in (-0.1, float("nan")):
        with pytest.raises(AnnealerError, match="cannot be kept"):
            bin_energies([1.0], shift)
    with pytest.raises(AnnealerError, match="one row a request"):
        group_requests(np.zeros((0, 2)))
    with pytest.raises(AnnealerError, match="make no programming"):
        group_requests(np.zeros((2, 2)), most_reads=0)
