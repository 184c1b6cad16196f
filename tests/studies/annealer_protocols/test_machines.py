"""Machines of the protocol study: the run's own, learned on the other chip, and with random frozen couplings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.protocols.conditioning import Conditioner
from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.annealer_protocols.machines import StudyMachine, study_machine
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import ShowerPrior, finished_run, shower_prior
from tests.small_runs import tiny_config, tiny_file


@pytest.fixture(scope="module")
def shower(tmp_path_factory: pytest.TempPathFactory) -> ShowerPrior:
    config = tiny_config(tiny_file(tmp_path_factory.mktemp("data")), {"prior.graph": "zephyr"})
    return shower_prior(finished_run(config, tmp_path_factory.mktemp("run") / "tiny", "training", silent))


def made(shower: ShowerPrior, model: str, family: str, field_updates: int = 150) -> StudyMachine:
    return study_machine(
        shower, model, family, random_std=1.0, updates=10, field_updates=field_updates, seed=3, progress=silent
    )  # type: ignore[arg-type]


def test_model_a_on_its_own_chip_is_the_machine_of_the_run(shower: ShowerPrior) -> None:
    found = made(shower, "A", "zephyr")
    assert found.prior is shower.model.prior
    assert found.name == "Model A, Zephyr"
    assert found.gap_n == len(shower.validation_bits)


def test_model_a_on_the_other_chip_has_learned_the_same_levels(shower: ShowerPrior) -> None:
    found = made(shower, "A", "pegasus")
    assert found.prior.topology.name.startswith("pegasus")
    assert found.prior.level_sizes == shower.model.prior.level_sizes
    assert "in 10 steps" in found.origin
    assert float(found.prior.machine.couplings.detach().std()) > 0
    assert shower.machine.topology.name.startswith("zephyr")  # the run is as it was


def test_couplings_of_model_b_never_move_and_its_biases_fit_the_means(shower: ShowerPrior) -> None:
    start, found = made(shower, "B", "zephyr", field_updates=1), made(shower, "B", "zephyr")
    couplings = found.prior.machine.couplings.detach()
    assert torch.equal(start.prior.machine.couplings.detach(), couplings)
    assert couplings.numel() == shower.machine.topology.n_edges
    assert float(couplings.std()) == pytest.approx(1.0, abs=4 / np.sqrt(2 * couplings.numel()))

    def worst(machine: StudyMachine) -> float:
        energies = shower.incident_energies.repeat(10, 1)
        drawn = machine.prior.sample(energies, 200, torch.Generator().manual_seed(1)).mean(0)
        return float((drawn - shower.bits.mean(0)).abs().max())

    assert worst(found) < 0.12 < worst(start)
    assert not torch.equal(shower.machine.couplings, couplings)


@pytest.mark.parametrize("family", ["zephyr", "pegasus"])
def test_every_qubit_of_the_patch_is_on_the_emulated_chip(shower: ShowerPrior, family: str) -> None:
    machine = made(shower, "B", family, field_updates=1)
    annealer = machine.annealer("ideal", 1)
    assert annealer.is_emulated
    assert annealer.name.startswith("emulated-")
    row = machine.prior.code.encode(torch.tensor([[5000.0]])).numpy()[0]
    imposed = Conditioner(machine.prior.machine, "fold").impose(9.0, row)
    reads = annealer.read(imposed.problem, 7)
    assert reads.bits.shape == (7, machine.prior.n_bits)


def test_levels_of_different_sizes_are_refused(shower: ShowerPrior) -> None:
    class Uneven:
        level_sizes = (8, 9, 8)
        machine = shower.machine

    uneven = replace(shower, model=replace(shower.model, prior=Uneven()))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use a run whose levels are equal"):
        made(uneven, "A", "pegasus")
