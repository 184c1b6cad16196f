"""Generation: what is asked for is what is written, and only the seed decides."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import calo4pqvae.runs.generation as generation
from calo4pqvae.errors import CaloError, CheckpointError, DataError, OutputError
from calo4pqvae.models.qvae.trained import TrainedModel, as_qvae
from calo4pqvae.runs.generation import generate, load_model, parse_energies, reconstruct
from calo4pqvae.runs.training import train
from tests.small_runs import N_VOXELS, bundled_rows, contents, tiny_config, tiny_file, write_showers

RANGE = (1e3, 1e5)
THRESHOLD = 0.5e-3 / 0.033


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(tiny_file(folder), {"training.epochs": 1, "prior.updates": 20})
    return train(config, folder / "run").path


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return as_qvae(load_model(run))


def swept(model: TrainedModel, n_sweeps: int) -> TrainedModel:
    return replace(model, config=model.config.replace({"generation.n_sweeps": n_sweeps}))


def log_energies(n: int, seed: int = 1) -> Tensor:
    return parse_energies("1000:100000:log", n, seed, RANGE)


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with h5py.File(path, "r") as file:
        return {name: file[name][:] for name in ("incident_energies", "showers")}


def assert_same(first: Path, second: Path) -> None:
    one, two = read(first), read(second)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


PLAIN_READER = """
import json, sys
import h5py
import numpy as np

with h5py.File(sys.argv[1], "r") as file:
    energies, showers = file["incident_energies"][:], file["showers"][:]
    print(json.dumps({
        "fields": sorted(file),
        "energies": [list(energies.shape), str(energies.dtype), float(energies.min()), float(energies.max())],
        "showers": [list(showers.shape), str(showers.dtype), float(showers.min())],
        "response": float((showers.sum(1) / energies[:, 0]).mean()),
        "smallest_hit": float(showers[showers > 0].min()),
        "units": file.attrs["units"],
    }))
"""


def test_a_plain_h5py_script_reads_the_file(model: TrainedModel, tmp_path: Path) -> None:
    out = tmp_path / "showers.hdf5"
    generate(model, log_energies(50), out, seed=1)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_READER, str(out)], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert found["fields"] == ["incident_energies", "showers"]
    shape, kind, low, high = found["energies"]
    assert (shape, kind) == ([50, 1], "float32")
    assert RANGE[0] <= low < 2e3 < 5e4 < high <= RANGE[1]
    assert found["showers"] == [[50, 6480], "float32", 0.0]
    assert found["smallest_hit"] >= THRESHOLD * (1 - 1e-6)
    assert 0.3 < found["response"] < 3  # in MeV like the incident energies, not in GeV or shares
    assert found["units"] == "MeV"


def test_same_seed_same_showers(model: TrainedModel, run: Path, tmp_path: Path) -> None:
    energies = log_energies(30)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(load_model(run) if name == "b" else model, energies, tmp_path / name, seed=seed)
    assert_same(tmp_path / "a", tmp_path / "b")
    one, other = read(tmp_path / "a"), read(tmp_path / "c")
    np.testing.assert_array_equal(one["incident_energies"], other["incident_energies"])
    assert (one["showers"] != other["showers"]).any(axis=1).all()


def test_global_random_state_is_neither_used_nor_changed(model: TrainedModel, tmp_path: Path) -> None:
    torch.manual_seed(1)
    generate(model, log_energies(25), tmp_path / "a", seed=1)
    first = torch.rand(3)
    torch.manual_seed(2)
    generate(model, log_energies(25), tmp_path / "b", seed=1)
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand(3))
    assert_same(tmp_path / "a", tmp_path / "b")


def test_chunks_do_not_depend_on_what_else_is_asked_for(model: TrainedModel, tmp_path: Path) -> None:
    energies = log_energies(50)  # chunks of 20, 20 and 10
    generate(model, energies, tmp_path / "all", seed=1)
    generate(model, energies[:40], tmp_path / "two", seed=1)
    np.testing.assert_array_equal(read(tmp_path / "all")["showers"][:40], read(tmp_path / "two")["showers"])
    changed = energies.clone()
    changed[:20] = 5e4
    generate(model, changed, tmp_path / "changed", seed=1)
    one, other = read(tmp_path / "all")["showers"], read(tmp_path / "changed")["showers"]
    np.testing.assert_array_equal(one[20:], other[20:])
    assert (one[:20] != other[:20]).any(axis=1).all()


def test_equal_chunks_are_not_copies_of_each_other(model: TrainedModel, tmp_path: Path) -> None:
    generate(model, torch.full((40, 1), 2e4), tmp_path / "a", seed=1)
    showers = read(tmp_path / "a")["showers"]
    assert len(np.unique(showers, axis=0)) == 40


def test_gibbs_and_decoding_draw_from_streams_of_their_own(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More sweeps use up more random numbers; with the bits held, the decoder must not notice."""
    energies, used = log_energies(40), []

    def draw_bits(self: TrainedModel, energies: Tensor, _source: str, n_sweeps: int, generator: Generator) -> Tensor:
        self.prior.sample(energies, n_sweeps, generator)
        used.append(generator.get_state())
        return torch.zeros(len(energies), self.prior.n_bits)

    monkeypatch.setattr(TrainedModel, "draw_bits", draw_bits)
    for n_sweeps in (1, 7):
        generate(swept(model, n_sweeps), energies, tmp_path / str(n_sweeps), seed=1)
    assert_same(tmp_path / "1", tmp_path / "7")
    assert len({state.numpy().tobytes() for state in used}) == 4


