"""The commands of stand-alone machines as users meet them, good and bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from calo4pqvae.cli.prior import prior_app
from calo4pqvae.errors import CaloError, CheckpointError, ConfigError, DataError, PriorError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.bits.mnist import bundled_images
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.standalone.runs import open_prior_run
from calo4pqvae.workshop.rundir import RunDirectory

Command = Callable[..., str]

SETTINGS = {"n_hidden": 30, "epochs": 4, "batch_size": 100, "n_chains": 40, "n_saved": 4, "n_sweeps": 2}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command; gives what it prints and raises what it raises."""
    monkeypatch.setenv("COLUMNS", "150")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(prior_app, [str(word) for word in arguments], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.output

    return run


def options(**changes: object) -> list[str]:
    return [word for key, value in (SETTINGS | changes).items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine of bundled digits, trained by the command."""
    folder = tmp_path_factory.mktemp("machine") / "run"
    result = CliRunner().invoke(prior_app, ["train", "--out", str(folder), *options()], standalone_mode=False)
    assert result.exception is None, result.exception
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that is small enough for an exact likelihood."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(1)
    bits = np.repeat(rng.integers(0, 2, (400, 3)), 2, axis=1).astype(np.uint8)
    BitsFile(bits).write(folder / "bits.hdf5")
    words = ["train", "--out", str(folder / "run"), *options(data=str(folder / "bits.hdf5"), n_hidden=5)]
    result = CliRunner().invoke(prior_app, words, standalone_mode=False)
    assert result.exception is None, result.exception
    return folder / "run"


@pytest.mark.parametrize(("growth", "is_warned"), [("none", True), ("40.0", False)])
def test_sweeps_below_the_relaxation_time_are_told(
    growth: str, is_warned: bool, command: Command, tmp_path: Path
) -> None:
    measured = ["--set", "measure_every=8", "--set", "measure_sweeps=40", "--set", f"sweeps_growth={growth}"]
    said = command("train", "--out", tmp_path / "run", *options(n_sweeps=1, learning_rate=0.5, epochs=12), *measured)
    assert ("fewer than the relaxation time" in said) == is_warned


def test_drawn_bits_and_their_picture(command: Command, trained: Path, tmp_path: Path) -> None:
    said = command(
        "sample",
        trained,
        "--out",
        tmp_path / "a.hdf5",
        "-n",
        30,
        "--sweeps",
        20,
        "--seed",
        4,
        "--picture",
        tmp_path / "a.png",
    )
    assert "30 states of 784 bits" in said
    drawn = BitsFile.read(tmp_path / "a.hdf5")
    assert drawn.bits.shape == (30, 784)
    assert drawn.shape == (28, 28)
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert (file.attrs["seed"], file.attrs["n_sweeps"], file.attrs["start"]) == (4, 20, "chains")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for name, seed in (("b", 4), ("c", 5)):
        command("sample", trained, "--out", tmp_path / f"{name}.hdf5", "-n", 30, "--sweeps", 20, "--seed", seed)
    again, other = (BitsFile.read(tmp_path / f"{name}.hdf5") for name in ("b", "c"))
    np.testing.assert_array_equal(drawn.bits, again.bits)
    assert (drawn.bits != other.bits).any()


@pytest.mark.parametrize("start", ["chains", "data", "coins"])
@pytest.mark.parametrize("sampler", ["gibbs", "tempering", "trajectory"])
def test_all_samplers_and_starts_agree_on_a_machine_that_mixes(
    command: Command, small: Path, tmp_path: Path, sampler: str, start: str
) -> None:
    command(
        "sample",
        small,
        "--out",
        tmp_path / "x.hdf5",
        "-n",
        3000,
        "--sweeps",
        60,
        "--sampler",
        sampler,
        "--start",
        start,
    )
    bits = BitsFile.read(tmp_path / "x.hdf5").bits.astype(float)
    machine = open_prior_run(small).machine
    exact = enumerate_machine(machine).first[:6].numpy()
    assert np.abs(bits.mean(axis=0) - exact).max() < 5 * 0.5 / 3000**0.5


def test_a_diagnosis_in_numbers_and_words(command: Command, trained: Path) -> None:
    said = command("diagnose", trained, "--chains", 20, "--sweeps", 60, "--burn-in", 10)
    found = json.loads((trained / "diagnosis.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["series"]] == ["energy", "mode 1", "mode 2", "mode 3"]
    assert found["n_chains"] == 20
    assert found["training_sweeps"] == 2
    assert all(one["tau_int"]["error"] > 0 and one["ess"] > 1 for one in found["series"])
    assert "relaxation time (sweeps)" in said
    assert "energy" in said


def test_an_exact_likelihood_where_it_is_possible(command: Command, small: Path, tmp_path: Path) -> None:
    command("loglik", small, "--out", tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    run = open_prior_run(small)
    states = np.stack([(np.arange(64) >> place) & 1 for place in range(5, -1, -1)], axis=1).astype(np.uint8)
    biases, couplings = (value.detach().numpy().astype(float) for value in (run.machine.biases, run.machine.couplings))
    fields = states @ couplings.reshape(6, 5) + biases[6:]
    weights = states @ biases[:6] + np.logaddexp(0, fields).sum(axis=1)
    log_law = weights - np.logaddexp.reduce(weights)
    train = BitsFile.read(small.parent / "bits.hdf5")
    expected = log_law[train.bits @ (1 << np.arange(5, -1, -1))]
    parts = found["log_likelihood"]
    total = sum(parts[name]["exact"]["value"] * parts[name]["exact"]["n_states"] for name in ("train", "test"))
    assert total / 400 == pytest.approx(expected.mean(), rel=1e-5)
    assert parts["test"]["exact"]["log_z_error"] == 0


def test_a_likelihood_from_both_sides(command: Command, trained: Path, tmp_path: Path) -> None:
    bits = BitsFile.read(write_digits(tmp_path))
    said = command("loglik", trained, tmp_path / "digits.hdf5", "--chains", 50, "--temperatures", 300, "--burn-in", 50)
    found = json.loads((trained / "loglik.json").read_text(encoding="utf-8"))
    (told,) = found["log_likelihood"].values()
    assert set(told) == {"ais", "reverse"}
    assert told["ais"]["n_states"] == bits.n_states == 50
    assert -400 < told["ais"]["value"] < -100
    assert abs(told["ais"]["value"] - told["reverse"]["value"]) < 30
    assert "reverse" in said


def write_digits(folder: Path) -> Path:
    bundled_images("mnist", "test").take(np.arange(50)).write(folder / "digits.hdf5")
    return folder / "digits.hdf5"


def test_a_run_is_resumed_with_its_own_settings(command: Command, trained: Path) -> None:
    assert "trained machine" in command("train", "--resume", trained)
    with pytest.raises(ConfigError, match="with its own settings"):
        command("train", "--resume", trained, "--set", "epochs=5")
    with pytest.raises(ConfigError, match="leave out --out"):
        command("train", "--resume", trained, "--out", "elsewhere")


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["train"], ConfigError, "--out FOLDER"),
        (["train", "--out", "{tmp}/x", "--set", "n_hiden=3"], ConfigError, "nearest one is 'n_hidden'"),
        (["train", "--out", "{tmp}/x", "--set", "n_chains=0"], ConfigError, "'n_chains' = 0 cannot be used"),
        (["train", "--out", "{tmp}/x", "--config", "nonsense"], ConfigError, "neither a file nor a preset"),
        (["train", "--out", "{tmp}/x", "--set", "data=none.hdf5"], DataError, r"there is no file none\.hdf5"),
        (["train", "--out", "{tmp}/x", "--set", "data={tmp}/grey.npy"], DataError, "not only 0 and 1"),
        (["train", "--out", "{tmp}/x", "--set", "data={tmp}/cut.hdf5"], DataError, "cannot be read"),
        (["train", "--out", "{run}"], CheckpointError, "already holds a run"),
        (["sample", "{tmp}", "--out", "{tmp}/b.hdf5"], CheckpointError, "no settings.toml"),
        (["sample", "{run}", "--out", "{tmp}/b.hdf5", "-n", "0"], ConfigError, "at least one"),
        (["sample", "{run}", "--out", "{tmp}/b.hdf5", "--sweeps", "0"], ConfigError, "use at least 1"),
        (["sample", "{run}", "--out", "{tmp}/b.hdf5", "--energies", "1000"], CheckpointError, "no config.toml"),
        (["diagnose", "{run}", "--chains", "0"], ConfigError, "--chains 0 is too few"),
        (["diagnose", "{run}", "--sweeps", "3"], PriorError, "fewer than 8 records"),
        (["loglik", "{run}", "--chains", "1"], ConfigError, "--chains 1 is too few"),
        (["loglik", "{run}", "--temperatures", "1"], ConfigError, "--temperatures 1 is too few"),
        (["loglik", "{run}", "{tmp}/short.hdf5"], ConfigError, "has 5 bits, the machine 784 visible ones"),
        (["loglik", "{run}", "{tmp}/grey.npy"], DataError, "not only 0 and 1"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    command: Command, trained: Path, tmp_path: Path, words: list[str], kind: type[CaloError], message: str
) -> None:
    np.save(tmp_path / "grey.npy", np.array([[0, 3], [200, 1]]))
    BitsFile(np.zeros((9, 5), dtype=np.uint8)).write(tmp_path / "short.hdf5")
    (tmp_path / "cut.hdf5").write_bytes((tmp_path / "short.hdf5").read_bytes()[:900])
    with pytest.raises(kind, match=message) as told:
        command(*(word.format(tmp=tmp_path, run=trained) for word in words))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "b.hdf5").exists()
    assert not (tmp_path / "x").exists()


def test_nan_in_the_weights_is_told(command: Command, small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "run")
    tensors, notes = RunDirectory(tmp_path / "run").load_tensors("prior")
    tensors["machine.biases"][0] = float("nan")
    RunDirectory(tmp_path / "run").save_tensors("prior", tensors, **notes)
    for words in (["sample", "--out", "x.hdf5"], ["diagnose"], ["loglik"]):
        with pytest.raises(PriorError, match="biases of the machine hold NaN"):
            command(words[0], tmp_path / "run", *words[1:])


def test_pictures_need_images(command: Command, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are no pictures"):
        command("sample", small, "--out", tmp_path / "x.hdf5", "-n", 5, "--picture", tmp_path / "x.png")
    assert not (tmp_path / "x.hdf5").exists()


def test_runs_without_chains_need_another_start(command: Command, tmp_path: Path) -> None:
    command("train", "--out", tmp_path / "run", *options(method="cd", epochs=1))
    with pytest.raises(ConfigError, match="keeps no chains"):
        command("sample", tmp_path / "run", "--out", tmp_path / "x.hdf5", "-n", 5)
    command("sample", tmp_path / "run", "--out", tmp_path / "x.hdf5", "-n", 5, "--start", "data", "--sweeps", 2)
    assert BitsFile.read(tmp_path / "x.hdf5").n_states == 5


def test_conditions_come_with_the_states(command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    condition = rng.choice([-2.0, 2.0], size=(600, 1)).astype(np.float32)
    bits = (rng.random((600, 4)) < 1 / (1 + np.exp(-condition))).astype(np.uint8)
    BitsFile(bits, None, condition).write(tmp_path / "bits.hdf5")
    settings = options(data=str(tmp_path / "bits.hdf5"), condition=True, n_hidden=3, epochs=60, learning_rate=0.3)
    command("train", "--out", tmp_path / "run", *settings)
    for start in ("chains", "data", "coins"):
        command("sample", tmp_path / "run", "--out", tmp_path / "x.hdf5", "-n", 500, "--sweeps", 30, "--start", start)
        drawn = BitsFile.read(tmp_path / "x.hdf5")
        high = drawn.bits[drawn.condition[:, 0] > 0].mean()
        low = drawn.bits[drawn.condition[:, 0] < 0].mean()
        assert high > 0.75
        assert low < 0.25
    with pytest.raises(ConfigError, match="needs log Z at each of them"):
        command("loglik", tmp_path / "run")
