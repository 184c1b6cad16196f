"""Pictures of showers: events from the side, in three dimensions and layer by layer, mean showers, latent energies.

A voxel (layer, angle, ring) is drawn where it is: the layer along the axis of the cylinder, angle and radius across it.
Colours are logarithmic in energy and common to the panels of a figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from calo4pqvae.evaluation.features.showers import ShowerFeatures
from calo4pqvae.evaluation.pages.canvas import REFERENCE_NAME, grid, line_style, styled
from calo4pqvae.showers.geometry import Geometry

__all__ = [
    "ExampleShower",
    "latent_energies",
    "layer_images",
    "mean_shower_images",
    "shower_in_space",
    "showers_from_the_side",
]

FloatArray = NDArray[np.float64]

_COLOURS = "viridis_r"


@dataclass(frozen=True)
class ExampleShower:
    """A single shower to draw.

    Args:
        incident_energy: In MeV.
        voxels: Energies in MeV, (V,), thresholded.
    """

    incident_energy: float
    voxels: FloatArray


@styled
def showers_from_the_side(geometry: Geometry, examples: Mapping[str, Sequence[ExampleShower]]) -> Figure:
    """Single showers from the side, a row for each sample: layer along, eta across; larger and darker with energy."""
    n_columns = max(map(len, examples.values()))
    figure, panels, _ = grid(n_columns, len(examples), width=3.2, height=2.6)
    eta = geometry.voxel_centres()[0]
    layer = geometry.voxel_layers()
    norm = _norm(geometry, [shower.voxels for row in examples.values() for shower in row])
    outer = max(item.radial_edges[-1] for item in geometry.layers)
    points = None
    for row, (name, showers) in enumerate(examples.items()):
        for column, shower in enumerate(showers):
            axes = panels[row * n_columns + column]
            order = np.argsort(shower.voxels)
            order = order[shower.voxels[order] > 0]
            energy = shower.voxels[order]
            area = 3 + 40 * np.clip(np.asarray(norm(energy)), 0, 1) ** 3
            points = axes.scatter(
                layer[order], eta[order], c=energy, s=area, cmap=_COLOURS, norm=norm, linewidths=0, rasterized=True
            )
            axes.set(
                title=f"{name}, {_gev(shower.incident_energy)}", xlim=(-1, geometry.n_layers), ylim=(-outer, outer)
            )
            axes.set_xlabel("layer" if row == len(examples) - 1 else "")
            axes.set_ylabel("eta [mm]" if column == 0 else "")
    if points is not None:
        figure.colorbar(points, ax=panels, label="voxel energy [MeV]", shrink=0.8)
    return figure


@styled
def shower_in_space(geometry: Geometry, examples: Mapping[str, ExampleShower]) -> Figure:
    """Voxels above the threshold as points in the cylinder, one panel a shower; point areas grow with the energy."""
    figure = Figure(figsize=(5.2 * len(examples), 4.0), layout="constrained")
    eta, phi, _ = geometry.voxel_centres()
    layer = geometry.voxel_layers()
    norm = _norm(geometry, [example.voxels for example in examples.values()])
    outer = max(item.radial_edges[-1] for item in geometry.layers)
    points, panels = None, []
    for position, (name, example) in enumerate(examples.items()):
        axes = figure.add_subplot(1, len(examples), position + 1, projection="3d")
        panels.append(axes)
        order = np.argsort(example.voxels)
        order = order[example.voxels[order] > 0]
        energy = example.voxels[order]
        area = 2 + 40 * np.clip(np.asarray(norm(energy)), 0, 1) ** 3
        points = axes.scatter(
            layer[order], eta[order], phi[order], c=energy, s=area, cmap=_COLOURS, norm=norm, linewidths=0
        )
        axes.set(xlabel="layer", ylabel="eta [mm]", zlabel="phi [mm]", ylim=(-outer, outer), zlim=(-outer, outer))
        axes.set_xlim(0, geometry.n_layers - 1)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_box_aspect((1.8, 1, 1), zoom=0.95)
        axes.view_init(elev=18, azim=-60)
        axes.set_title(f"{name}, {_gev(example.incident_energy)}", y=0.98)
    if points is not None:
        figure.colorbar(points, ax=panels, label="voxel energy [MeV]", shrink=0.7)
    return figure


@styled
def layer_images(geometry: Geometry, examples: Mapping[str, ExampleShower], n_layers: int = 6) -> Figure:
    """Layers of single showers across the axis, one row a shower, evenly chosen along the energy of the first."""
    return _polar_rows(
        geometry,
        {f"{name}, {_gev(example.incident_energy)}": example.voxels for name, example in examples.items()},
        n_layers,
        "voxel energy [MeV]",
    )


@styled
def mean_shower_images(reference: ShowerFeatures, generated: Mapping[str, ShowerFeatures]) -> Figure:
    """Mean energy by layer and ring, summed over angles, and its ratio to the reference; layers where rings differ."""
    samples = {REFERENCE_NAME: reference, **generated}
    means = {name: sample.mean_shower for name, sample in samples.items() if sample.mean_shower is not None}
    geometry = reference.geometry
    if not geometry.is_regular:
        return _polar_rows(geometry, means, min(6, geometry.n_layers), "mean voxel energy [MeV]")
    maps = {name: mean.reshape(geometry.grid_shape).sum(axis=1) for name, mean in means.items()}
    norm = LogNorm(max(maps[REFERENCE_NAME].max() * 1e-5, 1e-6), max(maps[REFERENCE_NAME].max(), 1e-5))
    figure, panels, _ = grid(len(maps), 2, width=4.6, height=3.0)
    edges = np.asarray(geometry.layers[0].radial_edges)
    layers = np.arange(geometry.n_layers + 1) - 0.5
    for column, (name, energy) in enumerate(maps.items()):
        above, below = panels[column], panels[len(maps) + column]
        image = above.pcolormesh(layers, edges, energy.T, cmap=_COLOURS, norm=norm, rasterized=True)
        above.set(title=name, xlabel="layer", ylabel="r [mm]")
        figure.colorbar(image, ax=above, label="mean energy [MeV]")
        if name == REFERENCE_NAME:
            below.remove()
            continue
        reference_map = maps[REFERENCE_NAME]
        ratio = np.divide(energy, reference_map, out=np.full_like(energy, np.nan), where=reference_map > 0)
        image = below.pcolormesh(layers, edges, ratio.T, cmap="RdBu_r", vmin=0.5, vmax=1.5, rasterized=True)
        below.set(title=f"{name} / {REFERENCE_NAME}", xlabel="layer", ylabel="r [mm]")
        figure.colorbar(image, ax=below, label="ratio")
    return figure


@styled
def latent_energies(energies: Mapping[str, FloatArray]) -> Figure:
    """Histograms of the Boltzmann machine's energy, of encoded showers and of samples of the prior."""
    figure, panels, _ = grid(1, width=6.4, height=3.8)
    everything = np.concatenate([np.ravel(values) for values in energies.values()])
    edges = np.linspace(everything.min(), everything.max() + 1e-9 * max(1.0, abs(everything.max())), 51)
    for position, (name, values) in enumerate(energies.items()):
        flat = np.ravel(values)
        counts = np.histogram(flat, edges)[0] / len(flat)
        label = f"{name}: {flat.mean():.1f} ± {flat.std(ddof=1) / np.sqrt(len(flat)):.1f} (std {flat.std(ddof=1):.1f})"
        panels[0].stairs(
            counts, edges, label=label, fill=position == 0, alpha=0.35 if position == 0 else 1.0, **line_style(position)
        )
    panels[0].set(xlabel="energy of the bits, E(z)", ylabel="share of states")
    panels[0].set_ylim(0, 1.35 * panels[0].get_ylim()[1])
    panels[0].legend()
    return figure