def test_number_of_sweeps_and_source_change_the_bits(model: TrainedModel) -> None:
    energies, seen = torch.full((500, 1), 2e4), []
    for source, n_sweeps in (("boltzmann", 1), ("boltzmann", 10), ("independent", 10)):
        generator = Generator().manual_seed(3)
        bits = model.draw_bits(energies, source, n_sweeps, generator)
        assert bits.shape == (500, 24)
        assert set(bits.unique().tolist()) == {0, 1}
        seen.append(bits)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_baseline_has_the_means_of_the_posterior_bits(model: TrainedModel, run: Path) -> None:
    from safetensors.torch import load_file

    means = load_file(run / "posterior.safetensors")["bits"].double().mean(0)
    n = 20_000
    bits = model.draw_bits(torch.full((n, 1), 2e4), "independent", 1, Generator().manual_seed(1)).double()
    error = (means * (1 - means) / n).sqrt().clamp(min=1 / n)
    assert ((bits.mean(0) - means).abs() / error).max() < 5
    correlations = torch.corrcoef(bits.t()) - torch.eye(24)
    assert correlations.abs().max() < 5 / n**0.5


def test_file_is_streamed_in_chunks_and_appears_when_whole(model: TrainedModel, tmp_path: Path) -> None:
    out, seen = tmp_path / "showers.hdf5", []

    def look(done: int, total: int) -> None:
        seen.append((done, total))
        assert not out.exists()
        [partial] = tmp_path.iterdir()
        assert partial.stat().st_size > 10_000 * len(seen)  # what is done is on disk already

    generate(model, log_energies(50), out, seed=1, progress=look)
    assert seen == [(20, 50), (40, 50), (50, 50)]
    assert [path.name for path in tmp_path.iterdir()] == ["showers.hdf5"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_generation_leaves_the_earlier_file(
    error: type[BaseException], model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "showers.hdf5"
    generate(model, log_energies(20), out, seed=1)
    before = contents(tmp_path)
    append, calls = generation.ShowerWriter.append, []

    def stop_in_the_middle(self: generation.ShowerWriter, energies: Any, showers: Any) -> None:
        append(self, energies, showers)
        calls.append(len(showers))
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(generation.ShowerWriter, "append", stop_in_the_middle)
    with pytest.raises(error):
        generate(model, log_energies(50), out, seed=2)
    assert contents(tmp_path) == before


def test_attributes_tell_how_showers_were_made(model: TrainedModel, tmp_path: Path) -> None:
    generate(swept(model, 3), log_energies(20), tmp_path / "a", seed=7, source="independent")
    with h5py.File(tmp_path / "a", "r") as file:
        told = dict(file.attrs)
    assert (told["seed"], told["prior"], told["n_sweeps"], told["chunk"]) == (7, "independent", 3, 20)
    assert "not Geant4" in told["generator"]
    assert str(tmp_path) not in str(told)


@pytest.mark.parametrize("kind", ["log", "lin"])
def test_energies_of_a_range_follow_its_law(kind: str) -> None:
    energies = parse_energies(f"2000:50000:{kind}", 4000, 1, RANGE).double()
    assert energies.shape == (4000, 1)
    ends = torch.tensor([2e3, 5e4], dtype=torch.float64)
    low, high = ends.log() if kind == "log" else ends
    place = ((energies.log() if kind == "log" else energies) - low) / (high - low)
    place = place.flatten().sort().values
    distance = (place - (torch.arange(4000) + 0.5) / 4000).abs().max()
    assert distance < 1.95 / 4000**0.5  # Kolmogorov and Smirnov, p = 1e-3
    assert torch.equal(energies.float(), parse_energies(f"2000:50000:{kind}", 4000, 1, RANGE))
    assert not torch.equal(energies.float(), parse_energies(f"2000:50000:{kind}", 4000, 2, RANGE))


def test_default_law_of_a_range_is_log() -> None:
    assert torch.equal(parse_energies("1000:2000", 9, 1, RANGE), parse_energies("1000:2000:log", 9, 1, RANGE))


@pytest.mark.parametrize(
    ("n", "expected"),
    [(None, [1e3, 5e3, 2e4]), (2, [1e3, 5e3]), (7, [1e3, 5e3, 2e4, 1e3, 5e3, 2e4, 1e3])],
)
def test_energies_of_a_list(n: int | None, expected: list[float]) -> None:
    assert parse_energies("1000,5000, 2e4", n, 1, RANGE).tolist() == [[value] for value in expected]


def test_long_list_of_energies() -> None:
    values = [1000.0 + number for number in range(2000)]
    assert parse_energies(",".join(map(str, values)), None, 1, RANGE).flatten().tolist() == values


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_energies_of_a_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "energies.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"] = np.array([1e3, 2e3, 3e3]).reshape(shape)
    assert parse_energies(str(path), None, 1, RANGE).tolist() == [[1e3], [2e3], [3e3]]
    assert parse_energies(str(path), 2, 1, RANGE).tolist() == [[1e3], [2e3]]
    with pytest.raises(DataError, match="fewer than the 4"):
        parse_energies(str(path), 4, 1, RANGE)


@pytest.mark.parametrize("shape", [(0, 1), (3, 2), ()])
def test_file_without_a_column_of_energies(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "energies.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"] = np.full(shape, 2e3)
    with pytest.raises(DataError, match="incident_energies"):
        parse_energies(str(path), None, 1, RANGE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1000,,2000",
        "1000:2000:cubic",
        "1000:2000:log:log",
        "1000:x:log",
        ":2000:log",
        "2000:1000:log",
        "-5:1000:log",
        "0:1000:lin",
        "1000:inf:log",
        "nan",
        "1000,nan",
        "1,50",  # in GeV
        "1000:1000000:log",  # beyond what the model knows
    ],
)
def test_energies_that_make_no_sense(text: str) -> None:
    with pytest.raises(DataError):
        parse_energies(text, 100, 1, RANGE)


