"""What the commands share on a terminal: consoles, progress bars, tables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bars", "bars", "complaints", "console", "print_mixing", "print_table"]

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # one of several processes speaks for all
complaints = Console(stderr=True)

_WIDE = 150


class Bars:
    """Progress bars, one a task, on standard error.

    Args:
        progress: The display.
    """

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def show(self, name: str, done: int, total: int, note: str = "") -> None:
        """Moves the bar called ``name``."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars for the time of the block."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    try:
        with Progress(*columns, console=complaints, disable=console.quiet) as progress:
            try:
                yield Bars(progress)
            except BaseException:
                complaints.quiet = not complaints.is_terminal  # in a log, the complaint shall stand alone
                raise
    finally:
        complaints.quiet = False


def print_mixing(metrics: Sequence[Mapping[str, Any]]) -> None:
    """Prints the warning of the last measurement of the mixing among rows of metrics, if there is one."""
    warnings = [row["warning"] for row in metrics if row["stage"] == "mixing"]
    if warnings and warnings[-1]:
        console.print(f"[yellow]warning:[/] {warnings[-1]}", soft_wrap=True, highlight=False)


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Prints rows that have the same columns."""
    from rich.table import Table

    if not console.is_terminal:
        console.width = max(console.width, _WIDE)  # a file or a pipe has no width of its own
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
