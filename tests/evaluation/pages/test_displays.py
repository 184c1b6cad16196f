import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from calo4pqvae.evaluation.features.showers import ShowerFeatures, shower_features
from calo4pqvae.evaluation.pages import displays
from calo4pqvae.evaluation.pages.canvas import png_base64
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.testing import synthetic_showers


@pytest.fixture
def examples(tiny: Geometry) -> dict[str, ExampleShower]:
    energies, showers = synthetic_showers(tiny, 2, seed=3)
    return {
        name: ExampleShower(float(energies[k, 0]), showers[k].astype(np.float64))
        for k, name in enumerate(("Geant4", "model"))
    }


def test_shower_in_space_has_a_point_for_each_voxel(tiny: Geometry, examples: dict[str, ExampleShower]) -> None:
    figure = displays.shower_in_space(tiny, examples)
    for axes, example in zip(figure.axes, examples.values(), strict=False):
        assert len(axes.collections[0].get_array()) == (example.voxels > 0).sum()
        assert f"{example.incident_energy / 1e3:.3g} GeV" in axes.get_title()
    png_base64(figure)


def test_layer_images_hold_the_energies_of_their_layer(tiny: Geometry, examples: dict[str, ExampleShower]) -> None:
    figure = displays.layer_images(tiny, examples, n_layers=3)
    panels = [axes for axes in figure.axes if axes.get_title().startswith("layer")]
    assert len(panels) == 6
    for axes in panels[3:]:
        layer = int(axes.get_title().split()[1])
        image = next(item for item in axes.collections if isinstance(item, QuadMesh))
        drawn = np.ma.filled(np.ma.reshape(image.get_array(), (4, 6)), 0.0)  # rings, angles
        np.testing.assert_allclose(drawn.T, examples["model"].voxels.reshape(8, 6, 4)[layer])
    png_base64(figure)


@pytest.mark.parametrize("name", ["ds1-photons", "tiny"])
def test_mean_shower_of_regular_and_irregular_grids(name: str, tiny: Geometry) -> None:
    grid = tiny if name == "tiny" else geometry(name)
    samples = [shower_features(*reversed(synthetic_showers(grid, 20, seed)), grid) for seed in (1, 2)]
    figure = displays.mean_shower_images(samples[0], {"model": samples[1]})
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert ("model / Geant4" in titles) == grid.is_regular
    png_base64(figure)


def test_an_empty_shower_can_be_drawn(tiny: Geometry, examples: dict[str, ExampleShower]) -> None:
    empty = ExampleShower(1e3, np.zeros(tiny.n_voxels))
    images = displays.layer_images(tiny, examples | {"model": empty}, n_layers=2)
    drawn = [item.get_array() for axes in images.axes for item in axes.collections if isinstance(item, QuadMesh)]
    assert [bool(np.ma.count(array)) for array in drawn[:4]] == [True, True, False, False]
    alone = displays.shower_in_space(tiny, {"model": empty})
    assert len(alone.axes[0].collections[0].get_offsets()) == 0
    assert alone.axes[0].get_title() == "model, 1 GeV"
    png_base64(images)
    png_base64(alone)


def test_showers_from_the_side_have_a_row_for_each_sample(tiny: Geometry, examples: dict[str, ExampleShower]) -> None:
    rows = {name: [shower, shower] for name, shower in examples.items()}
    figure = displays.showers_from_the_side(tiny, rows)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title().split(",")[0] for axes in panels] == ["Geant4", "Geant4", "model", "model"]
    eta, layers = tiny.voxel_centres()[0], tiny.voxel_layers()
    for axes, shower in zip(panels, [s for row in rows.values() for s in row], strict=True):
        points = axes.collections[0].get_offsets()
        hit = shower.voxels > 0
        expected = sorted(zip(layers[hit].tolist(), eta[hit].round(6).tolist(), strict=True))
        assert sorted((int(x), round(float(y), 6)) for x, y in points) == expected


def test_latent_energies_are_normalised_and_described() -> None:
    rng = np.random.default_rng(0)
    figure = displays.latent_energies({"encoded": rng.normal(-300, 10, 2000), "sampled": rng.normal(-290, 10, 500)})
    shares = [patch.get_data().values.sum() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(shares, 1.0)
    assert [text.get_text().split(":")[0] for text in figure.axes[0].get_legend().get_texts()] == ["encoded", "sampled"]


def test_mean_showers_are_not_drawn_for_selections(reference: ShowerFeatures) -> None:
    figure = displays.mean_shower_images(reference, {"selection": reference.select(np.arange(5))})
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["Geant4"]
