"""What an evaluation prints: the acceptance table, what the prior is worth, where the report is."""

from rich.console import Console
from rich.table import Table

from calo4pqvae.evaluation.compare import EvaluationResult
from calo4pqvae.evaluation.pages.table import side_by_side_rows

__all__ = ["print_summary"]

_WIDE = 150
_LEAST_INFORMATION = 20.0  # nats that posterior bits should carry about a shower for a prior to matter


def print_summary(console: Console, result: EvaluationResult, information: tuple[float, float] | None) -> None:
    """Prints the tables of an evaluation.

    Args:
        console: Where to.
        result: The evaluation.
        information: Mean and standard error in nats of ln 2 a bit minus the posterior entropy, for our own models.
    """
    found = result.found
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)  # a file or a pipe has no width of its own
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)
    title = f"{found.main} against held-out Geant4 (worst row of each kind; all rows are in the report)"
    console.print(_table(title, found.samples[found.main].acceptance.target_rows()))
    rows = [
        {
            "sample": row.sample,
            "third": row.third,
            "width of layer fractions / Geant4": str(row.width_ratio),
            "distance of layer correlations": f"{row.correlation_matched.median:.3f}",
            "Geant4 itself": f"{row.correlation_floor.median:.3f}",
        }
        for sample in found.samples.values()
        for row in sample.fluctuations
    ]
    console.print(_table("What the prior is worth: widths (1 is right) and correlations (0 is right) of layers", rows))
    for name, sample in found.samples.items():
        passed, total = sample.acceptance.n_passed, len(sample.acceptance.rows)
        failing = sorted({row.family for row in sample.acceptance.rows if not row.passed})
        console.print(
            f"{name}: {passed} of {total} checks pass" + (f"; {', '.join(failing)} fail" if failing else ""),
            soft_wrap=True,
            highlight=False,
        )
    metrics = side_by_side_rows(found)
    if metrics:
        title = "Metrics at equal sizes: AUCs (0.5 is right), all others in units of Geant4 against itself (1 is right)"
        console.print(_table(title, metrics))
    if information is not None:
        mean, error = information
        mark = "pass" if mean >= _LEAST_INFORMATION else "FAIL"
        console.print(
            f"{mark}: posterior bits carry {mean:.1f} ± {error:.1f} nats about a shower "
            f"(ln 2 a bit minus the posterior entropy; at least {_LEAST_INFORMATION:g})",
            soft_wrap=True,
            highlight=False,
        )
    console.print(result.summary, soft_wrap=True, highlight=False)
    console.print(f"report: {result.report}", soft_wrap=True, highlight=False)
    console.print(f"numbers: {result.metrics}", soft_wrap=True, highlight=False)


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        failed = row.get("result") == "FAIL"
        table.add_row(*row.values(), style="red" if failed else None)
    return table
