"""The numbers as sections of a report: one table at equal sample sizes, then what drives it, then published values.

The first table is what a physicist asks for: every metric of every sample beside what Geant4 shows against itself, all
at the same number of showers. Values over whole samples, which may differ in size, stand apart, with the best published
value and the place among the published ones, and a dagger where the comparison does not hold.
"""

import html

import numpy as np

from calo4pqvae.evaluation.metric import METRICS
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.published import METRICS as PUBLISHED
from calo4pqvae.evaluation.metrics.published import (
    PUBLISHED_DATASETS,
    PublishedResult,
    PublishedValue,
    calo4pqvae_line,
    published_table,
)
from calo4pqvae.evaluation.metrics.separation import SeparationPower
from calo4pqvae.evaluation.pages import metric_plots as plots
from calo4pqvae.evaluation.pages.page import Section, figure_html, paragraph, table_html
from calo4pqvae.evaluation.result import Evaluation, RefereeRow, SampleResult
from calo4pqvae.showers.geometry import Geometry

__all__ = ["drivers_section", "histogram_sections", "metrics_section", "side_by_side_rows", "summary_rows"]

_DAGGER = "†"
_EXTRA_COLUMNS = ("time_gpu_1", "time_gpu_100", "parameters_generation")


def metrics_section(found: Evaluation) -> Section:
    """One table of all samples at equal sizes, its picture, and the values over whole samples below a fold."""
    rows = side_by_side_rows(found)
    if not rows:
        return Section("metrics", "Metrics", paragraph("No metrics were asked for."))
    body = paragraph(
        "All at the same number of showers: between half of the reference and as many generated showers, beside "
        "Geant4 itself between its two halves. An AUC is shown as it is, 0.5 for what cannot be told apart; all others "
        "in units of what Geant4 shows against itself, so that 1 is a perfect model at this size. Errors are those of "
        "the finite samples (of KPD, the spread of its batches). S is a separation power."
    )
    body += table_html(rows)
    if any(np.isfinite(row.excess) for sample in found.samples.values() for row in sample.rows):
        body += figure_html(
            plots.excess_overview(found.samples),
            "Every metric at the floor's sample size, divided by the floor. At 1 the sample cannot be told from Geant4 "
            "at this sample size. Precision, recall, density and coverage may lie on either side.",
        )
    body += _caveats(found)
    for name, sample in found.samples.items():
        title = f"{html.escape(name)}: values over all {sample.n_showers:,} showers, and places among published ones"
        table = table_html(summary_rows(sample))
        body += f"<details><summary>{title}</summary>{_legend(sample)}{table}</details>"
    return Section("metrics", "Metrics", body)


def drivers_section(result: Evaluation, geometry: Geometry) -> Section:
    """Which features and layers drive the distances and the classifier."""
    body = _drivers(result, geometry) or paragraph("Neither distances nor classifiers were asked for.")
    return Section("drivers", "Worst features first", body)


def histogram_sections(result: Evaluation) -> list[Section]:
    """The histograms of the challenge one by one, and the published tables."""
    sections = []
    if any(sample.separation for sample in result.samples.values()):
        sections.append(Section("histograms", "The challenge's histograms", _histograms(result)))
    if result.dataset in PUBLISHED_DATASETS:
        sections.append(Section("published", "Published results", _published(result)))
    return sections


def summary_rows(sample: SampleResult) -> list[dict[str, str]]:
    """Cells of the table of one sample over all its showers; chi-squares stand with the histograms."""
    return [_summary_cells(row) for row in sample.rows if row.metric.floor != "none"]


def side_by_side_rows(found: Evaluation) -> list[dict[str, str]]:
    """Cells of the table metrics x samples at equal sizes, AUCs first, beside Geant4 itself."""
    rows = []
    for key, metric in METRICS.items():
        of_key = {name: sample.row(key) for name, sample in found.samples.items()}
        own = next((row for row in of_key.values() if row is not None), None)
        if own is None or own.floor is None or not metric.short:
            continue
        sizes = {row.floor.n for row in of_key.values() if row is not None and row.floor is not None}
        rows.append(
            {
                "metric": metric.short,
                **{name: _relative(row) for name, row in of_key.items()},
                "Geant4 itself": _itself(own),
                "showers a side": " / ".join(f"{size:,}" for size in sorted(sizes)),
                "the floor": _scaled(own.floor, metric.scale) + (" x1e-3" if metric.scale == 1e3 else ""),
            }
        )
    return rows


def _relative(row: RefereeRow | None) -> str:
    """A value at the floor's size, in units of the floor where that means something."""
    if row is None or row.matched is None:
        return ""
    if not np.isfinite(row.excess) or row.floor is None:
        return _scaled(row.matched, row.scale) + (" x1e-3" if row.scale == 1e3 else "")
    return str(Estimate(row.excess, abs(row.matched.error / row.floor.value), row.matched.n))


def _itself(row: RefereeRow) -> str:
    if row.floor is None:
        return ""
    if not np.isfinite(row.excess):
        return _scaled(row.floor, row.scale) + (" x1e-3" if row.scale == 1e3 else "")
    return str(Estimate(1.0, abs(row.floor.error / row.floor.value), row.floor.n))


