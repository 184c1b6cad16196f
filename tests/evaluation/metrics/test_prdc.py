"""Against a slow computation written from the definitions, and against what must hold."""

import json

import numpy as np
import pytest

from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.evaluation.metrics.prdc import PRDC_NAMES, log_voxels, prdc
from calo4pqvae.showers.geometry import Geometry


def slowly(reference: np.ndarray, generated: np.ndarray, k: int) -> list[float]:
    """Loops over points; radii by sorting the distances to all others."""

    def radius(points: np.ndarray, index: int) -> float:
        others = np.delete(points, index, axis=0)
        return float(np.sort(np.linalg.norm(others - points[index], axis=1))[k - 1])

    radii = [radius(reference, i) for i in range(len(reference))]
    others = [radius(generated, j) for j in range(len(generated))]
    inside = np.zeros((len(reference), len(generated)), dtype=bool)
    recalled = np.zeros(len(reference), dtype=bool)
    for i, x in enumerate(reference):
        for j, y in enumerate(generated):
            distance = np.linalg.norm(x - y)
            inside[i, j] = distance < radii[i]
            recalled[i] |= bool(distance < others[j])
    return [
        float(np.mean([inside[:, j].any() for j in range(len(generated))])),
        float(recalled.mean()),
        float(inside.sum() / (k * len(generated))),
        float(np.mean([inside[i].any() for i in range(len(reference))])),
    ]


@pytest.mark.parametrize("k", [1, 5])
def test_equals_the_definitions(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "calo4pqvae.evaluation.metrics.prdc._BLOCK_ELEMENTS", 60 * 17
    )  # several blocks, the last one short
    rng = np.random.default_rng(k)
    reference, generated = rng.normal(size=(60, 6)), 0.8 * rng.normal(size=(60, 6)) + 0.5
    found = prdc(reference=reference, generated=generated, k=k, n_splits=2)
    assert [getattr(found, name).value for name in PRDC_NAMES] == pytest.approx(slowly(reference, generated, k))


def test_halves_equal_the_definitions_on_halves() -> None:
    """One split only differs from the next by its members: the mean over all splits is reproduced by hand."""
    rng = np.random.default_rng(3)
    reference, generated = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) + 0.3
    found = prdc(reference=reference, generated=generated, k=2, n_splits=400, seed=1)
    by_hand, floor = [], []
    for _ in range(150):
        order = rng.permutation(40)
        one, other = order[:20], order[20:]
        by_hand.append(slowly(reference[one], generated[rng.permutation(40)[:20]], 2))
        floor.append(slowly(reference[one], reference[other], 2))
    for column, name in enumerate(PRDC_NAMES):
        values = np.array(by_hand)[:, column]
        assert found.matched[name].median == pytest.approx(np.median(values), abs=0.06)
        assert found.floor[name].median == pytest.approx(np.median(np.array(floor)[:, column]), abs=0.06)
        assert found.floor[name].sizes == (20, 20)


def test_short_lists_of_neighbours_are_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(8).normal(size=(2, 80, 4))
    expected = prdc(reference=points[0], generated=points[1])
    monkeypatch.setattr("calo4pqvae.evaluation.metrics.prdc._FIRST_LENGTH", -26)  # lists of 4 for k = 5
    assert prdc(reference=points[0], generated=points[1]) == expected


def test_floor_equals_a_comparison_of_the_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor is read off the neighbours; comparing the same halves as two samples gives the same."""
    points = np.random.default_rng(9).normal(size=(60, 3)).astype(np.float32)
    halves = np.arange(60) % 2 == 0
    everything = np.ones(60, dtype=bool)
    monkeypatch.setattr("calo4pqvae.evaluation.metrics.prdc._halves", lambda *_: ([everything, halves, ~halves],) * 2)
    found = prdc(reference=points, generated=points)
    assert [found.floor[name].median for name in PRDC_NAMES] == pytest.approx(
        slowly(points[halves], points[~halves], 5)
    )


def test_a_sample_against_itself() -> None:
    """Each point is in its own ball: all of it precise, recalled and covered; k - 1 other balls hold it on average."""
    points = np.random.default_rng(4).normal(size=(200, 8)).astype(np.float32)
    found = prdc(reference=points, generated=points, n_splits=2)
    assert (found.precision.value, found.recall.value, found.coverage.value) == (1.0, 1.0, 1.0)
    assert found.density.value == pytest.approx(1.0, abs=0.02)


def test_one_law_is_at_the_floor_and_errors_cover() -> None:
    rng = np.random.default_rng(5)
    values, errors = [], []
    for _ in range(30):
        found = prdc(reference=rng.normal(size=(300, 5)), generated=rng.normal(size=(300, 5)), n_splits=20)
        values.append([getattr(found, name).value for name in PRDC_NAMES])
        errors.append([getattr(found, name).error for name in PRDC_NAMES])
    spread, quoted = np.std(values, axis=0, ddof=1), np.mean(errors, axis=0)
    assert np.all((quoted / spread > 0.75) & (quoted / spread < [1.5, 1.5, 2.0, 1.6]))
    for name in PRDC_NAMES:
        assert found.matched[name].median == pytest.approx(found.floor[name].median, abs=4 * getattr(found, name).error)


def test_narrow_and_distant_samples_are_told_apart() -> None:
    rng = np.random.default_rng(6)
    reference = rng.normal(size=(300, 5))
    narrow = prdc(reference=reference, generated=0.3 * rng.normal(size=(300, 5)), n_splits=2)
    assert narrow.precision.value > 0.98 > 0.4 > narrow.recall.value
    far = prdc(reference=reference, generated=rng.normal(size=(300, 5)) + 100, n_splits=2)
    assert [getattr(far, name).value for name in PRDC_NAMES] == [0, 0, 0, 0]


def test_unequal_sizes_are_cut_and_the_seed_decides() -> None:
    rng = np.random.default_rng(7)
    reference, generated = rng.normal(size=(80, 3)), rng.normal(size=(200, 3))
    one, same, other = (prdc(reference=reference, generated=generated, n_splits=3, seed=seed) for seed in (1, 1, 2))
    assert one.precision.n == 80
    assert one == same
    assert one != other
    json.dumps(one.to_dict(), allow_nan=False)


def test_points_of_the_challenge() -> None:
    grid = Geometry.regular("small", 1, 1, 4, 10.0, threshold_mev=0.02)
    points = log_voxels([[0.0, 0.019, 0.05, 10.0]], grid)
    np.testing.assert_allclose(points, [[-1.0, -1.0, np.log10(0.05), 1.0]], rtol=1e-6)
    assert points.dtype == np.float32
    with pytest.raises(DataError, match="do not fit small: 4 voxels"):
        log_voxels(np.zeros((2, 3)), grid)


def test_bad_input_is_told() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(DataError, match="same width"):
        prdc(reference=points, generated=points[:, :2])
    with pytest.raises(DataError, match="generated points hold NaN"):
        prdc(reference=points, generated=np.where(points > 1, np.nan, points))
    with pytest.raises(DataError, match="at least 12 showers, but there are 11"):
        prdc(reference=points, generated=points[:11])
    with pytest.raises(ConfigError, match="k = 0"):
        prdc(reference=points, generated=points, k=0)
    with pytest.raises(ConfigError, match="no device"):
        prdc(reference=points, generated=points, device="tpu")


def test_progress_ends_at_its_total() -> None:
    points, seen = np.random.default_rng(0).normal(size=(40, 3)), []
    prdc(reference=points, generated=points + 1, n_splits=2, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1][0] == seen[-1][1] == len(seen)
