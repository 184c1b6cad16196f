import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.showers.validation import validate_file

GRID = Geometry.regular("small", 1, 2, 2, radial_width_mm=10.0, threshold_mev=0.5, energy_range=(10.0, 100.0))


def write(path: Path, energies: np.ndarray, showers: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies.reshape(-1, 1)
        file["showers"] = showers
    return path


def good_sample(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, 50.0), np.tile([10.0, 0.0, 0.4, 20.0], (n, 1))


def test_every_fault_is_found_counted_and_located(tmp_path: Path) -> None:
    energies, showers = good_sample(30)
    showers[3, 1] = np.nan
    showers[4, 0] = np.inf
    showers[7, 2] = -0.1
    showers[9, 0] = 50.001
    showers[11] = 0.0
    energies[13], energies[14], energies[15] = np.nan, 0.0, -1.0
    energies[17], energies[18] = 9.0, 101.0
    showers[17] /= 10
    showers[20, 0] = 50.0  # all of the incident energy in one voxel is no fault
    report = validate_file(write(tmp_path / "faulty.hdf5", energies, showers), GRID, chunk=7)
    found = {kind: finding.rows for kind, finding in report.findings.items()}
    assert found == {
        "nonfinite": (3, 4),
        "negative": (7,),
        "bad_incident_energy": (13, 14, 15),
        "voxel_above_incident_energy": (9,),
        "empty": (11,),
        "outside_energy_range": (17, 18),
    }
    assert all(finding.count == len(finding.rows) for finding in report.findings.values())
    assert np.flatnonzero(~report.good).tolist() == [3, 4, 7, 9, 13, 14, 15]
    assert (report.n_showers, report.n_bad, report.is_clean) == (30, 7, False)
    assert (report.energy_min_mev, report.energy_max_mev) == (-1.0, 101.0)


def test_numbers_of_good_showers_by_hand(tmp_path: Path) -> None:
    energies, showers = good_sample(4)
    showers[1] *= 2
    showers[3, 0] = np.nan  # takes no part
    report = validate_file(write(tmp_path / "some.hdf5", energies, showers), GRID)
    # responses 30.4/50, 60.8/50, 30.4/50; the voxel of 0.4 MeV is below the threshold, doubled it is not
    assert report.response_mean == pytest.approx((0.608 + 1.216 + 0.608) / 3)
    assert report.response_std == pytest.approx(0.608 * np.sqrt(2) / 3)
    assert report.occupancy == pytest.approx((2 + 3 + 2) / 12)


def test_only_the_first_twenty_rows_are_listed(tmp_path: Path) -> None:
    energies, showers = good_sample(50)
    showers[:, 0] = -1.0
    report = validate_file(write(tmp_path / "all.hdf5", energies, showers), GRID, chunk=8)
    assert report.findings["negative"].count == 50
    assert report.findings["negative"].rows == tuple(range(20))
    assert report.response_mean is None
    assert report.occupancy is None


def test_report_is_plain_json(tmp_path: Path) -> None:
    energies, showers = good_sample(3)
    report = validate_file(write(tmp_path / "three.hdf5", energies * np.nan, showers), GRID)
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["n_bad"] == 3
    assert told["energy_min_mev"] is None
    assert told["findings"]["bad_incident_energy"] == {"count": 3, "rows": [0, 1, 2]}


def test_energies_beyond_float32_are_bad(tmp_path: Path) -> None:
    energies, showers = good_sample(3)
    energies[0] = 1e300
    showers[1, 1] = 1e300
    report = validate_file(write(tmp_path / "huge.hdf5", energies, showers), GRID)
    assert report.findings["bad_incident_energy"].rows == (0,)
    assert report.findings["nonfinite"].rows == (1,)


def test_bundled_showers_are_clean() -> None:
    report = validate_file(bundled_path("heldout"), geometry("ds2"), chunk=500)
    assert report.is_clean
    assert all(finding.count == 0 for finding in report.findings.values())
    assert report.response_mean == pytest.approx(0.97, abs=0.005)
    assert report.occupancy == pytest.approx(0.10, abs=0.01)
