"""The page says what a referee must know: floors beside values, places only with their reasons, worst first."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from calo4pqvae.evaluation.classifiers.importance import Importance
from calo4pqvae.evaluation.features.screening import screened_sample
from calo4pqvae.evaluation.metric import METRICS, Measured
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.frechet import FrechetSettings
from calo4pqvae.evaluation.metrics.kernel_distance import KernelSettings
from calo4pqvae.evaluation.metrics.targets import TargetTable
from calo4pqvae.evaluation.pages import metric_plots as plots
from calo4pqvae.evaluation.pages.page import page_html
from calo4pqvae.evaluation.pages.table import (
    drivers_section,
    histogram_sections,
    metrics_section,
    side_by_side_rows,
    summary_rows,
)
from calo4pqvae.evaluation.referee import judge_samples, published_place
from calo4pqvae.evaluation.result import Evaluation, RefereeRow, SampleResult
from calo4pqvae.evaluation.settings import RefereeSettings
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
def result(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
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
    return judge_samples(part, models, SETTINGS)


def published_row(key: str, value: float, why_not: tuple[str, ...] = ()) -> RefereeRow:
    found = Measured(Estimate(value, 0.001, 100), "from the finite samples", quoted_error=0.0004)
    return RefereeRow(METRICS[key], found, 1, (9, 8), published_place(key, value, "ds2"), why_not)


def test_cells_of_the_summary() -> None:
    rows = (published_row("fpd", 0.0123), published_row("kpd", 0.1, ("too few",)))
    [good, bad] = summary_rows(SampleResult(9, TargetTable(()), rows=rows))
    assert (good["value"], good["error as quoted"]) == ("12.3 ± 1.0", "± 0.4")
    assert (good["place"], good["best published"]) == ("1 of 18", "24.65 (CaloDREAM)")
    assert bad["place"] == "18 of 18 †"
    assert (good["metric"], good["showers"]) == ("FPD x 1000", "9 v 8")


def test_metrics_section_has_table_reasons_and_caveats(result: Evaluation) -> None:
    section = metrics_section(result)
    page = Page(page_html("t", "", [section]))
    assert page.open == []
    assert "&lt;bright&gt;" in section.body
    assert "<bright>" not in section.body
    assert "† Not on the scale of the published values" in section.body
    assert "the reference was not declared the official ds2 file" in section.body
    assert "The reference file says of itself: genuine Geant4 showers, but NOT the official" in section.body
    assert "Few showers" in section.body
    assert page.tags.count("img") == 1


def test_samples_side_by_side_at_one_size_in_units_of_the_floor(result: Evaluation) -> None:
    rows = {row["metric"]: row for row in side_by_side_rows(result)}
    fpd, total = rows["FPD"], rows["S E_tot / E_inc"]
    assert list(fpd) == ["metric", "<bright>", "sound", "Geant4 itself", "showers a side", "the floor"]
    own = result.samples["<bright>"].row("fpd")
    assert own is not None
    assert own.matched is not None
    assert own.floor is not None
    assert float(fpd["<bright>"].split()[0]) == pytest.approx(own.matched.value / own.floor.value, rel=0.05)
    assert fpd["Geant4 itself"].startswith("1.")
    assert {row["showers a side"] for row in rows.values()} == {"120"}
    assert float(total["<bright>"].split()[0]) > 2 * float(total["sound"].split()[0])
    assert not any(name.startswith("AUC") for name in rows)


def test_classifiers_come_first_as_they_are(result: Evaluation) -> None:
    judged = Measured(
        Estimate(0.9, 0.01, 240), "DeLong", matched=Estimate(0.8, 0.02, 120), floor=Estimate(0.51, 0.02, 120)
    )
    row = RefereeRow(METRICS["auc_cnn"], judged, 1, (1700, 120))
    samples = {name: replace(sample, rows=(*sample.rows, row)) for name, sample in result.samples.items()}
    first = side_by_side_rows(replace(result, samples=samples))[0]
    assert (first["metric"], first["sound"], first["Geant4 itself"]) == ("AUC CNN", "0.800 ± 0.020", "0.510 ± 0.020")


def test_worst_come_first(result: Evaluation) -> None:
    histograms, published = histogram_sections(result)
    table = histograms.body.partition("<tbody>")[2].partition("</tbody>")[0]
    ratios = [float(line.split("</td><td>")[3]) for line in table.strip().split("\n")]
    assert ratios == sorted(ratios, reverse=True)
    assert "voxel energy" in table.split("\n")[1] or "E_tot" in table.split("\n")[1]
    assert "GEANT4" in published.body
    assert published.body.count("<tr>") == 1 + 18 + 1 + 10 + 2  # both tables with their heads, own rows
    assert "giddy-violet-575" in published.body
    assert "&lt;bright&gt; (this report)" in published.body


def test_drivers_name_features(result: Evaluation) -> None:
    section = drivers_section(result, geometry("ds2"))
    page = Page(page_html("t", "", [section]))
    assert page.open == []
    assert page.tags.count("img") == 3
    assert "log10_layer_energy" in section.body
    shares = result.samples["<bright>"].contributions
    assert shares is not None
    assert sum(part.total for part in shares.features) + shares.correlation_term == pytest.approx(shares.total)


def test_nothing_asked_for_is_said(result: Evaluation) -> None:
    bare = replace(result, samples={"bare": SampleResult(9, TargetTable(()))})
    assert "Neither distances nor classifiers" in drivers_section(bare, geometry("ds2")).body
    assert Page(page_html("t", "", [metrics_section(bare), *histogram_sections(bare)])).open == []


def test_every_figure_is_drawn_without_a_warning(result: Evaluation) -> None:
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


def test_bars_are_the_numbers(result: Evaluation) -> None:
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
