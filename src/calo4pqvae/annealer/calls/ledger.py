"""The ledger: every call of an annealer, what it cost and what came of it, with a spending limit.

Time on an annealer is bought. A call is entered twice. Before it is made its estimated access time is *reserved*, and
refused if all that was spent or reserved so far would pass the limit; when its reads are safe it is *settled* with the
access time that the chip reported. A process that is killed in between leaves a reservation behind: the call may have
been made and charged, so it counts with its estimate until somebody settles it.

The file is JSON lines, appended to and forced to disk line by line under a lock, so that several processes can share
one budget and a killed process damages nothing: a last line that was cut short belongs to an event that had not
happened yet and is dropped. The first line says whether the time is that of a real or of an emulated annealer; the two
are never mixed. The ledger holds no token and no samples.

Estimates may be too low. The largest ratio of reported to estimated time that was seen is applied to later estimates,
so that a limit is not passed by the same mistake again and again.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from calo4pqvae.errors import AnnealerError, OutputError

__all__ = ["Basis", "Ledger", "LedgerCall", "Outcome", "SpendingLimitError", "Totals", "read_ledger", "without_tokens"]

Outcome = Literal["complete", "partial", "rejected", "timeout", "lost", "failed"]
Basis = Literal["reported", "estimated", "none"]

_FORMAT = 1
_TOKEN = re.compile(r"\b[A-Za-z]{2,10}-[0-9a-fA-F]{20,}\b")
_LONGEST_MESSAGE = 300


class SpendingLimitError(AnnealerError):
    """A call would bring the access time beyond the limit; it was not made."""


def without_tokens(text: str) -> str:
    """The text with anything that looks like an access token taken out, cut to a line."""
    return _TOKEN.sub("[token]", " ".join(text.split()))[:_LONGEST_MESSAGE]


@dataclass(frozen=True)
class Totals:
    """Sums over calls.

    Args:
        programmings: Times that the chip was programmed, as far as is known.
        reads: Reads that came back.
        access_seconds: Charged time in seconds, reservations included.
        faults: Calls that did not bring all their reads.
    """

    programmings: int = 0
    reads: int = 0
    access_seconds: float = 0.0
    faults: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        """Both together."""
        return Totals(
            self.programmings + other.programmings,
            self.reads + other.reads,
            self.access_seconds + other.access_seconds,
            self.faults + other.faults,
        )

    def __sub__(self, earlier: "Totals") -> "Totals":
        """What was added since."""
        return Totals(
            self.programmings - earlier.programmings,
            self.reads - earlier.reads,
            self.access_seconds - earlier.access_seconds,
            self.faults - earlier.faults,
        )


@dataclass(frozen=True)
class LedgerCall:
    """One call of an annealer.

    Args:
        number: Its number in the ledger, from 0.
        started: UTC, ISO 8601.
        chip: Solver name.
        asked: Reads asked for.
        estimate: Estimated access time in seconds.
        attempt: 1 for the first try, 2 for the first repetition, ...
        label: What it was for.
        problem_id: The chip's name for it, by which its answer can be fetched again; empty if unknown.
        outcome: What came of it; None while it is open.
        programmings: 1 if the chip was programmed, 0 if the call was refused before.
        reads: Reads that came back.
        access_seconds: Charged time in seconds.
        basis: Whether that time was reported, is an estimate, or nothing is charged on this sampler.
        message: What the chip said to a fault.
    """

    number: int
    started: str
    chip: str
    asked: int
    estimate: float
    attempt: int = 1
    label: str = ""
    problem_id: str = ""
    outcome: Outcome | None = None
    programmings: int = 1
    reads: int = 0
    access_seconds: float = 0.0
    basis: Basis = "estimated"
    message: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody has said yet what came of it."""
        return self.outcome is None

    @property
    def totals(self) -> Totals:
        """What the call adds to the sums; an open one counts with its estimate."""
        if self.is_open:
            return Totals(self.programmings, 0, self.estimate, 0)
        return Totals(self.programmings, self.reads, self.access_seconds, int(self.outcome != "complete"))


