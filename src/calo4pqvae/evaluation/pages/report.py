"""The report: generated showers beside Geant4 ones on one page, and every number of it in ``metrics.json``.

The page is a list of :class:`~calo4pqvae.evaluation.pages.page.Section`; others, such as the full metric set of the
CaloChallenge, are added through :class:`ReportExtras`.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.atomic import write_json, write_text
from calo4pqvae.evaluation.features.showers import ShowerFeatures
from calo4pqvae.evaluation.metrics.correlation_distance import (
    FEWEST_ROWS,
    CorrelationDistance,
    bit_correlation_distance,
)
from calo4pqvae.evaluation.metrics.estimate import Splits
from calo4pqvae.evaluation.pages import displays, plots
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.evaluation.pages.page import Section, figure_html, mapping_html, page_html, paragraph, table_html
from calo4pqvae.evaluation.scores import Scores, score_samples
from calo4pqvae.showers.geometry import Geometry

__all__ = ["ReportExtras", "build_report", "plain_data", "summary_sentence"]


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
        leading: Sections that are shown before the built-in ones.
    """

    title: str = "Generated showers against Geant4"
    data_note: str = ""
    examples: Mapping[str, ExampleShower] = field(default_factory=dict)
    training_rows: Sequence[Mapping[str, object]] = ()
    latent_energies: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    latent_bits: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    latent_seed: int = 0
    provenance: Mapping[str, object] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    leading: Sequence[Section] = ()


def build_report(
    out_dir: Path,
    reference: ShowerFeatures,
    generated: Mapping[str, ShowerFeatures],
    scores: Scores | None = None,
    extras: ReportExtras | None = None,
) -> Path:
    """Writes ``report.html`` and ``metrics.json``.

    Args:
        out_dir: Folder, made if it is missing.
        reference: Geant4 showers that the model never saw.
        generated: Generated samples by name, the main one first.
        scores: Their numbers; computed here if they are not given.
        extras: What else to show.

    Returns:
        Path of the page.

    Raises:
        DataError: If the samples cannot be compared.
        OutputError: If a file cannot be written.
    """
    found = scores or score_samples(reference, generated)
    more = extras or ReportExtras()
    sections = [
        *more.leading,
        _targets_section(found),
        _prior_section(found, reference, generated),
        _separation_section(found),
        _energies_section(reference, generated, found),
        _shapes_section(reference, generated, found),
        _events_section(reference.geometry, more),
        *_training_sections(more),
        *more.sections,
        _provenance_section(found, more),
    ]
    content = {"title": more.title, "data": more.data_note, "summary": summary_sentence(found), **found.to_dict()}
    own = {section.identifier: section.data for section in sections if section.data is not None}
    content |= {"provenance": plain_data(more.provenance), "sections": plain_data(own)}
    write_json(out_dir / "metrics.json", content)
    page = out_dir / "report.html"
    write_text(page, page_html(more.title, _lead(found, more), sections))
    return page


def summary_sentence(scores: Scores) -> str:
    """One or two sentences that say how the main sample did."""
    table = scores.targets[scores.main]
    failed = sorted({f"{row.family} ({row.third})" for row in table.rows if not row.passed})
    sizes = f"{scores.sizes[scores.main]:,} showers of {scores.main} against {scores.sizes['Geant4']:,} Geant4 showers"
    if not failed:
        return f"{sizes}: all {len(table.rows)} checks of the acceptance table pass."
    count = f"{table.n_passed} of {len(table.rows)} checks of the acceptance table pass"
    return f"{sizes}: {count}; not passed: {', '.join(failed)}."


def _lead(scores: Scores, extras: ReportExtras) -> str:
    parts = [paragraph(summary_sentence(scores), "summary")]
    if extras.data_note:
        parts.append(paragraph(extras.data_note, "note"))
    parts += [paragraph(f"Warning: {warning}", "note") for warning in scores.warnings]
    parts.append(
        paragraph(
            "Bands and bars are one statistical standard error. Beside each number stands what Geant4 shows against "
            "itself: the median, and the 84 % quantile in brackets, between random halves of the reference."
        )
    )
    return "\n".join(parts)


def _targets_section(scores: Scores) -> Section:
    table = scores.targets[scores.main]
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
            "showers": f"{scores.sizes[name]:,}",
            "checks passed": f"{other.n_passed} of {len(other.rows)}",
        }
        for name, other in scores.targets.items()
    ]
    comparison = table_html(others) if len(others) > 1 else ""
    return Section("targets", "Acceptance", paragraph(text) + table_html(table.target_rows()) + every + comparison)


