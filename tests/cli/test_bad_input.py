"""Bad input of every kind, through the real command line: exit code 2, one line, nothing harmed."""

import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from calo4pqvae.cli.main import main
from calo4pqvae.runs.training import train
from tests.showers.test_fetch import RecordServer
from tests.small_runs import (
    Array,
    InterruptionError,
    bundled_rows,
    contents,
    stop_at,
    tiny_config,
    tiny_file,
    write_showers,
)


@dataclass(frozen=True)
class Materials:
    """What the cases are made of; made once."""

    showers: Path
    finished: Path
    stopped: Path


@dataclass(frozen=True)
class Bench:
    """A folder of its own for a case, with copies of what it may spoil."""

    folder: Path
    materials: Materials

    @property
    def showers(self) -> Path:
        return self.materials.showers

    def run(self, kind: str = "finished") -> Path:
        """A copy of the finished run, or of the one stopped in the networks stage."""
        source: Path = getattr(self.materials, kind)
        target = self.folder / kind
        target.mkdir()
        for name, content in contents(source).items():
            (target / name).write_bytes(content)
        return target

    def arrays(self, n: int = 40) -> tuple[Array, Array]:
        """Incident energies and showers that may be spoilt."""
        energies, showers = bundled_rows("train", n)
        return energies.copy(), showers.copy()

    def file(self, energies: Array, showers: Array) -> Path:
        """A shower file with such content."""
        return write_showers(self.folder / "bad.hdf5", energies, showers)

    def text(self, name: str, content: str) -> Path:
        """A text file with such content."""
        path = self.folder / name
        path.write_text(content, encoding="utf-8")
        return path

    def train(self, *settings: str, data: Path | str | None = None, out: str = "out") -> list[str]:
        """A command that trains into a folder that is not there yet."""
        given = [f"data.train={data or self.showers}", "data.energy_max_mev=1e5", "training.batch_size=16", *settings]
        return ["train", "--out", str(self.folder / out), *(word for text in given for word in ("--set", text))]

    def generate(self, *options: str, run: Path | None = None, energies: str = "2000,3000") -> list[str]:
        """A command that generates a few showers."""
        out = [] if "--out" in options else ["--out", str(self.folder / "out.hdf5")]
        return ["generate", str(run or self.materials.finished), "--energies", energies, *out, *options]


def missing_file(bench: Bench) -> list[str]:
    return bench.train(data="nowhere.hdf5")


def not_hdf5(bench: Bench) -> list[str]:
    return bench.train(data=bench.text("text.hdf5", "energy,shower\n1,2\n"))


def truncated_hdf5(bench: Bench) -> list[str]:
    path = bench.folder / "cut.hdf5"
    path.write_bytes(bench.showers.read_bytes()[:-5000])
    return bench.train(data=path)


def folder_instead_of_file(bench: Bench) -> list[str]:
    return bench.train(data=bench.folder)


def missing_field(bench: Bench) -> list[str]:
    path = bench.folder / "half.hdf5"
    with h5py.File(path, "w") as file:
        file["showers"] = np.ones((3, 6480))
    return bench.train(data=path)


