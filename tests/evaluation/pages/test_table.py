"""The page says what a referee must know: floors beside values, places only with their reasons, worst first."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from calo4pqvae.evaluation.classifiers.importance import Importance
from calo4pqvae.evaluation.features.screening import screened_sample
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.frechet import FrechetSettings
from calo4pqvae.evaluation.metrics.kernel_distance import KernelSettings
from calo4pqvae.evaluation.pages import metric_plots as plots
from calo4pqvae.evaluation.pages.page import page_html
from calo4pqvae.evaluation.pages.table import (
    drivers_section,
    histogram_sections,
    side_by_side_rows,
    summary_rows,
    summary_section,
)
from calo4pqvae.evaluation.referee import RefereeResult, RefereeRow, RefereeSettings, SampleResult, published_place
from calo4pqvae.evaluation.refereeing import run_referee
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.geometry import geometry
from tests.evaluation.pages.test_report import Page
from tests.small_runs import bundled_rows, write_showers

SETTINGS = RefereeSettings(
    groups=("distances", "separation", "wasserstein", "calo4pqvae-226"),
    fpd=FrechetSettings(min_samples=100, max_samples=300, num_points=3, num_batches=2),
    kpd=KernelSettings(batch_size=100, num_batches=3),
    fpd_226=FrechetSettings(min_samples=100, max_samples=300, num_points=3, num_batches=2),
    kpd_226=KernelSettings(batch_size=100, num_batches=3),
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RefereeResult:
    """Bundled showers against bundled showers whose voxels hold a quarter more energy, and against sound ones."""
    folder, grid = tmp_path_factory.mktemp("page"), geometry("ds2")
    energies, showers = bundled_rows("train", 240)
    files = {
        "<bright>": write_showers(folder / "bright.hdf5", energies[:120], 1.25 * showers[:120]),
        "sound": write_showers(folder / "sound.hdf5", energies[120:], showers[120:]),
    }
    models = {name: screened_sample(path, grid) for name, path in files.items()}
    reference = screened_sample(bundled_path("heldout"), grid)
    part = replace(reference, features=reference.features, path=reference.path)
    return run_referee(part, models, SETTINGS)


def published_row(key: str, value: float, why_not: tuple[str, ...] = ()) -> RefereeRow:
    estimate = Estimate(value, 0.001, 100)
    place = published_place(key, value, "ds2")
    return RefereeRow(key, "distances", key, estimate, "of the fit", 1, 9, 9, scale=1e3, place=place, why_not=why_not)


def test_cells_of_the_summary() -> None:
    [good, bad] = summary_rows(SampleResult((published_row("fpd", 0.0123), published_row("kpd", 0.1, ("too few",)))))
    assert good["value"] == "12.3 ± 1.0"
    assert (good["place"], good["best published"]) == ("1 of 18", "24.65 (CaloDREAM)")
    assert bad["place"] == "18 of 18 †"
    assert good["metric"] == "fpd x 1000"
    assert good["Geant4 itself"] == ""


def test_summary_section_has_table_reasons_and_caveats(result: RefereeResult) -> None:
    section = summary_section(result)
    page = Page(page_html("t", "", [section]))
    assert page.open == []
    assert "&lt;bright&gt;" in section.body
    assert "<bright>" not in section.body
    assert "† Not on the scale of the published values" in section.body
    assert "the reference was not declared the official ds2 file" in section.body
    assert "The reference file says of itself: genuine Geant4 showers, but NOT the official" in section.body
    assert "Few showers" in section.body
    assert page.tags.count("img") == 2
    assert section.data == result.to_dict()


def test_models_side_by_side_with_floors_and_published_rows(result: RefereeResult) -> None:
    rows = {row["metric"]: row for row in side_by_side_rows(result)}
    fpd, total = rows["FPD x1e3"], rows["S E_tot x1e3"]
    published = ["Geant4, published †", "CaloDREAM †", "CaloScore †", "CaloDiffusion †"]
    assert list(fpd) == ["metric", "<bright>", "sound", "Geant4, halves", *published]
    assert fpd["Geant4, published †"] == "10.78 ± 0.79"
    assert rows["KPD x1e3"]["CaloDREAM †"] == "0.023 ± 0.036"
    assert float(total["<bright>"].split()[0]) > 2 * float(total["sound"].split()[0])
    assert "AUC low" not in rows
    official = side_by_side_rows(replace(result, settings=replace(SETTINGS, is_official=True)))
    assert "CaloDREAM" in official[0]
    assert list(side_by_side_rows(replace(result, dataset="own"))[0])[-1] == "Geant4, halves"


def test_worst_come_first(result: RefereeResult) -> None:
    histograms, published = histogram_sections(result)
    table = histograms.body.partition("<tbody>")[2].partition("</tbody>")[0]
    ratios = [float(line.split("</td><td>")[4]) for line in table.strip().split("\n")]
    assert ratios == sorted(ratios, reverse=True)
    assert "voxel energy" in table.split("\n")[1] or "E_tot" in table.split("\n")[1]
    assert "GEANT4" in published.body
    assert published.body.count("<tr>") == 1 + 18 + 1 + 10 + 2  # both tables with their heads, own rows
    assert "giddy-violet-575" in published.body
    assert "&lt;bright&gt; (this report)" in published.body


def test_drivers_name_features(result: RefereeResult) -> None:
    section = drivers_section(result, geometry("ds2"))
    page = Page(page_html("t", "", [section]))
    assert page.open == []
    assert page.tags.count("img") == 3
    assert "log10_layer_energy" in section.body
    shares = result.samples["<bright>"].contributions
    assert shares is not None
    assert sum(part.total for part in shares.features) + shares.correlation_term == pytest.approx(shares.total)


def test_nothing_asked_for_is_said(result: RefereeResult) -> None:
    bare = replace(result, samples={"bare": SampleResult(())})
    assert "Neither distances nor classifiers" in drivers_section(bare, geometry("ds2")).body
    assert Page(page_html("t", "", [summary_section(bare), *histogram_sections(bare)])).open == []


def test_every_figure_is_drawn_without_a_warning(result: RefereeResult) -> None:
    entries = tuple(Importance(f"width_eta_{n}", Estimate(0.01 * n, 0.002, 50), 1, 5, 1) for n in range(14))
    importance: Mapping[str, tuple[Importance, ...]] = {"feature": entries, "layer": entries[:3]}
    figures: list[Figure] = [
        plots.excess_overview(result.samples),
        plots.published_ladder(result),
        plots.published_ladder(replace(result, dataset="own")),
        plots.feature_bars(result.samples),
        plots.contribution_map(result.samples["sound"], "sound", geometry("ds2")),
        plots.wasserstein_bars(result.samples),
        plots.separation_by_layer(result.samples),
        plots.importance_bars(importance, "sound"),
    ]
    for figure in figures:
        assert figure.axes
        for axes in figure.axes:
            assert axes.get_xlabel() or axes.get_ylabel(), axes.get_title()


def test_bars_are_the_numbers(result: RefereeResult) -> None:
    figure = plots.feature_bars({"sound": result.samples["sound"]}, n_shown=5)
    shares = result.samples["sound"].contributions
    assert shares is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 5
    assert labels[0] == shares.features[0].name.replace("log10_layer_energy", "log E layer").replace("_", " ").replace(
        "centroid", "centre"
    )
    means = [patch.get_width() for patch in figure.axes[0].containers[0]]  # type: ignore[attr-defined]
    assert means == pytest.approx([100 * part.mean_term / shares.total for part in shares.features[:5]])
