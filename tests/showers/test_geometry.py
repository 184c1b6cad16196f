import math
from pathlib import Path

import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry, LayerGeometry, geometry

# The challenge's description of data set 1, typed from its table: layer, rings, angular cells, outermost edge in mm.
DS1_PHOTONS = [(0, 8, 1, 600), (1, 16, 10, 200), (2, 19, 10, 400), (3, 5, 1, 600), (12, 5, 1, 2000)]
DS1_PIONS = [
    (0, 8, 1, 600),
    (1, 10, 10, 200),
    (2, 10, 10, 400),
    (3, 5, 1, 600),
    (12, 15, 10, 2000),
    (13, 16, 10, 2000),
    (14, 10, 1, 2000),
]
PION_XML = """<Bins>
 <Bin pid="211" etaMin="0" etaMax="80" name="pion">
  <Layer id="0" r_edges="0,5,10,30,50,100,200,400,600" n_bin_alpha="1" />
  <Layer id="1" r_edges="0,1,4,7,10,15,30,50,90,150,200" n_bin_alpha="10"/>
  <Layer id="2" r_edges="0,5,10,20,30,50,80,130,200,300,400" n_bin_alpha="10"/>
  <Layer id="3" r_edges="0,50,100,200,400,600" n_bin_alpha="1" />
  <Layer id="4" r_edges="0" n_bin_alpha="1" />
  <Layer id="12" r_edges="0,10,20,30,50,80,100,130,160,200,250,300,350,400,1000,2000" n_bin_alpha="10" />
  <Layer id="13" r_edges="0,10,20,30,50,80,100,130,160,200,250,300,350,400,600,1000,2000" n_bin_alpha="10" />
  <Layer id="14" r_edges="0,50,100,150,200,250,300,400,600,1000,2000" n_bin_alpha="1" />
  <Layer id="15" r_edges="0" n_bin_alpha="1" />
 </Bin>
</Bins>"""
PHOTON_XML = """<Bins><Bin pid="22" name="photon">
 <Layer id="0" r_edges="0,5,10,30,50,100,200,400,600" n_bin_alpha="1" />
 <Layer id="1" r_edges="0,2,4,6,8,10,12,15,20,30,40,50,70,90,120,150,200" n_bin_alpha="10"/>
 <Layer id="2" r_edges="0,2,5,10,15,20,25,30,40,50,60,80,100,130,160,200,250,300,350,400" n_bin_alpha="10"/>
 <Layer id="3" r_edges="0,50,100,200,400,600" n_bin_alpha="1" />
 <Layer id="12" r_edges="0,100,200,400,1000,2000" n_bin_alpha="1" />
</Bin></Bins>"""
DS2_EDGES = "0,4.65,9.3,13.95,18.6,23.25,27.9,32.55,37.2,41.85"
DS3_EDGES = (
    "0,2.325,4.65,6.975,9.3,11.625,13.95,16.275,18.6,20.925,23.25,25.575,27.9,30.225,32.55,34.875,37.2,39.525,41.85"
)


def electron_xml(edges: str, n_alpha: int) -> str:
    layers = "".join(f'<Layer id="{i}" r_edges="{edges}" n_bin_alpha="{n_alpha}" />' for i in range(45))
    return f'<Bins><Bin pid="11" name="electron">{layers}</Bin></Bins>'


XML = {
    "ds1-photons": PHOTON_XML,
    "ds1-pions": PION_XML,
    "ds2": electron_xml(DS2_EDGES, 16),
    "ds3": electron_xml(DS3_EDGES, 50),
}


@pytest.mark.parametrize("name", XML)
def test_built_in_grid_is_the_one_of_the_challenge_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "binning.xml"
    path.write_text(XML[name], encoding="utf-8")
    read = Geometry.from_xml(path)
    assert read.layers == GEOMETRIES[name].layers
    assert read.particle == GEOMETRIES[name].particle
    assert read.name == "binning"
    assert geometry(path) is GEOMETRIES[name]


@pytest.mark.parametrize(
    ("name", "table", "n_voxels"), [("ds1-photons", DS1_PHOTONS, 368), ("ds1-pions", DS1_PIONS, 533)]
)
def test_data_set_1_has_the_published_layers(name: str, table: list[tuple[int, int, int, int]], n_voxels: int) -> None:
    known = geometry(name)
    assert [(one.layer_id, one.n_radial, one.n_alpha, one.radial_edges[-1]) for one in known.layers] == table
    assert known.n_voxels == n_voxels
    assert known.threshold_mev == 1.0
    assert known.energy_range == (256.0, 4_194_304.0)
    assert not known.is_regular
    with pytest.raises(DataError, match=f"training needs a regular .* grid; {name} has irregular layers"):
        _ = known.grid_shape


@pytest.mark.parametrize(("name", "shape"), [("ds2", (45, 16, 9)), ("ds3", (45, 50, 18))])
def test_data_sets_2_and_3_are_regular(name: str, shape: tuple[int, int, int]) -> None:
    known = geometry(name)
    assert known.grid_shape == shape
    assert known.n_voxels == math.prod(shape)
    assert known.threshold_mev == pytest.approx(0.01515151515)
    assert known.energy_range == (1e3, 1e6)


def test_voxel_order_is_layer_angle_radius_with_radius_fastest() -> None:
    known = geometry("ds2")
    layer, angle, ring = np.unravel_index(np.arange(6480), (45, 16, 9))
    np.testing.assert_array_equal(known.voxel_layers(), layer)
    np.testing.assert_array_equal(known.voxel_alpha_index(), angle)
    np.testing.assert_array_equal(known.voxel_radial_index(), ring)


