"""Figures of the full set of metrics: how far above the floor, where among published models, and what drives it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.evaluation.classifiers.importance import Importance, feature_families
from calo4pqvae.evaluation.metrics.published import METRICS, PUBLISHED_DATASETS, published_table
from calo4pqvae.evaluation.pages.canvas import REFERENCE_NAME, figure_style, grid, line_style, styled
from calo4pqvae.evaluation.result import Evaluation, RefereeRow, SampleResult
from calo4pqvae.showers.geometry import Geometry

__all__ = [
    "contribution_map",
    "excess_overview",
    "feature_bars",
    "importance_bars",
    "published_ladder",
    "separation_by_layer",
    "wasserstein_bars",
]

FloatArray = NDArray[np.float64]
Samples = Mapping[str, SampleResult]

_BAR_WIDTH = 4.2
_GREY, _FLOOR = "#8a8f98", "#4d4d4d"
_MARKERS = ("o", "s", "^", "D", "v")
_LADDER = ("fpd", "kpd", "auc_low", "auc_high", "auc_cnn", "separation_layer_energy")
_LAYERED = (
    "layer energy",
    "layer sparsity",
    "centre of energy eta",
    "centre of energy r",
    "width eta",
    "width r",
)


@styled
def excess_overview(samples: Samples) -> Figure:
    """Every metric that has a floor, at the floor's sample size, in units of the floor; 1 is Geant4 itself."""
    labels = {
        row.key: row.label
        for sample in samples.values()
        for row in sample.rows
        if np.isfinite(row.excess) and row.excess > 0
    }
    keys = list(labels)
    figure = Figure(figsize=(9.6, 1.2 + 0.27 * max(len(keys), 3)), layout="constrained")
    axes = figure.subplots()
    for position, (name, sample) in enumerate(samples.items()):
        rows = [(keys.index(row.key), row) for row in sample.rows if row.key in labels]
        shift = 0.16 * (position - 0.5 * (len(samples) - 1))
        colour, marker = line_style(position)["color"], _MARKERS[position % len(_MARKERS)]
        axes.errorbar(
            [row.excess for _, row in rows],
            [place + shift for place, _ in rows],
            xerr=np.array([_excess_error(row) for _, row in rows]).T,
            fmt=marker,
            color=colour,
            markersize=5,
            elinewidth=1.0,
            label=name,
        )
    axes.axvline(1.0, color=_FLOOR, linewidth=1.2, label=f"{REFERENCE_NAME} against itself")
    axes.set_xscale("log")
    axes.set_yticks(range(len(keys)), [labels[key] for key in keys])
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.grid(axis="x", color="#e3e7ec")
    axes.set_xlabel("metric in units of its floor, at equal sample sizes")
    figure.legend(loc="outside upper center", ncols=min(4, len(samples) + 1))
    return figure


