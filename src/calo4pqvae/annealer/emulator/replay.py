"""Brings a fresh emulator to where another process left one, so that work that is gone on with draws the same reads.

What an emulated chip keeps to itself (:mod:`~calo4pqvae.annealer.emulator.state`) is a function of its seed and of the
programmings so far. A ledger has them all: calls that programmed the chip are gone through again without drawing their
reads, with the waits between repeated calls.

A call that was under way when the process ended leaves nothing in the emulator, which ended with it. It is settled as
``failed`` and counts with its estimate; made again, it brings the reads that it would have brought.
"""

from collections.abc import Collection

from calo4pqvae.annealer.calls.ledger import Ledger
from calo4pqvae.annealer.calls.retries import RetryPolicy
from calo4pqvae.annealer.chip.table import DEFAULT_THERMALIZATION_US, AccessTime
from calo4pqvae.annealer.emulator.call import CallOptions
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.errors import AnnealerError

__all__ = ["live_through", "restore_emulator"]

_PROGRAMMED = ("complete", "partial", "timeout", "lost")


def live_through(emulator: Emulator, ledger: Ledger) -> None:
    """Lets a fresh emulator live through the programmings of a ledger, by the times that were estimated for them.

    It has the same fixed errors, drift and heat afterwards, and the next programming has the next number. What is not
    in a ledger is left out: waits, other thermalisations than the default, and couplings on which a temperature offset
    depends. A call that is open counts as a programming, so that its random numbers are not drawn for another.

    Args:
        emulator: An emulator that has not been called yet.
        ledger: The ledger; nothing is changed in it.
    """
    chip = emulator.chip
    for call in ledger.calls:
        if call.is_open or call.outcome in _PROGRAMMED:
            sampling = max(0.0, call.estimate * 1e6 - chip.programming_us)
            per_read = sampling / call.asked
            times = AccessTime(call.asked, chip.programming_us, per_read, 0.0, 0.0)
            emulator.hidden.program(times, DEFAULT_THERMALIZATION_US, 0.0)


def restore_emulator(
    emulator: Emulator, ledger: Ledger, n_qubits: int, kept: Collection[int], retry: RetryPolicy | None = None
) -> None:
    """Lets an emulator live through the calls of a ledger; nobody else may be at work with it.

    Args:
        emulator: An emulator that has not been called yet, with the seed of the one that made the calls.
        ledger: The ledger; open calls without reads are settled.
        n_qubits: Qubits of every call; all options had their defaults.
        kept: Numbers of the calls whose reads are on disk.
        retry: How faults were met.

    Raises:
        AnnealerError: If the emulator has been called, or its temperature depends on the couplings of past calls.
    """
    hidden = emulator.hidden
    if hidden.history:
        raise AnnealerError("this emulator has been called already; restore a fresh one")
    if hidden.settings.temperature_offset:
        raise AnnealerError("the state of an emulator with a temperature offset cannot be restored; start anew")
    policy = RetryPolicy() if retry is None else retry
    for call in ledger.open_calls:
        if call.number not in kept:
            ledger.settle(call, "failed", message="the emulator ended with its process")
    for call in ledger.calls:
        if call.attempt > 1:
            emulator.wait(policy.wait(call.attempt - 1))
        if call.is_open or call.outcome in _PROGRAMMED:
            times = CallOptions(num_reads=call.asked).times(emulator.chip, n_qubits)
            hidden.program(times, DEFAULT_THERMALIZATION_US, 0.0)
