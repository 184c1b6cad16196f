"""Showers from annealer reads: what is asked for is what is written, the file says so, and nothing is paid twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from calo4pqvae.annealed.decoding import decode_bits
from calo4pqvae.annealed.generation import AnnealerGeneration, annealer_folder, draw_annealed_bits, generate_by_annealer
from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.annealer.calls.ledger import Ledger, SpendingLimitError
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.cli.main import app
from calo4pqvae.errors import AnnealerError, CaloError, ConfigError, DataError, OutputError
from calo4pqvae.models.qvae.trained import TrainedModel, as_qvae
from calo4pqvae.runs.generation import load_model
from calo4pqvae.runs.training import train
from calo4pqvae.seeds import stream
from tests.small_runs import environment, tiny_config, tiny_file

Command = Callable[..., str]
WHOLE = "emulator:advantage2:2:whole"


def trained(folder: Path, mode: str) -> Path:
    changes = {"prior.graph": "zephyr", "prior.size": 2, "condition.mode": mode, "training.epochs": 1}
    changes["prior.start"] = "independent"  # bits that are nearly certain would have no error to count in
    return train(
        tiny_config(tiny_file(folder), changes | {"latent.levels": 3 if mode == "clamp" else 4}), folder / "run"
    ).path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("clamp"), "clamp")


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("fold"), "fold")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs ``generate``; gives what it prints and raises what it raises."""
    monkeypatch.setenv("COLUMNS", "200")

    def go(where: Path, *arguments: object, out: str = "out.hdf5") -> str:
        words = ["generate", where, "--out", tmp_path / out, *arguments]
        result = CliRunner().invoke(app, [str(word) for word in words], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.output

    return go


BY_ANNEALER = ("--sampler", "annealer", "--annealer", WHOLE, "--energies", "1000,10000,100000", "-n", 60)


@pytest.mark.parametrize("condition", ["fold", "flux", "fields"])
def test_the_file_says_where_its_bits_are_from(command: Command, run: Path, tmp_path: Path, condition: str) -> None:
    told = command(run, *BY_ANNEALER, "--condition", condition, "--mode", "ideal", "--polish", 0)
    with h5py.File(tmp_path / "out.hdf5") as file:
        energies, showers, said = file["incident_energies"][:, 0], file["showers"][:], dict(file.attrs)
    np.testing.assert_allclose(energies, np.tile([1e3, 1e4, 1e5], 20))
    assert showers.shape == (60, 6480)
    assert (showers.sum(axis=1) > 0).all()
    assert said["emulated"]
    assert said["annealer"] == "emulated-Advantage2_system1"
    expected = {"sampler": "annealer", "annealer_mode": "ideal", "protocol": "same-reads", "condition": condition}
    assert {key: said[key] for key in expected} == expected
    assert (said["polish_sweeps"], said["clamp_failure_rate"], said["bins"]) == (0, 0, "none")
    assert said["beta"] == pytest.approx(8.93, rel=0.3)
    ledger = Ledger(tmp_path / "out.hdf5.annealer" / "ledger.jsonl", is_emulated=True)
    assert (said["programmings"], said["reads"]) == (ledger.programmings, ledger.reads)
    assert said["access_seconds"] == pytest.approx(ledger.access_seconds)
    for words in (
        "60 showers in",
        "3 conditions, polish of 0 sweeps",
        f"condition by {condition}",
        "emulated access time",
    ):
        assert words in told
    assert ("8 bits held on the chip, 0 of" in told) == (condition != "fold")


def test_the_same_command_goes_on_and_pays_nothing(command: Command, run: Path, tmp_path: Path) -> None:
    with pytest.raises(SpendingLimitError, match=r"pass the limit of 0\.07 s"):
        command(run, *BY_ANNEALER, "--limit", 0.07)
    folder = tmp_path / "out.hdf5.annealer"
    kept = {path.name: path.read_bytes() for path in (folder / "reads").glob("*.hdf5")}
    assert kept
    assert not (tmp_path / "out.hdf5").exists()
    command(run, *BY_ANNEALER)
    for name, content in kept.items():
        assert (folder / "reads" / name).read_bytes() == content
    spent = Ledger(folder / "ledger.jsonl", is_emulated=True).totals
    assert spent.faults == 0
    with h5py.File(tmp_path / "out.hdf5") as file:
        before = file["showers"][:]
    (tmp_path / "out.hdf5").unlink()
    command(run, *BY_ANNEALER)
    with h5py.File(tmp_path / "out.hdf5") as file:
        np.testing.assert_array_equal(file["showers"][:], before)
    assert Ledger(folder / "ledger.jsonl", is_emulated=True).totals == spent


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--condition", "flux"), "begun with condition = 'fold', not 'flux'"),
        (("--protocol", "tracked"), "begun with protocol = 'same-reads', not 'tracked'"),
        (("--mode", "stress"), "begun with mode = 'calibrated', not 'stress'"),
        (("--polish", 3), "begun with polish_sweeps = 10, not 3"),
        (("--seed", 9), "begun with seed = 1, not 9"),
        (("-n", 30), "begun with energies = '1000 to 100000 MeV .*', not|begun with showers = 60, not 30"),
        (("--energies", "1000,10000,99000"), "begun with energies = '1000 to 100000 MeV .*', not '1000 to 99000 MeV"),
        (("--annealer", "emulator:Advantage2_system2:2:whole"), "begun with annealer = 'emulated-Advantage2_system1'"),
    ],
)
def test_other_work_in_the_folder_is_refused(
    command: Command, run: Path, changed: tuple[object, ...], told: str
) -> None:
    command(run, *BY_ANNEALER)
    with pytest.raises(AnnealerError, match=told):
        command(run, *BY_ANNEALER, *changed)


