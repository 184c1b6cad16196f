"""Figures that set generated samples beside the reference, in bins of incident energy.

Each function takes the features of the reference, those of the generated samples by name, and the bins, and returns a
figure that belongs to nobody: save it, or turn it into text with :func:`calo4pqvae.evaluation.pages.canvas.png_base64`.
Bands and bars are one statistical standard error.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.correlations import layer_correlations
from calo4pqvae.evaluation.metrics.resolution import resolution
from calo4pqvae.evaluation.metrics.targets import large_layers
from calo4pqvae.evaluation.pages.canvas import REFERENCE_NAME, Curve, compare, grid, line_style, styled

__all__ = [
    "centres_and_widths",
    "correlation_matrices",
    "layer_energies",
    "longitudinal_profile",
    "occupancy",
    "radial_profile",
    "response_and_resolution",
    "response_distribution",
    "shape_by_layer",
    "voxel_spectrum",
]

FloatArray = NDArray[np.floating[Any]]
Samples = Mapping[str, ShowerFeatures]


@styled
def response_distribution(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Figure:
    """Distribution of E_tot / E_inc in each bin of incident energy."""
    figure, mains, ratios = grid(len(bins), height=4.2, ratio=True)
    for k, (expected, found) in enumerate(_by_bin(reference, generated, bins)):
        low, high = _range_of(expected.response)
        edges = np.linspace(low, high, 31)
        compare(
            mains[k],
            ratios[k],
            edges,
            _density(expected.response, edges),
            {name: _density(part.response, edges) for name, part in found.items()},
            spread=0.6,
        )
        mains[k].set_title(bins.labels[k])
        ratios[k].set_xlabel(r"$E_\mathrm{tot}\,/\,E_\mathrm{inc}$")
    _finish(mains, "showers (normalised)", headroom=1.35)
    return figure


@styled
def longitudinal_profile(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Figure:
    """Mean share of the incident energy in each layer."""
    edges = np.arange(reference.geometry.n_layers + 1) - 0.5
    figure, mains, ratios = grid(len(bins), height=4.2, ratio=True)
    for k, (expected, found) in enumerate(_by_bin(reference, generated, bins)):
        compare(
            mains[k],
            ratios[k],
            edges,
            _mean_curve(expected.layer_response),
            {name: _mean_curve(part.layer_response) for name, part in found.items()},
        )
        mains[k].set_title(bins.labels[k])
        ratios[k].set_xlabel("layer")
    _finish(mains, r"$\langle E_\mathrm{layer}\,/\,E_\mathrm{inc}\rangle$", headroom=1.2)
    return figure


@styled
def radial_profile(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Figure:
    """Mean share of the incident energy in each ring, divided by the ring's area; needs layers of equal rings."""
    edges = np.asarray(reference.geometry.layers[0].radial_edges, dtype=np.float64)
    area = np.pi * np.diff(edges**2) / 100.0

    def density(features: ShowerFeatures) -> Curve:
        if features.radial_energy is None:
            raise ValueError("the radial profile needs a geometry whose layers have equal rings")
        return _mean_curve(features.radial_energy / features.incident_energy[:, None] / area)

    figure, mains, ratios = grid(len(bins), height=4.2, ratio=True)
    for k, (expected, found) in enumerate(_by_bin(reference, generated, bins)):
        curves = {name: density(part) for name, part in found.items()}
        compare(mains[k], ratios[k], edges, density(expected), curves)
        mains[k].set_yscale("log")
        mains[k].set_title(bins.labels[k])
        ratios[k].set_xlabel("r [mm]")
    _finish(mains, r"$\langle E_\mathrm{ring}\,/\,E_\mathrm{inc}\rangle$ per cm$^2$")
    return figure


