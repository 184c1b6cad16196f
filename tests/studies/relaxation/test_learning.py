"""A prior that is learned with measurements, and mean energies of data and samples."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calo4pqvae.errors import CheckpointError
from calo4pqvae.runs.training import train
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import shower_prior
from calo4pqvae.studies.relaxation.learning import energy_balance, learned_prior, learning_curve
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import tiny_config, tiny_file

CHANGES = {"prior.measure_every": 20, "prior.measure_sweeps": 40, "prior.sweeps_growth": 4.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(tiny_config(tiny_file(folder)), folder / "tiny").path


@pytest.fixture(scope="module")
def learned(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return learned_prior(folder, str(run), "demo", CHANGES, is_short=True, seed=1, progress=silent)


def test_a_run_without_measurements_has_its_prior_learned_once_more(run: Path, learned: Path) -> None:
    assert learned != run
    assert RunDirectory(learned).config().training.mode == "prior"
    before = (learned / "prior.safetensors").stat().st_mtime_ns
    again = learned_prior(learned.parent, str(run), "demo", CHANGES, is_short=True, seed=1, progress=silent)
    assert again == learned
    assert (learned / "prior.safetensors").stat().st_mtime_ns == before, "a finished learning was done anew"


def test_a_run_with_measurements_is_taken_as_it_is(learned: Path, tmp_path: Path) -> None:
    assert learned_prior(tmp_path, str(learned), "demo", CHANGES, is_short=True, seed=1, progress=silent) == learned
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((run / "config.toml").read_bytes())
    with pytest.raises(CheckpointError, match="is no finished run"):
        learned_prior(tmp_path, str(tmp_path), "demo", CHANGES, is_short=True, seed=1, progress=silent)


def test_the_curve_is_what_the_run_wrote(learned: Path) -> None:
    rows = [row for row in RunDirectory(learned).metrics() if row["stage"] == "mixing"]
    curve = learning_curve(learned)
    assert curve.updates.tolist() == [row["update"] for row in rows] == [20, 40, 60]
    assert curve.sweeps.tolist() == [row["n_sweeps"] for row in rows]
    assert curve.epochs[0] == pytest.approx(20 * 60 / 168)  # batches of 60 of two draws of 84 showers
    assert curve.relaxation.tolist() == [row["relaxation_time"] for row in rows]
    assert (curve.n_chains, curve.measured_sweeps) == (60, 40)
    data = curve.as_data(1)
    assert [one["value"] for one in data["relaxation"]] == [row["relaxation_time"] for row in rows]


def test_bits_of_the_machine_itself_balance_and_others_do_not(run: Path) -> None:
    source = shower_prior(run)
    machine = source.machine
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        machine.couplings.copy_(0.4 * torch.randn(machine.couplings.shape, generator=generator))
        machine.biases.copy_(0.4 * torch.randn(machine.biases.shape, generator=generator))
    energies = source.incident_energies.repeat(20, 1)  # more showers than the run has, with two draws each
    draws = [source.model.prior.sample(energies, 200, generator) for _ in range(2)]
    own = replace(
        source,
        bits=torch.cat(draws),
        incident_energies=energies.repeat(2, 1),
        validation_bits=draws[0],
        validation_energies=energies,
    )
    balance = energy_balance(own, 200, 1)
    assert balance.n == len(energies)
    assert abs(balance.gap) < 4 * balance.gap_error
    assert abs(balance.validation_gap) < 4 * balance.validation_error
    assert balance.gap == pytest.approx(balance.data - balance.samples, abs=1e-9)
    per_shower = machine.energy(source.model.prior.states(own.bits, own.incident_energies)).detach().double().numpy()
    means = per_shower.reshape(2, -1).mean(axis=0)
    assert balance.data == pytest.approx(means.mean())
    assert balance.data_error == pytest.approx(means.std(ddof=1) / math.sqrt(len(means)))
    with torch.no_grad():
        machine.biases.add_(0.5)
    other = energy_balance(own, 200, 1)
    assert abs(other.gap) > 5 * other.gap_error
    assert np.isfinite([one["value"] for one in other.as_data(1).values() if isinstance(one, dict)]).all()