@styled
def published_ladder(result: Evaluation) -> Figure:
    """Where the samples stand among the submissions of the challenge; open symbols are not on the same scale."""
    shown = [key for key in _LADDER if any(sample.row(key) for sample in result.samples.values())]
    n_columns = min(3, max(1, len(shown)))
    figure, panels, _ = grid(n_columns, max(1, -(-len(shown) // n_columns)), width=3.7, height=4.4)
    for axes, key in zip(panels, shown, strict=False):
        _ladder(axes, key, result)
    for axes in panels[len(shown) :]:
        axes.remove()
    if shown:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    return figure


@styled
def feature_bars(samples: Samples, n_shown: int = 15) -> Figure:
    """The features that add most to the Fréchet distance, a panel for each sample."""
    found = {name: sample.contributions for name, sample in samples.items() if sample.contributions is not None}
    figure, panels, _ = grid(max(1, len(found)), width=_BAR_WIDTH, height=4.4)
    for axes, (name, contributions) in zip(panels, found.items(), strict=False):
        parts = contributions.features[:n_shown]
        places = np.arange(len(parts))
        share = 100 / max(contributions.total, 1e-300)
        means = np.array([share * part.mean_term for part in parts])
        widths = np.array([share * part.width_term for part in parts])
        axes.barh(places, means, color="#08519c", label="means differ")
        axes.barh(places, widths, left=means, color="#fdae6b", edgecolor="#e6550d", hatch="//", label="widths differ")
        axes.set_yticks(places, [_words(part.name) for part in parts])
        axes.invert_yaxis()
        axes.set(title=name, xlabel="share of the Fréchet distance [%]")
        axes.legend(loc="lower right", frameon=True, framealpha=0.9)
    return figure


@styled
def contribution_map(sample: SampleResult, name: str, geometry: Geometry) -> Figure:
    """Contributions to the Fréchet distance (above) and Wasserstein distances over floor (below), by layer."""
    maps = []
    if sample.contributions is not None:
        values = {part.name: part.total for part in sample.contributions.features}
        maps.append((values, "part of the Fréchet distance", 1e-4))
    if sample.wasserstein:
        ratios = {
            entry.name: entry.matched.median / entry.floor.median
            for entry in sample.wasserstein
            if entry.floor.median > 0
        }
        maps.append((ratios, "Wasserstein distance / floor", 0.0))
    figure, panels, _ = grid(1, max(1, len(maps)), width=10.4, height=3.1)
    for axes, (values, label, decades) in zip(panels, maps, strict=False):
        _draw_map(axes, values, label, decades, geometry)
        axes.set_title(f"{name}: {label}, by feature and layer")
    return figure


@styled
def wasserstein_bars(samples: Samples, n_shown: int = 15) -> Figure:
    """The features with the largest Wasserstein distance above the floor, at the floor's size."""
    found = {name: sample.wasserstein for name, sample in samples.items() if sample.wasserstein}
    figure, panels, _ = grid(max(1, len(found)), width=_BAR_WIDTH, height=4.4)
    for position, (axes, (name, entries)) in enumerate(zip(panels, found.items(), strict=False)):
        varying = [entry for entry in entries if np.isfinite(entry.excess)]
        worst = sorted(varying, key=lambda entry: -entry.excess)[:n_shown]
        places = np.arange(len(worst))
        axes.barh(places, [entry.matched.median for entry in worst], color=line_style(position)["color"])
        axes.plot(
            [entry.floor.median for entry in worst],
            places,
            "|",
            color="black",
            markersize=12,
            markeredgewidth=2,
            label=f"{REFERENCE_NAME} itself",
        )
        axes.set_yticks(places, [_words(entry.name) for entry in worst])
        axes.invert_yaxis()
        axes.set(title=name, xlabel="Wasserstein distance / std of Geant4")
        axes.legend(loc="lower right", frameon=True, framealpha=0.9)
    return figure


def importance_bars(importance: Mapping[str, Sequence[Importance]], name: str, n_shown: int = 12) -> Figure:
    """What the high-level classifier loses when features, families or layers are shuffled."""
    with figure_style():
        figure, panels, _ = grid(max(1, len(importance)), width=_BAR_WIDTH, height=4.2)
        for axes, (level, entries) in zip(panels, importance.items(), strict=False):
            shown = list(entries)[:n_shown]
            places = np.arange(len(shown))
            axes.barh(
                places,
                [entry.auc_drop.value for entry in shown],
                xerr=[entry.auc_drop.error for entry in shown],
                color=line_style(0)["color"],
                ecolor="black",
            )
            axes.set_yticks(places, [_words(entry.group) for entry in shown])
            axes.invert_yaxis()
            axes.axvline(0, color=_FLOOR, linewidth=1.0)
            axes.set(title=f"{name}: by {level}", xlabel="loss of AUC when shuffled")
        return figure


@styled
def separation_by_layer(samples: Samples, n_columns: int = 3) -> Figure:
    """Separation powers layer by layer with bootstrap errors, and the mean floor scaled to these sample sizes."""
    figure, panels, _ = grid(n_columns, -(-len(_LAYERED) // n_columns), width=3.9, height=3.0)
    for axes, observable in zip(panels, _LAYERED, strict=True):
        for position, (name, sample) in enumerate(samples.items()):
            power = next((entry for entry in sample.separation if entry.name == observable), None)
            if power is None or len(power.per_layer) == 0:
                continue
            layers = np.arange(len(power.per_layer))
            values, errors = 1e3 * np.array(power.per_layer), 1e3 * np.array(power.per_layer_errors)
            style = line_style(position)
            axes.plot(layers, values, label=name, **style)
            low = np.maximum(values - errors, 0.2 * values)  # the axis is logarithmic
            axes.fill_between(layers, low, values + errors, color=style["color"], alpha=0.2, linewidth=0)
            if position == 0:
                scale = power.floor.sizes[0] / max(power.value.n, 1)
                axes.axhline(
                    1e3 * power.floor.median * scale, color=_FLOOR, linestyle=":", label="Geant4 itself (mean)"
                )
        axes.set_title(observable)
        axes.set_xlabel("layer")
        axes.set_yscale("log")
    for axes in panels[::n_columns]:
        axes.set_ylabel("separation power x 1000")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, max(1, len(labels))))
    return figure


def _ladder(axes: Axes, key: str, result: Evaluation) -> None:
    """Published values from the best down, the floor as a line, own values across."""
    metric = METRICS[key]
    is_published = result.dataset in PUBLISHED_DATASETS
    rows = published_table(result.dataset) if is_published else ()
    entries = [row.values[key] for row in rows if key in row.values and not row.is_floor]
    low = next((row.values[key].value for row in rows if row.is_floor and key in row.values), None)
    entries.sort(key=lambda entry: metric.distance(entry.value, low))
    places = np.arange(len(entries))
    axes.plot([metric.shown(entry.value) for entry in entries], places, "o", color=_GREY, markersize=4)
    axes.set_yticks(places, [entry.name for entry in entries], fontsize=8)
    for position, (name, sample) in enumerate(result.samples.items()):
        row = sample.row(key)
        if row is None:
            continue
        style, value = line_style(position), row.value.times(row.scale)
        axes.axvspan(
            value.value - value.error, value.value + value.error, color=style["color"], alpha=0.25, linewidth=0
        )
        axes.axvline(value.value, label=name if row.is_comparable else f"{name} (not on this scale)", **style)
    if low is not None and metric.shown(low) > 0:
        axes.axvline(metric.shown(low), color="black", linewidth=1.0, label="Geant4, published floor")
    axes.invert_yaxis()
    axes.set_xlabel(metric.label + (" x 1000" if metric.scale == 1e3 else ""))
    if not key.startswith("auc"):
        axes.set_xscale("log")


def _draw_map(axes: Axes, values: Mapping[str, float], label: str, decades: float, geometry: Geometry) -> None:
    families = {
        family: members
        for family, members in feature_families(list(values)).items()
        if not family.startswith("log10_i")
    }
    layers = {str(layer.layer_id): position for position, layer in enumerate(geometry.layers)}
    table = np.full((len(families), geometry.n_layers), np.nan)
    for row, (family, members) in enumerate(families.items()):
        for member in members:
            tail = member.removeprefix(family).removeprefix("_")
            if tail in layers:
                table[row, layers[tail]] = values[member]
    layered = ~np.isnan(table).all(axis=1)
    table, names = table[layered], [name for name, is_layered in zip(families, layered, strict=True) if is_layered]
    top = float(np.nanmax(table)) if table.size else 1.0
    norm = LogNorm(max(decades * top, 1e-12), top) if decades and top > 0 else LogNorm(0.5, max(top, 2.0))
    image = axes.pcolormesh(
        np.arange(geometry.n_layers + 1) - 0.5,
        np.arange(len(names) + 1) - 0.5,
        np.maximum(table, norm.vmin or 0.0),
        cmap="viridis_r",
        norm=norm,
        rasterized=True,
    )
    axes.set_yticks(range(len(names)), [_words(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("layer")
    colours = axes.figure.colorbar(image, ax=axes)
    colours.set_label(label, fontsize=9)


def _excess_error(row: RefereeRow) -> tuple[float, float]:
    """Spread of the matched value in units of the floor, cut where the axis would end."""
    if row.matched is None or row.floor is None or not np.isfinite(row.matched.error):
        return 0.0, 0.0
    error = abs(row.matched.error / row.floor.value)
    return min(error, 0.9 * row.excess), error


def _words(name: str) -> str:
    """A feature's name as a label."""
    short = {
        "log10_layer_energy": "log E layer",
        "log10_incident_energy": "log E inc",
        "log10_total_energy": "log E tot",
        "centroid": "centre",
    }
    for long, brief in short.items():
        name = name.replace(long, brief)
    return name.replace("_", " ")