def bits_of(
    model: TrainedModel, folder: Path, energies: torch.Tensor, chip: str = WHOLE, **settings: Any
) -> tuple[torch.Tensor, Any]:
    annealer = open_annealer(chip, seed=4, mode="ideal", ledger=folder / "ledger.jsonl")
    chosen = AnnealerGeneration(correction="none", **settings)
    return draw_annealed_bits(model, annealer, energies, folder, seed=1, settings=chosen)


def deviate(model: TrainedModel, ours: torch.Tensor, energies: torch.Tensor, row: int) -> float:
    """Largest deviation of bit means at one of two energies that take turns from Gibbs sampling, in errors."""
    classical = model.prior.sample(energies, 200, stream(1, "classical"))
    means = ours[row::2].mean(dim=0), classical[row::2].mean(dim=0)
    error = torch.sqrt((means[1] * (1 - means[1])).clamp(min=1e-6) * 2 / (len(energies) / 2))
    return float(((means[0] - means[1]).abs() / error).max())


@pytest.mark.parametrize(
    ("chip", "settings"),
    [
        (WHOLE, {"condition": "fold"}),
        (WHOLE, {"condition": "flux"}),
        (WHOLE, {"condition": "fields"}),
        ("emulator:advantage2:5:whole", {"condition": "flux"}),  # moved to a larger chip
        ("emulator:advantage2:5:whole", {"protocol": "tiled", "reads_per_call": 200}),
    ],
)
def test_bits_agree_with_classical_sampling_of_the_same_prior(
    run: Path, tmp_path: Path, chip: str, settings: dict[str, Any]
) -> None:
    model = as_qvae(load_model(run))
    couplings = stream(1, "couplings")
    model.prior.machine.initialise(torch.full((model.prior.machine.n_nodes,), 0.5), 0.6, couplings)
    energies = torch.tensor([[2e3], [5e4]]).repeat(2000, 1)
    ours, _ = bits_of(model, tmp_path, energies, chip, **settings)
    assert max(deviate(model, ours, energies, row) for row in (0, 1)) < 4.5
    assert deviate(model, ours.roll(1, dims=0), energies, 0) > 6  # energies are told apart


def test_a_machine_with_a_folded_condition(folded: Path, tmp_path: Path) -> None:
    model = as_qvae(load_model(folded))
    energies = torch.tensor([[2e3], [5e4]]).repeat(1000, 1)
    ours, report = bits_of(model, tmp_path, energies)
    assert max(deviate(model, ours, energies, row) for row in (0, 1)) < 4.5
    assert report["n_conditions"] == 2
    side_by_side = {"protocol": "tiled", "reads_per_call": 200}
    ours, report = bits_of(model, tmp_path / "tiled", energies, "emulator:advantage2:5:whole", **side_by_side)
    assert max(deviate(model, ours, energies, row) for row in (0, 1)) < 4.5
    assert report["tiles"]["copies"] > 2
    with pytest.raises(AnnealerError, match="takes its condition as fields, no bit is held; use --condition fold"):
        bits_of(model, tmp_path / "other", energies, condition="flux")