def _summary_cells(row: RefereeRow) -> dict[str, str]:
    place, best = "", ""
    if row.place is not None:
        place = f"{row.place}" + ("" if row.is_comparable else f" {_DAGGER}")
        best = f"{_plain_number(row.place.best.value * row.scale)} ({row.place.best.name})"
    quoted = "" if row.found.quoted_error is None else f"± {row.found.quoted_error * row.scale:.2g}"
    return {
        "metric": row.label.replace("separation power", "separation") + (" x 1000" if row.scale == 1e3 else ""),
        "value": str(row.value.times(row.scale)),
        "showers": f"{row.sizes[0]:,} v {row.sizes[1]:,}",
        "error as quoted": quoted,
        "best published": best,
        "place": place,
    }


def _legend(sample: SampleResult) -> str:
    body = paragraph(
        "Values over whole samples are for use with others of the same size only. The quoted error is that of the "
        "literature: of FPD the error of its fit, of KPD the spread of its batches. Place: 1 is better than all "
        "submissions to the CaloChallenge (arXiv 2410.21611)."
    )
    reasons = sorted({reason for row in sample.rows if row.place is not None for reason in row.why_not})
    if reasons:
        text = (
            f"{_DAGGER} Not on the scale of the published values, and the place for orientation only: "
            f"{'; '.join(reasons)}."
        )
        body += paragraph(text, "note")
    return body


def _caveats(result: Evaluation) -> str:
    if not result.caveats:
        return ""
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in result.caveats)
    return f"<h3>Keep in mind</h3><ul>{listed}</ul>"


def _drivers(result: Evaluation, geometry: Geometry) -> str:
    samples, body = result.samples, ""
    if any(sample.contributions for sample in samples.values()):
        rows = [_contribution_cells(name, sample) for name, sample in samples.items() if sample.contributions]
        body += paragraph(
            "The Fréchet distance between the whole samples in parts: means that differ, widths that differ, and what "
            "is left, correlations between features. Features are in units of their largest value in the reference. In "
            "small samples the last part is mostly noise, as it is in the floor."
        )
        body += table_html(rows)
        body += figure_html(plots.feature_bars(samples), "The features that add most to the Fréchet distance.")
    main = samples[result.main]
    if main.contributions is not None or main.wasserstein:
        body += figure_html(
            plots.contribution_map(main, result.main, geometry),
            "Where in depth, and in which feature, the sample differs from Geant4; darker is worse.",
        )
    if main.wasserstein:
        body += figure_html(
            plots.wasserstein_bars(samples),
            "The features with the largest Wasserstein distance above the floor, at the floor's sample size.",
        )
        for name, sample in samples.items():
            table = table_html(_family_rows(sample))
            title = f"{html.escape(name)}: features by family"
            body += table if len(samples) == 1 else f"<details><summary>{title}</summary>{table}</details>"
    for name, sample in samples.items():
        for key, levels in sample.importance.items():
            judge = METRICS[key].label.removeprefix("AUC, ")
            body += figure_html(
                plots.importance_bars(levels, name),
                f"What the {judge} sees of {name}: the AUC that it loses when a feature, or all features of a group, "
                "are shuffled among showers. Features that say the same share the loss.",
            )
    return body


def _contribution_cells(name: str, sample: SampleResult) -> dict[str, str]:
    parts = sample.contributions
    if parts is None:
        return {}
    total = max(parts.total, 1e-300)
    means, widths = (sum(getattr(part, term) for part in parts.features) for term in ("mean_term", "width_term"))
    worst = parts.features[0]
    return {
        "sample": name,
        "Fréchet distance x 1000 (whole samples)": f"{1e3 * parts.total:.4g}",
        "means": f"{means / total:.0%}",
        "widths": f"{widths / total:.0%}",
        "correlations": f"{parts.correlation_term / total:.0%}",
        "worst feature": f"{worst.name} ({worst.total / total:.1%})",
    }


def _family_rows(sample: SampleResult) -> list[dict[str, str]]:
    by_name = {entry.name: entry for entry in sample.wasserstein}
    return [
        {
            "family": family.family,
            "features": str(family.n_features),
            "mean Wasserstein distance": str(family.mean),
            "worst feature": family.worst_name,
            "its distance": str(family.worst),
            "at the floor's size": f"{by_name[family.worst_name].matched.median:.3g}" if family.worst_name else "",
            "Geant4 itself": f"{by_name[family.worst_name].floor.median:.3g}" if family.worst_name else "",
            "do not vary": str(len(family.constant)),
        }
        for family in sorted(sample.families, key=lambda family: -np.nan_to_num(family.mean.value))
    ]


