"""Errors that a user can cause, and how they are told.

Every error below carries one sentence that says what was wrong and what to do. The command line prints that
sentence and exits with code 2; a library caller catches :class:`CaloError` or one of its kinds. Faults of the
code itself are left to Python's own exceptions, so that they are never mistaken for bad input.
"""

__all__ = [
    "AnnealerError",
    "CaloError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "FetchError",
    "OutputError",
    "PriorError",
]


class CaloError(Exception):
    """Bad input of any kind; the message is one sentence for the user."""


class ConfigError(CaloError):
    """A setting is unknown, of the wrong type, out of range or at odds with another one."""


class DataError(CaloError):
    """A shower file, a geometry or an array of showers or energies cannot be used."""


class CheckpointError(CaloError):
    """A run directory or checkpoint is missing, damaged or made with another configuration."""


class OutputError(CaloError):
    """An output cannot be written; whatever stood there before is untouched."""


class FetchError(CaloError):
    """A download failed, or what came is not what the record announces."""


class PriorError(CaloError):
    """A Boltzmann machine, its graph or its states cannot be used."""


class DivergenceError(CaloError):
    """Training left the region in which its numbers mean anything and was stopped."""


class AnnealerError(CaloError):
    """A problem, a chip or a call of an annealer, real or emulated, cannot be used or has failed."""