def _prior_section(scores: Scores, reference: ShowerFeatures, generated: Mapping[str, ShowerFeatures]) -> Section:
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
        for row in scores.priors
    ]
    text = (
        "What a prior adds to a decoder: how the layer energies fluctuate, and together, at a given incident "
        "energy. The width ratio is the standard deviation of the layer-energy fractions relative to Geant4, averaged "
        "over the layers that hold more than 1 % of the energy; 1 is right. The correlation distance is the Frobenius "
        "norm of the difference of the correlation matrices; it shrinks as samples grow, so it is repeated with as "
        "many showers as the halves of the reference have. Errors are bootstrap ones."
    )
    figure = figure_html(
        plots.correlation_matrices(reference, generated, scores.bins),
        "Correlations between the energy fractions of layers at given incident energy.",
    )
    return Section("prior", "Fluctuations of layer energies", paragraph(text) + table_html(rows) + figure)


def _separation_section(scores: Scores) -> Section:
    body = paragraph(
        "Triangular discrimination between the histograms, 0 for equal ones and 1 for disjoint ones, x 1000, averaged "
        "over the layers where there are several. It never vanishes between finite samples: hold the column at the "
        "floor's size against the floor. Errors are bootstrap ones."
    )
    for name, by_bin in scores.separation.items():
        overall = [
            {
                "observable": power.name,
                "all energies": str(power.value.times(1e3)),
                "at the floor's size": _floor_text(power.matched, ".3g", 1e3),
                "Geant4 against itself": _floor_text(power.floor, ".3g", 1e3),
                **{
                    label: f"{1e3 * powers[k].matched.median:.3g} ({1e3 * powers[k].floor.median:.3g})"
                    for label, powers in by_bin.items()
                    if label != "all"
                },
            }
            for k, power in enumerate(by_bin["all"])
        ]
        sizes = [powers[0].floor.sizes[0] for powers in by_bin.values()]
        body += f"<h3>{html.escape(name)}</h3>" if len(scores.separation) > 1 else ""
        body += table_html(overall)
        body += paragraph(
            f"Floor's sizes: {sizes[0]:,} against {sizes[0]:,} showers for all energies, {_span(sorted(sizes[1:]))} in "
            "the bins of energy, where the median at the floor's size is given, and the floor in brackets."
        )
    return Section("separation", "Separation powers", body)


def _energies_section(reference: ShowerFeatures, generated: Mapping[str, ShowerFeatures], scores: Scores) -> Section:
    bins = scores.bins
    figures = [
        (plots.response_distribution(reference, generated, bins), "Response E_tot / E_inc in thirds of log E."),
        (
            plots.response_versus_energy(reference, generated, bins),
            "Mean and standard deviation of the response against the incident energy.",
        ),
        (
            plots.longitudinal_profile(reference, generated, bins),
            "Longitudinal profile: share of the incident energy by layer; ratios too uncertain to show are left out.",
        ),
        (plots.layer_energies(reference, generated), "Energies of single layers, all incident energies together."),
        (plots.voxel_spectrum(reference, generated, bins), "Spectrum of voxel energies."),
        (
            plots.occupancy(reference, generated, bins),
            "Occupancy, the share of voxels above the threshold: its distribution, and its mean in each layer.",
        ),
    ]
    return Section("energies", "Energies and occupancy", _figures(figures))


def _shapes_section(reference: ShowerFeatures, generated: Mapping[str, ShowerFeatures], scores: Scores) -> Section:
    figures = []
    if reference.geometry.is_regular:
        radial = plots.radial_profile(reference, generated, scores.bins)
        figures.append((radial, "Radial profile: mean share of the incident energy per area of the ring."))
    figures += [
        (
            plots.centres_and_widths(reference, generated),
            "Centres of energy and widths in the layer that holds most energy.",
        ),
        (
            plots.shape_by_layer(reference, generated),
            "Mean centre of energy along r and mean widths by layer, over the showers that have energy there.",
        ),
        (displays.mean_shower_images(reference, generated), "Mean shower, and its ratio to Geant4."),
    ]
    return Section("shapes", "Shapes", _figures(figures))


def _events_section(geometry: Geometry, extras: ReportExtras) -> Section:
    if not extras.examples:
        return Section("events", "Single showers", paragraph("No single showers were given."))
    figures = [
        (
            displays.shower_in_space(geometry, extras.examples),
            "Single showers: voxels above the threshold as points, larger and darker with more energy.",
        ),
        (displays.layer_images(geometry, extras.examples), "The same showers, layers seen along the axis."),
    ]
    return Section("events", "Single showers", _figures(figures))


def _training_sections(extras: ReportExtras) -> list[Section]:
    figures = []
    if extras.latent_energies:
        figures.append(
            (
                displays.latent_energies(extras.latent_energies),
                "Energies of the Boltzmann machine: bits of encoded showers against samples of the prior.",
            )
        )
    if extras.training_rows:
        figures.append((displays.training_curves(extras.training_rows), "The training log."))
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


def _provenance_section(scores: Scores, extras: ReportExtras) -> Section:
    sizes = {f"showers: {name}": f"{size:,}" for name, size in scores.sizes.items()}
    own = {**sizes, "seed of splits and bootstraps": scores.seed, "thirds of log E": ", ".join(scores.bins.labels)}
    return Section("provenance", "Provenance", mapping_html({**own, **extras.provenance}))


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
