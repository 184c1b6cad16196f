import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calo4pqvae.errors import DataError
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry, LayerGeometry, geometry
from calo4pqvae.showers.transforms import (
    CanonicalFrame,
    Compose,
    Frame,
    IncidentFraction,
    LayerSplit,
    LogitTransform,
    LogTransform,
    OnParts,
    ShowerParts,
    Transform,
    apply_threshold,
)

FLOAT64_TOLERANCE = 1e-12
FLOAT32_TOLERANCE = 3e-6  # relative, for every voxel above 1e-20 of the incident energy

MIXED = Geometry("mixed", "photon", (LayerGeometry(0, (0, 1, 2, 3), 1), LayerGeometry(2, (0, 5, 9), 4)), 0.0)
GRID = Geometry.regular("grid", 3, 8, 2, radial_width_mm=10.0)
ODD_GRID = Geometry.regular("odd", 2, 7, 3, radial_width_mm=10.0)

# Zero often, and otherwise over many decades, up to the whole incident energy.
fractions = st.one_of(st.just(0.0), st.floats(-18, 0).map(lambda power: 10.0**power), st.floats(0.5, 1.0))
energies = st.floats(2, 7).map(lambda power: 10.0**power)


def showers_of(n_voxels: int) -> st.SearchStrategy:
    return st.tuples(
        hnp.arrays(np.float64, (3, n_voxels), elements=fractions), hnp.arrays(np.float64, (3, 1), elements=energies)
    )


def chains(shape: Geometry) -> dict[str, Compose]:
    return {
        "logit": Compose([IncidentFraction(), LogitTransform()]),
        "scaled logit": Compose([IncidentFraction(), LogitTransform(r=1e-4, scale=3.0832)]),
        "log": Compose([LogTransform(unit_mev=0.5)]),
        "split": Compose([LayerSplit(shape)]),
        "split logit": Compose([LayerSplit(shape), OnParts(LogTransform(1.0), LogitTransform(1e-6), LogitTransform())]),
    }


@pytest.mark.parametrize("name", chains(MIXED))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64_TOLERANCE), (torch.float32, FLOAT32_TOLERANCE)]
)
@given(sample=showers_of(MIXED.n_voxels))
@settings(max_examples=40, deadline=None)
def test_round_trip(name: str, dtype: torch.dtype, tolerance: float, sample: tuple[np.ndarray, np.ndarray]) -> None:
    incident = torch.from_numpy(sample[1]).to(dtype)
    # the sum of a real shower stays near the incident energy; its voxels never exceed it
    showers = (torch.from_numpy(sample[0]).to(dtype) * incident).clamp(max=incident)
    chain = chains(MIXED)[name]
    back = chain.inverse(chain.forward(showers, incident), incident)
    assert back.dtype == dtype
    assert torch.equal(back == 0, showers == 0)
    torch.testing.assert_close(back, showers, rtol=tolerance, atol=0)


def test_round_trip_of_genuine_showers() -> None:
    with ShowerFile(bundled_path("heldout")) as file:
        showers = torch.from_numpy(file.read(0, 64))
        incident = torch.from_numpy(file.incident_energies()[:64]).float()
    for name, chain in chains(geometry("ds2")).items():
        back = chain.inverse(chain.forward(showers, incident), incident)
        assert torch.equal(back > 0, showers > 0), name
        torch.testing.assert_close(back, showers, rtol=FLOAT32_TOLERANCE, atol=0, msg=name)


def test_logit_is_the_published_formula() -> None:
    r = 1e-7
    for fraction in (1e-6, 1e-3, 0.25, 0.75, 1.0):
        y = r + (1 - 2 * r) * fraction
        expected = math.log(y * (1 - r) / (r * (1 - y)))
        found = LogitTransform(r, scale=2.0).forward(torch.tensor([[fraction]], dtype=torch.float64), torch.ones(1, 1))
        assert found.item() == pytest.approx(expected / 2, rel=1e-8)


def test_logit_meets_its_ends() -> None:
    logit = LogitTransform(1e-7)
    ends = logit.forward(torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.ones(1, 1))
    assert ends[0, 0].item() == 0.0
    assert ends[0, 1].item() == pytest.approx(32.24, abs=0.005)
    assert logit.maximum == pytest.approx(32.24, abs=0.005)


def test_smallest_voxels_stay_hits_in_float32() -> None:
    tiny = torch.tensor([[1e-30, 1e-12, 1e-8]])
    image = LogitTransform(1e-7).forward(tiny, torch.ones(1, 1))
    assert bool((image > 0).all())
    torch.testing.assert_close(LogitTransform(1e-7).inverse(image, torch.ones(1, 1)), tiny, rtol=1e-6, atol=0)


