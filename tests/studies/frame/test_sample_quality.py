"""Distances beside their floor: planted faults are seen, and a second Geant4 sample is not told from the first."""

import numpy as np
import pytest
import torch

from calo4pqvae.config import load_config
from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.frame.sample_quality import DISTANCES, Judge

N = 300


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(load_config("demo"), N, 4)


def test_the_floor_is_what_its_own_showers_get(judge: Judge) -> None:
    again = judge.judge(judge.showers)
    assert again == judge.floor
    assert set(again.distances) == set(DISTANCES)
    assert all(value.error > 0 and value.n == N for value in again.distances.values())
    assert judge.floor.passed > 0.9


def test_energies_are_those_of_the_floor(judge: Judge) -> None:
    response = judge.showers.sum(1) / judge.energies[:, 0]
    assert float(response.mean()) == pytest.approx(0.97, abs=0.03)
    assert float(response.std()) < 0.1


def test_planted_faults_are_seen(judge: Judge) -> None:
    layers = judge.showers.view(N, 45, 144)
    shifted = torch.roll(layers, 2, dims=1).flatten(1)
    order = torch.from_numpy(np.random.default_rng(1).permutation(N))
    found = judge.judge(shifted)
    for name in DISTANCES:
        floor = judge.floor.distances[name]
        assert found.distances[name].value > floor.value + 5 * floor.error
    assert found.passed < judge.floor.passed
    assert judge.judge(judge.showers[order]).passed < 0.5 * judge.floor.passed


def test_too_few_showers_are_refused() -> None:
    with pytest.raises(ConfigError, match="100 or more"):
        Judge(load_config("demo"), 50, 1)
