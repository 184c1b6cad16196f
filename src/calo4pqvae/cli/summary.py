"""What an evaluation prints: the acceptance table, what the prior is worth, where the report is."""

from rich.console import Console
from rich.table import Table

from calo4pqvae.evaluation.compare import EvaluationResult
from calo4pqvae.evaluation.pages.table import side_by_side_rows, summary_rows
from calo4pqvae.evaluation.referee import RefereeResult

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
    scores = result.scores
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)  # a file or a pipe has no width of its own
    for warning in result.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)
    title = f"{scores.main} against held-out Geant4 (worst row of each kind; all rows are in the report)"
    console.print(_table(title, scores.targets[scores.main].target_rows()))
    rows = [
        {
            "sample": row.sample,
            "third": row.third,
            "width of layer fractions / Geant4": str(row.width_ratio),
            "distance of layer correlations": str(row.correlation_distance),
            "Geant4 itself": f"{row.correlation_floor.median:.3f}",
        }
        for row in scores.priors
    ]
    console.print(_table("What the prior is worth: widths (1 is right) and correlations (0 is right) of layers", rows))
    if result.referee is not None:
        _print_referee(console, result.referee)
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


def _print_referee(console: Console, referee: RefereeResult) -> None:
    """The full set of metrics: of one sample with places, of several side by side."""
    if len(referee.samples) > 1:
        console.print(
            _table("Models side by side (the floor is that of halves of the reference)", side_by_side_rows(referee))
        )
    else:
        rows = summary_rows(referee.samples[referee.main])
        console.print(_table(f"{referee.main}: metrics (hold 'at the floor's size' against 'Geant4 itself')", rows))
    if any(row.place and not row.is_comparable for sample in referee.samples.values() for row in sample.rows):
        console.print(
            "† not on the scale of the published values; the report says why", soft_wrap=True, highlight=False
        )


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        failed = row.get("result") == "FAIL"
        table.add_row(*row.values(), style="red" if failed else None)
    return table