def test_energies_with_one_code_share_a_programming_and_bins_share_more(run: Path, tmp_path: Path) -> None:
    model = as_qvae(load_model(run))
    energies = torch.linspace(7.0, 11.5, 90).exp()[:, None]
    n_codes = len(torch.unique(model.prior.code.encode(energies), dim=0))
    _, plain = bits_of(model, tmp_path / "plain", energies)
    _, binned = bits_of(model, tmp_path / "binned", energies, bins=0.5)
    assert plain["n_conditions"] == n_codes
    assert plain["bins"] is None
    assert binned["n_conditions"] <= binned["bins"]["bins"] < n_codes
    assert 0 < binned["bins"]["largest_shift"] <= 0.5
    assert 0 < binned["bins"]["share_with_another_condition"] < 1


def test_requests_keep_their_order(run: Path, tmp_path: Path) -> None:
    """Showers of shuffled energies are as bright as their own energy says."""
    model = as_qvae(load_model(run))
    energies = torch.tensor([[1e3], [1e5]]).repeat(100, 1)[torch.randperm(200, generator=stream(1, "order"))]
    out = tmp_path / "out.hdf5"
    annealer = open_annealer(WHOLE, seed=4, mode="ideal", ledger=annealer_folder(out) / "ledger.jsonl")
    made = generate_by_annealer(model, annealer, energies, out, seed=1)
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["incident_energies"][:], energies.numpy())
        totals = file["showers"][:].sum(axis=1)
    assert np.corrcoef(np.log(totals), np.log(energies[:, 0].numpy()))[0, 1] > 0.8
    assert json.loads((annealer_folder(out) / "report.json").read_text()) == json.loads(json.dumps(made.report))


def test_copies_side_by_side(command: Command, run: Path, tmp_path: Path) -> None:
    """By default on the whole chip; every shower has a place and a programming of its own, or as many as asked for."""
    words = ("--sampler", "annealer", "--protocol", "tiled", "--energies", "1000,10000,100000", "-n", 60)
    told = command(run, *words, "--prune")
    report = json.loads((tmp_path / "out.hdf5.annealer" / "report.json").read_text())
    copies = report["tiles"]["copies"]
    assert copies > 20
    assert f"copies of the machine side by side: {copies}, {report['tiles']['whole']} of them whole" in told
    assert report["ledger"]["programmings"] - -(-60 // copies) in (0, 1)  # one may have been made again
    assert [row["n_reads"] for row in report["betas"]] == [1] * 60
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert (file.attrs["protocol"], file.attrs["emulated"]) == ("tiled", True)
        assert "copies lack" in file.attrs["left_out"]
        np.testing.assert_allclose(file["incident_energies"][:, 0], np.tile([1e3, 1e4, 1e5], 20))
    words = (*words, "--annealer", "emulator:advantage2:5:whole")
    told = command(run, *words, "--reads-per-call", 4, out="whole.hdf5")
    report = json.loads((tmp_path / "whole.hdf5.annealer" / "report.json").read_text())
    assert report["tiles"]["whole"] == report["tiles"]["copies"] == report["tiles"]["places"]
    assert "of them whole\n" in told
    assert {row["n_reads"] for row in report["betas"]} == {4}
    with pytest.raises(AnnealerError, match="copies side by side take folded conditions"):
        command(run, *words, "--condition", "flux", out="flux.hdf5")


def test_copies_gone_on_with_are_those_of_one_go(command: Command, run: Path, tmp_path: Path) -> None:
    words = (*BY_ANNEALER[:3], "emulator:advantage2:5:whole", *BY_ANNEALER[4:], "--protocol", "tiled")
    command(run, *words)
    with pytest.raises(SpendingLimitError, match="pass the limit"):
        command(run, *words, "--limit", 0.08, out="parts.hdf5")
    command(run, *words, out="parts.hdf5")
    with h5py.File(tmp_path / "out.hdf5") as whole, h5py.File(tmp_path / "parts.hdf5") as parts:
        assert whole.attrs["programmings"] == parts.attrs["programmings"] > 3
        np.testing.assert_array_equal(whole["showers"][:], parts["showers"][:])


def test_few_whole_copies_are_refused_before_anything_is_paid(run: Path, tmp_path: Path) -> None:
    ideal = open_annealer("emulator:advantage2:5:whole", seed=4)
    kept = np.random.default_rng(1).choice(ideal.nodelist, len(ideal.nodelist) * 90 // 100, replace=False)
    annealer = open_annealer(
        Emulator("advantage2", seed=4, m=5, nodelist=kept.tolist()), ledger=tmp_path / "ledger.jsonl"
    )
    settings = AnnealerGeneration(protocol="tiled")
    told = r"only \d+ of \d+ copies of the machine would be whole .* leave out what is gone \(--prune\)"
    with pytest.raises(AnnealerError, match=told):
        draw_annealed_bits(
            as_qvae(load_model(run)), annealer, torch.tensor([[1e4]]), tmp_path, seed=1, settings=settings
        )
    assert annealer.ledger.calls == ()


def test_one_shower(command: Command, run: Path, tmp_path: Path) -> None:
    words = ("--sampler", "annealer", "--annealer", WHOLE, "--energies", "5000", "-n", 1)
    assert "+- unknown), " in command(run, *words)
    assert json.loads((tmp_path / "out.hdf5.annealer" / "report.json").read_text())["polish"]["n_reads"] == 1


def test_a_folder_in_the_way_costs_nothing(command: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "out.hdf5").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        command(run, *BY_ANNEALER)
    assert Ledger(tmp_path / "out.hdf5.annealer" / "ledger.jsonl", is_emulated=True).calls == ()


def test_samples_may_be_spread_over_programmings(command: Command, run: Path, tmp_path: Path) -> None:
    command(run, *BY_ANNEALER, "--reads-per-call", 5)
    report = json.loads((tmp_path / "out.hdf5.annealer" / "report.json").read_text())
    assert [row["n_reads"] for row in report["betas"]] == [5] * 12


def test_what_is_gone_is_refused_or_pruned_and_told(command: Command, run: Path, tmp_path: Path) -> None:
    broken = ("--sampler", "annealer", "--energies", "1000,10000", "-n", 20)
    with pytest.raises(AnnealerError, match=r"the working graph lacks .* prune the machine \(--prune\)"):
        command(run, *broken)
    assert "pruned: " in command(run, *broken, "--prune")
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert "are gone" in file.attrs["left_out"]


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (("--mode", "ideal"), ConfigError, "--mode is for --sampler annealer"),
        (("--prune",), ConfigError, "--prune is for --sampler annealer"),
        (("--reads-per-call", 3), ConfigError, "--reads-per-call is for --sampler annealer"),
        (("--sampler", "annealer", "--reads-per-call", -1), ConfigError, "--reads-per-call -1 is too few"),
        (("--sampler", "annealer", "--annealer", "emulator:advantage4"), AnnealerError, "does not fit a pegasus graph"),
        (("--sampler", "annealer", "--sweeps", 3), ConfigError, "are for --sampler gibbs"),
        (("--sampler", "annealer", "--prior", "independent"), ConfigError, "are for --sampler gibbs"),
        (("--sampler", "annealer", "--polish", -1), ConfigError, "--polish -1 is too few"),
        (("--sampler", "annealer", "--annealer", WHOLE, "--bins", -0.1), AnnealerError, "a shift of -0.1"),
        (("--sampler", "annealer", "--annealer", "emulator:none"), AnnealerError, "there is no chip 'none'"),
        (("--sampler", "annealer", "--limit", -1), AnnealerError, "a spending limit of -1"),
    ],
)
def test_bad_words(command: Command, run: Path, words: tuple[object, ...], kind: type[CaloError], told: str) -> None:
    with pytest.raises(kind, match=told):
        command(run, "--energies", "1000", "-n", 3, *words)


def test_several_processes_are_refused(run: Path, tmp_path: Path) -> None:
    model, out = as_qvae(load_model(run)), tmp_path / "out.hdf5"
    annealer = open_annealer(WHOLE, seed=4, ledger=annealer_folder(out) / "ledger.jsonl")
    with environment(RANK="0", WORLD_SIZE="2"), pytest.raises(ConfigError, match="without torchrun"):
        generate_by_annealer(model, annealer, torch.tensor([[1e3]]), out, seed=1)
    assert annealer.ledger.calls == ()


def test_bits_of_another_shape_are_not_decoded(run: Path, tmp_path: Path) -> None:
    model = as_qvae(load_model(run))
    with pytest.raises(DataError, match="give one row a shower"):
        decode_bits(model, torch.tensor([[1e3]]), torch.zeros(1, 3), tmp_path / "out.hdf5", seed=1, attributes={})
