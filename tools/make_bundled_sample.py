#!/usr/bin/env python3
"""Makes the bundled sample of Geant4 electron showers from a larger file of them.

Draws showers without replacement by a seeded permutation, so that the training and the held-out file share no
shower and each is in random order; rounds voxel energies to three significant decimal digits, which halves
the compressed size and moves no voxel by more than 0.5 %; keeps incident energies as they are. The source is
a file of the CaloChallenge data-set-2 layout whose root attributes tell its provenance.

Usage: python tools/make_bundled_sample.py SOURCE.hdf5 OUT_FOLDER
"""

import argparse
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

SEED = 20240923
N_TRAIN = 4800
N_HELDOUT = 1700
CHUNK_SHOWERS = 100
SIGNIFICANT_DIGITS = 3

PROVENANCE = {
    "title": "Geant4 electron showers in a tungsten-silicon cylinder calorimeter, 1 to 100 GeV",
    "note": "genuine Geant4 showers, but NOT the official CaloChallenge dataset 2",
    "generator": "Geant4 11.4.1 via geant4-pybind 0.1.3, electromagnetic models that need no external data",
    "particle": "electron, incident energy log-uniform from 1 to 100 GeV",
    "detector": "like the Geant4 example Par04: 90 x (1.4 mm W + 0.3 mm Si), inner radius 80 cm; cut 0.7 mm",
    "grid": "45 layers x 16 angles x 9 radii of 3.4 mm, 2 pi / 16 and 4.65 mm; radius fastest, layer slowest",
    "units": "MeV",
    "sampling_fraction": 0.033,
    "threshold_mev": 0.5e-3 / 0.033,
    "voxel_energy": "deposit in silicon / sampling_fraction; voxels below threshold_mev set to zero",
    "rounding": "voxel energies rounded to three significant decimal digits; incident energies as generated",
    "physics_differences": (
        "against dataset 2: electrons up to 100 GeV only; Sandia photoelectric in place of Livermore; "
        "relativistic bremsstrahlung below 1 GeV in place of Seltzer-Berger; no Rayleigh scattering; "
        "no hadronic physics; against the standard physics list the response is about 1.4 % higher, "
        "mean depth and radius agree to about 1.5 %"
    ),
    "selection": "without replacement from 13500 showers by numpy default_rng(selection_seed).permutation",
    "selection_seed": SEED,
    "acknowledgement": "made with Geant4; we acknowledge the Geant4 Collaboration",
}


def round_significant(values: npt.NDArray[np.float32], digits: int) -> npt.NDArray[np.float32]:
    """Rounds to ``digits`` significant decimal digits; zeros stay exact zeros."""
    exact = values.astype(np.float64)
    positive = exact > 0
    exponent = np.floor(np.log10(exact, where=positive, out=np.zeros_like(exact)))
    shift = digits - 1 - exponent
    mantissa = np.rint(exact * 10.0**shift)
    return np.where(positive, mantissa / 10.0**shift, 0.0).astype(np.float32)


def write_part(path: Path, part: str, energies: npt.NDArray[np.float32], showers: npt.NDArray[np.float32]) -> None:
    """Writes one part in the CaloChallenge layout, with its provenance as root attributes."""
    with h5py.File(path, "w") as file:
        file.create_dataset("incident_energies", data=energies)
        file.create_dataset(
            "showers",
            data=showers,
            chunks=(CHUNK_SHOWERS, showers.shape[1]),
            compression="gzip",
            compression_opts=9,
        )
        file.attrs.update(PROVENANCE)
        file.attrs["part"] = part


def main() -> None:
    """Reads the source named on the command line and writes both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with h5py.File(arguments.source) as file:
        energies = file["incident_energies"][:].astype(np.float32).reshape(-1, 1)
        showers = file["showers"][:].astype(np.float32)
    order = np.random.default_rng(SEED).permutation(len(energies))
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = {"train": order[:N_TRAIN], "heldout": order[N_TRAIN : N_TRAIN + N_HELDOUT]}
    for part, index in chosen.items():
        rounded = round_significant(showers[index], SIGNIFICANT_DIGITS)
        write_part(arguments.out / f"electrons_{part}.hdf5", part, energies[index], rounded)


if __name__ == "__main__":
    main()
