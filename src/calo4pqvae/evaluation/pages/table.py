"""The full set of metrics as sections of a report: the table first, then what drives the numbers, then published ones.

The first section is what a physicist asks for: metric, value with error, what Geant4 shows against itself at the same
sample size, the best published value and the place among the published ones, with a dagger where the comparison does
not hold. Below it stand the reasons and everything else that makes a number doubtful.
"""

import html

import numpy as np

from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.published import (
    METRICS,
    PUBLISHED_DATASETS,
    PublishedResult,
    PublishedValue,
    calo4pqvae_line,
    published_table,
)
from calo4pqvae.evaluation.pages import metric_plots as plots
from calo4pqvae.evaluation.pages.page import Section, figure_html, paragraph, table_html
from calo4pqvae.evaluation.referee import RefereeResult, RefereeRow, SampleResult
from calo4pqvae.showers.geometry import Geometry

__all__ = ["drivers_section", "histogram_sections", "side_by_side_rows", "summary_rows", "summary_section"]

_DAGGER = "†"
_SIDE_BY_SIDE = (
    "fpd",
    "kpd",
    "auc_low",
    "auc_high",
    "auc_cnn",
    "separation_total_energy",
    "separation_layer_energy",
    "separation_voxel",
    "separation_sparsity",
    "precision",
    "recall",
    "density",
    "coverage",
    "correlation_layers",
    "correlation_voxels",
    "wasserstein",
)
_SHORT = {
    "fpd": "FPD x1e3",
    "kpd": "KPD x1e3",
    "auc_low": "AUC low",
    "auc_high": "AUC high",
    "auc_cnn": "AUC CNN",
    "separation_total_energy": "S E_tot x1e3",
    "separation_layer_energy": "S layer E x1e3",
    "separation_voxel": "S voxel E x1e3",
    "separation_sparsity": "S sparsity x1e3",
    "correlation_layers": "corr. layers",
    "correlation_voxels": "corr. voxels",
    "wasserstein": "Wasserstein",
}
_PUBLISHED_COLUMNS = (
    "fpd",
    "kpd",
    "auc_low",
    "auc_high",
    "auc_cnn",
    "separation_total_energy",
    "separation_layer_energy",
    "separation_voxel",
    "separation_sparsity",
    "coverage",
    "time_gpu_1",
    "time_gpu_100",
    "parameters_generation",
)


def summary_section(result: RefereeResult) -> Section:
    """The section that comes first: the table of each sample, side by side if there are several, and all caveats."""
    samples = result.samples
    body = ""
    if len(samples) > 1:
        body += paragraph(
            "Models side by side, with the errors that are usual for each metric. S is a separation power. The column "
            "of halves is Geant4 against itself between halves of the reference, so that it lies above the value of a "
            "perfect model at the full sizes; the best three submissions by FPD stand for the published ones."
        )
        body += table_html(side_by_side_rows(result))
    tables = []
    for name, sample in samples.items():
        table = table_html(summary_rows(sample))
        if len(samples) == 1:
            tables.append(table)
        else:
            tables.append(f"<details><summary>{html.escape(name)}: all metrics and places</summary>{table}</details>")
    body += "\n".join(tables)
    body += _legend(result)
    body += _caveats(result)
    every = [row for sample in samples.values() for row in sample.rows]
    if any(np.isfinite(row.excess) for row in every):
        body += figure_html(
            plots.excess_overview(samples),
            "Every metric at the floor's sample size, divided by the floor. At 1 the sample cannot be told from Geant4 "
            "at this sample size. Precision, recall, density and coverage may lie on either side.",
        )
    if any(row.place for row in every):
        body += figure_html(
            plots.published_ladder(result),
            "The submissions to the CaloChallenge from the best down (points), the floor published with them, and the "
            "samples of this report (lines, with the quoted error as a band).",
        )
    return Section("referee", "Summary", body, result.to_dict())


