"""The report: generated showers beside Geant4 ones on one page, and every number of it in ``metrics.json``.

First the verdict in words, then pictures, then one table at equal sample sizes; what is behind these follows. The page
is a list of :class:`~calo4pqvae.evaluation.pages.page.Section`; more are added through :class:`ReportExtras`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.atomic import write_json, write_text
from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.correlation_distance import (
    FEWEST_ROWS,
    CorrelationDistance,
    bit_correlation_distance,
)
from calo4pqvae.evaluation.metrics.estimate import Splits
from calo4pqvae.evaluation.metrics.resolution import resolution
from calo4pqvae.evaluation.pages import displays, plots
from calo4pqvae.evaluation.pages.canvas import REFERENCE_NAME
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.evaluation.pages.page import Section, figure_html, mapping_html, page_html, paragraph, table_html
from calo4pqvae.evaluation.pages.table import drivers_section, histogram_sections, metrics_section
from calo4pqvae.evaluation.pages.training import training_curves
from calo4pqvae.evaluation.pages.verdict import overfitting, verdict
from calo4pqvae.evaluation.result import Evaluation

__all__ = ["ReportExtras", "build_report", "plain_data"]

Samples = Mapping[str, ShowerFeatures]

_ENERGY_POINTS = 9


@dataclass(frozen=True)
class ReportExtras:
    """What a report shows beyond the comparison of features.

    Args:
        title: Title of the page.
        data_note: One or two sentences on where the reference comes from.
        examples: Single showers to draw, by the name of their sample; similar incident energies are best.
        training_rows: Lines of the training log.
        latent_energies: Energies of latent states by name, for example "encoded" and "sampled".
        latent_bits: Latent bits (N, K) by source, those of encoded showers first.
        latent_seed: Seed of what is computed from them.
        provenance: Versions, seeds, command, configuration; nested mappings are shown row by row.
        sections: Further sections, shown after the built-in ones and before the provenance.
    """

    title: str = "Generated showers against Geant4"
    data_note: str = ""
    examples: Mapping[str, Sequence[ExampleShower]] = field(default_factory=dict)
    training_rows: Sequence[Mapping[str, object]] = ()
    latent_energies: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    latent_bits: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    latent_seed: int = 0
    provenance: Mapping[str, object] = field(default_factory=dict)
    sections: Sequence[Section] = ()


def build_report(
    out_dir: Path, reference: ShowerFeatures, generated: Samples, found: Evaluation, extras: ReportExtras | None = None
) -> Path:
    """Writes ``report.html`` and ``metrics.json``.

    Args:
        out_dir: Folder, made if it is missing.
        reference: Geant4 showers that the model never saw.
        generated: Generated samples by name, the main one first.
        found: Their numbers.
        extras: What else to show.

    Returns:
        Path of the page.

    Raises:
        OutputError: If a file cannot be written.
    """
    more = extras or ReportExtras()
    provenance = {**found.provenance, **more.provenance}
    sections = [
        _pictures_section(reference, generated, found.bins, more),
        metrics_section(found),
        _targets_section(found),
        drivers_section(found, reference.geometry),
        _prior_section(found, reference, generated),
        _energies_section(reference, generated, found.bins),
        _shapes_section(reference, generated, more),
        *_training_sections(more),
        *histogram_sections(found),
        *more.sections,
        Section("provenance", "Provenance", mapping_html(provenance)),
    ]
    words = verdict(found)
    fine = EnergyBins.logarithmic(found.bins.edges[0], found.bins.edges[-1], _ENERGY_POINTS)
    content = {"title": more.title, "data": more.data_note, "summary": " ".join(words), **found.to_dict()}
    content["resolution"] = {
        name: resolution(sample, fine).to_dict() for name, sample in {REFERENCE_NAME: reference, **generated}.items()
    }
    own = {section.identifier: section.data for section in sections if section.data is not None}
    write_json(out_dir / "metrics.json", plain_data(content | {"provenance": provenance, "sections": own}))
    page = out_dir / "report.html"
    lead = _lead([*words, *overfitting(more.training_rows)], found, more)
    write_text(page, page_html(more.title, lead, sections))
    return page


def _lead(words: Sequence[str], found: Evaluation, extras: ReportExtras) -> str:
    parts = [paragraph(sentence, "summary") for sentence in words]
    if extras.data_note:
        parts.append(paragraph(extras.data_note, "note"))
    parts += [paragraph(f"Warning: {warning}", "note") for warning in found.warnings]
    return "\n".join(parts)


def _pictures_section(reference: ShowerFeatures, generated: Samples, bins: EnergyBins, extras: ReportExtras) -> Section:
    """What a physicist looks at first."""
    figures = [
        (
            plots.longitudinal_profile(reference, generated, bins),
            "Longitudinal profile: mean share of the incident energy by layer.",
        )
    ]
    if reference.geometry.is_regular:
        radial = plots.radial_profile(reference, generated, bins)
        figures.append((radial, "Radial profile: mean share of the incident energy per area of the ring."))
    figures += [
        (
            plots.response_and_resolution(reference, generated, bins, _ENERGY_POINTS),
            "Mean response and resolution against the incident energy, with the fit a/sqrt(E) + b/E + c of the latter.",
        ),
        (plots.voxel_spectrum(reference, generated, bins), "Spectrum of voxel energies."),
    ]
    if extras.examples:
        side = displays.showers_from_the_side(reference.geometry, extras.examples)
        figures.append(
            (side, "Single showers at like energies, seen from the side; larger and darker with more energy.")
        )
    figures.append((displays.mean_shower_images(reference, generated), "Mean shower, and its ratio to Geant4."))
    text = paragraph(
        "Bands and bars are one statistical standard error. Triangles at the edge of a ratio panel stand for points "
        "beyond it; points too uncertain to say anything are left out."
    )
    return Section("pictures", "Pictures", text + _figures(figures))


def _targets_section(found: Evaluation) -> Section:
    table = found.samples[found.main].acceptance
    floors = sorted({row.floor.sizes[0] for row in table.rows})
    text = (
        "Deviations are generated / Geant4 - 1 at equal incident energies (means are carried to the energies of "
        "the reference by a quadratic regression on ln E), with analytic standard errors. Of profile and spectrum "
        "the row nearest to its limit is shown, and a pass means that all of them pass. Geant4 itself is the "
        f"size of the same deviation between halves of the reference ({_span(floors)} showers each, fewer than "
        "were compared)."
    )
    every = (
        f"<details><summary>All {len(table.rows)} rows</summary>{table_html(table.target_rows(every=True))}</details>"
    )
    others = [
        {
            "sample": name,
            "checks passed": f"{sample.acceptance.n_passed} of {len(sample.acceptance.rows)}",
        }
        for name, sample in found.samples.items()
    ]
    comparison = table_html(others) if len(others) > 1 else ""
    return Section("targets", "Acceptance", paragraph(text) + table_html(table.target_rows()) + every + comparison)


def _prior_section(found: Evaluation, reference: ShowerFeatures, generated: Samples) -> Section:
    rows = [
        {
            "sample": row.sample,
            "third": row.third,
            "layers": str(row.n_layers),
            "width ratio": str(row.width_ratio),
            "|ratio - 1|, Geant4": _floor_text(row.width_floor, ".3f"),
            "correlation distance": str(row.correlation_distance),
            "at the floor's size": _floor_text(row.correlation_matched, ".2f"),
            "distance, Geant4": _floor_text(row.correlation_floor, ".2f"),
        }
        for sample in found.samples.values()
        for row in sample.fluctuations
    ]
    text = (
        "What a prior adds to a decoder: how the layer energies fluctuate, and together, at a given incident "
        "energy. The width ratio is the standard deviation of the layer-energy fractions relative to Geant4, averaged "
        "over the layers that hold more than 1 % of the energy; 1 is right. The correlation distance is the Frobenius "
        "norm of the difference of the correlation matrices; it shrinks as samples grow, so it is repeated with as "
        "many showers as the halves of the reference have. Errors are bootstrap ones."
    )
    figure = figure_html(
        plots.correlation_matrices(reference, generated, found.bins),
        "Correlations between the energy fractions of layers at given incident energy.",
    )
    return Section("prior", "Fluctuations of layer energies", paragraph(text) + table_html(rows) + figure)


def _energies_section(reference: ShowerFeatures, generated: Samples, bins: EnergyBins) -> Section:
    figures = [
        (plots.response_distribution(reference, generated, bins), "Response E_tot / E_inc in bins of energy."),
        (plots.layer_energies(reference, generated), "Energies of single layers, all incident energies together."),
        (
            plots.occupancy(reference, generated, bins),
            "Occupancy, the share of voxels above the threshold: its distribution, and its mean in each layer.",
        ),
    ]
    return Section("energies", "Energies and occupancy", _figures(figures))


def _shapes_section(reference: ShowerFeatures, generated: Samples, extras: ReportExtras) -> Section:
    figures = [
        (
            plots.centres_and_widths(reference, generated),
            "Centres of energy and widths in the layer that holds most energy.",
        ),
        (
            plots.shape_by_layer(reference, generated),
            "Mean centre of energy along r and mean widths by layer, over the showers that have energy there.",
        ),
    ]
    if extras.examples:
        last = {name: showers[-1] for name, showers in extras.examples.items()}
        figures += [
            (displays.shower_in_space(reference.geometry, last), "Single showers: voxels above the threshold."),
            (displays.layer_images(reference.geometry, last), "The same showers, layers seen along the axis."),
        ]
    return Section("shapes", "Shapes and single showers", _figures(figures))


def _training_sections(extras: ReportExtras) -> list[Section]:
    figures = []
    if extras.latent_energies:
        figures.append(
            (
                displays.latent_energies(extras.latent_energies),
                "Energies of the Boltzmann machine: bits of encoded showers against samples of the prior.",
            )
        )
    figures += [(figure, f"Training log: {stage}.") for stage, figure in training_curves(extras.training_rows)]
    data: dict[str, object] = {
        name: {"mean": float(np.mean(energies)), "std": float(np.std(energies)), "n": int(np.size(energies))}
        for name, energies in extras.latent_energies.items()
    }
    correlations = _latent_correlations(extras)
    if correlations:
        data["correlations of latent bits"] = {name: found.to_dict() for name, found in correlations.items()}
    body = _latent_table(correlations) + _figures(figures)
    return [Section("training", "Training and latent energies", body, data)] if body else []


def _latent_correlations(extras: ReportExtras) -> dict[str, CorrelationDistance]:
    """Distances of the bits of every source from those of encoded showers."""
    sources = list(extras.latent_bits.items())
    if not sources or len(sources[0][1]) < FEWEST_ROWS:
        return {}
    return {name: bit_correlation_distance(sources[0][1], bits, seed=extras.latent_seed) for name, bits in sources[1:]}


def _latent_table(correlations: Mapping[str, CorrelationDistance]) -> str:
    """How far the correlations of the priors' bits are from those of encoded showers."""
    if not correlations:
        return ""
    rows = [
        {
            "latent bits": name,
            "distance of correlations": str(found.distance),
            "a pair": str(found.per_pair),
            "halves": _floor_text(found.matched, ".2f"),
            "encoded halves": _floor_text(found.floor, ".2f"),
        }
        for name, found in correlations.items()
    ]
    n, columns = next((found.distance.n, found.n_columns) for found in correlations.values())
    text = (
        f"Frobenius distance between the correlation matrices of {columns} latent bits, against those of {n:,} encoded "
        "held-out showers at the same incident energies, and its root mean square over pairs of bits. Between halves: "
        "of each source against encoded showers, and what encoded showers show against themselves (84 % quantile in "
        "brackets). Bits of one region of the chip follow the incident energy, so that even independent bits are "
        "correlated."
    )
    return paragraph(text) + table_html(rows)


def _figures(figures: Iterable[tuple[Figure, str]]) -> str:
    return "\n".join(figure_html(figure, caption) for figure, caption in figures)


def _floor_text(floor: Splits, form: str, scale: float = 1.0) -> str:
    return f"{scale * floor.median:{form}} ({scale * floor.quantile84:{form}})"


def _span(sizes: Sequence[int]) -> str:
    return f"{sizes[0]:,}" if sizes[0] == sizes[-1] else f"{sizes[0]:,} to {sizes[-1]:,}"


def plain_data(value: object) -> object:
    """Data that strict JSON can hold: numbers that are not finite become None, anything unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain_data(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else str(value)
