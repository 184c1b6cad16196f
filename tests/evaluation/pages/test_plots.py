"""What figures show, read back from their artists; that they are closed, and look alike whatever the caller's style."""

import base64
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.pages import plots
from calo4pqvae.evaluation.pages.canvas import Curve, compare, grid, png_base64


def labels_of(figure: Figure) -> set[str]:
    return {text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()}


def axis_titles(figure: Figure) -> str:
    return " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)


FIGURES = {
    "response_distribution": ("E_", 6),
    "longitudinal_profile": ("layer", 6),
    "radial_profile": ("r [mm]", 6),
    "occupancy": ("occupancy", 12),
    "voxel_spectrum": ("voxel energy [MeV]", 6),
    "response_and_resolution": ("[GeV]", 4),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_comparisons_name_samples_and_axes(name: str, reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    bins = EnergyBins.thirds_of(reference.incident_energy)
    figure = getattr(plots, name)(reference, {"model": generated, "other": generated}, bins)
    assert {"Geant4", "model", "other"} <= labels_of(figure)
    text, n_panels = FIGURES[name]
    assert text in axis_titles(figure)
    assert len(figure.axes) == n_panels
    assert plt.get_fignums() == []


def test_figures_of_layers(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    figure = plots.layer_energies(reference, {"model": generated}, n_layers=5)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 5
    assert titles[0] == "layer 0"
    figure = plots.centres_and_widths(reference, {"model": generated}, layer=3)
    assert axis_titles(figure).count("[mm], layer 3") == 6
    assert len(plots.shape_by_layer(reference, {"model": generated}).axes) == 6


def test_longitudinal_profile_draws_the_means(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    bins = EnergyBins((1e3, 1e5))
    figure = plots.longitudinal_profile(reference, {"model": generated}, bins)
    drawn = {patch.get_label(): patch.get_data().values for patch in figure.axes[0].patches}
    expected = generated.layer_energy / generated.incident_energy[:, None]
    np.testing.assert_allclose(drawn["model"], expected.mean(axis=0))
    np.testing.assert_allclose(drawn["Geant4"], reference.layer_response.mean(axis=0))


def test_spectrum_marks_the_threshold_and_counts_voxels(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    figure = plots.voxel_spectrum(reference, {"model": generated}, EnergyBins((1e3, 1e5)))
    assert "threshold 15.15 keV" in labels_of(figure)
    drawn = next(patch.get_data() for patch in figure.axes[0].patches if patch.get_label() == "model")
    total = np.sum(drawn.values * np.diff(np.log10(drawn.edges)))
    assert total == pytest.approx(generated.occupancy.mean() * generated.geometry.n_voxels, rel=1e-3)


def test_correlation_matrices_show_every_sample(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    figure = plots.correlation_matrices(
        reference, {"model": generated}, EnergyBins.thirds_of(reference.incident_energy)
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 6
    assert titles[0].startswith("Geant4")
    assert titles[3].startswith("model")


def test_radial_profile_needs_equal_rings(reference: ShowerFeatures) -> None:
    irregular = replace(reference, radial_energy=None)
    with pytest.raises(ValueError, match="equal rings"):
        plots.radial_profile(irregular, {}, EnergyBins((1e3, 1e5)))


def test_ratio_panel_leaves_out_what_is_too_uncertain() -> None:
    figure, mains, ratios = grid(1, ratio=True)
    ones = np.ones(3)
    curve = Curve(np.array([1.1, 1.2, 0.9]), np.array([0.01, 5.0, 0.01]))
    compare(mains[0], ratios[0], np.arange(4.0), Curve(ones, 0.01 * ones), {"model": curve}, spread=0.25)
    points = [line for line in ratios[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points[0].get_ydata(), [1.1, 0.9])
    assert ratios[0].get_ylim() == (0.75, 1.25)
    assert not [line for line in ratios[0].lines if line.get_marker() in "v^" and len(line.get_xdata())]
    assert figure.axes == [mains[0], ratios[0]]


def test_ratio_panel_marks_what_is_beyond_it() -> None:
    _, mains, ratios = grid(1, ratio=True)
    curve = Curve(np.array([1.1, 1.6, 0.2, 1.27]), np.array([0.01, 0.02, 0.02, 0.3]))
    compare(mains[0], ratios[0], np.arange(5.0), Curve(np.ones(4), 0.01 * np.ones(4)), {"model": curve}, spread=0.25)
    drawn = {line.get_marker(): np.array(line.get_xdata()).tolist() for line in ratios[0].lines}
    assert drawn["^"] == [1.5]  # the second bin, above
    assert drawn["v"] == [2.5]  # the third, below; the fourth may well be inside
    assert drawn["o"] == [0.5]


def test_png_is_a_png_and_the_style_does_not_leak(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    before = dict(mpl.rcParams)
    figure = plots.response_distribution(reference, {"model": generated}, EnergyBins((1e3, 1e5)))
    assert base64.b64decode(png_base64(figure)).startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
