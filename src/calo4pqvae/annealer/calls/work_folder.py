"""Folders of annealer work: one process at a time, and calls that a killed one left open."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calo4pqvae.annealer.calls.annealer import Annealer, Keep
from calo4pqvae.annealer.calls.ledger import LedgerCall
from calo4pqvae.annealer.calls.reads_file import load_reads
from calo4pqvae.annealer.chip.problem import IsingProblem
from calo4pqvae.errors import AnnealerError, OutputError

__all__ = ["alone_in", "clear_unfinished", "settle_open"]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, made if missing; the lock goes with the process, however it ends.

    Raises:
        AnnealerError: If another process works there.
        OutputError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror or error}; choose another") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnnealerError(f"another process works on the campaign in {folder}; wait for it") from error
        yield


def clear_unfinished(folder: Path) -> None:
    """Removes what a process that was killed while it wrote has left."""
    for left in folder.glob(".*.partial-*"):
        left.unlink()


def settle_open(annealer: Annealer, call: LedgerCall, path: Path, problem: IsingProblem, keep: Keep) -> None:
    """Settles a call that a killed process left open: with its file, else with its answer, else with its estimate.

    Args:
        annealer: The annealer, whose ledger has the call.
        call: The call.
        path: Where its reads would be.
        problem: What it had programmed.
        keep: Writes reads that can still be fetched.

    Raises:
        AnnealerError: If the file is damaged, or an answer does not belong to the problem.
    """
    if not path.exists():
        annealer.recover(call, problem, keep)
        return
    stored = load_reads(path)
    seconds, n_reads = stored.access_seconds, len(stored.bits)
    annealer.ledger.settle(
        call,
        "complete" if n_reads == call.asked else "partial",
        reads=n_reads,
        access_seconds=seconds,
        is_charged=seconds is not None or call.estimate > 0,
    )
