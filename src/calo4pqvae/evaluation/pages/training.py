"""The training log as figures: quantities by name, in groups that share an axis, with their units."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from calo4pqvae.evaluation.pages.canvas import grid, line_style, styled

__all__ = ["training_curves"]

Series = dict[str, list[tuple[float, float]]]

_ABSCISSAE = {"epoch": "epoch", "update": "update of the prior", "step": "step"}
_PANELS: Mapping[str, tuple[str, str, str]] = {
    "response": ("response", "-ln p [nats a shower]", ""),
    "layers": ("energies of layers", "-ln p [nats a shower]", ""),
    "layer_on": ("which layers are hit", "-ln p [nats a shower]", ""),
    "hits": ("which voxels are hit", "-ln p [nats a shower]", ""),
    "voxels": ("energies of voxels", "-ln p [nats a shower]", ""),
    "entropy": ("latent bits", "nats a shower", "entropy"),
    "information": ("latent bits", "nats a shower", "information"),
    "prior_energy": ("energy of the prior", "nats a shower", ""),
    "quality/response": ("decoded against true validation showers", "relative deviation", "mean response"),
    "quality/occupancy": ("decoded against true validation showers", "relative deviation", "occupancy"),
    "quality/profile": ("decoded against true validation showers", "relative deviation", "longitudinal profile"),
    "quality/score": ("decoded against true validation showers", "relative deviation", "score"),
    "energy_data": ("energy of the bits", "nats", "of showers"),
    "energy_model": ("energy of the bits", "nats", "of the chains"),
    "gap": ("energy, showers - chains", "nats", ""),
    "mean_error_max": ("means of bits, showers - chains", "probability", "largest"),
    "mean_error_mean": ("means of bits, showers - chains", "probability", "mean size"),
    "slope": ("slope of correlations, chains against showers", "1 is right", "pairs of couplers"),
    "relaxation_time": ("memory of the chains", "sweeps", "relaxation time"),
    "tau_energy": ("memory of the chains", "sweeps", "autocorrelation time of the energy"),
    "r_hat": ("R-hat of the chains", "1 is right", ""),
    "ess": ("effective number of independent states", "states", ""),
    "far_slope": ("slope of correlations, chains against showers", "1 is right", "distant pairs"),
}
"""Panel, unit and line of the quantities that are known by name; others have a panel of their own, without a unit."""

_NOT_DRAWN = (
    *("epoch", "step", "update", "time", "seconds", "seed", "energy_spread"),
    *("n_data", "n_model", "n_chains", "n_sweeps", "measured_sweeps"),
)
_SIDES = ("train", "validation")


def training_curves(rows: Sequence[Mapping[str, object]], n_columns: int = 3) -> list[tuple[str, Figure]]:
    """A figure for each stage of a training log that has at least two lines.

    Args:
        rows: One dictionary a line of the log; nested ones are flattened, ``train`` and ``validation`` share a panel.
            The abscissa is ``epoch``, ``update`` or ``step``, else the line's number.
        n_columns: Panels in a row.

    Returns:
        (name of the stage, figure), in the order of the log.
    """
    stages: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        stages.setdefault(str(row.get("stage", "training")), []).append(row)
    figures = []
    for stage, lines in stages.items():
        panels = _panels(lines)
        if len(lines) > 1 and panels:
            figures.append((stage, _draw(lines, panels, n_columns)))
    return figures


def _panels(lines: Sequence[Mapping[str, object]]) -> dict[tuple[str, str], Series]:
    """Points (abscissa, value) by panel and unit, then by line."""
    panels: dict[tuple[str, str], Series] = {}
    key = _abscissa(lines[0])
    for position, row in enumerate(lines):
        x = _number(row.get(key, position)) if key else float(position)
        for name, value in _flat(row):
            y = _number(value)
            if x is None or y is None or name in _NOT_DRAWN or name.endswith("_error"):
                continue
            side, _, tail = name.partition("/")
            base = tail if side in _SIDES else name
            title, unit, line = _PANELS.get(base, (base.replace("_", " ").replace("/", ", "), "", ""))
            words = ", ".join(part for part in (line, side if side in _SIDES else "") if part)
            panels.setdefault((title, unit), {}).setdefault(words, []).append((x, y))
    return panels


@styled
def _draw(lines: Sequence[Mapping[str, object]], panels: Mapping[tuple[str, str], Series], n_columns: int) -> Figure:
    figure, axes_of, _ = grid(n_columns, -(-len(panels) // n_columns), width=4.2, height=3.0)
    for axes, ((title, unit), series) in zip(axes_of, panels.items(), strict=False):
        for position, (name, points) in enumerate(series.items()):
            marker = "." if len(points) < 40 else None
            axes.plot(*np.array(points).T, label=name, marker=marker, **line_style(position))
        axes.set(title=title, xlabel=_ABSCISSAE.get(_abscissa(lines[0]), "line of the log"), ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if any(series):
            axes.legend()
    for axes in axes_of[len(panels) :]:
        axes.remove()
    return figure


def _abscissa(row: Mapping[str, object]) -> str:
    return next((key for key in _ABSCISSAE if key in row), "")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        return None
    return float(value)


def _flat(row: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in row.items():
        pairs += _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs
