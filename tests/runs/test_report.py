"""The report of a run: samples, numbers and page of a tiny model, beside showers that it never saw."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console

from calo4pqvae.cli.summary import print_summary
from calo4pqvae.models.qvae.trained import TrainedModel, as_qvae
from calo4pqvae.runs.generation import load_model
from calo4pqvae.runs.report import RunReport, report_run
from calo4pqvae.runs.training import train
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import contents, tiny_config, tiny_file

N_GENERATED, N_HELDOUT, SEED = 150, 130, 3
SAMPLES = {name: source.title for name, source in TrainedModel.sources.items()}


@pytest.fixture(scope="module")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("heldout"), N_HELDOUT, "heldout")


@pytest.fixture(scope="module")
def run(heldout: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("run")
    return train(tiny_config(tiny_file(folder), {"data.heldout": str(heldout)}), folder / "run")


@pytest.fixture(scope="module")
def reported(run: RunDirectory) -> tuple[RunReport, list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    result = report_run(run.path, n_generated=N_GENERATED, seed=SEED, progress=lambda *step: told.append(step))
    return result, told


def sample(run: RunDirectory, kind: str) -> dict[str, Any]:
    with h5py.File(run.path / f"{kind}.hdf5", "r") as file:
        return {name: file[name][:] for name in ("incident_energies", "showers")} | dict(file.attrs)


def test_three_samples_are_written_and_compared(
    run: RunDirectory, heldout: Path, reported: tuple[RunReport, list[tuple[str, int, int]]]
) -> None:
    result, told = reported
    boltzmann, independent, decoded = (sample(run, kind) for kind in SAMPLES)
    assert boltzmann["showers"].shape == independent["showers"].shape == (N_GENERATED, 6480)
    np.testing.assert_array_equal(boltzmann["incident_energies"], independent["incident_energies"])
    assert not np.array_equal(boltzmann["showers"], independent["showers"])
    with h5py.File(heldout, "r") as file:
        np.testing.assert_array_equal(decoded["incident_energies"], file["incident_energies"][:])
    made_by = [piece["prior"].split()[0] for piece in (boltzmann, independent, decoded)]
    assert made_by == ["boltzmann", "independent", "posterior"]
    assert result.evaluation.found.main == SAMPLES["boltzmann"]
    done = {name: (done, total) for name, done, total in told}
    assert done[SAMPLES["boltzmann"]] == (N_GENERATED, N_GENERATED)
    assert done[SAMPLES["reconstruction"]] == (N_HELDOUT, N_HELDOUT)
    assert any(name.startswith("features of") for name in done)


def test_page_and_numbers(run: RunDirectory, reported: tuple[RunReport, list[tuple[str, int, int]]]) -> None:
    result, _ = reported
    page = result.evaluation.report.read_text(encoding="utf-8")
    assert result.evaluation.report == run.path / "report.html"
    for name in (*SAMPLES.values(), "Geant4"):
        assert name in page
    assert "http-equiv" not in page
    assert 'src="http' not in page
    assert str(run.path.parent) not in page.replace(str(run.config().data.train), "").replace(
        str(run.config().data.heldout), ""
    )
    numbers = json.loads(result.evaluation.metrics.read_text(encoding="utf-8"))
    assert numbers
    assert "NaN" not in result.evaluation.metrics.read_text(encoding="utf-8")
    [export] = [row for row in run.metrics() if row["stage"] == "export"]
    assert result.information == (export["information"], export["information_error"])
    assert result.showers_per_second > 0


@pytest.mark.slow
def test_report_is_reproducible(run: RunDirectory, reported: tuple[RunReport, list[tuple[str, int, int]]]) -> None:
    assert reported
    before = {kind: sample(run, kind)["showers"] for kind in SAMPLES}
    numbers = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    weights = {name: content for name, content in contents(run.path).items() if name.endswith(".safetensors")}
    report_run(run.path, n_generated=N_GENERATED, seed=SEED, progress=lambda *_: None)
    for kind, showers in before.items():
        np.testing.assert_array_equal(sample(run, kind)["showers"], showers)
    again = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    assert without_rates(again) == without_rates(numbers)
    assert {name: content for name, content in contents(run.path).items() if name in weights} == weights


def without_rates(numbers: Any) -> Any:
    """Numbers without showers per second and times of steps, which are never the same."""
    if isinstance(numbers, dict):
        kept = {key: value for key, value in numbers.items() if "per second" not in key and key != "seconds"}
        return {key: without_rates(value) for key, value in kept.items()}
    return numbers


def test_latent_energies_are_those_of_the_formula(run: RunDirectory, heldout: Path) -> None:
    """The mean over many sampled states agrees with a sum over couplers written out here."""
    model = as_qvae(load_model(run.path))
    latent = model.latent_states(heldout, SEED)
    found = latent.energies
    assert {name: len(values) for name, values in found.items()} == {"encoded": N_HELDOUT, "sampled": N_HELDOUT}
    assert all(np.isfinite(values).all() for values in found.values())
    machine = model.prior.machine
    incident = torch.full((50, 1), 2e4)
    bits = model.draw_bits(incident, "boltzmann", 5, torch.Generator().manual_seed(1))
    states = model.prior.states(bits, incident).double().numpy()
    biases, couplings = machine.biases.detach().double().numpy(), machine.couplings.detach().double().numpy()
    expected = -(states @ biases)
    for (first, second), coupling in zip(machine.topology.edges.tolist(), couplings, strict=True):
        expected -= coupling * states[:, first] * states[:, second]
    np.testing.assert_allclose(model.prior.energy(bits, incident).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("reported")
def test_latent_bits_of_encoder_and_priors_are_compared(run: RunDirectory, heldout: Path) -> None:
    """The numbers of the page are Frobenius distances of correlation matrices, written out here with NumPy."""
    bits = load_model(run.path).latent_states(heldout, SEED).bits
    assert list(bits) == ["encoded", "Boltzmann prior", "independent bits"]
    assert len({values.tobytes() for values in bits.values()}) == 3
    told = json.loads((run.path / "metrics.json").read_text())["sections"]["training"]["correlations of latent bits"]
    assert list(told) == ["Boltzmann prior", "independent bits"]
    for name, found in told.items():
        expected = np.linalg.norm(correlations_of(bits["encoded"]) - correlations_of(bits[name]))
        assert found["distance"]["value"] == pytest.approx(expected, rel=1e-4)
    assert "Frobenius distance between the correlation matrices" in (run.path / "report.html").read_text()


def correlations_of(bits: Any) -> Any:
    """Pearson correlations between bits; none with a bit that never changes."""
    values = bits.astype(np.float64)
    spread = values.std(axis=0)
    standard = np.where(spread > 0, (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
    return standard.T @ standard / len(values)


def test_summary_prints_table_prior_and_place(
    reported: tuple[RunReport, list[tuple[str, int, int]]], run: RunDirectory
) -> None:
    result, _ = reported
    console = Console(width=160, record=True, quiet=False, file=io.StringIO())
    print_summary(console, result.evaluation, (19.9, 0.1))
    text = console.export_text()
    assert "FAIL: posterior bits carry 19.9 ± 0.1 nats" in text
    assert "What the prior is worth" in text
    assert f"report: {run.path / 'report.html'}" in text
    print_summary(console, result.evaluation, (20.1, 0.1))
    assert "pass: posterior bits carry 20.1 ± 0.1 nats" in console.export_text()
    print_summary(console, result.evaluation, None)
    assert "posterior bits carry" not in console.export_text()
