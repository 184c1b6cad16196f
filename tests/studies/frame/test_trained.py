"""Trained machines that studies share: made once, used again, resumed, replaced, or named by the user."""

from pathlib import Path

import numpy as np
import pytest
import torch

import calo4pqvae.studies.frame.trained as trained
from calo4pqvae.config import Config, load_config
from calo4pqvae.errors import CheckpointError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.runs.training import train
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import finished_run, image_training, shower_config, shower_prior, shower_run
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import CHECKPOINT_EVERY, WEIGHTS, InterruptionError, contents, stop_at, tiny_config, tiny_file


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tiny_file(tmp_path_factory.mktemp("showers")))


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(config, tmp_path_factory.mktemp("finished") / "run", "training", silent)


class Stages:
    """A progress report that keeps the stages."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert done <= total
        self.seen[stage] = done


def bits_file(path: Path, seed: int = 0) -> Path:
    bits = (np.random.default_rng(seed).random((200, 16)) < 0.3).astype(np.uint8)
    BitsFile(bits, None, None, (4, 4), "made for a test").write(path)
    return path


def image_config(data: Path) -> PriorRunConfig:
    return PriorRunConfig(data=str(data), n_hidden=6, epochs=4, batch_size=50, n_saved=4, checkpoint_every=3, threads=1)


def test_the_forms_of_the_shower_model() -> None:
    full, quick = (shower_config(quick=quick, seed=7) for quick in (False, True))
    assert full == load_config("demo", ["training.seed=7"])
    assert quick.prior == full.prior
    assert (quick.data.max_showers, quick.training.epochs) == (3000, 5)
    assert shower_config(quick=True, seed=7, changes={"training.epochs": 2}).training.epochs == 2


def test_a_finished_run_of_equal_settings_is_used_again(config: Config, finished: Path) -> None:
    before, stages = contents(finished), Stages()
    assert finished_run(config, finished, "training", stages) == finished
    assert contents(finished) == before
    assert stages.seen == {}


def test_a_run_of_other_settings_is_replaced(config: Config, tmp_path: Path) -> None:
    path, stages = finished_run(config, tmp_path / "run", "training", silent), Stages()
    before = contents(path)
    finished_run(config.replace({"training.seed": 5}), path, "training", stages)
    assert stages.seen["training, prior"] == config.prior.updates
    assert all(contents(path)[name] != before[name] for name in WEIGHTS)
    assert RunDirectory(path).config().training.seed == 5


def test_an_interrupted_run_goes_on_and_ends_the_same(config: Config, finished: Path, tmp_path: Path) -> None:
    path, stages = tmp_path / "run", Stages()
    with pytest.raises(InterruptionError):
        train(config, path, report=stop_at("networks", 2 * CHECKPOINT_EVERY))
    begun = contents(path)["config.toml"]
    finished_run(config, path, "training", stages)
    assert contents(path)["config.toml"] == begun
    assert all(contents(path)[name] == contents(finished)[name] for name in WEIGHTS)


def test_all_studies_of_a_folder_share_one_run(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trained, "shower_config", lambda *, quick, seed: config.replace({"training.seed": seed + quick})
    )
    first, again = Stages(), Stages()
    path = shower_run(tmp_path / "one-study", None, quick=True, seed=0, progress=first)
    assert path == shower_run(tmp_path / "another", None, quick=True, seed=0, progress=again)
    assert path == tmp_path / "trained" / "shower-quick"
    assert first.seen
    assert not again.seen


def test_a_named_run_must_be_finished(config: Config, finished: Path, tmp_path: Path) -> None:
    assert shower_run(tmp_path, str(finished), quick=True, seed=1, progress=silent) == finished
    with pytest.raises(CheckpointError, match="no run directory"):
        shower_run(tmp_path, str(tmp_path / "nowhere"), quick=True, seed=1, progress=silent)
    with pytest.raises(InterruptionError):
        train(config, tmp_path / "run", report=stop_at("prior", 30))
    with pytest.raises(CheckpointError, match="no finished run"):
        shower_run(tmp_path, str(tmp_path / "run"), quick=True, seed=1, progress=silent)
    without = train(config.replace({"training.mode": "autoencoder"}), tmp_path / "networks")
    with pytest.raises(CheckpointError, match="no finished run"):
        shower_run(tmp_path, str(without.path), quick=True, seed=1, progress=silent)


def test_what_a_study_gets_of_a_shower_run(config: Config, finished: Path) -> None:
    prior = shower_prior(finished)
    n_code = prior.machine.topology.sizes[0]
    assert prior.states.shape == (len(prior.incident_energies), prior.machine.n_nodes)
    assert prior.clamped.sum() == n_code
    assert prior.condition is None
    assert torch.equal(prior.states[:, :n_code], prior.model.prior.code.encode(prior.incident_energies))
    assert torch.equal(prior.states[:, n_code:], prior.bits)
    assert set(prior.bits.flatten().tolist()) == {0.0, 1.0}
    assert len(prior.validation_bits) == len(prior.validation_energies) > 0
    assert len(prior.bits) == config.training.posterior_draws * 84
    assert float(prior.machine.couplings.detach().abs().max()) > 0
    assert prior.origin == "showers from the file train.hdf5"


def test_a_run_without_provenance_is_told(finished: Path, tmp_path: Path) -> None:
    for name, content in contents(finished).items():
        if name != "provenance.json":
            (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="lacks 'data'"):
        shower_prior(tmp_path)


def test_machines_of_images_are_shared_by_settings_and_data(tmp_path: Path) -> None:
    config, first, again = image_config(bits_file(tmp_path / "bits.h5")), Stages(), Stages()
    training = image_training(tmp_path / "one-study", config, "images", first)
    same = image_training(tmp_path / "another", config, "images", again)
    assert first.seen["images"] == training.steps[-1]
    assert not again.seen
    assert torch.equal(training.final.couplings, same.final.couplings)
    other = image_training(tmp_path / "another", config.model_copy(update={"seed": 2}), "images", silent)
    assert not torch.equal(training.final.couplings, other.final.couplings)
    bits_file(tmp_path / "bits.h5", seed=1)
    anew = image_training(tmp_path / "another", config, "images", again)
    assert again.seen
    assert not torch.equal(training.final.couplings, anew.final.couplings)
    assert len(list((tmp_path / "trained").iterdir())) == 3


def test_an_interrupted_training_on_images_goes_on(tmp_path: Path) -> None:
    config, whole, halves = image_config(bits_file(tmp_path / "bits.h5")), tmp_path / "a" / "x", tmp_path / "b" / "x"

    def stop(stage: str, done: int, total: int) -> None:  # noqa: ARG001
        if done == 5:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        image_training(halves, config, "images", stop)
    stages = Stages()
    resumed = image_training(halves, config, "images", stages)
    assert torch.equal(resumed.final.couplings, image_training(whole, config, "images", silent).final.couplings)
    assert resumed.steps[-1] == stages.seen["images"]
