"""The figure of the study of variants."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.pages.canvas import grid, styled
from calo4pqvae.studies.frame.dot_rows import Series, draw_rows
from calo4pqvae.studies.frame.sample_quality import Quality
from calo4pqvae.studies.variants.training import Trained, Variant, ended

__all__ = ["variants_figure"]

_BAND = "#c8c8c8"
_PANELS = {
    "FPD 362": r"FPD $\times 10^3$, 362 features",
    "KPD 362": r"KPD $\times 10^3$, 362 features",
    "separation": r"separation power $\times 10^3$, mean",
    "passed": "acceptance rows passed",
    "gap": "energy gap, posterior - samples [nats]",
    "seam": "step across the seam / other steps",
}


@styled
def variants_figure(
    chosen: Sequence[Variant], trained: Sequence[Trained], floor: Quality, floor_seam: Estimate
) -> Figure:
    """Every variant in a row: distances, acceptance, energy gap, seam.

    Args:
        chosen: Variants in the order of the rows.
        trained: All trainings.
        floor: Geant4 against Geant4.
        floor_seam: Seam of Geant4 showers.
    """
    names = [one.name for one in chosen]
    figure, panels, _ = grid(3, 2, width=4.3, height=1.1 + 0.27 * len(names))
    for place, (axes, (quantity, label)) in enumerate(zip(panels, _PANELS.items(), strict=True)):
        band = floor_seam if quantity == "seam" else floor.distances.get(quantity)
        if band is not None:
            axes.axvspan(band.value - band.error, band.value + band.error, color=_BAND, label="Geant4 floor")
        series = [_series("generated", "quality", quantity, names, trained)]
        if quantity not in ("gap", "seam"):
            series.append(_series("posterior bits", "posterior", quantity, names, trained))
        draw_rows(axes, names, series, show_names=place % 3 == 0)
        axes.set_xlabel(label)
        if quantity == "passed":
            axes.axvline(floor.passed, color="0.4", linestyle="--", linewidth=1.0)
        if quantity == "gap":
            axes.axvline(0, color="0.6", linewidth=0.9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    return figure


def _series(label: str, source: str, quantity: str, names: Sequence[str], trained: Sequence[Trained]) -> Series:
    found = {name: [_number(one, source, quantity) for one in ended(trained, name)] for name in names}
    values = {name: [number.value for number in numbers] for name, numbers in found.items()}
    return Series(label, values, {name: numbers[0].error for name, numbers in found.items() if numbers})


def _number(one: Trained, source: str, quantity: str) -> Estimate:
    if quantity in ("gap", "seam"):
        number: Estimate = getattr(one, quantity)
        return number
    quality: Quality = getattr(one, source)
    return Estimate(quality.passed, 0.0, quality.n_rows) if quantity == "passed" else quality.distances[quantity]
