"""Images of MNIST and Fashion-MNIST as bits: the usual test of a restricted Boltzmann machine.

A small random sample of each comes with the package (2,000 images to train on and 500 held out, binarised at half of
the full range; ``samples/README.md`` tells their origin and terms), so that machines can be tried without a download.
The full sets are fetched from the servers of their publishers and checked against the MD5 sums that are published with
them; a download that was interrupted goes on where it stopped.

MNIST: LeCun, Cortes and Burges; LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86
(1998). Fashion-MNIST: Xiao, Rasul and Vollgraf, arXiv 1708.07747.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from calo4pqvae.download import Progress, RemoteFile, retrieve
from calo4pqvae.errors import DataError, FetchError
from calo4pqvae.prior.bits.file import BitsFile

__all__ = ["IMAGE_SETS", "ImageSet", "bundled_images", "fetch_images", "load_images"]

Part = Literal["train", "test"]

THRESHOLD = 0.5
_SHAPE = (28, 28)
_FILES: Mapping[Part, tuple[str, str]] = MappingProxyType(
    {
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    }
)


@dataclass(frozen=True)
class ImageSet:
    """A published set of images in the IDX format.

    Args:
        base_url: Folder on the server.
        sums: Size in bytes and MD5 sum of every file.
        terms: Licence.
    """

    base_url: str
    sums: Mapping[str, tuple[int, str]]
    terms: str

    def files(self, base_url: str | None = None) -> list[RemoteFile]:
        """The files, on the publisher's server or on another one."""
        root = (base_url or self.base_url).rstrip("/")
        return [RemoteFile(name, f"{root}/{name}", size, f"md5:{md5}") for name, (size, md5) in self.sums.items()]


IMAGE_SETS: Mapping[str, ImageSet] = MappingProxyType(
    {
        "mnist": ImageSet(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            {
                "train-images-idx3-ubyte.gz": (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                "train-labels-idx1-ubyte.gz": (28881, "d53e105ee54ea40749a09fcbcd1e9432"),
                "t10k-images-idx3-ubyte.gz": (1648877, "9fb629c4189551a2d022fa330f9573f3"),
                "t10k-labels-idx1-ubyte.gz": (4542, "ec29112dd5afa0611ce80d1b7f02629c"),
            },
            "CC BY-SA 3.0",
        ),
        "fashion-mnist": ImageSet(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            {
                "train-images-idx3-ubyte.gz": (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                "train-labels-idx1-ubyte.gz": (29515, "25c81989df183df01b3e8a0aad5dffbe"),
                "t10k-images-idx3-ubyte.gz": (4422102, "bef4ecab320f06d8554ea6380940ec79"),
                "t10k-labels-idx1-ubyte.gz": (5148, "bb300cfdad3c16e7a12a480ee83cd310"),
            },
            "MIT",
        ),
    }
)
"""The sets by name; read-only. Sums as published with torchvision and in the repository of Fashion-MNIST."""


def fetch_images(
    name: str, folder: Path, base_url: str | None = None, progress: Progress | None = None, timeout: float = 30.0
) -> list[Path]:
    """Downloads a full set; may be interrupted and called again.

    Args:
        name: A key of :data:`IMAGE_SETS`.
        folder: Where its files go; made if it is missing.
        base_url: Another server with the same files.
        progress: Told about every block that comes in.
        timeout: Seconds to wait for an answer, or for the next block.

    Returns:
        The files, complete and checked.

    Raises:
        FetchError: If the name is unknown, the server cannot be reached, or a file is not what was announced.
        OutputError: If the folder cannot be written.
    """
    return [retrieve(remote, Path(folder), progress, timeout) for remote in _known(name).files(base_url)]


def load_images(folder: Path, part: Part, threshold: float = THRESHOLD) -> BitsFile:
    """Bits of a set that was fetched.

    Args:
        folder: Where :func:`fetch_images` put the files.
        part: ``"train"`` (60,000 images) or ``"test"`` (10,000).
        threshold: Share of the full range above which a pixel is one.

    Raises:
        DataError: If a file is missing or damaged.
    """
    images, labels = (Path(folder) / name for name in _FILES[part])
    return BitsFile.read(images, threshold=threshold, labels=str(labels))


def bundled_images(name: str, part: Part) -> BitsFile:
    """The images that come with the package, as bits with labels.

    Args:
        name: A key of :data:`IMAGE_SETS`.
        part: ``"train"`` (2,000 images) or ``"test"`` (500).

    Raises:
        DataError: If there is no such set.

    Example:
        >>> bundled_images("mnist", "test").bits.shape
        (500, 784)
    """
    if name not in IMAGE_SETS:
        raise DataError(f"there are no bundled images '{name}'; choose among {', '.join(IMAGE_SETS)}")
    path = Path(str(resources.files("calo4pqvae.prior"))) / "samples" / f"{name}.npz"
    with np.load(path) as file:
        bits = np.unpackbits(file[f"{part}_bits"], axis=1, count=_SHAPE[0] * _SHAPE[1])
        labels = file[f"{part}_labels"].astype(np.int64)
    return BitsFile(bits, labels, None, _SHAPE, f"bundled {name}, {part}")


def _known(name: str) -> ImageSet:
    if name not in IMAGE_SETS:
        raise FetchError(f"there is no set of images {name!r}; choose among {', '.join(IMAGE_SETS)}")
    return IMAGE_SETS[name]
