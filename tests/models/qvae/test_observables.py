import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.observables import Observables
from calo4pqvae.models.qvae.standardiser import Standardiser
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry
from calo4pqvae.showers.transforms import Frame

RANGE = (1e3, 1e5)
Sample = tuple[Tensor, Tensor]


@pytest.fixture
def observables(grid: Geometry, sample: Sample) -> Observables:
    made = Observables(grid, RANGE).double()
    made.fit(
        [(sample[0][:100].double(), sample[1][:100].double()), (sample[0][100:].double(), sample[1][100:].double())]
    )
    return made


def turned_and_mirrored(showers: Tensor, grid: Geometry, turn: int, mirror: bool) -> Tensor:
    field = showers.view(-1, *grid.grid_shape).roll(turn, dims=2)
    return (field.flip(2) if mirror else field).reshape(showers.shape)


def test_parts_agree_with_plain_sums(observables: Observables, grid: Geometry, sample: Sample) -> None:
    showers, energies = (part[:20].double() for part in sample)
    view = observables(showers, energies)
    threshold, field = grid.threshold_mev, showers.view(20, *grid.grid_shape).numpy()
    layers = field.sum((2, 3))
    np.testing.assert_allclose(view.log_layers.numpy(), np.log(np.maximum(layers / threshold, 1)), rtol=1e-9)
    np.testing.assert_array_equal(view.layer_on.numpy(), layers > 0)
    np.testing.assert_array_equal(view.hits.numpy().sum(1), (field > 0).sum((1, 2, 3)))
    np.testing.assert_allclose(view.log_counts.numpy(), np.log(np.maximum((field > 0).sum((2, 3)), 1)), rtol=1e-9)
    energy_of_hits = np.sort((view.voxels.exp() * view.hits * threshold).numpy(), axis=1)
    np.testing.assert_allclose(energy_of_hits, np.sort(showers.numpy(), axis=1), rtol=1e-5)
    position = 2 * np.log(energies.numpy() / RANGE[0]) / math.log(RANGE[1] / RANGE[0]) - 1
    np.testing.assert_allclose(view.position.numpy(), position, rtol=0, atol=1e-12)
    t = view.position
    np.testing.assert_allclose(
        observables.response.inverse(view.response, t).numpy(), layers.sum(1, keepdims=True) / energies.numpy()
    )
    roots = np.sqrt(layers / layers.sum(1, keepdims=True))
    np.testing.assert_allclose((observables.layers.inverse(view.layers, t) * view.layer_on).numpy(), roots, atol=1e-12)
    floors = np.broadcast_to(np.sqrt(threshold / layers.sum(1, keepdims=True)), layers.shape)
    np.testing.assert_allclose(observables.layers.inverse(view.layer_floor, t).numpy(), floors, atol=1e-12)


def test_no_layer_lies_below_its_floor(observables: Observables, sample: Sample) -> None:
    view = observables(sample[0].double(), sample[1].double())
    on = view.layer_on > 0
    assert 0 < float(view.layer_on.mean()) < 1
    assert (view.layers[on] >= view.layer_floor[on] - 1e-12).all()