def test_slices_of_irregular_layers_follow_each_other() -> None:
    known = geometry("ds1-photons")
    assert [(part.start, part.stop) for part in known.layer_slices] == [
        (0, 8),
        (8, 168),
        (168, 358),
        (358, 363),
        (363, 368),
    ]
    for position, part in enumerate(known.layer_slices):
        assert set(known.voxel_layers()[part].tolist()) == {position}
    # second angular cell of layer 1 begins one run of 16 rings later
    assert known.voxel_alpha_index()[8 + 16] == 1
    assert known.voxel_radial_index()[8 + 16] == 0


def test_centres_by_hand() -> None:
    eta, phi, radius = geometry("ds2").voxel_centres()
    # layer 3, angular cell 5, ring 2: alpha = -pi + 5.5 * 22.5 degrees = -56.25 degrees, r = 2.5 * 4.65 mm
    voxel = (3 * 16 + 5) * 9 + 2
    assert radius[voxel] == pytest.approx(11.625)
    assert eta[voxel] == pytest.approx(11.625 * math.cos(math.radians(-56.25)))
    assert phi[voxel] == pytest.approx(11.625 * math.sin(math.radians(-56.25)))


def test_whole_rings_are_centred_on_the_axis() -> None:
    eta, phi, radius = geometry("ds1-pions").voxel_centres()
    ring = geometry("ds1-pions").layer_slices[0]
    assert not eta[ring].any()
    assert not phi[ring].any()
    np.testing.assert_allclose(radius[ring], [2.5, 7.5, 20, 40, 75, 150, 300, 500])
    cells = geometry("ds1-pions").layer_slices[1]
    np.testing.assert_allclose(np.hypot(eta[cells], phi[cells]), radius[cells])


def test_regular_grid_of_any_size() -> None:
    own = Geometry.regular("mine", 3, 5, 2, radial_width_mm=10.0, particle="photon", threshold_mev=0.1)
    assert own.grid_shape == (3, 5, 2)
    assert own.layers[2] == LayerGeometry(2, (0.0, 10.0, 20.0), 5)
    assert (own.particle, own.threshold_mev, own.energy_range) == ("photon", 0.1, None)


def test_same_number_of_rings_of_other_width_is_irregular() -> None:
    layers = (LayerGeometry(0, (0, 1, 2), 4), LayerGeometry(1, (0, 1, 3), 4))
    assert not Geometry("mixed", "electron", layers, 0.0).is_regular


def test_geometry_serves_as_a_key() -> None:
    assert {geometry("ds2"): 1}[
        Geometry.regular("ds2", 45, 16, 9, 4.65, threshold_mev=0.0005 / 0.033, energy_range=(1e3, 1e6))
    ] == 1


def test_particle_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = tmp_path / "two.xml"
    path.write_text(
        '<Bins><Bin pid="11" name="electron"><Layer id="0" r_edges="0,1" n_bin_alpha="2"/></Bin>'
        '<Bin pid="22" name="photon"><Layer id="0" r_edges="0,1,2" n_bin_alpha="2"/></Bin></Bins>',
        encoding="utf-8",
    )
    assert Geometry.from_xml(path, particle="photon", name="p", threshold_mev=2.0).n_voxels == 4
    assert Geometry.from_xml(path, particle="11").n_voxels == 2
    with pytest.raises(DataError, match="electron, photon and no particle was named"):
        Geometry.from_xml(path)
    with pytest.raises(DataError, match="'muon' matches 0"):
        Geometry.from_xml(path, particle="muon")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Bins><Bin", "not well-formed XML"),
        ("<Bins></Bins>", "no Bin element"),
        ('<Bins><Bin name="e"></Bin></Bins>', "has no layers"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="0" n_bin_alpha="1"/></Bin></Bins>', "has no layers"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="0,x" n_bin_alpha="1"/></Bin></Bins>', "each needs numbers"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="0,1"/></Bin></Bins>', "each needs numbers"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="0,2,1" n_bin_alpha="1"/></Bin></Bins>', "radial edges"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="-1,1" n_bin_alpha="1"/></Bin></Bins>', "radial edges"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="0,nan" n_bin_alpha="1"/></Bin></Bins>', "radial edges"),
        ('<Bins><Bin name="e"><Layer id="0" r_edges="0,1" n_bin_alpha="0"/></Bin></Bins>', "0 angular cells"),
    ],
)
def test_bad_binning_files_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        geometry(str(path))


def test_missing_binning_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the binning file"):
        geometry(tmp_path / "absent.xml")


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match="no geometry 'ds1-photon', did you mean 'ds1-photons'"):
        geometry("ds1-photon")


@pytest.mark.parametrize(
    ("threshold", "energy_range"), [(-1.0, None), (math.nan, None), (0.0, (2.0, 1.0)), (0.0, (0.0, 1.0))]
)
def test_senseless_threshold_or_range_is_refused(threshold: float, energy_range: tuple[float, float] | None) -> None:
    with pytest.raises(DataError, match="geometry odd has"):
        Geometry("odd", "electron", (LayerGeometry(0, (0, 1), 1),), threshold, energy_range)


def test_built_in_geometries_are_read_only() -> None:
    with pytest.raises(TypeError):
        GEOMETRIES["ds2"] = geometry("ds3")  # type: ignore[index]
