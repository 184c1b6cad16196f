"""Faults that the emulator makes on request, each like that of a real call.

.. list-table::
   :header-rows: 1

   * - kind
     - what the caller sees
     - what it has used
   * - ``"rejected"``
     - :class:`SolverOfflineError`, named as in D-Wave's client
     - nothing
   * - ``"timeout"``
     - :class:`EmulatedTimeoutError`, a ``TimeoutError``: the call has run, its answer is lost
     - all of it
   * - ``"connection"``
     - :class:`EmulatedConnectionError`, a ``ConnectionError``: likewise
     - all of it
   * - ``"truncated"``
     - an answer with half of the reads, in which nothing says so
     - all of it
"""

from typing import Literal, get_args

from calo4pqvae.errors import AnnealerError

__all__ = ["FAULTS", "EmulatedConnectionError", "EmulatedTimeoutError", "FaultKind", "SolverOfflineError"]

FaultKind = Literal["rejected", "timeout", "connection", "truncated"]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)
"""All kinds."""


class SolverOfflineError(AnnealerError):
    """The emulated solver did not take the call."""


class EmulatedTimeoutError(AnnealerError, TimeoutError):
    """The emulated solver gave no answer in time."""


class EmulatedConnectionError(AnnealerError, ConnectionError):
    """The connection to the emulated solver broke."""
