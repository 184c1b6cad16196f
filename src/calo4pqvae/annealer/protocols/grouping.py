r"""Requests that share a programming: same condition, same call.

A programming costs 8 to 34 ms whatever the number of reads, a read 0.1 to 0.4 ms. Requests with the same condition are
therefore read together. Distinct incident energies give distinct conditions; where the user accepts it, energies are
put in bins first. :func:`bin_energies` takes the fewest bins whose representative, the geometric mean of the lowest and
the highest member, is within a relative shift :math:`\delta` of each, that is

.. math:: E_\max \le (1 + \delta)^2 E_\min .

Filling bins from the lowest energy up is optimal on a line. What binning
did to the condition is reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.annealer.chip.problem import FloatArray, IntArray
from calo4pqvae.errors import AnnealerError

__all__ = ["BinnedEnergies", "RequestGroup", "bin_energies", "group_requests"]


@dataclass(frozen=True, eq=False)
class RequestGroup:
    """Requests of one programming.

    Args:
        condition: Their common condition, shape (n_c,).
        members: Their positions in the list of requests, ascending.
    """

    condition: NDArray[np.float64]
    members: IntArray

    @property
    def n_reads(self) -> int:
        """Reads of the programming."""
        return len(self.members)


@dataclass(frozen=True, eq=False)
class BinnedEnergies:
    """Energies put in bins.

    Args:
        energies: Representative of every request, in the shape of the input.
        n_bins: Number of bins.
        shifts: Relative shift E_bin / E - 1 of every request, shape (requests,).
    """

    energies: FloatArray
    n_bins: int
    shifts: FloatArray

    @property
    def largest_shift(self) -> float:
        """Largest relative shift, without sign."""
        return float(np.abs(self.shifts).max())

    @property
    def mean_shift(self) -> float:
        """Mean relative shift, with sign: a bias of the requested energies."""
        return float(self.shifts.mean())

    @property
    def mean_absolute_shift(self) -> float:
        """Mean relative shift, without sign."""
        return float(np.abs(self.shifts).mean())

    def __str__(self) -> str:
        return (
            f"{self.shifts.size} energies in {self.n_bins} bins: relative shift {self.largest_shift:.3g} at most, "
            f"{self.mean_absolute_shift:.3g} in the mean, {self.mean_shift:+.2g} with sign"
        )


def group_requests(conditions: ArrayLike, most_reads: int = 10_000) -> tuple[RequestGroup, ...]:
    """Groups requests by condition.

    Args:
        conditions: One row a request, shape (requests, n_c).
        most_reads: Most reads of a programming; larger groups are split into equal parts.

    Returns:
        Groups in the order of their first members.

    Raises:
        AnnealerError: If there is no request, the shape is wrong, or no read is allowed.
    """
    rows = np.asarray(conditions, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise AnnealerError(f"conditions have shape {rows.shape}; give one row a request")
    if most_reads < 1:
        raise AnnealerError(f"{most_reads} reads make no programming; allow one or more")
    distinct, number = np.unique(rows, axis=0, return_inverse=True)
    order = np.argsort(number.ravel(), kind="stable")
    bounds = np.cumsum(np.bincount(number.ravel()))[:-1]
    groups = []
    for condition, members in zip(distinct, np.split(order, bounds), strict=True):
        parts = np.array_split(members, math.ceil(len(members) / most_reads))
        groups += [RequestGroup(condition, part.astype(np.int64)) for part in parts]
    return tuple(sorted(groups, key=lambda group: int(group.members[0])))


def bin_energies(energies: ArrayLike, largest_shift: float) -> BinnedEnergies:
    """Puts energies in the fewest bins that move none by more than a relative shift.

    Args:
        energies: Positive energies in MeV, any shape.
        largest_shift: Relative shift that is accepted, for example 0.01; 0 joins equal energies only.

    Raises:
        AnnealerError: If there is no energy, one is not positive, or the shift is negative.
    """
    values = np.asarray(energies, dtype=np.float64)
    if not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise AnnealerError("energies to bin must be positive numbers, at least one; correct the request")
    if not (math.isfinite(largest_shift) and largest_shift >= 0):
        raise AnnealerError(f"a shift of {largest_shift:g} cannot be kept; give zero or more")
    distinct, number = np.unique(values.ravel(), return_inverse=True)
    representatives = np.empty_like(distinct)
    starts = _bin_starts(distinct, largest_shift)
    for start, stop in zip(starts, [*starts[1:], len(distinct)], strict=True):
        is_single = stop - start == 1
        representatives[start:stop] = distinct[start] if is_single else math.sqrt(distinct[start] * distinct[stop - 1])
    binned = representatives[number.ravel()]
    return BinnedEnergies(binned.reshape(values.shape), len(starts), binned / values.ravel() - 1)


def _bin_starts(ascending: FloatArray, largest_shift: float) -> Sequence[int]:
    starts = [0]
    reach = (1 + largest_shift) ** 2
    while (following := int(np.searchsorted(ascending, ascending[starts[-1]] * reach, side="right"))) < len(ascending):
        starts.append(following)
    return starts
