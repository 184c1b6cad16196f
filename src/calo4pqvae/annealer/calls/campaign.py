"""Sampling campaigns: many calls whose reads outlive whatever stops them.

A campaign is a list of jobs, each a condition and a number of reads, in a folder:

* ``campaign.json``: the jobs, a fingerprint of what is programmed, the chip, and whether it is emulated;
* ``reads/JOB-CALL.hdf5``: the reads of one call, forced to disk before any other call is made;
* ``ledger.jsonl``: the ledger, unless the annealer keeps it elsewhere.

Run again, a campaign goes on with what is missing. A call that was under way when the process was killed is left open
in the ledger. If its file is there, it is settled with it; if the chip knows its name, its answer is fetched, since it
was paid for; else it counts with its estimate and is made anew. One process at a time works on a campaign.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.calls.ledger import LedgerCall
from calo4pqvae.annealer.calls.reads_file import StoredReads, load_reads, save_reads
from calo4pqvae.annealer.calls.work_folder import alone_in, clear_unfinished, settle_open
from calo4pqvae.annealer.chip.problem import FloatArray, IsingProblem, Reads
from calo4pqvae.atomic import write_json
from calo4pqvae.errors import AnnealerError

__all__ = ["Campaign", "Prepare", "Prepared", "SamplingJob", "stored_plan"]

_FORMAT = 1
_NAME = re.compile(r"(\d+)-(\d+)\.hdf5")


@dataclass(frozen=True, eq=False)
class SamplingJob:
    """Reads under one condition.

    Args:
        n_reads: Reads.
        condition: The condition, shape (n_c,), empty for a machine without one.

    Raises:
        AnnealerError: If no read is asked for, or the condition is no row of numbers.
    """

    n_reads: int
    condition: FloatArray

    def __post_init__(self) -> None:
        condition = np.array(self.condition, dtype=np.float64)
        if self.n_reads < 1 or condition.ndim != 1 or not np.isfinite(condition).all():
            raise AnnealerError(
                f"{self.n_reads} reads under a condition of shape {condition.shape} make no job; ask for one read or "
                "more under a row of numbers"
            )
        condition.setflags(write=False)
        object.__setattr__(self, "condition", condition)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is programmed for a job.

    Args:
        problem: The problem.
        flux_biases: For every qubit of the ideal chip, or None.
    """

    problem: IsingProblem
    flux_biases: FloatArray | None = None


Prepare = Callable[[SamplingJob], Prepared]