def wrong_width(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    return bench.train(data=bench.file(energies, showers[:, :368]))


def nan_voxel(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    showers[3, 1000] = np.nan
    return bench.train(data=bench.file(energies, showers))


def negative_voxel(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    showers[3, 1000] = -0.1
    return bench.train(data=bench.file(energies, showers))


def voxel_above_incident_energy(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    showers[3, 1000] = 2 * energies[3, 0]
    return bench.train(data=bench.file(energies, showers))


def negative_incident_energy(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    energies[3] = -energies[3]
    return bench.train(data=bench.file(energies, showers))


def empty_shower(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    showers[3] = 0
    return bench.train(data=bench.file(energies, showers))


def gev_instead_of_mev(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    return bench.train(data=bench.file(energies / 1e3, showers / 1e3))


def too_few_showers(bench: Bench) -> list[str]:
    return bench.train("data.validation_fraction=0.3", data=bench.file(*bench.arrays(10)))


def existing_run(bench: Bench) -> list[str]:
    bench.run()
    return bench.train(out="finished")


def demo_over_another_run(bench: Bench) -> list[str]:
    return ["demo", "--out", str(bench.run())]


def resume_with_other_settings(bench: Bench) -> list[str]:
    return ["train", "--resume", str(bench.run("stopped")), "--set", "training.epochs=7"]


def damaged_checkpoint(bench: Bench) -> list[str]:
    path = bench.run("stopped") / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return ["train", "--resume", str(path.parent)]


def weights_as_checkpoint(bench: Bench) -> list[str]:
    run = bench.run("stopped")
    (run / "checkpoint.safetensors").write_bytes((bench.materials.finished / "autoencoder.safetensors").read_bytes())
    return ["train", "--resume", str(run)]


def checkpoint_of_another_configuration(bench: Bench) -> list[str]:
    run = bench.run("stopped")
    config = run / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("bits_per_level = 8", "bits_per_level = 6"))
    return ["train", "--resume", str(run)]


def damaged_configuration_of_a_run(bench: Bench) -> list[str]:
    run = bench.run("stopped")
    (run / "config.toml").write_text("[training]\nepochs = ", encoding="utf-8")
    return ["train", "--resume", str(run)]


def damaged_metrics(bench: Bench) -> list[str]:
    run = bench.run("stopped")
    (run / "metrics.jsonl").write_text("what\n", encoding="utf-8")
    return ["train", "--resume", str(run)]


def unfinished_run(bench: Bench) -> list[str]:
    return bench.generate(run=bench.run("stopped"))


def damaged_weights(bench: Bench) -> list[str]:
    run = bench.run()
    (run / "autoencoder.safetensors").write_bytes(b"nothing of use")
    return bench.generate(run=run)


def weights_of_another_configuration(bench: Bench) -> list[str]:
    run = bench.run()
    config = run / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("\nhidden = 16", "\nhidden = 20"), encoding="utf-8")
    return bench.generate(run=run)


def folder_in_the_way(bench: Bench) -> list[str]:
    (bench.folder / "out.hdf5").mkdir()
    return bench.generate()


def file_instead_of_folder(bench: Bench) -> list[str]:
    return bench.generate("--out", str(bench.text("file", "precious") / "out.hdf5"))


def run_below_a_file(bench: Bench) -> list[str]:
    bench.text("file", "precious")
    return bench.train(out="file/run")


def energies_file_without_energies(bench: Bench) -> list[str]:
    return bench.generate(energies=str(bench.text("energies.txt", "1000")))


def bits_of_another_latent(bench: Bench) -> list[str]:
    start = f"training.start_from={bench.run()}"
    return bench.train("training.mode=prior", "latent.bits_per_level=10", start)


def unreadable_working_graph(bench: Bench) -> list[str]:
    return bench.train(f"prior.missing={bench.text('chip.json', '{]')}")


def broken_settings_file(bench: Bench) -> list[str]:
    return [*bench.train(), "--config", str(bench.text("mine.toml", "[data\ntrain = 1"))]


def section_that_is_none(bench: Bench) -> list[str]:
    return [*bench.train(), "--config", str(bench.text("mine.toml", "data = 3"))]


def nan_in_a_file_to_reconstruct(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    showers[3, 1000] = np.nan
    path = bench.file(energies, showers)
    return ["reconstruct", str(bench.materials.finished), str(path), "--out", str(bench.folder / "out.hdf5")]


def evaluate(bench: Bench, generated: Path, *options: str, reference: Path | str | None = None) -> list[str]:
    """A command that compares a file with the held-out one, in a few numbers."""
    out = [] if "--out" in options else ["--out", str(bench.folder / "report")]
    return ["evaluate", str(reference or bench.showers), str(generated), "--metrics", "separation", *out, *options]


def with_fields(bench: Bench, **fields: Array) -> Path:
    path = bench.folder / "odd.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            file[name] = values
    return path


def evaluation_of_another_width(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    return evaluate(bench, bench.file(energies, showers[:, :368]))


def evaluation_of_incident_energies_in_gev(bench: Bench) -> list[str]:
    energies, showers = bench.arrays(120)
    return evaluate(bench, bench.file(energies / 1e3, showers))


def evaluation_of_voxels_in_gev(bench: Bench) -> list[str]:
    energies, showers = bench.arrays(120)
    return evaluate(bench, bench.file(energies, showers / 1e3))


def evaluation_with_both_in_gev(bench: Bench) -> list[str]:
    energies, showers = bench.arrays(120)
    path = bench.file(energies / 1e3, showers / 1e3)
    return evaluate(bench, bench.showers, reference=path)


def evaluation_of_nan(bench: Bench) -> list[str]:
    energies, showers = bench.arrays(120)
    showers[3, 1000] = np.nan
    return evaluate(bench, bench.file(energies, showers))


def evaluation_of_energies_out_of_range(bench: Bench) -> list[str]:
    energies, showers = bench.arrays(120)
    energies[5] *= 30
    return evaluate(bench, bench.file(energies, showers))


def evaluation_of_a_negative_energy(bench: Bench) -> list[str]:
    energies, showers = bench.arrays(120)
    energies[5] *= -1
    return evaluate(bench, bench.file(energies, showers))


def evaluation_without_energies(bench: Bench) -> list[str]:
    return evaluate(bench, with_fields(bench, showers=bench.arrays()[1]))


def evaluation_of_text_in_a_field(bench: Bench) -> list[str]:
    energies, _ = bench.arrays()
    return evaluate(bench, with_fields(bench, incident_energies=energies, showers=np.full((40, 6480), b"x")))


def evaluation_of_a_grid(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    return evaluate(bench, with_fields(bench, incident_energies=energies, showers=showers.reshape(-1, 45, 16, 9)))


def evaluation_of_unequal_lengths(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    return evaluate(bench, with_fields(bench, incident_energies=energies[:30], showers=showers))


def evaluation_of_no_showers(bench: Bench) -> list[str]:
    energies, showers = bench.arrays()
    return evaluate(bench, with_fields(bench, incident_energies=energies[:0], showers=showers[:0]))


def evaluation_of_a_cut_off_file(bench: Bench) -> list[str]:
    path = bench.folder / "cut.hdf5"
    path.write_bytes(bench.showers.read_bytes()[:-5000])
    return evaluate(bench, path)


def evaluation_into_a_file(bench: Bench) -> list[str]:
    return evaluate(bench, bench.showers, "--out", str(bench.text("file", "precious")))


def official_that_is_not(bench: Bench) -> list[str]:
    path = bench.file(*bench.arrays(120))
    return evaluate(bench, path, "--official", reference="bundled")


def compare(bench: Bench, *models: Path) -> list[str]:
    return ["compare", *map(str, models), "--reference", str(bench.showers), "--out", str(bench.folder / "report")]


def evaluation_of_equal_names(bench: Bench) -> list[str]:
    twice = [str(bench.showers), str(bench.showers)]
    return ["evaluate", str(bench.showers), *twice, "--out", str(bench.folder / "report")]


def evaluation_of_few(bench: Bench) -> list[str]:
    path = bench.file(*bench.arrays(20))
    return ["evaluate", str(bench.showers), str(path), "--out", str(bench.folder / "report")]


def offline(bench: Bench) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["data", "fetch", "ds2", "--out", str(bench.folder / "data"), "--base-url", f"http://127.0.0.1:{port}"]


Case = Callable[[Bench], list[str]]

CASES: dict[str, tuple[Case, str]] = {
    # shower files
    "missing file": (missing_file, "there is no file nowhere.hdf5"),
    "not HDF5": (not_hdf5, "is not an HDF5 file"),
    "truncated HDF5": (truncated_hdf5, "damaged or cut-off"),
    "folder instead of a file": (folder_instead_of_file, "is a folder"),
    "missing field": (missing_field, "no array 'incident_energies'"),
    "wrong width": (wrong_width, "368 voxels a shower"),
    "NaN": (nan_voxel, "1 nonfinite"),
    "negative voxel": (negative_voxel, "1 negative"),
    "voxel above the incident energy": (voxel_above_incident_energy, "1 voxel_above_incident_energy"),
    "negative incident energy": (negative_incident_energy, "1 bad_incident_energy"),
    "empty shower": (empty_shower, "1 empty showers"),
    "GeV instead of MeV": (gev_instead_of_mev, "energies are in MeV"),
    "too few showers": (too_few_showers, "10 showers are too few for batches of 16"),
    "irregular geometry": (lambda bench: bench.train("data.geometry=ds1-photons"), "needs a regular"),
    "unknown geometry": (lambda bench: bench.train("data.geometry=ds22"), "did you mean 'ds2'"),
    # settings
    "unknown preset": (lambda bench: [*bench.train(), "--config", "demmo"], "did you mean 'demo'"),
    "broken settings file": (broken_settings_file, "cannot read the configuration"),
    "section that is none": (section_that_is_none, "setting 'data'"),
    "unknown key": (lambda bench: bench.train("training.epoch=3"), "nearest one is 'training.epochs'"),
    "unknown section": (lambda bench: bench.train("trainig.epochs=3"), "nearest one is 'training.epochs'"),
    "wrong type": (lambda bench: bench.train("training.epochs=many"), "'training.epochs' = 'many'"),
    "out of range": (lambda bench: bench.train("training.batch_size=0"), "'training.batch_size' = 0"),
    "contradiction": (lambda bench: bench.train("latent.levels=4"), "do not fit together"),
    "override without =": (lambda bench: bench.train("training.epochs"), "is no setting"),
    "CUDA without CUDA": (lambda bench: bench.train("training.device=cuda"), "no CUDA device"),
    "prior without a start": (lambda bench: bench.train("training.mode=prior"), "needs training.start_from"),
    "bits of another latent": (bits_of_another_latent, "24 bits, the prior 30"),
    "patch larger than the chip": (
        lambda bench: bench.train("prior.size=1", "latent.bits_per_level=80"),
        "error: ",
    ),
    "unreadable working graph": (unreadable_working_graph, "chip.json"),
    "whole chip of no size": (lambda bench: bench.train("prior.whole_chip=true"), "needs prior.size"),
    # runs and checkpoints
    "existing run": (existing_run, "already holds a run"),
    "demo over another run": (demo_over_another_run, "already holds a run"),
    "resume of nothing": (lambda bench: ["train", "--resume", str(bench.folder)], "is no run directory"),
    "resume with other settings": (resume_with_other_settings, "another configuration"),
    "damaged checkpoint": (damaged_checkpoint, "checkpoint.safetensors is damaged"),
    "weights as checkpoint": (weights_as_checkpoint, "is no checkpoint"),
    "checkpoint of another configuration": (checkpoint_of_another_configuration, "do not fit"),
    "damaged configuration of a run": (damaged_configuration_of_a_run, "cannot be used"),
    "damaged metrics": (damaged_metrics, "metrics.jsonl is damaged"),
    "resume into another folder": (
        lambda bench: [*bench.train(), "--resume", str(bench.materials.stopped)],
        "leave out --out",
    ),
    "no folder": (lambda _: ["train"], "--out FOLDER"),
    # generation
    "unfinished run": (unfinished_run, "has not come that far"),
    "damaged weights": (damaged_weights, "autoencoder.safetensors is damaged"),
    "weights of another configuration": (weights_of_another_configuration, "do not fit its config.toml"),
    "folder in the way": (folder_in_the_way, "a folder of that name is in the way"),
    "file instead of a folder": (file_instead_of_folder, "cannot write"),
    "run below a file": (run_below_a_file, "cannot write"),
    "no showers": (lambda bench: bench.generate("--n", "0"), "ask for at least one"),
    "nonsense energies": (lambda bench: bench.generate(energies="a lot :x: [red]"), "'a lot :x: [red]'"),
    "energies in GeV": (lambda bench: bench.generate(energies="1:100:log"), "needs the number"),
    "energies out of range": (lambda bench: bench.generate(energies="1,100"), "energies are in MeV"),
    "energies file without energies": (energies_file_without_energies, "gives no incident energies"),
    "unknown prior": (lambda bench: bench.generate("--prior", "annealer"), "draws from boltzmann, independent"),
    "no sweeps": (lambda bench: bench.generate("--sweeps", "0"), "at least 1"),
    "generation on CUDA without CUDA": (lambda bench: bench.generate("--device", "cuda"), "no CUDA device"),
    "unknown device": (lambda bench: bench.generate("--device", "tpu"), "is not one of"),
    "NaN to reconstruct": (nan_in_a_file_to_reconstruct, "NaN or infinity"),
    # evaluation and downloads
    "report of no showers": (lambda bench: ["report", str(bench.run()), "--n", "0"], "ask for at least one"),
    "report of an unfinished run": (lambda bench: ["report", str(bench.run("stopped"))], "has not come that far"),
    "evaluation of equal names": (evaluation_of_equal_names, "the same name"),
    "evaluation of few": (evaluation_of_few, "showers"),
    "evaluation of another width": (evaluation_of_another_width, "368 voxels a shower"),
    "evaluation on another data set": (lambda b: evaluate(b, b.showers, "--dataset", "ds3"), "try geometry ds2"),
    "evaluation with a negative seed": (lambda b: evaluate(b, b.showers, "--seed", "-1"), "greater than or equal to 0"),
    "evaluation on an unknown data set": (lambda b: evaluate(b, b.showers, "--dataset", "ds22"), "did you mean"),
    "evaluation of energies in GeV": (evaluation_of_incident_energies_in_gev, "look like GeV"),
    "evaluation of voxels in GeV": (evaluation_of_voxels_in_gev, "look like GeV"),
    "evaluation with a reference in GeV": (evaluation_with_both_in_gev, "they look like GeV"),
    "evaluation of NaN": (evaluation_of_nan, "NaN or infinite voxels"),
    "evaluation out of range": (evaluation_of_energies_out_of_range, "1 showers with incident energies outside"),
    "evaluation of a negative energy": (evaluation_of_a_negative_energy, "incident energies that are not positive"),
    "evaluation without energies": (evaluation_without_energies, "no array 'incident_energies'"),
    "evaluation of text": (evaluation_of_text_in_a_field, "must be real numbers"),
    "evaluation of a grid": (evaluation_of_a_grid, "must be (showers, voxels)"),
    "evaluation of unequal lengths": (evaluation_of_unequal_lengths, "30 incident energies for 40 showers"),
    "evaluation of no showers": (evaluation_of_no_showers, "holds no showers"),
    "evaluation of a cut-off file": (evaluation_of_a_cut_off_file, "damaged or cut-off"),
    "evaluation of nothing": (lambda b: evaluate(b, b.folder / "none.hdf5"), "there is no file"),
    "evaluation into a file": (evaluation_into_a_file, "cannot write"),
    "evaluation of unknown metrics": (
        lambda b: evaluate(b, b.showers, "--metrics", "separation,fdp"),
        "no metrics 'fdp'",
    ),
    "evaluation by unknown classifiers": (
        lambda b: evaluate(b, b.showers, "--classifiers", "fast"),
        "classifiers cannot be 'fast'",
    ),
    "evaluation on CUDA without CUDA": (lambda b: evaluate(b, b.showers, "--device", "cuda"), "no device 'cuda'"),
    "official reference that is not": (official_that_is_not, "says of itself"),
    "comparison of a folder": (lambda b: compare(b, b.folder), "is no run directory"),
    "comparison of a run without showers": (lambda b: compare(b, b.run()), "no generated showers yet"),
    "comparison of equal names": (lambda b: compare(b, b.showers, b.showers), "the same name"),
    "comparison without a reference": (
        lambda b: ["compare", str(b.showers), "--out", str(b.folder / "report")],
        "--reference",
    ),
    "unknown data set": (lambda _: ["data", "fetch", "ds7"], "choose among"),
    "offline": (offline, "is there a network"),
    "info on nothing": (lambda _: ["data", "info", "nowhere.hdf5"], "there is no file"),
    # the command line itself
    "no number": (lambda bench: bench.generate("--n", "many"), "--n"),
    "unknown option": (lambda bench: bench.generate("--energy", "1"), "--energy"),
    "unknown command": (lambda _: ["trian"], "trian"),
    "missing argument": (lambda _: ["generate"], "--help tells more"),
}


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    folder = tmp_path_factory.mktemp("materials")
    showers = tiny_file(folder)
    config = tiny_config(showers, {"prior.updates": 20})
    train(config, folder / "finished")
    with pytest.raises(InterruptionError):
        train(config, folder / "stopped", report=stop_at("networks", 4))
    return Materials(showers, folder / "finished", folder / "stopped")


@pytest.fixture
def bench(materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Bench(tmp_path, materials)


@pytest.fixture
def complaint(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], str]:
    """Runs the command as its entry point does; gives the one line that users see and checks all that must hold."""

    def run(arguments: list[str]) -> str:
        before = contents(bench.folder), contents(bench.materials.finished.parent)
        monkeypatch.setattr(sys, "argv", ["calo4pqvae", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        seen = capsys.readouterr()
        assert left.value.code == 2, seen.err
        assert seen.err.startswith("error: "), seen.err
        assert seen.err.count("\n") == 1, seen.err
        assert seen.err.endswith("\n")
        assert (contents(bench.folder), contents(bench.materials.finished.parent)) == before
        return seen.err

    return run


@pytest.mark.parametrize(("case", "told"), CASES.values(), ids=CASES.keys())
def test_one_line_and_nothing_harmed(
    case: Case, told: str, bench: Bench, complaint: Callable[[list[str]], str]
) -> None:
    line = complaint(case(bench))
    assert told in line
    assert "Traceback" not in line


def test_batch_that_processes_cannot_share(
    bench: Bench, complaint: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "shared evenly by 3 processes" in complaint(bench.train())


def test_interrupted_download_is_told_and_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    out = bench.folder / "data"
    with RecordServer() as server:
        server.break_at = 1_000_000
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        asked = ["data", "fetch", "ds1-photons", "--out", str(out), "--base-url", server.url]
        monkeypatch.setattr(sys, "argv", ["calo4pqvae", *asked])
        with pytest.raises(SystemExit) as left:
            main()
        server.shutdown()
        thread.join()
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert "fetch again to go on from there" in line
    assert line.count("\n") == 1
    assert {name: len(content) for name, content in contents(out).items()} == {
        "dataset_1_photons_1.hdf5.part": 1_000_000
    }


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 60 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_in_generation(bench: Bench, complaint: Callable[[list[str]], str]) -> None:
    bench.text("out.hdf5", "an earlier file")
    with full_disk():
        line = complaint(bench.generate("--n", "500", energies="90000"))
    assert "File too large" in line


def test_full_disk_in_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = bench.run("stopped")
    before = contents(run)
    monkeypatch.setattr(sys, "argv", ["calo4pqvae", "train", "--resume", str(run)])
    with full_disk(), pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: cannot write ")
    assert line.count("\n") == 1
    after = contents(run)
    assert after["checkpoint.safetensors"] == before["checkpoint.safetensors"]
    assert after.keys() == before.keys() | {"provenance.json"}