def _polar_rows(geometry: Geometry, rows: Mapping[str, FloatArray], n_layers: int, label: str) -> Figure:
    chosen = _layers_along(geometry, next(iter(rows.values())), n_layers)
    figure = Figure(figsize=(2.1 * len(chosen) + 1.2, 2.5 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(chosen), squeeze=False, subplot_kw={"projection": "polar"})
    norm = _norm(geometry, list(rows.values()))
    image = None
    for row, (name, voxels) in enumerate(rows.items()):
        for axes, layer in zip(panels[row], chosen, strict=True):
            image = _polar_layer(axes, geometry, layer, voxels, norm)
            axes.set_title(f"layer {layer}", fontsize=10, pad=4)
        panels[row, 0].text(
            -0.14, 0.5, name, transform=panels[row, 0].transAxes, rotation=90, ha="right", va="center", fontsize=10
        )
    if image is not None:
        figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    return figure


def _polar_layer(axes: Axes, geometry: Geometry, layer: int, voxels: FloatArray, norm: LogNorm) -> QuadMesh:
    cells = geometry.layers[layer]
    energy = voxels[geometry.layer_slices[layer]].reshape(cells.n_alpha, cells.n_radial)
    alpha = np.linspace(-np.pi, np.pi, cells.n_alpha + 1)
    if cells.n_alpha == 1:  # a whole ring needs more than two corners to look round
        alpha = np.linspace(-np.pi, np.pi, 65)
        energy = np.repeat(energy, 64, axis=0)
    masked = np.ma.masked_less_equal(energy, 0.0)
    edges = np.asarray(cells.radial_edges)
    axes.grid(visible=False)
    image = axes.pcolormesh(alpha, edges, masked.T, cmap=_COLOURS, norm=norm, rasterized=True)
    axes.set(xticks=[], yticks=[])
    return image


def _layers_along(geometry: Geometry, voxels: FloatArray, n_layers: int) -> list[int]:
    """Layers between the 2 % and the 98 % quantile of the energy's depth."""
    energy = np.array([voxels[layer].sum() for layer in geometry.layer_slices])
    cumulated = np.cumsum(energy) / max(energy.sum(), 1e-12)
    low = int(np.searchsorted(cumulated, 0.02))
    high = max(int(np.searchsorted(cumulated, 0.98)), min(low + n_layers - 1, geometry.n_layers - 1))
    chosen = np.linspace(min(low, high), min(high, geometry.n_layers - 1), n_layers).round().astype(int)
    return [int(layer) for layer in np.unique(chosen)]


def _norm(geometry: Geometry, samples: Sequence[FloatArray]) -> LogNorm:
    """Four decades of energy below the greatest voxel, or down to the threshold if that is nearer."""
    high = max(float(np.max(sample)) for sample in samples)
    low = max(geometry.threshold_mev, 1e-4 * high, 1e-6)
    return LogNorm(low, max(high, 10 * low))


def _gev(energy: float) -> str:
    return f"{energy / 1e3:.3g} GeV"