class Campaign:
    """Jobs in a folder.

    Args:
        folder: The folder, made if missing.
        jobs: The jobs; those of a campaign that stands there must be the same.
        prepare: What to program for a job; it must give the same for the same job whenever it is called.
        options: Parameters of the solver for every call.

    Raises:
        AnnealerError: If there is no job, or another campaign stands in the folder.
    """

    def __init__(self, folder: Path, jobs: Sequence[SamplingJob], prepare: Prepare, **options: Any) -> None:  # noqa: ANN401
        if not jobs:
            raise AnnealerError("a campaign needs a job; give at least one")
        self.folder = folder
        self.jobs = tuple(jobs)
        self.prepare = prepare
        self.options = options
        self.fingerprint = _fingerprint(self.jobs, prepare(self.jobs[0]), options)
        stored = stored_plan(folder)
        if stored is not None and stored["fingerprint"] != self.fingerprint:
            raise AnnealerError(
                f"another campaign stands in {folder}: its jobs, machine or beta are others; choose another folder"
            )

    @property
    def ledger_path(self) -> Path:
        """Where the campaign's own ledger is."""
        return self.folder / "ledger.jsonl"

    @property
    def reads_folder(self) -> Path:
        """Where the reads are."""
        return self.folder / "reads"

    def n_done(self) -> list[int]:
        """Reads of every job that are on disk."""
        files = self._files()
        return [sum(len(load_reads(path).bits) for _, path in files.get(index, ())) for index in range(len(self.jobs))]

    @property
    def is_done(self) -> bool:
        """Whether all reads are on disk."""
        return all(done >= job.n_reads for done, job in zip(self.n_done(), self.jobs, strict=True))

    def stored(self, index: int) -> list[StoredReads]:
        """The calls of a job, oldest first.

        Raises:
            AnnealerError: If a file is damaged.
        """
        return [load_reads(path) for _, path in self._files().get(index, ())]

    def bits(self, index: int) -> NDArray[np.uint8]:
        """All reads of a job so far, shape (reads, n).

        Raises:
            AnnealerError: If there are none yet, or a file is damaged.
        """
        parts = self.stored(index)
        if not parts:
            raise AnnealerError(f"job {index} of the campaign in {self.folder} has no reads yet; run the campaign")
        return np.concatenate([part.bits for part in parts])

    def run(self, annealer: Annealer, progress: Callable[[int, int], None] | None = None) -> None:
        """Makes the calls that are missing.

        Args:
            annealer: The annealer, its ledger in a file (:attr:`ledger_path`, or one that is shared).
            progress: Called with the reads that are on disk and those that are wanted.

        Raises:
            AnnealerError: If the ledger is not on disk, the annealer is of another kind than that of earlier calls,
                another process is at work here, or a call fails for good; all that came is on disk.
            SpendingLimitError: If a call would pass the spending limit.
            OutputError: If something cannot be written.
        """
        if annealer.ledger.path is None:
            raise AnnealerError("a campaign needs a ledger on disk; open the annealer with ledger=campaign.ledger_path")
        with alone_in(self.folder):
            self._begin(annealer)
            self._settle_open(annealer)
            done = self.n_done()
            total = sum(job.n_reads for job in self.jobs)
            for index, job in enumerate(self.jobs):
                prepared = self.prepare(job) if done[index] < job.n_reads else None
                while prepared is not None and done[index] < job.n_reads:
                    done[index] += self._call(annealer, index, job.n_reads - done[index], prepared).n_reads
                    if progress is not None:
                        progress(sum(done), total)

    def _call(self, annealer: Annealer, index: int, missing: int, prepared: Prepared) -> Reads:
        most = annealer.most_reads(prepared.problem.n_qubits, **self.options)
        return annealer.read(
            prepared.problem,
            min(missing, most),
            flux_biases=prepared.flux_biases,
            label=self._label(index),
            keep=partial(self._keep, index),
            **self.options,
        )

    def _keep(self, index: int, reads: Reads, call: LedgerCall) -> None:
        save_reads(self._path(index, call.number), reads, job=index, call=call.number)

    def _begin(self, annealer: Annealer) -> None:
        """Writes the plan, or holds the annealer against that of earlier calls."""
        stored = stored_plan(self.folder)
        if stored is None:
            jobs = [{"n_reads": job.n_reads, "condition": job.condition.tolist()} for job in self.jobs]
            chip = {"chip": annealer.name, "graph_id": annealer.graph_id, "emulated": annealer.is_emulated}
            chip["mode"] = annealer.mode
            write_json(
                self.folder / "campaign.json",
                {"format": _FORMAT, "fingerprint": self.fingerprint, **chip, "jobs": jobs},
            )
        elif (stored["chip"], stored["emulated"]) != (annealer.name, annealer.is_emulated):
            raise AnnealerError(
                f"the campaign in {self.folder} was begun on {stored['chip']}, not on {annealer.name}; go on with "
                "that one, or choose another folder"
            )
        elif stored.get("mode", annealer.mode) != annealer.mode:
            raise AnnealerError(
                f"the campaign in {self.folder} was begun in mode {stored['mode']!r}, not {annealer.mode!r}; go on "
                "with that, or choose another folder"
            )
        clear_unfinished(self.reads_folder)

    def _settle_open(self, annealer: Annealer) -> None:
        """Settles the calls of this campaign that a killed process left open."""
        labels = {self._label(index): index for index in range(len(self.jobs))}
        for call in annealer.ledger.open_calls:
            index = labels.get(call.label)
            if index is None:
                continue
            problem = self.prepare(self.jobs[index]).problem
            settle_open(annealer, call, self._path(index, call.number), problem, partial(self._keep, index))

    def _label(self, index: int) -> str:
        return f"{self.fingerprint[:12]} job {index}"

    def _path(self, index: int, call: int) -> Path:
        return self.reads_folder / f"{index:06d}-{call:06d}.hdf5"

    def _files(self) -> dict[int, list[tuple[int, Path]]]:
        """Call and place of every file of reads, by job, in the order of calls."""
        files: dict[int, list[tuple[int, Path]]] = {}
        for path in sorted(self.reads_folder.glob("*.hdf5")):
            if (found := _NAME.fullmatch(path.name)) is not None:
                files.setdefault(int(found[1]), []).append((int(found[2]), path))
        return files


def stored_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the campaign in a folder; None if there is none.

    Raises:
        AnnealerError: If it is damaged.
    """
    path = folder / "campaign.json"
    if not path.exists():
        return None
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_known = plan["format"] == _FORMAT and {"fingerprint", "chip", "graph_id", "emulated", "jobs"} <= plan.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnnealerError(f"{path} is damaged ({type(error).__name__}): restore it") from error
    if not is_known:
        raise AnnealerError(f"{path} is no plan of a campaign that this version knows; choose another folder")
    return plan


def _fingerprint(jobs: Sequence[SamplingJob], first: Prepared, options: dict[str, Any]) -> str:
    """SHA-256 of the jobs, of what is programmed for the first one, and of the options."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for job in jobs:
        digest.update(np.array([job.n_reads, len(job.condition)], dtype="<i8").tobytes())
        digest.update(job.condition.astype("<f8").tobytes())
    problem = first.problem
    for array in (problem.fields, problem.couplings, np.array([problem.beta]), first.flux_biases):
        digest.update(b"" if array is None else array.astype("<f8").tobytes())
    for labels in (problem.edges, problem.qubits):
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