def _histograms(result: Evaluation) -> str:
    body = paragraph(
        "Separation powers (0 for equal histograms, 1 for disjoint ones, x 1000, mean over the layers) in the binning "
        "of the challenge, and chi-squares, the worst first by separation power over floor. All at the floor's size: "
        f"{_floor_size(result):,} showers a side for all energies; in bins of energy as many as the heading says, with "
        "the floor in brackets. Entries outside a histogram are lost, as in the challenge: empty layers and voxels "
        "enter the sparsity only."
    )
    for name, sample in result.samples.items():
        rows = sorted(
            (_histogram_cells(power, sample) for power in sample.separation),
            key=lambda cells: -float(cells["x floor"] or 0),
        )
        heading = f"<h3>{html.escape(name)}</h3>" if len(result.samples) > 1 else ""
        body += heading + table_html(rows)
    return body + figure_html(
        plots.separation_by_layer(result.samples),
        "Separation power layer by layer, with bootstrap errors; the dotted line is the mean of Geant4 against itself, "
        "scaled from half samples to these sizes.",
    )


def _floor_size(result: Evaluation) -> int:
    return next(power.floor.sizes[0] for sample in result.samples.values() for power in sample.separation)


def _histogram_cells(power: SeparationPower, sample: SampleResult) -> dict[str, str]:
    row = next(row for row in sample.rows if row.metric.label == f"separation power, {power.name}")
    chi = sample.row(row.key.replace("separation", "chi_square"))
    values = np.array(power.per_layer)
    worst = f"{int(np.nanargmax(values))}" if len(values) > 1 and np.isfinite(values).any() else ""
    p_values = power.chi_square.p_values
    bins = {
        label: next(entry for entry in powers if entry.name == power.name) for label, powers in sample.by_energy.items()
    }
    return {
        "observable": power.name,
        "all energies": _scaled(row.matched, 1e3),
        "Geant4 itself": _scaled(row.floor, 1e3),
        "x floor": f"{row.excess:.3g}" if np.isfinite(row.excess) else "",
        **{
            f"{label} ({part.floor.sizes[0]:,})": f"{1e3 * part.matched.median:.3g} ({1e3 * part.floor.median:.3g})"
            for label, part in bins.items()
        },
        "worst layer": worst,
        "chi-square / d.o.f.": "" if chi is None else f"{chi.value.value:.3g} ({sum(power.chi_square.freedom)})",
        "layers with p < 0.001": (
            "bins correlated" if p_values is None else f"{sum(p < 1e-3 for p in p_values)} of {len(p_values)}"
        ),
    }


def _published(result: Evaluation) -> str:
    rows = sorted(published_table(result.dataset), key=lambda row: (not row.is_floor, row.values["fpd"].value))
    own = [metric for metric in METRICS.values() if metric.is_published and metric.short]
    columns = [(metric.key, metric.short + (" x1e3" if metric.scale == 1e3 else "")) for metric in own]
    columns += [(key, PUBLISHED[key].label) for key in _EXTRA_COLUMNS]
    cells = [
        {"submission": row.name, **{heading: _published_cell(row, key) for key, heading in columns}} for row in rows
    ]
    body = paragraph(
        f"The CaloChallenge's table of {result.dataset}, by FPD; GEANT4 is a second Geant4 sample. Times are ms a "
        f"shower, on hardware that the source does not name. Source: {rows[0].source}."
    )
    if any(row.place for sample in result.samples.values() for row in sample.rows):
        body += figure_html(
            plots.published_ladder(result),
            "The submissions to the CaloChallenge from the best down (points), the floor published with them, and the "
            "samples of this report (lines, with their error as a band), each over all its showers.",
        )
    body += f"<details><summary>All {len(cells) - 1} submissions</summary>{table_html(cells)}</details>"
    if result.dataset == "ds2":
        body += _line(result)
    return body


def _line(result: Evaluation) -> str:
    line = calo4pqvae_line()
    cells = [
        {
            "what": row.name,
            "FPD x1e3": _published_cell(row, "fpd"),
            "KPD x1e3": _published_cell(row, "kpd"),
            "source": row.source,
            "remark": row.note,
        }
        for row in line
    ]
    for name, sample in result.samples.items():
        pair = {key: sample.row(f"{key}_226") for key in ("fpd", "kpd")}
        if pair["fpd"] is not None:
            own = {f"{key.upper()} x1e3": str(row.value.times(row.scale)) for key, row in pair.items() if row}
            cells.append({"what": f"{name} (this report)", **own, "source": "", "remark": "thresholded first"})
    note = (
        f"Figures of the Calo4pQVAE line, not comparable with the challenge's: {line[0].why_not}. The metrics "
        "calo4pqvae-226, on request, put the samples of a report on this scale."
    )
    return paragraph(note, "note") + f"<details><summary>The {len(line)} figures</summary>{table_html(cells)}</details>"


def _published_cell(row: PublishedResult, key: str) -> str:
    found: PublishedValue | None = row.values.get(key)
    if found is None:
        return ""
    scale = PUBLISHED[key].scale
    if key.startswith("parameters"):
        return f"{found.value:,.0f}"
    if found.error is None:
        return _plain_number(found.value * scale)
    return str(Estimate(found.value * scale, found.error * scale, 1))


def _scaled(level: Estimate | None, scale: float) -> str:
    if level is None:
        return ""
    return f"{level.value:g}" if level.error == 0 else str(level.times(scale))


def _plain_number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"
