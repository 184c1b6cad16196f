"""The study of the high-temperature gradient: its cases, its measurements against exact laws, and the whole of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.frame.registry import load_study
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import finished_run
from calo4pqvae.studies.high_temperature.measurements import (
    Case,
    EpsilonPlan,
    image_case,
    measure,
    random_case,
)
from calo4pqvae.studies.high_temperature.study import HighTemperatureSettings
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable
from calo4pqvae.studies.theory.epsilon import exact_epsilon, parameter_groups
from tests.small_runs import tiny_config, tiny_file

PLAN = EpsilonPlan(4000, (1, 40), (0.02, 0.5), 40, 30, "auto")


def machine_of(seed: int, std: float = 1.0) -> BoltzmannMachine:
    machine, generator = BoltzmannMachine(bipartite_topology(6, 4)), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return machine


def nothing() -> None:
    """Tells nobody."""


def test_measured_epsilon_is_that_of_the_exact_law_at_every_temperature() -> None:
    machine = machine_of(1)
    groups = parameter_groups(machine, ("visible", "hidden"))
    found = measure(Case("a", machine, groups, torch.ones(4000, 10)), PLAN, 3, nothing)
    for beta, summaries in found.by_beta.items():
        truth = exact_epsilon(BipartiteTable.of(machine, beta), groups)
        for name, summary in summaries.items():
            value, error = summary.values[5], summary.errors[5]
            if np.isfinite(value):
                assert abs(value - truth.summaries[name].values[5]) < 4.5 * error, (beta, name)
    truth = exact_epsilon(BipartiteTable.of(machine), groups)
    assert np.mean(((found.epsilon.covariance - truth.covariance) / found.epsilon.covariance_error) ** 2) < 2.5
    assert found.starts_apart is not None
    assert found.starts_apart < 2
    assert set(found.by_sweeps) == {"coins", "data"}


def test_starts_that_have_not_met_are_seen() -> None:
    """Two deep valleys: chains from one of them stay there, chains from coins go to both."""
    machine = BoltzmannMachine(bipartite_topology(6, 4))
    with torch.no_grad():
        machine.couplings.fill_(5.0)
        machine.biases[:6] = -10.0
        machine.biases[6:] = -15.0
    groups = parameter_groups(machine, ("visible", "hidden"))
    found = measure(Case("b", machine, groups, torch.ones(4000, 10)), PLAN, 3, nothing)
    assert found.starts_apart is not None
    assert found.starts_apart > 20


def test_slopes_are_those_of_the_exact_law_at_high_temperature() -> None:
    machine = machine_of(2)
    groups = parameter_groups(machine, ("visible", "hidden"))
    found = measure(Case("c", machine, groups), EpsilonPlan(200, (1,), (), 1, 4, "torch"), 1, nothing)
    truth = exact_epsilon(BipartiteTable.of(machine, 1e-4), groups)
    for name, slope in found.slopes.items():
        assert slope == pytest.approx(truth.summaries[name].values[5] / 1e-4, rel=0.01)
    assert found.starts_apart is None


def test_clamped_bits_keep_their_values_from_either_start() -> None:
    machine = machine_of(3)
    clamped = np.arange(10) < 3
    data = torch.zeros(50, 10)
    data[:, 1] = 1
    case = Case("d", machine, parameter_groups(machine, clamped=clamped), data, clamped)
    for kind in ("coins", "data"):
        state = case.start(kind, 50, torch.Generator().manual_seed(1))
        assert torch.equal(state.states[:, :3], data[:, :3])
    assert case.start("coins", 50, torch.Generator().manual_seed(1)).states[:, 3:].mean() > 0.3


def test_images_keep_their_pixels_and_hidden_bits_are_drawn_given_them() -> None:
    machine = machine_of(4)
    with torch.no_grad():
        machine.couplings.fill_(20.0)
        machine.biases[6:] = -10.0  # a hidden bit is one if and only if some pixel is
    bits = np.zeros((2, 6), dtype=np.uint8)
    bits[1, 2] = 1
    hidden = np.arange(10) >= 6
    training = Training(
        (0, 1), (machine, machine), BitsFile(bits), hidden, HighTemperatureSettings().training("a", "cd", 1)
    )
    case = image_case("images", training, 40, 1)
    assert case.data is not None
    lit = case.data[:, 2] == 1
    assert 5 < int(lit.sum()) < 35
    assert torch.equal(case.data[:, [0, 1, 3, 4, 5]], torch.zeros(40, 5))
    assert bool((case.data[lit, 6:] == 1).all())
    assert bool((case.data[~lit, 6:] == 0).all())


def test_untrained_machine_has_the_spread_that_is_asked_for() -> None:
    case = random_case(BoltzmannMachine(bipartite_topology(100, 50)), 0.2, 1)
    assert float(case.machine.couplings.detach().std()) == pytest.approx(0.2, rel=0.05)
    assert float(case.machine.biases.detach().std()) == pytest.approx(0.2, rel=0.2)


def test_study_end_to_end(tmp_path: Path) -> None:
    run = finished_run(tiny_config(tiny_file(tmp_path)), tmp_path / "shower", "training", silent)
    study = load_study("high-temperature")
    tiny = {
        "n_hidden": 8, "epochs": 1, "n_chains": 100, "n_energies": 5, "sweeps": [2, 5], "betas": [0.1],
        "beta_sweeps": 3, "n_bootstrap": 4, "kernel": '"torch"', "run": f'"{run}"',
    }  # fmt: skip
    settings = study.configure(quick=True, overrides=[f"{key}={value}" for key, value in tiny.items()])
    result = study.run(settings, tmp_path, 2)
    stored = json.loads((tmp_path / "high-temperature" / "result.json").read_text())["numbers"]
    labels = ["untrained", "Fashion-MNIST, CD", "MNIST, CD", "MNIST, PCD", "shower prior"]
    assert list(stored)[:5] == labels
    assert set(stored["shower prior"]) >= {"biases 1", "biases 2", "biases 3", "couplings"}
    assert "biases 0" not in stored["shower prior"]
    assert stored["MNIST, CD"]["biases visible"]["n_parameters"] == 784
    assert stored["origin of the showers"] in result.text[-1]
    assert "nan" not in " ".join(result.text)
    assert [one.stem for one in result.figures] == ["epsilon", "effects", "terms"]


@pytest.mark.parametrize(
    ("change", "words"),
    [("n_energies=7", "multiple"), ("betas=[1.5]", "between 0 and 1"), ("sweeps=[0]", "1 or more")],
)
def test_settings_that_do_not_fit_are_refused(change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_study("high-temperature").configure(quick=True, overrides=[change])


def test_files_of_grey_values_take_a_name_and_a_threshold(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, x_train=np.zeros((3, 4), dtype=np.uint8), x_test=np.zeros((2, 4), dtype=np.uint8))
    settings = HighTemperatureSettings(dataset="x_train", threshold=0.5)
    assert settings.training(str(path), "cd", 1).dataset == "x_train"
    assert settings.training("mnist", "cd", 1).dataset is None