def test_inverse_takes_what_a_network_may_give() -> None:
    wild = torch.tensor([[-1e30, -0.1, 1e3, math.inf]])
    assert LogitTransform().inverse(wild, torch.ones(1, 1)).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert LogTransform(1.0).inverse(torch.tensor([[-5.0]]), torch.ones(1, 1)).item() == 0.0


@pytest.mark.parametrize("transform", [LogitTransform(), LogTransform(1.0)])
def test_gradient_is_that_of_finite_differences(transform: Transform[Any, Any]) -> None:
    x = torch.tensor([[1e-4, 0.3, 0.7]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: transform.forward(v, one), (x,), eps=1e-9, rtol=1e-4)
    y = transform.forward(x, one).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: transform.inverse(v, one), (y,))


@pytest.mark.parametrize("value", [math.nan, -1e-9, 1.0 + 1e-6, math.inf])
def test_logit_refuses_what_is_no_fraction(value: float) -> None:
    with pytest.raises(DataError, match="1 values of the voxel fraction are outside their range"):
        LogitTransform().forward(torch.tensor([[0.5, value]]), torch.ones(1, 1))


@pytest.mark.parametrize("value", [math.nan, -1e-9, math.inf])
def test_energies_must_be_finite_and_not_negative(value: float) -> None:
    spoiled = torch.zeros(1, MIXED.n_voxels)
    spoiled[0, 3] = value
    for transform in (LogTransform(1.0), LayerSplit(MIXED)):
        with pytest.raises(DataError, match="voxel energy"):
            transform.forward(spoiled, torch.ones(1, 1))


@pytest.mark.parametrize(("r", "scale"), [(0.0, 1.0), (0.5, 1.0), (1e-7, 0.0), (1e-7, math.nan)])
def test_senseless_logit_is_refused(r: float, scale: float) -> None:
    with pytest.raises(DataError, match="of the logit"):
        LogitTransform(r, scale)


def test_senseless_unit_is_refused() -> None:
    with pytest.raises(DataError, match="unit of the log transform"):
        LogTransform(0.0)


@pytest.mark.parametrize("incident", [[[0.0]], [[-1.0]], [[math.nan]], [[math.inf]]])
def test_incident_energy_must_be_positive(incident: list[list[float]]) -> None:
    with pytest.raises(DataError, match="not finite and positive"):
        IncidentFraction().forward(torch.zeros(1, 3), torch.tensor(incident))


def test_incident_energies_must_fit_the_showers() -> None:
    with pytest.raises(DataError, match=r"have shape \(2,\); 2 showers need \(2, 1\)"):
        IncidentFraction().forward(torch.zeros(2, 3), torch.ones(2))


