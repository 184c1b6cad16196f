import pytest
import torch

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry

GRIDS = {
    "ds2": GEOMETRIES["ds2"],
    "ds3": GEOMETRIES["ds3"],
    "odd": Geometry.regular("odd", 7, 5, 11, 10.0, threshold_mev=0.1),
    "prime": Geometry.regular("prime", 4, 14, 13, 10.0, threshold_mev=0.1),
    "one ring": Geometry.regular("one ring", 6, 3, 1, 10.0, threshold_mev=0.1),
}


@pytest.fixture(params=list(GRIDS))
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return GRIDS[request.param]


def named_cells(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """(layer, angle, radius) of the voxels in the order of a file, written out as the challenge describes it."""
    layers, angles, radii = shape
    return [(z, a, r) for z in range(layers) for a in range(angles) for r in range(radii)]


def test_field_holds_each_voxel_at_its_place(geometry: Geometry) -> None:
    plan = GridPlan(geometry)
    codes = [10_000 * z + 100 * a + r for z, a, r in named_cells(geometry.grid_shape)]
    field = plan.to_grid(torch.tensor([codes], dtype=torch.float64))
    layers, angles, radii = geometry.grid_shape
    assert field.shape == (1, 1, layers, angles, radii)
    z, a, r = torch.meshgrid(torch.arange(layers), torch.arange(angles), torch.arange(radii), indexing="ij")
    assert torch.equal(field[0, 0], (10_000 * z + 100 * a + r).double())


def test_index_maps_agree_with_the_geometry(geometry: Geometry) -> None:
    plan = GridPlan(geometry)
    layer, ring = torch.from_numpy(geometry.voxel_layers()), torch.from_numpy(geometry.voxel_radial_index())
    angle = torch.from_numpy(geometry.voxel_alpha_index())
    assert torch.equal(plan.layer_of_voxel, layer)
    assert torch.equal(plan.ring_of_voxel, layer * geometry.grid_shape[2] + ring)
    found = [tuple(cell) for cell in torch.stack([layer, angle, ring], dim=1).tolist()]
    assert found == named_cells(geometry.grid_shape)


def test_base_times_scale_times_cell_is_the_grid(geometry: Geometry) -> None:
    plan = GridPlan(geometry)
    for axis in range(3):
        assert plan.base[axis] * plan.scale[axis] == plan.parents[axis]
        assert plan.parents[axis] * plan.cell[axis] == geometry.grid_shape[axis]
    assert plan.n_parents * plan.n_slots == geometry.n_voxels


@pytest.mark.parametrize(
    ("name", "cell", "base"), [("ds2", (3, 2, 1), (15, 4, 3)), ("ds3", (3, 2, 2), (15, 5, 3)), ("odd", (1, 1, 1), None)]
)
def test_known_sizes(name: str, cell: tuple[int, ...], base: tuple[int, ...] | None) -> None:
    plan = GridPlan(GRIDS[name])
    assert plan.cell == cell
    assert base is None or plan.base == base


def test_slots_of_parents_are_the_voxels_inside_them(geometry: Geometry) -> None:
    plan = GridPlan(geometry)
    slots = torch.arange(geometry.n_voxels, dtype=torch.float64).view(1, plan.n_parents, plan.n_slots)
    voxels = plan.slots_to_voxels(slots)[0]
    assert sorted(voxels.tolist()) == list(range(geometry.n_voxels))
    for place, (z, a, r) in enumerate(named_cells(geometry.grid_shape)):
        (cz, ca, cr), (_, pa, pr) = plan.cell, plan.parents
        parent = ((z // cz) * pa + a // ca) * pr + r // cr
        slot = ((z % cz) * ca + a % ca) * cr + r % cr
        assert voxels[place] == parent * plan.n_slots + slot
        assert (plan.parent_of_voxel[place], plan.slot_of_voxel[place]) == (parent, slot)


def test_parent_blocks_of_the_field_come_back_as_voxels(geometry: Geometry) -> None:
    """Cutting the field into blocks and handing them to slots_to_voxels gives the shower back."""
    plan = GridPlan(geometry)
    shower = torch.rand(2, geometry.n_voxels, generator=torch.Generator().manual_seed(0))
    field = plan.to_grid(shower)[:, 0]
    blocks = field.unfold(1, plan.cell[0], plan.cell[0]).unfold(2, plan.cell[1], plan.cell[1])
    blocks = blocks.unfold(3, plan.cell[2], plan.cell[2])
    assert torch.equal(plan.slots_to_voxels(blocks.reshape(2, plan.n_parents, plan.n_slots)), shower)


def test_layer_values_reach_the_parents_of_their_layers(geometry: Geometry) -> None:
    plan = GridPlan(geometry)
    layers = geometry.n_layers
    values = torch.stack([torch.arange(layers), 100 + torch.arange(layers)], dim=1)[None].double()
    spread = plan.layers_to_parents(values)
    assert spread.shape == (1, 2 * plan.cell[0], *plan.parents)
    for parent in range(plan.parents[0]):
        inside = range(parent * plan.cell[0], (parent + 1) * plan.cell[0])
        expected = [value for layer in inside for value in (layer, 100 + layer)]
        for cell in spread[0, :, parent].flatten(1).T:
            assert cell.tolist() == expected


def test_scrambled_misreads_angles_and_radii_and_loses_nothing() -> None:
    geometry = GRIDS["ds2"]
    plan = GridPlan(geometry, "scrambled")
    numbers = torch.arange(geometry.n_voxels)
    assert torch.equal(plan.voxel_of_cell.sort().values, numbers)
    assert torch.equal(plan.voxel_of_cell[plan.cell_of_voxel], numbers)
    assert not torch.equal(plan.voxel_of_cell, GridPlan(geometry).voxel_of_cell)
    field = plan.to_grid(numbers[None].double())[0, 0]
    for a, r in [(0, 0), (1, 0), (0, 1), (3, 5), (15, 8)]:
        # the old reading: the 144 numbers of a layer are 9 rows of 16
        assert field[2, a, r] == 2 * 144 + r * 16 + a
    # a rotation of the shower is no rotation of the misread field
    shower = torch.rand(1, geometry.n_voxels, generator=torch.Generator().manual_seed(0))
    turned = shower.view(1, 45, 16, 9).roll(1, dims=2).view(1, -1)
    assert not torch.equal(plan.to_grid(turned), plan.to_grid(shower).roll(1, dims=3))
    assert torch.equal(GridPlan(geometry).to_grid(turned), GridPlan(geometry).to_grid(shower).roll(1, dims=3))


def test_scrambled_slots_and_field_stay_inverse() -> None:
    geometry = GRIDS["ds2"]
    plan = GridPlan(geometry, "scrambled")
    shower = torch.rand(1, geometry.n_voxels, generator=torch.Generator().manual_seed(0))
    field = plan.to_grid(shower)[0, 0]
    blocks = field.view(15, 3, 8, 2, 9, 1).permute(0, 2, 4, 1, 3, 5).reshape(1, plan.n_parents, plan.n_slots)
    assert torch.equal(plan.slots_to_voxels(blocks), shower)
    assert torch.equal(plan.layer_of_voxel, GridPlan(geometry).layer_of_voxel)
    assert torch.equal(plan.ring_of_voxel, GridPlan(geometry).ring_of_voxel)


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions"])
def test_irregular_grids_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="regular"):
        GridPlan(GEOMETRIES[name])


def test_maps_are_not_saved_with_the_weights() -> None:
    assert not GridPlan(GRIDS["ds2"]).state_dict()
