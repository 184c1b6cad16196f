"""From files to a report, and the errors on the way."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from calo4pqvae.errors import DataError, OutputError
from calo4pqvae.evaluation import compare
from calo4pqvae.evaluation.compare import evaluate_files, example_shower
from calo4pqvae.evaluation.pages.page import Section, paragraph
from calo4pqvae.evaluation.pages.report import ReportExtras
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.showers.files import content_hash
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.testing import synthetic_showers

BARE = RefereeSettings(groups=())


def write(path: Path, energies: np.ndarray, showers: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, showers
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny: Geometry) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        name: write(folder / f"{name}.hdf5", *synthetic_showers(tiny, 400, seed))
        for seed, name in enumerate(("reference", "model"))
    }


def test_report_from_files(
    files: dict[str, Path], tiny: Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ReportExtras] = []

    def build(out: Path, *arguments: object) -> Path:
        seen.append(arguments[-1])  # type: ignore[arg-type]
        return out / "report.html"

    monkeypatch.setattr(compare, "build_report", build)
    steps: list[tuple[str, int, int]] = []
    result = evaluate_files(
        files["reference"],
        {"model": files["model"]},
        tiny,
        tmp_path,
        settings=BARE,
        progress=lambda *step: steps.append(step),
    )
    assert result.report == tmp_path / "report.html"
    assert result.metrics == tmp_path / "metrics.json"
    assert result.found.warnings == ()
    assert result.summary.startswith("400 showers of model against 400 Geant4 showers")
    assert steps == [("Geant4", 400, 400), ("model", 400, 400)]
    assert {name: len(showers) for name, showers in seen[0].examples.items()} == {"Geant4": 4, "model": 4}


def test_nearest_shower_is_drawn(files: dict[str, Path], tiny: Geometry) -> None:
    energies, showers = synthetic_showers(tiny, 400, 1)
    found = example_shower(files["model"], tiny, 2e4)
    row = np.argmin(np.abs(np.log(energies[:, 0] / 2e4)))
    assert found.incident_energy == pytest.approx(energies[row, 0])
    np.testing.assert_allclose(found.voxels, showers[row])


def bad_files(folder: Path, tiny: Geometry) -> dict[str, tuple[Path, str]]:
    energies, showers = synthetic_showers(tiny, 150, 5)
    nan = showers.copy()
    nan[3, 3] = np.nan
    return {
        "missing": (folder / "missing.hdf5", "missing"),
        "empty": (write(folder / "empty.hdf5", energies[:0], showers[:0]), "no showers"),
        "width": (write(folder / "width.hdf5", energies, showers[:, 1:]), "voxels"),
        "few": (write(folder / "few.hdf5", energies[:99], showers[:99]), "only 99 showers"),
        "nan": (write(folder / "nan.hdf5", energies, nan), "NaN"),
        "gev": (write(folder / "gev.hdf5", energies / 1e3, showers / 1e3), "in MeV"),
        "range": (write(folder / "range.hdf5", energies * 30, showers * 30), "outside"),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "width", "few", "nan", "gev", "range"])
def test_unusable_files_are_one_sentence(kind: str, files: dict[str, Path], tiny: Geometry, tmp_path: Path) -> None:
    path, message = bad_files(tmp_path, tiny)[kind]
    out = tmp_path / "out"
    with pytest.raises(DataError, match=message) as caught:
        evaluate_files(files["reference"], {"the model": path}, tiny, out, settings=BARE)
    assert "the model" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_doubts_stand_on_the_page_and_in_the_numbers(
    files: dict[str, Path], tiny: Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section in (
        "_energies_section",
        "_shapes_section",
        "_prior_section",
        "_pictures_section",
    ):  # spare their figures
        monkeypatch.setattr(
            f"calo4pqvae.evaluation.pages.report.{section}", lambda *_, name=section: Section(name, name, paragraph(""))
        )
    energies, showers = synthetic_showers(tiny, 400, 8)
    showers = showers.copy()
    showers[0, 0] = -1.0
    showers[1:4] = showers[4]
    shuffled = write(tmp_path / "odd.hdf5", energies[::-1], showers)
    samples = {"odd": shuffled, "twice": files["reference"]}
    result = evaluate_files(files["reference"], samples, tiny, tmp_path / "out", settings=BARE)
    page = result.report.read_text(encoding="utf-8")
    numbers = json.loads(result.metrics.read_text(encoding="utf-8"))
    assert numbers["warnings"] == list(result.found.warnings)
    for told in (
        "twice is the same file as the reference",
        "The showers of odd do not follow their incident energies",
        "3 showers of odd are copies",
        "1 showers of odd hold negative voxels",
    ):
        assert f"Warning: {told}" in page
        assert any(warning.startswith(told) for warning in result.found.warnings)


def test_provenance_stands_on_the_page_and_in_the_numbers(
    files: dict[str, Path], tiny: Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section in (
        "_energies_section",
        "_shapes_section",
        "_prior_section",
        "_pictures_section",
    ):  # spare their figures
        monkeypatch.setattr(
            f"calo4pqvae.evaluation.pages.report.{section}", lambda *_, name=section: Section(name, name, paragraph(""))
        )
    context = {"command": "calo4pqvae evaluate reference.hdf5 model.hdf5"}
    result = evaluate_files(
        files["reference"], {"model": files["model"]}, tiny, tmp_path, settings=BARE, context=context
    )
    page = result.report.read_text(encoding="utf-8").partition('<section id="provenance">')[2]
    told = json.loads(result.metrics.read_text(encoding="utf-8"))["provenance"]
    assert told["command"] == context["command"]
    assert {"numpy", "torch", "calo4pqvae"} <= set(told["versions"])
    for name, path in (("Geant4", files["reference"]), ("model", files["model"])):
        digest = content_hash(path)
        assert digest in told["files"][name]
        assert digest in page
    assert context["command"] in page
    assert f'numpy</th><td class="wrap">{told["versions"]["numpy"]}' in page


def test_place_of_the_report_is_checked_before_the_work(files: dict[str, Path], tiny: Geometry, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("precious")
    told: list[tuple[str, int, int]] = []
    with pytest.raises(OutputError, match="is a file"):
        evaluate_files(
            files["reference"],
            {"model": files["model"]},
            tiny,
            blocker / "out",
            settings=BARE,
            progress=lambda *step: told.append(step),
        )
    assert told == []
    assert blocker.read_text() == "precious"


def test_names_of_samples_are_checked(files: dict[str, Path], tiny: Geometry, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name of the reference"):
        evaluate_files(files["reference"], {"Geant4": files["model"]}, tiny, tmp_path, settings=BARE)
    with pytest.raises(DataError, match="at least one"):
        evaluate_files(files["reference"], {}, tiny, tmp_path, settings=BARE)


@pytest.mark.slow
def test_whole_report_of_an_irregular_grid(tmp_path: Path) -> None:
    grid = geometry("ds1-photons")
    paths = [write(tmp_path / f"{seed}.hdf5", *synthetic_showers(grid, 400, seed)) for seed in (1, 2)]
    result = evaluate_files(paths[0], {"model": paths[1]}, grid, tmp_path / "out", settings=BARE)
    assert result.report.read_text(encoding="utf-8").count("<img") == 13
    families = {row.family for row in result.found.samples["model"].acceptance.rows}
    assert families == {
        "response",
        "response width",
        "occupancy",
        "longitudinal profile",
        "layer fluctuations",
        "voxel spectrum",
    }