def test_reconstruction_keeps_energies_and_shape_of_showers(model: TrainedModel, tmp_path: Path) -> None:
    source = tiny_file(tmp_path, 45, "heldout")
    reconstruct(model, source, tmp_path / "a", seed=1)
    reconstruct(model, source, tmp_path / "b", seed=1)
    assert_same(tmp_path / "a", tmp_path / "b")
    true, decoded = read(source), read(tmp_path / "a")
    np.testing.assert_array_equal(decoded["incident_energies"], true["incident_energies"])
    assert decoded["showers"].shape == (45, N_VOXELS)
    assert np.isfinite(decoded["showers"]).all()


def test_reconstruction_refuses_what_the_model_cannot_read(model: TrainedModel, tmp_path: Path) -> None:
    energies, showers = bundled_rows("heldout", 25)
    broken = showers.copy()
    broken[22, 7] = np.nan
    files = {
        "NaN": write_showers(tmp_path / "nan.hdf5", energies, broken),
        "outside the range": write_showers(tmp_path / "gev.hdf5", energies / 1e3, showers / 1e3),
        "voxels a shower": write_showers(tmp_path / "narrow.hdf5", energies, showers[:, :100]),
    }
    before = contents(tmp_path)
    for message, path in files.items():
        with pytest.raises(DataError, match=message):
            reconstruct(model, path, tmp_path / "out.hdf5", seed=1)
    assert contents(tmp_path) == before


def test_unwritable_output(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "a.hdf5", tmp_path / "folder"):
        with pytest.raises(OutputError):
            generate(model, log_energies(20), out, seed=1)
    assert contents(tmp_path) == {"file": b"in the way"}


def test_weights_of_another_configuration(run: Path, tmp_path: Path) -> None:
    for name in ("autoencoder.safetensors", "prior.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    config = (run / "config.toml").read_text(encoding="utf-8")
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")
    load_model(tmp_path)
    for old, new in (("\nhidden = 16", "\nhidden = 12"), ("levels = 3", "levels = 2"), ("levels = 3", "levels = 1")):
        assert old in config
        (tmp_path / "config.toml").write_text(config.replace(old, new), encoding="utf-8")
        with pytest.raises(CaloError):
            load_model(tmp_path)


def test_run_without_prior_or_networks(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((run / "config.toml").read_bytes())
    with pytest.raises(CheckpointError, match=r"autoencoder\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "autoencoder.safetensors").write_bytes((run / "autoencoder.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"prior\.safetensors"):
        load_model(tmp_path)
