r"""Cylindrical voxel grids and the four official ones of the CaloChallenge.

A calorimeter is cut into layers along the particle's direction, each layer into rings of radius :math:`r`
around the shower axis, each ring into equal cells of the angle :math:`\alpha`. A shower is the vector of
energies of all voxels in the order (layer, angle, radius), radius fastest, so that in a regular grid

.. math:: v = (\ell \, N_\alpha + a) \, N_r + \rho .

Cell ``a`` of :math:`N_\alpha` spans :math:`[-\pi + a\,\delta, -\pi + (a+1)\,\delta]` with
:math:`\delta = 2\pi/N_\alpha`. A voxel is located by the middle of its bins,

.. math:: \eta = r \cos\alpha, \qquad \phi = r \sin\alpha ,

plain Cartesian coordinates in mm in spite of their names, which are those of the challenge. A layer with a
single angular cell is made of whole rings; their centre lies on the axis, so :math:`\eta = \phi = 0` there.

Data sets 2 and 3 are regular: every layer is cut alike. Data set 1 follows the ATLAS calorimeter and is not;
files, features and transforms work on it, while networks that convolve over the grid ask for
:attr:`Geometry.grid_shape` and get an error that says so.

References:
    Krause et al., CaloChallenge 2022: a community challenge for fast calorimeter simulation,
    arXiv:2410.21611.
"""

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Self
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from calo4pqvae.errors import DataError