@styled
def layer_energies(reference: ShowerFeatures, generated: Samples, n_layers: int = 8) -> Figure:
    """Distributions of the energy of single layers, evenly chosen among those that hold more than 1 % of it."""
    large = large_layers(reference)
    chosen = [large[i] for i in np.unique(np.linspace(0, len(large) - 1, n_layers).round().astype(int))]
    n_columns = min(4, len(chosen))
    figure, mains, ratios = grid(n_columns, -(-len(chosen) // n_columns), width=3.3, height=3.6, ratio=True)
    for k, layer in enumerate(chosen):
        positive = reference.layer_energy[:, layer]
        positive = positive[positive > 0]
        edges = np.geomspace(float(np.quantile(positive, 0.002)), float(positive.max()), 25)
        mains[k].set_xscale("log")
        compare(
            mains[k],
            ratios[k],
            edges,
            _density(reference.layer_energy[:, layer], edges),
            {name: _density(sample.layer_energy[:, layer], edges) for name, sample in generated.items()},
            spread=0.6,
        )
        mains[k].set_title(f"layer {layer}")
        ratios[k].set_xlabel(r"$E_\mathrm{layer}$ [MeV]")
    for axes in [*mains[len(chosen) :], *ratios[len(chosen) :]]:
        axes.remove()
    _finish(mains[: len(chosen)], "showers (normalised)", headroom=1.35, every=n_columns)
    return figure


@styled
def centres_and_widths(reference: ShowerFeatures, generated: Samples, layer: int | None = None) -> Figure:
    """Distributions of the centres of energy and of the widths in one layer, by default the one with most energy."""
    chosen = int(reference.layer_response.mean(axis=0).argmax()) if layer is None else layer
    names = ("centroid_eta", "centroid_phi", "centroid_r", "width_eta", "width_phi", "width_r")
    labels = (
        "centre of energy, eta",
        "centre of energy, phi",
        "centre of energy, r",
        "width eta",
        "width phi",
        "width r",
    )
    figure, mains, ratios = grid(3, 2, height=3.8, ratio=True)
    for axes, below, name, label in zip(mains, ratios, names, labels, strict=True):
        values = getattr(reference, name)[:, chosen]
        edges = np.linspace(*_range_of(values, 0.005), 31)
        compare(
            axes,
            below,
            edges,
            _density(values, edges),
            {key: _density(getattr(sample, name)[:, chosen], edges) for key, sample in generated.items()},
            spread=0.6,
        )
        below.set_xlabel(f"{label} [mm], layer {chosen}")
    _finish(mains, "showers (normalised)", headroom=1.3, every=3)
    return figure


@styled
def shape_by_layer(reference: ShowerFeatures, generated: Samples) -> Figure:
    """Mean centre of energy along r and mean widths in each layer, over the showers that have energy there."""
    edges = np.arange(reference.geometry.n_layers + 1) - 0.5
    figure, mains, ratios = grid(3, height=4.2, ratio=True)
    names = ("centroid_r", "width_r", "width_eta")
    for axes, below, name in zip(mains, ratios, names, strict=True):
        curves = {key: _mean_where_filled(sample, name) for key, sample in generated.items()}
        compare(axes, below, edges, _mean_where_filled(reference, name), curves)
        below.set_xlabel("layer")
    for axes, label in zip(mains, ("centre of energy, r", "width r", "width eta"), strict=True):
        axes.set_ylabel(f"mean {label} [mm]")
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    mains[0].legend()
    return figure


@styled
def occupancy(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Figure:
    """Share of voxels above the threshold: its distribution (above) and its mean in each layer (below)."""
    figure, mains, ratios = grid(len(bins), 2, height=3.8, ratio=True)
    layers = np.arange(reference.geometry.n_layers + 1) - 0.5
    for k, (expected, found) in enumerate(_by_bin(reference, generated, bins)):
        edges = np.linspace(*_range_of(expected.occupancy, 0.002), 31)
        compare(
            mains[k],
            ratios[k],
            edges,
            _density(expected.occupancy, edges),
            {name: _density(part.occupancy, edges) for name, part in found.items()},
            spread=0.6,
        )
        mains[k].set_title(bins.labels[k])
        ratios[k].set_xlabel("occupancy of the shower")
        below = len(bins) + k
        compare(
            mains[below],
            ratios[below],
            layers,
            _mean_curve(expected.layer_occupancy),
            {name: _mean_curve(part.layer_occupancy) for name, part in found.items()},
        )
        ratios[below].set_xlabel("layer")
    _finish(mains[: len(bins)], "showers (normalised)", headroom=1.35)
    _finish(mains[len(bins) :], "mean occupancy of the layer", headroom=1.2)
    return figure


@styled
def voxel_spectrum(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Figure:
    """Voxels in a shower per decade of voxel energy."""
    edges = reference.voxel_edges
    filled = np.flatnonzero(reference.voxel_counts.sum(axis=0))
    shown = slice(0, int(filled.max()) + 1 if len(filled) else 1)
    edges = edges[shown.start : shown.stop + 1]
    decades = np.diff(np.log10(edges))
    figure, mains, ratios = grid(len(bins), height=4.2, ratio=True)
    for k, (expected, found) in enumerate(_by_bin(reference, generated, bins)):
        mains[k].set(xscale="log", yscale="log")
        curves = {name: _mean_curve(part.voxel_counts[:, shown] / decades) for name, part in found.items()}
        compare(mains[k], ratios[k], edges, _mean_curve(expected.voxel_counts[:, shown] / decades), curves, spread=0.9)
        threshold = reference.geometry.threshold_mev
        mains[k].axvline(
            threshold, color="black", linestyle=":", linewidth=1.2, label=f"threshold {1e3 * threshold:.4g} keV"
        )
        mains[k].set_ylim(top=200 * mains[k].get_ylim()[1])
        mains[k].set_xlim(0.6 * edges[0], edges[-1])
        mains[k].set_title(bins.labels[k])
        ratios[k].set_xlabel("voxel energy [MeV]")
    _finish(mains, "voxels per shower and decade", legend="upper left")
    return figure


@styled
def response_and_resolution(
    reference: ShowerFeatures, generated: Samples, bins: EnergyBins, n_points: int = 9
) -> Figure:
    """Mean response and relative resolution in narrow bins of incident energy, with the fit a/sqrt(E) + b/E + c."""
    fine = EnergyBins.logarithmic(bins.edges[0], bins.edges[-1], n_points)
    edges = np.array(fine.edges) / 1e3
    found = {name: resolution(sample, fine) for name, sample in {REFERENCE_NAME: reference, **generated}.items()}
    figure, mains, ratios = grid(2, width=6.0, height=4.8, ratio=True)
    energies = np.geomspace(edges[0], edges[-1], 100)
    panels = (("mean", "mean", 0.03), ("width", "width / mean", 0.4))
    for axes, below, (field, label, spread) in zip(mains, ratios, panels, strict=True):
        axes.set_xscale("log")
        curves = {name: Curve(*getattr(each, field)) for name, each in found.items()}
        compare(axes, below, edges, curves.pop(REFERENCE_NAME), curves, spread=spread)
        axes.set_ylabel(rf"{label} of $E_\mathrm{{tot}}\,/\,E_\mathrm{{inc}}$")
        below.set_xlabel(r"$E_\mathrm{inc}$ [GeV]")
    for position, (name, each) in enumerate(found.items()):
        if each.terms:
            style = line_style(position - 1) if position else {"color": "black", "linestyle": "-"}
            mains[1].plot(energies, each.curve(energies), linewidth=1.0, label=f"{name}: {each}", **style)
    mean = float(np.nanmean(found[REFERENCE_NAME].mean[0]))
    mains[0].set_ylim(0.93 * mean, 1.07 * mean)
    mains[0].legend()
    mains[1].set_ylim(0, 1.6 * float(np.nanmax(found[REFERENCE_NAME].width[0])))
    lines = [line for line in mains[1].get_lines() if ":" in str(line.get_label())]
    mains[1].legend(handles=lines, fontsize=8, title="fit in E [GeV]", title_fontsize=8)
    return figure


@styled
def correlation_matrices(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Figure:
    """Correlations between layer-energy fractions at given incident energy, for each sample (row) and bin (column)."""
    figure, panels, _ = grid(len(bins), 1 + len(generated), width=3.6, height=3.2)
    image = None
    for k, (expected, found) in enumerate(_by_bin(reference, generated, bins)):
        layers = large_layers(expected)
        for row, (name, sample) in enumerate({REFERENCE_NAME: expected, **found}.items()):
            axes = panels[row * len(bins) + k]
            edges = np.arange(layers[0], layers[0] + len(layers) + 1) - 0.5
            matrix = layer_correlations(sample, layers)
            image = axes.pcolormesh(edges, edges, matrix, cmap="RdBu_r", vmin=-1, vmax=1, rasterized=True)
            axes.set_aspect("equal")
            axes.set_title(f"{name}, {bins.labels[k]}")
            axes.set(xlabel="layer", ylabel="layer")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if image is not None:
        figure.colorbar(image, ax=panels, label="correlation of layer-energy fractions", shrink=0.7)
    return figure


def _by_bin(
    reference: ShowerFeatures, generated: Samples, bins: EnergyBins
) -> list[tuple[ShowerFeatures, dict[str, ShowerFeatures]]]:
    parts = {name: bins.split(sample) for name, sample in generated.items()}
    return [
        (expected, {name: split[k] for name, split in parts.items()})
        for k, expected in enumerate(bins.split(reference))
    ]


def _density(values: FloatArray, edges: FloatArray) -> Curve:
    """Histogram divided by the number of all showers."""
    counts = np.histogram(values, edges)[0]
    return Curve(counts / len(values), np.sqrt(counts) / len(values))


def _mean_curve(values: FloatArray) -> Curve:
    """Means of columns, with standard errors."""
    return Curve(values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def _mean_where_filled(features: ShowerFeatures, name: str) -> Curve:
    filled = features.layer_energy > 0
    n = np.maximum(filled.sum(axis=0), 1)
    values = np.where(filled, getattr(features, name), 0.0)
    mean = values.sum(axis=0) / n
    variance = np.where(filled, (values - mean) ** 2, 0.0).sum(axis=0) / n
    return Curve(mean, np.sqrt(variance / n))


def _range_of(values: FloatArray, tail: float = 0.001) -> tuple[float, float]:
    """Where nearly all values lie, with a margin."""
    low, high = np.quantile(values, [tail, 1 - tail])
    margin = max(0.08 * (high - low), 1e-9 + 1e-6 * abs(high))
    return float(low - margin), float(high + margin)


def _finish(
    mains: list[Axes],
    label: str,
    headroom: float | None = None,
    every: int | None = None,
    legend: Literal["best", "upper left"] = "best",
) -> None:
    """Labels the left panels, puts the legend into the first one and leaves room for it."""
    for position, axes in enumerate(mains):
        if position % (every or len(mains)) == 0:
            axes.set_ylabel(label)
        if headroom is not None:
            axes.set_ylim(0, headroom * axes.get_ylim()[1])
    mains[0].legend(loc=legend)
