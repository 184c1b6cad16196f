r"""An annealer whose reads are on disk before they are used, so that any protocol goes on where it was stopped.

What a protocol programs next depends on what it has read so far, and on random numbers that its seed gives again. Run
anew with the same seed and the same reads it makes the same requests in the same order. A :class:`RecordedAnnealer`
numbers them: those whose reads are in the folder are answered from there, without a call, and the first one that is not
is made. Nothing that was paid for is paid again, whenever the process was killed.

The folder holds ``work.json`` (what the work is: its run, seed, protocol, ...), ``reads/REQUEST-CALL.hdf5`` and the
ledger. Work with another description is refused with what differs, and so is a request that is not the recorded one.
The programmed beta may differ in the last digits, as sums do with another number of threads.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from calo4pqvae.annealer.calls.annealer import Annealer, Keep
from calo4pqvae.annealer.calls.ledger import LedgerCall
from calo4pqvae.annealer.calls.reads_file import load_reads, save_reads
from calo4pqvae.annealer.calls.work_folder import alone_in, clear_unfinished, settle_open
from calo4pqvae.annealer.chip.answers import join_reads
from calo4pqvae.annealer.chip.problem import FloatArray, IsingProblem, Reads
from calo4pqvae.atomic import write_json
from calo4pqvae.errors import AnnealerError

__all__ = ["RecordedAnnealer", "recorded"]

_FORMAT = 1
_SAME_BETA = 1e-4  # relative


class RecordedAnnealer(Annealer):
    """An annealer that answers from a folder what it has answered before; opened by :func:`recorded`."""

    _folder: Path
    _number: int
    _n_reads: int
    _progress: Callable[[int], None] | None

    @classmethod
    def of(cls, annealer: Annealer, folder: Path, progress: Callable[[int], None] | None = None) -> Self:
        """The same annealer with a folder.

        Args:
            annealer: The annealer, its ledger in a file.
            folder: Where reads are.
            progress: Told how many reads there are so far.

        Raises:
            AnnealerError: If the ledger is not on disk.
        """
        if annealer.ledger.path is None:
            raise AnnealerError("recorded reads need a ledger on disk; open the annealer with a ledger file")
        recorder = cls(
            annealer.sampler,
            chip=annealer._chip,
            ledger=annealer.ledger,
            retry=annealer.retry,
            seed=annealer._seed,
            sleep=annealer._sleep,
        )
        recorder._folder, recorder._number, recorder._n_reads, recorder._progress = folder, 0, 0, progress
        return recorder

    def wait(self, seconds: float) -> None:
        """Waits, unless the next request is answered from the folder."""
        if not self._files(self._number):
            super().wait(seconds)

    def read(
        self,
        problem: IsingProblem,
        n_reads: int,
        *,
        flux_biases: FloatArray | None = None,
        label: str = "",
        keep: Keep | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Reads:
        """Reads of one problem, from the folder or from the annealer.

        Args:
            problem: What to program.
            n_reads: Reads.
            flux_biases: In flux quanta, one for every qubit of the ideal chip; None for none.
            label: What it is for, for the ledger.
            keep: As for :meth:`Annealer.read`; not told of reads that are in the folder.
            **options: Parameters of the solver.

        Raises:
            AnnealerError: As :meth:`Annealer.read`, or if the folder holds the reads of another request.
        """
        number, self._number = self._number, self._number + 1
        named = f"{label} request {number}"
        name = _name_of(problem, n_reads, flux_biases, options)
        write = partial(self._keep, number, name, keep)
        for call in self.ledger.open_calls:
            if call.label == named:
                settle_open(self, call, self._path(number, call.number), problem, write)
        parts = [self._stored(path, problem, name) for path in self._files(number)]
        missing = n_reads - sum(part.n_reads for part in parts)
        if missing:
            parts.append(super().read(problem, missing, flux_biases=flux_biases, label=named, keep=write, **options))
        self._n_reads += n_reads
        if self._progress is not None:
            self._progress(self._n_reads)
        return join_reads(parts)

    def _keep(self, number: int, name: str, further: Keep | None, reads: Reads, call: LedgerCall) -> None:
        save_reads(self._path(number, call.number), reads, request=name, call=call.number)
        if further is not None:
            further(reads, call)

    def _path(self, number: int, call: int) -> Path:
        return self._folder / "reads" / f"{number:06d}-{call:06d}.hdf5"

    def _files(self, number: int) -> list[Path]:
        return sorted((self._folder / "reads").glob(f"{number:06d}-*.hdf5"))

    def _stored(self, path: Path, problem: IsingProblem, name: str) -> Reads:
        stored = load_reads(path)
        with h5py.File(path, "r") as file:
            recorded_name = file.attrs.get("request")
        if recorded_name != name or not np.isclose(stored.beta, problem.beta, rtol=_SAME_BETA):
            raise AnnealerError(
                f"{path} holds reads of another request: the model or the working graph has changed since; choose "
                "another folder"
            )
        return Reads(stored.bits, problem, stored.timing, dict(stored.info))


@contextmanager
def recorded(
    annealer: Annealer, folder: Path, work: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> Iterator[RecordedAnnealer]:
    """Opens a folder of work, alone.

    Args:
        annealer: The annealer, its ledger in a file.
        folder: The folder, made if missing.
        work: What the work is, for JSON: work that is gone on with must have the same description.
        progress: Told how many reads there are so far.

    Raises:
        AnnealerError: If other work stands there, another process is at it, or the ledger is not on disk.
        OutputError: If the folder cannot be written.
    """
    with alone_in(folder):
        told = {"annealer": annealer.name, "emulated": annealer.is_emulated, **work}
        _check_work(folder / "work.json", json.loads(json.dumps(told)))
        clear_unfinished(folder / "reads")
        yield RecordedAnnealer.of(annealer, folder, progress)


def _check_work(path: Path, work: dict[str, Any]) -> None:
    """Writes the description, or holds it against the one that is there."""
    if not path.exists():
        write_json(path, {"format": _FORMAT, "work": work})
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        before, is_known = dict(stored["work"]), stored["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnealerError(f"{path} is damaged ({type(error).__name__}): restore it") from error
    if not is_known:
        raise AnnealerError(f"{path} is of a format that this version does not know; choose another output")
    for key in sorted(before.keys() | work.keys()):
        if before.get(key) != work.get(key):
            raise AnnealerError(
                f"the work in {path.parent} was begun with {key} = {before.get(key)!r}, not {work.get(key)!r}: go on "
                "with that, or choose another output"
            )


def _name_of(problem: IsingProblem, n_reads: int, flux_biases: FloatArray | None, options: Mapping[str, Any]) -> str:
    """SHA-256 of what does not depend on rounding: qubits, couplers, which qubits have flux biases, reads, options."""
    digest = hashlib.sha256(json.dumps([n_reads, dict(options)], sort_keys=True).encode())
    biased = np.flatnonzero([] if flux_biases is None else flux_biases)
    for labels in (problem.qubits, problem.edges, biased):
        digest.update(np.asarray(labels).astype("<i8").tobytes())
    return digest.hexdigest()