__all__ = ["GEOMETRIES", "Geometry", "LayerGeometry", "geometry"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SAMPLING_FRACTION = 0.033
READOUT_THRESHOLD_MEV = 0.5e-3 / SAMPLING_FRACTION


@dataclass(frozen=True)
class LayerGeometry:
    """One layer of the calorimeter.

    Args:
        layer_id: The layer's number in the detector; numbers may be left out.
        radial_edges: Rising edges of the rings in mm, one more than there are rings.
        n_alpha: Number of equal angular cells in each ring.

    Raises:
        DataError: If the edges do not rise from 0 or above, or there is no cell.
    """

    layer_id: int
    radial_edges: tuple[float, ...]
    n_alpha: int

    def __post_init__(self) -> None:
        edges = self.radial_edges
        rising = all(low < high for low, high in itertools.pairwise(edges))
        if len(edges) < 2 or edges[0] < 0 or not rising or not all(map(math.isfinite, edges)):
            raise DataError(
                f"layer {self.layer_id} has radial edges {edges}; give two or more, rising from 0 mm or above"
            )
        if self.n_alpha < 1:
            raise DataError(f"layer {self.layer_id} has {self.n_alpha} angular cells; give at least 1")

    @property
    def n_radial(self) -> int:
        """Number of rings."""
        return len(self.radial_edges) - 1

    @property
    def n_voxels(self) -> int:
        """Number of voxels, rings times angular cells."""
        return self.n_radial * self.n_alpha


@dataclass(frozen=True)
class Geometry:
    """A voxel grid, with the readout threshold and the energy range of its data set.

    Args:
        name: What the grid is called in settings and messages.
        particle: The incident particle, such as ``electron``.
        layers: The layers in the order of the voxels, at least one.
        threshold_mev: Voxels below this energy count as empty.
        energy_range: Lowest and highest incident energy in MeV, or ``None`` if any positive one will do.

    Raises:
        DataError: If there is no layer, or the threshold or the range make no sense.
    """

    name: str
    particle: str
    layers: tuple[LayerGeometry, ...]
    threshold_mev: float
    energy_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise DataError(f"geometry {self.name} has no layers; give at least one with two radial edges")
        if not (math.isfinite(self.threshold_mev) and self.threshold_mev >= 0):
            raise DataError(f"geometry {self.name} has threshold {self.threshold_mev} MeV; give 0 or a positive number")
        if self.energy_range is not None and not 0 < self.energy_range[0] <= self.energy_range[1] < math.inf:
            raise DataError(f"geometry {self.name} has energy range {self.energy_range} MeV; give 0 < low <= high")

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @cached_property
    def n_voxels(self) -> int:
        """Number of voxels of all layers together, the width of a row of ``showers``."""
        return sum(layer.n_voxels for layer in self.layers)

    @cached_property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each layer lies in the voxel vector."""
        ends = np.cumsum([layer.n_voxels for layer in self.layers]).tolist()
        return tuple(slice(end - layer.n_voxels, end) for layer, end in zip(self.layers, ends, strict=True))

    @property
    def is_regular(self) -> bool:
        """Whether every layer has the same rings and angular cells."""
        first = self.layers[0]
        return all(layer.n_alpha == first.n_alpha and layer.radial_edges == first.radial_edges for layer in self.layers)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Numbers of (layers, angular cells, rings): the shape to which a voxel vector unfolds.

        Raises:
            DataError: If the layers are not all alike.
        """
        if not self.is_regular:
            raise DataError(
                f"training needs a regular (layer, angle, radius) grid; {self.name} has irregular layers, "
                "so use it for reading, writing and evaluation only, or rebin its showers to one regular grid"
            )
        first = self.layers[0]
        return self.n_layers, first.n_alpha, first.n_radial

    def voxel_layers(self) -> IntArray:
        """Position in ``layers`` of each voxel's layer, shape (n_voxels,)."""
        return np.repeat(np.arange(self.n_layers), [layer.n_voxels for layer in self.layers])

    def voxel_alpha_index(self) -> IntArray:
        """Angular cell of each voxel, shape (n_voxels,)."""
        return np.concatenate([np.repeat(np.arange(layer.n_alpha), layer.n_radial) for layer in self.layers])

    def voxel_radial_index(self) -> IntArray:
        """Ring of each voxel, shape (n_voxels,)."""
        return np.concatenate([np.tile(np.arange(layer.n_radial), layer.n_alpha) for layer in self.layers])

    def voxel_centres(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        r"""Centres of the voxels.

        Returns:
            :math:`\eta`, :math:`\phi` and :math:`r` in mm, each of shape (n_voxels,); :math:`r` is the middle
            of the ring. Layers of whole rings have :math:`\eta = \phi = 0`.
        """
        columns = [_layer_centres(layer) for layer in self.layers]
        eta, phi, radius = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        return eta, phi, radius

    @classmethod
    def regular(
        cls,
        name: str,
        n_layers: int,
        n_alpha: int,
        n_radial: int,
        radial_width_mm: float,
        *,
        particle: str = "electron",
        threshold_mev: float = 0.0,
        energy_range: tuple[float, float] | None = None,
    ) -> Self:
        """A grid whose layers are all alike, with rings of equal width from the axis outwards.

        Args:
            name: Name of the grid.
            n_layers: Number of layers.
            n_alpha: Number of angular cells.
            n_radial: Number of rings.
            radial_width_mm: Width of a ring in mm.
            particle: The incident particle.
            threshold_mev: Voxels below this energy count as empty.
            energy_range: Lowest and highest incident energy in MeV.
        """
        edges = tuple(round(index * radial_width_mm, 9) for index in range(n_radial + 1))
        layers = tuple(LayerGeometry(layer_id, edges, n_alpha) for layer_id in range(n_layers))
        return cls(name, particle, layers, threshold_mev, energy_range)

    @classmethod
    def from_xml(
        cls,
        path: Path,
        particle: str | None = None,
        name: str | None = None,
        threshold_mev: float = 0.0,
    ) -> Self:
        """Reads the challenge's binning XML; layers with a single edge are absent from the files.

        Args:
            path: The XML file: ``Bin`` elements, one a particle, each with ``Layer`` elements.
            particle: Name or PDG number of the particle; may be left out if the file has only one.
            name: Name of the grid; the file's name without its ending by default.
            threshold_mev: Voxels below this energy count as empty.

        Raises:
            DataError: If the file is missing, is no such XML, or does not settle which particle is meant.
        """
        element = _select_bin(path, _parse_bins(path), particle)
        layers = tuple(
            LayerGeometry(layer_id, edges, n_alpha)
            for layer_id, edges, n_alpha in (_read_layer(path, layer) for layer in element.findall("Layer"))
            if len(edges) > 1
        )
        return cls(name or path.stem, element.get("name", "unknown"), layers, threshold_mev)


def geometry(name_or_path: str | Path) -> Geometry:
    """The geometry of that name, or the one that a binning XML file describes.

    A file that describes one of the built-in grids gives the built-in one, with its threshold and energy
    range.

    Args:
        name_or_path: A key of :data:`GEOMETRIES`, or the path of a file ending in ``.xml``.

    Raises:
        DataError: If there is no such name, or the file cannot be used.

    Example:
        >>> geometry("ds2").grid_shape
        (45, 16, 9)
    """
    text = str(name_or_path)
    if text in GEOMETRIES:
        return GEOMETRIES[text]
    if text.lower().endswith(".xml"):
        read = Geometry.from_xml(Path(text))
        alike = [known for known in GEOMETRIES.values() if known.layers == read.layers]
        return alike[0] if alike else read
    nearest = difflib.get_close_matches(text.lower(), GEOMETRIES, n=1, cutoff=0.0)[0]
    raise DataError(
        f"there is no geometry {text!r}, did you mean {nearest!r}; "
        f"choose among {', '.join(GEOMETRIES)} or give the path of a binning .xml file"
    )


def _layer_centres(layer: LayerGeometry) -> tuple[FloatArray, FloatArray, FloatArray]:
    edges = np.asarray(layer.radial_edges, dtype=np.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    alpha = -np.pi + (np.arange(layer.n_alpha) + 0.5) * (2 * np.pi / layer.n_alpha)
    offset = 0.0 if layer.n_alpha == 1 else 1.0
    eta = offset * np.outer(np.cos(alpha), middle).ravel()
    phi = offset * np.outer(np.sin(alpha), middle).ravel()
    return eta, phi, np.tile(middle, layer.n_alpha)


def _parse_bins(path: Path) -> list[ET.Element]:
    try:
        root = ET.parse(path).getroot()
    except OSError as error:
        raise DataError(f"cannot read the binning file {path}: {error.strerror or error}; check the path") from error
    except ET.ParseError as error:
        raise DataError(
            f"{path} is not well-formed XML ({error}); give one of the challenge's binning files"
        ) from error
    bins = root.findall("Bin")
    if not bins:
        raise DataError(f"{path} holds no Bin element; give one of the challenge's binning files")
    return bins


def _select_bin(path: Path, bins: Sequence[ET.Element], particle: str | None) -> ET.Element:
    known = [element.get("name", "unknown") for element in bins]
    if particle is None:
        chosen = list(bins)
    else:
        chosen = [element for element in bins if particle in (element.get("name"), element.get("pid"))]
    if len(chosen) != 1:
        asked = "no particle was named" if particle is None else f"{particle!r} matches {len(chosen)} of them"
        raise DataError(f"{path} describes {', '.join(known)} and {asked}; name exactly one of them")
    return chosen[0]


def _read_layer(path: Path, element: ET.Element) -> tuple[int, tuple[float, ...], int]:
    try:
        edges = tuple(float(edge) for edge in element.attrib["r_edges"].split(","))
        return int(element.attrib["id"]), edges, int(element.attrib["n_bin_alpha"])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} has a Layer element with attributes {dict(element.attrib)}; "
            "each needs numbers in id, r_edges (comma-separated) and n_bin_alpha"
        ) from error


def _irregular(name: str, particle: str, table: Mapping[int, tuple[int, tuple[float, ...]]]) -> Geometry:
    layers = tuple(LayerGeometry(layer_id, edges, n_alpha) for layer_id, (n_alpha, edges) in table.items())
    return Geometry(name, particle, layers, threshold_mev=1.0, energy_range=(256.0, 2.0**22))


_COARSE_EDGES = (0.0, 50.0, 100.0, 200.0, 400.0, 600.0)
_PRESAMPLER_EDGES = (0.0, 5.0, 10.0, 30.0, 50.0, 100.0, 200.0, 400.0, 600.0)
_TILE_EDGES = (0.0, 10.0, 20.0, 30.0, 50.0, 80.0, 100.0, 130.0, 160.0, 200.0, 250.0, 300.0, 350.0, 400.0)

_DS1_PHOTONS = _irregular(
    "ds1-photons",
    "photon",
    {
        0: (1, _PRESAMPLER_EDGES),
        1: (10, (0, 2, 4, 6, 8, 10, 12, 15, 20, 30, 40, 50, 70, 90, 120, 150, 200)),
        2: (10, (0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 350, 400)),
        3: (1, _COARSE_EDGES),
        12: (1, (0, 100, 200, 400, 1000, 2000)),
    },
)
_DS1_PIONS = _irregular(
    "ds1-pions",
    "pion",
    {
        0: (1, _PRESAMPLER_EDGES),
        1: (10, (0, 1, 4, 7, 10, 15, 30, 50, 90, 150, 200)),
        2: (10, (0, 5, 10, 20, 30, 50, 80, 130, 200, 300, 400)),
        3: (1, _COARSE_EDGES),
        12: (10, (*_TILE_EDGES, 1000, 2000)),
        13: (10, (*_TILE_EDGES, 600, 1000, 2000)),
        14: (1, (0, 50, 100, 150, 200, 250, 300, 400, 600, 1000, 2000)),
    },
)
_DS2 = Geometry.regular(
    "ds2", 45, 16, 9, radial_width_mm=4.65, threshold_mev=READOUT_THRESHOLD_MEV, energy_range=(1e3, 1e6)
)
_DS3 = Geometry.regular(
    "ds3", 45, 50, 18, radial_width_mm=2.325, threshold_mev=READOUT_THRESHOLD_MEV, energy_range=(1e3, 1e6)
)

GEOMETRIES: Mapping[str, Geometry] = MappingProxyType(
    {known.name: known for known in (_DS1_PHOTONS, _DS1_PIONS, _DS2, _DS3)}
)
"""The official geometries of the CaloChallenge, by name; read-only."""