class Ledger:
    """Calls of one kind of annealer, in memory or in a file.

    Args:
        path: File to go on with or to begin; None keeps the ledger in memory.
        limit: Most access time in seconds over the whole ledger; None for no limit.
        is_emulated: Whether the time is that of an emulator.

    Raises:
        AnnealerError: If the file is damaged or of the other kind, or the limit is not a number of seconds.
    """

    def __init__(self, path: Path | None = None, limit: float | None = None, *, is_emulated: bool = False) -> None:
        if limit is not None and not limit >= 0:
            raise AnnealerError(f"a spending limit of {limit} s makes no sense; give access seconds, zero or more")
        self.path = path
        self.limit = limit
        self.is_emulated = is_emulated
        self._calls: list[LedgerCall] = []
        self._totals = Totals()
        self._offset = 0
        self._n_lines = 0
        self._worst_ratio = 1.0
        if path is not None and path.exists():
            with self._locked():
                pass

    @property
    def calls(self) -> tuple[LedgerCall, ...]:
        """All calls, oldest first."""
        return tuple(self._calls)

    @property
    def open_calls(self) -> tuple[LedgerCall, ...]:
        """Calls that nobody has settled: under way, or cut off by a killed process."""
        return tuple(call for call in self._calls if call.is_open)

    @property
    def totals(self) -> Totals:
        """Sums over all calls."""
        return self._totals

    @property
    def programmings(self) -> int:
        """Times that the chip was programmed."""
        return self.totals.programmings

    @property
    def reads(self) -> int:
        """Reads that came back."""
        return self.totals.reads

    @property
    def access_seconds(self) -> float:
        """Charged time in seconds, reservations included."""
        return self.totals.access_seconds

    @property
    def left(self) -> float:
        """Access seconds up to the limit; infinite without one."""
        return float("inf") if self.limit is None else self.limit - self.access_seconds

    def reserve(self, chip: str, asked: int, estimate: float, *, attempt: int = 1, label: str = "") -> LedgerCall:
        """Enters a call that is about to be made.

        Args:
            chip: Solver name.
            asked: Reads asked for.
            estimate: Estimated access time in seconds.
            attempt: 1 for the first try.
            label: What it is for.

        Raises:
            SpendingLimitError: If the limit would be passed; nothing is entered then.
            OutputError: If the file cannot be written.
        """
        with self._locked() as append:
            careful = estimate * self._worst_ratio
            spent = self.access_seconds
            if self.limit is not None and spent + careful > self.limit:
                raise SpendingLimitError(
                    f"a call of {asked} reads takes about {careful:.3g} s of access time: with the {spent:.6g} s "
                    f"spent it would pass the limit of {self.limit:g} s; raise the limit or ask for fewer reads"
                )
            row = {
                "chip": chip,
                "asked": asked,
                "estimate": careful,
                "attempt": attempt,
                "label": without_tokens(label),
            }
            append({"event": "open", "number": len(self._calls), "started": _now(), **row})
        return self._calls[-1]

    def note_problem(self, call: LedgerCall, problem_id: str) -> None:
        """Keeps the chip's name of a call as soon as it is known, so that its answer can be fetched after a crash."""
        with self._locked() as append:
            append({"event": "problem", "number": call.number, "problem_id": problem_id})

    def settle(
        self,
        call: LedgerCall,
        outcome: Outcome,
        *,
        reads: int = 0,
        access_seconds: float | None = None,
        programmings: int = 1,
        is_charged: bool = True,
        message: str = "",
    ) -> LedgerCall:
        """Enters what came of a call.

        Args:
            call: The call.
            outcome: ``complete``, ``partial``, or the kind of fault.
            reads: Reads that came back.
            access_seconds: As the chip reported; None takes the estimate.
            programmings: 0 if the chip was not programmed.
            is_charged: Whether the sampler charges for calls at all.
            message: What the chip said.

        Raises:
            AnnealerError: If the call is not in the ledger or is settled already.
            OutputError: If the file cannot be written.
        """
        with self._locked() as append:
            if call.number >= len(self._calls) or not self._calls[call.number].is_open:
                raise AnnealerError(f"call {call.number} is not open in this ledger; settle each call once")
            basis: Basis = "none" if not is_charged else "estimated" if access_seconds is None else "reported"
            charged = call.estimate if access_seconds is None else access_seconds
            row: dict[str, Any] = {"outcome": outcome, "reads": reads, "programmings": programmings, "basis": basis}
            row |= {"access_seconds": charged if is_charged else 0.0, "message": without_tokens(message)}
            append({"event": "settle", "number": call.number, **row})
        return self._calls[call.number]

    def to_dict(self) -> dict[str, Any]:
        """Totals for a report."""
        totals = self.totals
        return {
            "emulated": self.is_emulated,
            "programmings": totals.programmings,
            "reads": totals.reads,
            "access_seconds": totals.access_seconds,
            "faults": totals.faults,
            "open_calls": len(self.open_calls),
            "limit": self.limit,
        }

    @contextmanager
    def _locked(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Reads what others have written; the block may append."""
        if self.path is None:
            yield self._apply
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._catch_up(handle)
                yield partial(self._append, handle)
            finally:
                os.close(handle)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write the ledger {self.path}: {reason}; no call is made without it") from error

    def _catch_up(self, handle: int) -> None:
        """Applies the lines behind the last known one and cuts off an unfinished last one."""
        size = os.fstat(handle).st_size
        text = os.pread(handle, size - self._offset, self._offset)
        whole = text[: text.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._n_lines += 1
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise AnnealerError(
                    f"the ledger {self.path} is damaged at line {self._n_lines} ({type(error).__name__}): restore it"
                ) from error
        self._offset += len(whole)
        if len(whole) < len(text):
            os.ftruncate(handle, self._offset)

    def _append(self, handle: int, event: Mapping[str, Any]) -> None:
        """Adds an event to the locked file, then to what is in memory."""
        events: list[Mapping[str, Any]] = [event]
        if self._offset == 0:
            events.insert(0, {"event": "ledger", "format": _FORMAT, "emulated": self.is_emulated})
        data = "".join(json.dumps(one, allow_nan=False) + "\n" for one in events).encode()
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], self._offset + done)
        os.fsync(handle)
        self._offset += len(data)
        self._n_lines += len(events)
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        """Takes over one event.

        Raises:
            AnnealerError: If the file is of the other kind.
        """
        row = dict(event)
        kind = row.pop("event")
        if kind == "ledger":
            self._check_kind(row)
        elif kind == "open":
            self._calls.append(LedgerCall(**row))
            self._totals += self._calls[-1].totals
        elif kind in ("problem", "settle"):
            number = row.pop("number")
            if row.get("outcome", "complete") not in get_args(Outcome):
                raise ValueError(row["outcome"])
            before = self._calls[number]
            call = self._calls[number] = replace(before, **row)
            self._totals += call.totals - before.totals
            if call.basis == "reported" and call.estimate > 0 and call.outcome == "complete":
                self._worst_ratio = max(self._worst_ratio, self._worst_ratio * call.access_seconds / call.estimate)
        else:
            raise ValueError(kind)

    def _check_kind(self, header: Mapping[str, Any]) -> None:
        if header["format"] != _FORMAT:
            raise AnnealerError(
                f"the ledger {self.path} has format {header['format']}, not {_FORMAT}; use another file"
            )
        if header["emulated"] != self.is_emulated:
            words = ("a real", "an emulated") if self.is_emulated else ("an emulated", "a real")
            raise AnnealerError(
                f"the ledger {self.path} is that of {words[0]} annealer, not of {words[1]} one; use another file"
            )


def read_ledger(path: Path) -> Ledger:
    """A ledger that exists, of whichever kind it is.

    Raises:
        AnnealerError: If there is none, or it is damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline() or "{}")
        is_emulated = bool(header["emulated"])
    except OSError as error:
        raise AnnealerError(f"there is no ledger {path} ({error.strerror or error}); give the file of one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise AnnealerError(f"{path} is no ledger; give the file of one") from error
    return Ledger(path, is_emulated=is_emulated)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