def test_split_by_hand() -> None:
    # layer 0 (3 voxels) holds 30 MeV, layer 2 (8 voxels) 10 MeV, incident 50 MeV
    shower = torch.zeros(1, 11)
    shower[0, [0, 2, 7]] = torch.tensor([10.0, 20.0, 10.0])
    parts = LayerSplit(MIXED).forward(shower, torch.tensor([[50.0]]))
    assert parts.response.tolist() == [[pytest.approx(0.8)]]
    torch.testing.assert_close(parts.layer_fractions, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(parts.shape[0, [0, 2, 7]], torch.tensor([1 / 3, 2 / 3, 1.0]))
    assert int((parts.shape > 0).sum()) == 3


def test_empty_showers_and_layers_split_to_zeros() -> None:
    showers = torch.zeros(2, 11)
    showers[1, 10] = 4.0
    incident = torch.tensor([[10.0], [10.0]])
    split = LayerSplit(MIXED)
    parts = split.forward(showers, incident)
    assert all(bool(torch.isfinite(part).all()) for part in parts)
    assert not any(bool(part[0].any()) for part in parts)
    assert parts.layer_fractions[1].tolist() == [0.0, 1.0]
    assert torch.equal(split.inverse(parts, incident), showers)


def test_split_refuses_another_width() -> None:
    with pytest.raises(DataError, match=r"showers have shape \(1, 10\); the geometry needs \(showers, 11\)"):
        LayerSplit(MIXED).forward(torch.zeros(1, 10), torch.ones(1, 1))


def test_untouched_parts_pass_through() -> None:
    parts = ShowerParts(torch.tensor([[1.2]]), torch.tensor([[0.5, 0.5]]), torch.rand(1, 11))
    assert OnParts().forward(parts, torch.ones(1, 1)) == parts


def test_threshold_empties_what_is_below_it() -> None:
    showers = torch.tensor([[0.0, 0.0151, 0.01515152, 3.0]])
    assert apply_threshold(showers, 0.5e-3 / 0.033).tolist() == [[0.0, 0.0, pytest.approx(0.01515152), 3.0]]


def random_showers(shape: Geometry, n: int, seed: int) -> torch.Tensor:
    """Showers with a clear centroid, so that no tie between two positions can arise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, shape.n_voxels, generator=generator).pow(4)


def moved(showers: torch.Tensor, shape: Geometry, turn: int, mirror: bool) -> torch.Tensor:
    """Turns by rolling and mirrors by flipping the grid: not the way of the library."""
    grid = showers.reshape(-1, *shape.grid_shape).roll(turn, dims=2)
    return (grid.flip(2) if mirror else grid).reshape(showers.shape)


@pytest.mark.parametrize("shape", [GRID, ODD_GRID], ids=["even", "odd"])
@given(turn=st.integers(0, 7), mirror=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_canonical_form_knows_no_angle(shape: Geometry, turn: int, mirror: bool, seed: int) -> None:
    showers = random_showers(shape, 8, seed)
    canonical = CanonicalFrame(shape)
    # a centroid within 1e-4 of a sector's border is a tie, which rounding may settle either way
    cells = canonical.centroid_angle(showers) * shape.grid_shape[1] / math.pi
    showers = showers[(cells - cells.round()).abs() > 1e-4]
    other = moved(showers, shape, turn, mirror)
    first = canonical.to_canonical(showers, canonical.frame(showers))
    second = canonical.to_canonical(other, canonical.frame(other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [GRID, ODD_GRID], ids=["even", "odd"])
def test_canonical_centroid_lies_in_its_sector(shape: Geometry) -> None:
    canonical = CanonicalFrame(shape)
    showers = random_showers(shape, 500, 5)
    placed = canonical.to_canonical(showers, canonical.frame(showers)).double().numpy()
    eta, phi, _ = shape.voxel_centres()
    angle = np.arctan2(placed @ phi, placed @ eta)
    assert angle.min() > -1e-6
    assert angle.max() < np.pi / shape.grid_shape[1] + 1e-6
    # the sector is filled: nothing smaller would do for all showers
    assert np.ptp(angle) > 0.9 * np.pi / shape.grid_shape[1]


@pytest.mark.parametrize("shape", [GRID, ODD_GRID], ids=["even", "odd"])
def test_frames_are_undone_exactly(shape: Geometry) -> None:
    canonical = CanonicalFrame(shape)
    showers = random_showers(shape, 200, 3)
    for frame in (canonical.frame(showers), canonical.random(200, torch.Generator().manual_seed(1))):
        assert torch.equal(canonical.from_canonical(canonical.to_canonical(showers, frame), frame), showers)
        assert torch.equal(canonical.to_canonical(canonical.from_canonical(showers, frame), frame), showers)


def test_each_frame_turns_then_mirrors() -> None:
    canonical = CanonicalFrame(GRID)
    showers = random_showers(GRID, 1, 9)
    for turn in range(8):
        for mirror in (False, True):
            frame = Frame(torch.tensor([turn]), torch.tensor([mirror]))
            assert torch.equal(canonical.to_canonical(showers, frame), moved(showers, GRID, turn, mirror))


def test_single_voxel_has_one_canonical_form() -> None:
    canonical = CanonicalFrame(GRID)
    showers = torch.zeros(8, GRID.n_voxels)
    for cell in range(8):
        showers[cell, (1 * 8 + cell) * 2 + 1] = 5.0  # layer 1, outer ring, each angular cell once
    placed = canonical.to_canonical(showers, canonical.frame(showers))
    assert torch.equal(placed, placed[:1].expand_as(placed))
    assert placed[0].nonzero().flatten().tolist() == [(1 * 8 + 4) * 2 + 1]  # the cell from 0 to 45 degrees


def test_empty_shower_stays_where_it_is() -> None:
    frame = CanonicalFrame(GRID).frame(torch.zeros(2, GRID.n_voxels))
    assert frame.rotation.tolist() == [0, 0]
    assert frame.reflected.tolist() == [False, False]


def test_random_frames_are_uniform_and_repeatable() -> None:
    canonical = CanonicalFrame(GRID)
    first = canonical.random(16000, torch.Generator().manual_seed(7))
    second = canonical.random(16000, torch.Generator().manual_seed(7))
    assert torch.equal(first.rotation, second.rotation)
    assert torch.equal(first.reflected, second.reflected)
    assert first.rotation.dtype == torch.int64
    assert first.reflected.dtype == torch.bool
    counts = torch.bincount(first.rotation * 2 + first.reflected, minlength=16).double()
    chi2 = ((counts - 1000) ** 2 / 1000).sum().item()
    assert chi2 < 44.3  # 15 degrees of freedom, p = 1e-4


def test_one_frame_a_shower() -> None:
    canonical = CanonicalFrame(GRID)
    with pytest.raises(DataError, match="1 frames were given for 2 showers"):
        canonical.to_canonical(torch.zeros(2, GRID.n_voxels), Frame(torch.tensor([0]), torch.tensor([False])))


def test_canonical_frame_needs_a_regular_grid() -> None:
    with pytest.raises(DataError, match="regular"):
        CanonicalFrame(MIXED)
