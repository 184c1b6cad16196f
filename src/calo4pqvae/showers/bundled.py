"""The showers that come with the package: a small, genuine sample of Geant4 electrons.

4,800 showers for training and 1,700 held out, of 1 to 100 GeV on the grid of CaloChallenge data set 2, so
that training, generation and evaluation can be tried without a download. ``samples/README.md`` tells how they
were made and in what they differ from the official data set; :data:`BUNDLED_NOTE` says it in one sentence and
stands wherever numbers from them are shown.
"""

from importlib import resources
from pathlib import Path
from typing import Literal

__all__ = ["BUNDLED_NOTE", "bundled_path"]

BUNDLED_NOTE = (
    "These are genuine Geant4 showers (Geant4 11.4.1, data-free electromagnetic models, electrons of 1 to "
    "100 GeV) on the grid of CaloChallenge dataset 2, but NOT the official dataset 2: compare them with the "
    "Geant4-against-Geant4 floor of the same sample, not with published numbers."
)


def bundled_path(part: Literal["train", "heldout"]) -> Path:
    """Where a bundled shower file is: 4,800 showers to train on, or 1,700 that no training may see.

    Example:
        >>> bundled_path("train").name
        'electrons_train.hdf5'
    """
    return Path(str(resources.files("calo4pqvae.showers"))) / "samples" / f"electrons_{part}.hdf5"
