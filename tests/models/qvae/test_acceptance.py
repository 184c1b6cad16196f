import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.models.qvae.acceptance import TOLERANCE, Quality, QualitySums, is_accepted
from calo4pqvae.showers.geometry import Geometry

GRID = Geometry.regular("four", 2, 2, 1, 10.0, threshold_mev=1.0)
TRUE = torch.tensor([[10.0, 0.0, 20.0, 10.0], [5.0, 5.0, 0.0, 10.0]])
ENERGIES = torch.tensor([[100.0], [40.0]])


def compared(decoded: Tensor, true: Tensor = TRUE, chunk: int = 2) -> Quality:
    sums = QualitySums(GRID)
    for parts in zip(*(torch.split(rows, chunk) for rows in (true, decoded, ENERGIES)), strict=True):
        sums.add(*parts)
    return sums.quality()


def test_equal_showers_do_not_deviate() -> None:
    quality = compared(TRUE)
    assert (quality.response, quality.occupancy, quality.profile, quality.score) == (0, 0, 0, 0)


def test_deviations_are_those_of_a_sum_by_hand() -> None:
    decoded = torch.tensor([[10.0, 2.0, 20.0, 10.0], [4.0, 4.0, 4.0, 6.0]])
    quality = compared(decoded)
    response, before = (42 / 100 + 18 / 40) / 2, (40 / 100 + 20 / 40) / 2
    assert quality.response == pytest.approx(response / before - 1, abs=1e-6)
    assert quality.occupancy == pytest.approx(8 / 6 - 1, abs=1e-6)
    true_profile = np.array([(10 / 40 + 10 / 20) / 2, (30 / 40 + 10 / 20) / 2])
    profile = np.array([(12 / 42 + 8 / 18) / 2, (30 / 42 + 10 / 18) / 2])
    expected = math.sqrt(((profile - true_profile) ** 2).mean()) / true_profile.max()
    assert quality.profile == pytest.approx(expected, abs=1e-6)
    squares = quality.response**2 + quality.occupancy**2 + quality.profile**2
    assert quality.score == pytest.approx(math.sqrt(squares / 3))
    assert quality.to_dict() == {
        "response": quality.response,
        "occupancy": quality.occupancy,
        "profile": quality.profile,
        "score": quality.score,
    }


def test_true_voxels_below_threshold_do_not_count() -> None:
    true = TRUE.clone()
    true[0, 1] = 0.9
    assert compared(TRUE, true).score == 0


def test_chunks_make_no_difference_and_no_shower_is_kept() -> None:
    decoded = torch.tensor([[10.0, 2.0, 20.0, 10.0], [4.0, 4.0, 4.0, 6.0]])
    assert compared(decoded, chunk=1) == compared(decoded, chunk=2)
    sums = QualitySums(GRID)
    sums.add(TRUE, decoded, ENERGIES)
    held = [value.numel() for value in vars(sums).values() if isinstance(value, Tensor)]
    assert max(held) <= 2 * GRID.n_layers


def test_a_checkpoint_is_accepted_unless_clearly_worse() -> None:
    quality = Quality(0.3, 0.0, 0.0)
    score = quality.score
    assert is_accepted(quality, None)
    assert is_accepted(quality, score)
    assert is_accepted(quality, score / TOLERANCE * 1.001)
    assert not is_accepted(quality, score / TOLERANCE * 0.999)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_checkpoint_without_a_score_is_never_accepted(value: float) -> None:
    """Not even the first: as the best so far it would shut out every later one."""
    assert not is_accepted(Quality(value, 0.0, 0.0), None)
    assert not is_accepted(Quality(0.0, value, 0.0), 1.0)