def drivers_section(result: RefereeResult, geometry: Geometry) -> Section:
    """Which features and layers drive the distances and the classifier."""
    body = _drivers(result, geometry) or paragraph("Neither distances nor classifiers were asked for.")
    return Section("drivers", "Worst features first", body)


def histogram_sections(result: RefereeResult) -> list[Section]:
    """The histograms of the challenge one by one, and the published tables."""
    sections = []
    if any(sample.separation for sample in result.samples.values()):
        sections.append(Section("histograms", "The challenge's histograms", _histograms(result)))
    if result.dataset in PUBLISHED_DATASETS:
        sections.append(Section("published", "Published results", _published(result)))
    return sections


def summary_rows(sample: SampleResult) -> list[dict[str, str]]:
    """Cells of the table of one sample; chi-squares stand with the histograms."""
    return [_summary_cells(row) for row in sample.rows if row.group != "chi-square"]


def side_by_side_rows(result: RefereeResult) -> list[dict[str, str]]:
    """Cells of the table metrics x models, with own floor and, where there are any, published values."""
    main, published = result.samples[result.main], []
    if result.dataset in PUBLISHED_DATASETS:
        table = published_table(result.dataset)
        ranked = sorted((row for row in table if not row.is_floor), key=lambda row: row.values["fpd"].value)
        published = [*(row for row in table if row.is_floor), *ranked[:3]]
    mark = "" if result.settings.is_official else f" {_DAGGER}"
    rows = []
    for key in _SIDE_BY_SIDE:
        found = {name: sample.row(key) for name, sample in result.samples.items()}
        if any(found.values()):
            cells = {"metric": _short(key), **{name: _value_cell(row) for name, row in found.items()}}
            cells["Geant4, halves"] = _floor_cell(main.row(key))
            for entry in published:
                label = "Geant4, published" if entry.is_floor else entry.name
                cells[label + mark] = _published_cell(entry, key)
            rows.append(cells)
    return rows


def _summary_cells(row: RefereeRow) -> dict[str, str]:
    place, best = "", ""
    if row.place is not None:
        place = f"{row.place}" + ("" if row.is_comparable else f" {_DAGGER}")
        best = f"{_plain_number(row.place.best.value * row.scale)} ({row.place.best.name})"
    sampling = ""
    if row.sampling_error is not None:
        sampling = f" (± {row.sampling_error * row.scale:.2g})"
    return {
        "metric": row.label.replace("separation power", "separation") + (" x 1000" if row.scale == 1e3 else ""),
        "value": f"{row.value.times(row.scale)}{sampling}",
        "at the floor's size": _scaled(row.matched, row.scale),
        "Geant4 itself": _scaled(row.floor, row.scale),
        "x floor": f"{row.excess:.3g}" if np.isfinite(row.excess) and row.group != "classifiers" else "",
        "best published": best,
        "place": place,
    }


def _legend(result: RefereeResult) -> str:
    rows = [row for sample in result.samples.values() for row in sample.rows]
    text = (
        "Value: over all showers, with the error that the literature quotes (FPD: error of the fit, in brackets the "
        "standard error from the finite samples). At the floor's size: the same metric between half of the reference "
        "and as many generated showers; Geant4 itself: between the two halves. Where splits are repeated, median and "
        "distance to the 84 % quantile. Both grow as samples shrink, so that only these two columns may be held "
        "against each other. Place: 1 is better than all submissions to the CaloChallenge (arXiv 2410.21611)."
    )
    body = paragraph(text)
    reasons = sorted({reason for row in rows if row.place is not None for reason in row.why_not})
    if reasons:
        body += paragraph(
            f"{_DAGGER} Not on the scale of the published values, and the place for orientation only: "
            + "; ".join(reasons)
            + ".",
            "note",
        )
    return body


def _caveats(result: RefereeResult) -> str:
    if not result.caveats:
        return ""
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in result.caveats)
    return f"<h3>Keep in mind</h3><ul>{listed}</ul>"


