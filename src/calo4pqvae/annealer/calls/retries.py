"""Faults of annealers: which of them pass, what they cost, and how long to wait before the next call.

Faults are told apart by the names of their exceptions, so that D-Wave's packages need not be imported. What a fault did
to the call matters to the ledger: a call that was ``rejected`` never reached the chip and costs nothing; after a
``timeout``, a ``lost`` connection or a ``failed`` call nobody knows, and its estimate is charged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from calo4pqvae.annealer.calls.ledger import Outcome, without_tokens
from calo4pqvae.annealer.chip.problem import Reads
from calo4pqvae.errors import AnnealerError

__all__ = ["IncompleteReadsError", "PassingFaultError", "RetryPolicy", "passing_fault", "told"]

_PASSING: Mapping[str, Outcome] = {
    "PollingTimeout": "timeout",
    "RequestTimeout": "timeout",
    "Timeout": "timeout",
    "TimeoutError": "timeout",
    "ConnectionError": "lost",
    "ChunkedEncodingError": "lost",
    "ResourceBadResponseError": "lost",
    "CanceledFutureError": "lost",
    "ProblemUploadError": "rejected",
    "ResourceLimitsExceededError": "rejected",
    "InternalServerError": "rejected",
    "SolverOfflineError": "rejected",
    "SolverFailureError": "failed",
}
"""Exceptions of Python, requests, dwave-cloud-client and the emulator that pass, and what they did to the call."""


class IncompleteReadsError(AnnealerError):
    """Not all reads could be had.

    Args:
        message: One sentence.
        reads: Those that came, None if there are none.
    """

    def __init__(self, message: str, reads: Reads | None) -> None:
        super().__init__(message)
        self.reads = reads


class PassingFaultError(AnnealerError):
    """A fault that passes; it is met by calling again.

    Args:
        message: What the chip said.
        kind: What it did to the call.
    """

    def __init__(self, message: str, kind: Outcome) -> None:
        super().__init__(message)
        self.kind: Outcome = kind


@dataclass(frozen=True)
class RetryPolicy:
    """How faults that pass are met.

    Args:
        attempts: Most calls for one request, the first included.
        first_wait: Seconds before the second call.
        factor: By how much each further wait is longer.
        longest_wait: Longest wait in seconds.

    Raises:
        AnnealerError: If there is no attempt, or a wait is negative.
    """

    attempts: int = 5
    first_wait: float = 2.0
    factor: float = 2.0
    longest_wait: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_wait, self.factor, self.longest_wait) < 0:
            raise AnnealerError(f"{self} cannot be followed; give one attempt or more and no negative wait")

    def wait(self, attempt: int) -> float:
        """Seconds to wait after attempt 1, 2, ..."""
        return min(self.longest_wait, self.first_wait * self.factor ** (attempt - 1))


def passing_fault(error: Exception) -> PassingFaultError | None:
    """The fault that an exception stands for; None if it does not pass.

    Args:
        error: The exception.
    """
    for kind in type(error).__mro__:
        if kind.__name__ in _PASSING:
            return PassingFaultError(told(error), _PASSING[kind.__name__])
    return None


def told(error: Exception) -> str:
    """Kind and message of an exception on one line, without tokens."""
    return without_tokens(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