def test_voxels_below_threshold_do_not_count_and_one_at_threshold_does(grid: Geometry) -> None:
    observables = Observables(grid, RANGE)
    showers = torch.zeros(1, grid.n_voxels)
    showers[0, 4] = 5.0
    showers[0, 5] = grid.threshold_mev
    showers[0, 6] = 0.99 * grid.threshold_mev
    view = observables(showers, torch.tensor([[2e3]]))
    assert int(view.hits.sum()) == 2
    assert float(view.log_layers[0, 0].exp() * grid.threshold_mev) == pytest.approx(5 + grid.threshold_mev, rel=1e-6)
    assert view.log_counts[0, 0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("mirror", [False, True])
def test_view_does_not_depend_on_orientation(
    observables: Observables, grid: Geometry, sample: Sample, mirror: bool
) -> None:
    showers, energies = (part[:50].double() for part in sample)
    expected = observables(showers, energies)
    for turn in range(8):
        seen = observables(turned_and_mirrored(showers, grid, turn, mirror), energies)
        for name, before, after in zip(expected._fields, expected, seen, strict=True):
            torch.testing.assert_close(after, before, rtol=0, atol=1e-12, msg=name)


def test_without_canonical_frame_orientation_is_seen(grid: Geometry, sample: Sample) -> None:
    plain = Observables(grid, RANGE, canonical_frame=False)
    turned = turned_and_mirrored(sample[0], grid, 1, False)
    assert not torch.equal(plain(turned, sample[1]).voxels, plain(sample[0], sample[1]).voxels)
    assert torch.equal(plain.random_frame(sample[0], torch.Generator()), sample[0])


def test_random_frames_are_symmetries_and_reach_all_of_them(grid: Geometry, generator: torch.Generator) -> None:
    observables = Observables(grid, RANGE)
    shower = torch.rand(1, grid.n_voxels, generator=generator)
    images = [turned_and_mirrored(shower, grid, turn, mirror) for turn in range(8) for mirror in (False, True)]
    drawn = observables.random_frame(shower.expand(400, -1), generator)
    counts = [int((drawn == image).all(1).sum()) for image in images]
    assert sum(counts) == 400
    assert min(counts) > 0


def test_ring_statistics_are_plain_averages(observables: Observables, grid: Geometry, sample: Sample) -> None:
    field = sample[0].double().view(-1, *grid.grid_shape).numpy()
    hits = (field > 0).sum((0, 2))
    np.testing.assert_allclose(observables.ring_occupancy.numpy(), (hits + 0.5) / (256 * 8 + 1), rtol=1e-9)
    logs = np.where(field > 0, np.log(np.maximum(field, 1e-30) / grid.threshold_mev), 0).sum((0, 2))
    filled = hits > 100
    np.testing.assert_allclose(observables.ring_voxels.numpy()[filled], (logs / hits)[filled], rtol=0.02)
    assert ((observables.ring_occupancy > 0) & (observables.ring_occupancy < 1)).all()


def test_position_spans_the_range_and_stays_in_it(grid: Geometry) -> None:
    observables = Observables(grid, RANGE)
    position = observables.position(torch.tensor([[1e3], [1e4], [1e5], [1e5 * (1 + 1e-7)]]))
    assert position.flatten().tolist() == pytest.approx([-1, 0, 1, 1], abs=1e-6)
    assert position.abs().max() <= 1


def bad(kind: str, sample: Sample) -> Sample:
    showers, energies = sample[0][:4].clone(), sample[1][:4].clone()
    if kind == "energy":
        energies[2] = 2e5
    elif kind == "nan energy":
        energies[2] = math.nan
    elif kind == "empty":
        showers[2] = 0.0
    elif kind == "below threshold":
        showers[2] = 0.01
    elif kind == "shape":
        showers = showers[:, 1:]
    else:
        showers[2, 3] = float(kind)
    return showers, energies


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("energy", "200000 MeV is outside the range 1000 to 100000 MeV"),
        ("nan energy", "NaN or infinity"),
        ("empty", "no energy above threshold"),
        ("below threshold", "no energy above threshold"),
        ("nan", "voxel energy"),
        ("inf", "voxel energy"),
        ("shape", "showers have shape"),
    ],
)
def test_bad_showers_are_refused(observables: Observables, sample: Sample, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        observables(*bad(kind, sample))


def test_fit_refuses_few_or_empty_showers(grid: Geometry, sample: Sample) -> None:
    with pytest.raises(DataError, match="19 showers are too few"):
        Observables(grid, RANGE).fit([(sample[0][:19], sample[1][:19])])
    with pytest.raises(DataError, match="no energy above threshold"):
        Observables(grid, RANGE).fit([sample, bad("empty", sample)])


def test_grids_without_threshold_or_regularity_are_refused() -> None:
    with pytest.raises(DataError, match="threshold above 0 MeV; bare has none"):
        Observables(Geometry.regular("bare", 3, 4, 2, 10.0), RANGE)
    with pytest.raises(DataError, match="regular"):
        Observables(GEOMETRIES["ds1-photons"], RANGE)


def test_all_frames_lead_to_the_same_canonical_shower(grid: Geometry, sample: Sample) -> None:
    observables = Observables(grid, RANGE)
    assert observables.frame is not None
    frame = Frame(torch.full((256,), 3), torch.ones(256, dtype=torch.bool))
    moved = observables.frame.from_canonical(sample[0], frame)
    assert torch.equal(observables(moved, sample[1]).voxels, observables(sample[0], sample[1]).voxels)


def trend(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Values whose mean and width depend on the position: m = 1 + t - t^2 / 2, ln s = -2 - t / 2."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-1, 1, (n, 1))
    values = 1 + t - t**2 / 2 + np.exp(-2 - t / 2) * rng.normal(size=(n, 1))
    return torch.from_numpy(values), torch.from_numpy(t)


def test_standardiser_finds_mean_and_width_at_every_position() -> None:
    values, position = trend(20_000)
    standardiser = Standardiser(1).double()
    standardiser.fit(values, position, torch.ones_like(values))
    standard = standardiser(values, position)
    for low in np.arange(-1, 1, 0.5):
        part = standard[(position >= low) & (position < low + 0.5)]
        assert float(part.mean()) == pytest.approx(0, abs=5 / len(part) ** 0.5)
        assert float(part.std()) == pytest.approx(1, abs=0.06)


def test_standardiser_comes_back() -> None:
    values, position = trend(300)
    standardiser = Standardiser(1).double()
    standardiser.fit(values, position, torch.ones_like(values))
    torch.testing.assert_close(standardiser.inverse(standardiser(values, position), position), values)
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(standardiser(standardiser.inverse(ends, ends), ends), ends)


def test_standardiser_leaves_columns_with_hardly_any_events_alone() -> None:
    values, position = trend(100)
    present = torch.zeros(100, 2)
    present[:, 0] = 1
    present[:19, 1] = 1
    standardiser = Standardiser(2).double()
    standardiser.fit(values.expand(-1, 2), position, present)
    standard = standardiser(values.expand(-1, 2), position)
    torch.testing.assert_close(standard[:, 1], values[:, 0])
    assert not torch.allclose(standard[:, 0], values[:, 0])


def test_standardiser_ignores_absent_values() -> None:
    values, position = trend(400)
    present = (position > 0).double()
    spoilt = torch.where(present > 0, values, torch.full_like(values, 1e6))
    clean, other = Standardiser(1).double(), Standardiser(1).double()
    clean.fit(values[position[:, 0] > 0], position[position[:, 0] > 0], torch.ones(int(present.sum()), 1))
    other.fit(spoilt, position, present)
    torch.testing.assert_close(other(values, position), clean(values, position))


@pytest.mark.parametrize("n", [20, 40, 2000])
def test_events_at_one_end_stay_tame_at_the_other(n: int) -> None:
    """Polynomials through points at t near 1 run far away at t = -1 if nothing holds them."""
    rng = np.random.default_rng(4)
    t = rng.uniform(0.7, 1.0, (n, 1))
    values = torch.from_numpy(20 * t**2 + np.exp(8 * (t - 0.7)) * rng.normal(size=(n, 1)))
    standardiser = Standardiser(1).double()
    standardiser.fit(values, torch.from_numpy(t), torch.ones_like(values))
    everywhere = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    centre = standardiser.inverse(torch.zeros(101, 1, dtype=torch.float64), everywhere)
    assert centre.min() >= values.min() - 1e-5
    assert centre.max() <= values.max() + 1e-5
    width = standardiser.inverse(torch.ones(101, 1, dtype=torch.float64), everywhere) - centre
    assert width.max() / width.min() <= math.exp(3) * (1 + 1e-5)


def test_constant_column_gives_finite_numbers() -> None:
    _, position = trend(50)
    standardiser = Standardiser(1)
    standardiser.fit(torch.full((50, 1), 0.25), position, torch.ones(50, 1))
    assert torch.isfinite(standardiser(torch.full((50, 1), 0.25), position.float())).all()
