import numpy as np

from calo4pqvae.showers.bundled import BUNDLED_NOTE, bundled_path
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import geometry


def test_parts_are_disjoint_and_small_enough() -> None:
    rows = {}
    for part, n_showers in (("train", 4800), ("heldout", 1700)):
        with ShowerFile(bundled_path(part), geometry("ds2")) as file:
            assert file.n_showers == n_showers
            rows[part] = {shower.tobytes() for _, showers in file.chunks() for shower in showers}
        assert len(rows[part]) == n_showers
    assert not rows["train"] & rows["heldout"]
    assert sum(bundled_path(part).stat().st_size for part in ("train", "heldout")) <= 16_000_000


def test_voxels_have_three_digits_and_respect_the_threshold() -> None:
    with ShowerFile(bundled_path("heldout")) as file:
        hits = file.read(0, 200)
    hits = hits[hits > 0]
    rounded = np.array([float(f"{value:.2e}") for value in hits[:5000].tolist()], dtype=np.float32)
    np.testing.assert_array_equal(hits[:5000], rounded)
    assert hits.min() > 0.5e-3 / 0.033


def test_provenance_is_told() -> None:
    for part in ("train", "heldout"):
        with ShowerFile(bundled_path(part)) as file:
            told = file.attributes
        assert told["note"] == "genuine Geant4 showers, but NOT the official CaloChallenge dataset 2"
        assert told["part"] == part
        assert "Geant4 Collaboration" in told["acknowledgement"]
        assert told["sampling_fraction"] == 0.033
    assert "NOT the official dataset 2" in BUNDLED_NOTE
    assert "\n" not in BUNDLED_NOTE
