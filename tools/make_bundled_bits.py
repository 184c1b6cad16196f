#!/usr/bin/env python3
"""Makes the bundled samples of MNIST and Fashion-MNIST from the full sets.

Draws 2,000 training images from the training part and 500 from the test part by a seeded permutation, makes bits of the
pixels above half of the full range, packs eight of them into a byte and writes them with their labels. The source is an
NPZ file with the arrays x_train, y_train, x_test and y_test of uint8 images (28 x 28).

Usage: python tools/make_bundled_bits.py NAME SOURCE.npz OUT_FOLDER
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from calo4pqvae.prior.bits.file import BitsFile

SEED = 20261124
N_STATES = {"train": 2000, "test": 500}
THRESHOLD = 0.5


def main() -> None:
    """Reads the source named on the command line and writes the sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("mnist", "fashion-mnist"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    content: dict[str, Any] = {}
    for part, n_states in N_STATES.items():
        whole = BitsFile.read(arguments.source, f"x_{part}", THRESHOLD, f"y_{part}")
        rows = np.random.default_rng(SEED).permutation(whole.n_states)[:n_states]
        chosen = whole.take(rows)
        if chosen.labels is None:
            raise SystemExit(f"{arguments.source} has no labels of the {part} part")
        content[f"{part}_bits"] = np.packbits(chosen.bits, axis=1)
        content[f"{part}_labels"] = chosen.labels.astype(np.uint8)
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out / f"{arguments.name}.npz", **content)


if __name__ == "__main__":
    main()
