"""Brackets of the packed kernel: every one of them against probabilities in double precision."""

import numpy as np
import pytest
from scipy.special import expit

from calo4pqvae.prior.kernels.squeeze import UNIT_BITS, Squeeze, tabulate


def rare_probability(units: np.ndarray) -> np.ndarray:
    return 2.0**16 * expit(-np.log(2) * units / 2**UNIT_BITS)


@pytest.mark.parametrize("offset", [-0.5, 0.0, 0.5])
def test_every_bracket_holds_wherever_x_was_rounded_from(offset: float) -> None:
    squeeze = tabulate()
    value = np.arange(32768) + offset
    lower = squeeze.lower()
    assert (lower[:-1] <= rare_probability(value[:-1])).all()
    assert (rare_probability(value) <= lower + squeeze.width).all()


def test_beyond_the_table_nothing_is_taken_for_granted() -> None:
    squeeze = tabulate()
    assert squeeze.lower()[-1] == 0
    assert rare_probability(np.array([32766.5])) < squeeze.width


def test_brackets_are_narrow_and_stay_within_sixteen_bits() -> None:
    squeeze = tabulate()
    assert squeeze.width <= 14
    assert squeeze.lower().min() >= 0
    assert squeeze.lower().max() + squeeze.width < 2**16


def test_pieces_by_hand() -> None:
    """In the first piece T = A - q B / 2**16 + (q**2 / 2**16) C / 2**16, each product cut to an integer."""
    table = np.zeros((3, 32), dtype=np.uint16)
    table[:, 0] = 30_000, 5_000, 400
    table[:, 31] = 7, 0, 0
    lower = Squeeze(table, 3).lower()
    q = 1000 * 64
    assert lower[1000] == 30_000 - q * 5_000 // 65_536 + (q * q // 65_536) * 400 // 65_536
    assert lower[0] == 30_000
    assert lower[32_767] == 7