def _drivers(result: RefereeResult, geometry: Geometry) -> str:
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
        if sample.importance:
            body += figure_html(
                plots.importance_bars(sample.importance, name),
                f"What the high-level classifier of {name} sees: the AUC that it loses when a feature, all features of "
                "a family, or of a layer, are shuffled among showers. Features that say the same share the loss.",
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


def _histograms(result: RefereeResult) -> str:
    body = paragraph(
        "Separation powers (x 1000, mean over the layers) and chi-squares in the binning of the challenge, the worst "
        "first by separation power over floor. Entries outside a histogram are lost, as in the challenge: empty layers "
        "and voxels enter the sparsity only."
    )
    for name, sample in result.samples.items():
        rows = sorted(
            (_histogram_cells(power.name, sample) for power in sample.separation),
            key=lambda cells: -float(cells["x floor"] or 0),
        )
        heading = f"<h3>{html.escape(name)}</h3>" if len(result.samples) > 1 else ""
        body += heading + table_html(rows)
    return body + figure_html(
        plots.separation_by_layer(result.samples),
        "Separation power layer by layer, with bootstrap errors; the dotted line is the mean of Geant4 against itself, "
        "scaled from half samples to these sizes.",
    )


def _histogram_cells(observable: str, sample: SampleResult) -> dict[str, str]:
    power = next(entry for entry in sample.separation if entry.name == observable)
    row = next(row for row in sample.rows if row.group == "separation" and row.value == power.value)
    chi = sample.row(row.key.replace("separation", "chi_square"))
    values = np.array(power.per_layer)
    worst = f"{int(np.nanargmax(values))}" if len(values) > 1 and np.isfinite(values).any() else ""
    p_values = power.chi_square.p_values
    return {
        "observable": observable,
        "separation power": str(row.value.times(1e3)),
        "at the floor's size": _scaled(row.matched, 1e3),
        "Geant4 itself": _scaled(row.floor, 1e3),
        "x floor": f"{row.excess:.3g}" if np.isfinite(row.excess) else "",
        "worst layer": worst,
        "chi-square / d.o.f.": "" if chi is None else f"{chi.value.value:.3g} ({sum(power.chi_square.freedom)})",
        "layers with p < 0.001": (
            "bins correlated" if p_values is None else f"{sum(p < 1e-3 for p in p_values)} of {len(p_values)}"
        ),
    }


def _published(result: RefereeResult) -> str:
    rows = sorted(published_table(result.dataset), key=lambda row: (not row.is_floor, row.values["fpd"].value))
    cells = [
        {"submission": row.name, **{_short(key): _published_cell(row, key) for key in _PUBLISHED_COLUMNS}}
        for row in rows
    ]
    body = paragraph(
        f"The CaloChallenge's table of {result.dataset}, by FPD; GEANT4 is a second Geant4 sample. Times are ms a "
        f"shower, on hardware that the source does not name. Source: {rows[0].source}."
    )
    body += f"<details><summary>All {len(cells) - 1} submissions</summary>{table_html(cells)}</details>"
    if result.dataset == "ds2":
        body += _line(result)
    return body


def _line(result: RefereeResult) -> str:
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
            own = {f"{key.upper()} x1e3": _value_cell(row) for key, row in pair.items()}
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
    scale = METRICS[key].scale
    if key.startswith("parameters"):
        return f"{found.value:,.0f}"
    if found.error is None:
        return _plain_number(found.value * scale)
    return str(Estimate(found.value * scale, found.error * scale, 1))


def _value_cell(row: RefereeRow | None) -> str:
    return "" if row is None else str(row.value.times(row.scale))


def _floor_cell(row: RefereeRow | None) -> str:
    return "" if row is None else _scaled(row.floor, row.scale)


def _scaled(level: Estimate | None, scale: float) -> str:
    if level is None:
        return ""
    return f"{level.value:g}" if level.error == 0 else str(level.times(scale))


def _plain_number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def _short(key: str) -> str:
    if key in _SHORT:
        return _SHORT[key]
    if key.startswith("time_"):
        return f"{key.split('_')[1].upper()} ms (batch {key.split('_')[2]})"
    return {"parameters_generation": "parameters"}.get(key, key)
