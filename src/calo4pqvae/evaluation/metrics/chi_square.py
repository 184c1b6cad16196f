r"""Chi-square between two histograms with the errors of their bins.

With entries n_i and m_i of two samples and their totals N and M,

.. math:: \chi^2 = \sum_i \frac{(\sqrt{M/N}\, n_i - \sqrt{N/M}\, m_i)^2}{\sigma^2_i}, \qquad \sigma^2_i = n_i + m_i ,

which follows the chi-square law with (bins - 1) degrees of freedom where both samples have one law and every shower
enters once. Adjacent bins are joined until each holds ten entries of both samples together; the law is not reached
with fewer.

Where one shower makes many entries, as in the spectrum of voxel energies, entries come in bunches. With c_si entries
of shower s in bin i and c_s in all, the variance of n_i at a given total is then

.. math:: V_i = \sum_s (c_{si} - \tfrac{n_i}{N} c_s)^2 , \qquad \sigma^2_i = \tfrac{M}{N} V_i + \tfrac{N}{M} V'_i ,

and since the bins are correlated the sum is only a distance in units of the errors: no probability is quoted. As the
variances are at a given total, every bin gives 1 on average, and all of them count as degrees of freedom.

References:
    Porter, Testing consistency of two histograms, arXiv 0804.0380.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

__all__ = ["ChiSquare", "bunched_chi_square", "chi_square"]

FloatArray = NDArray[np.float64]

_LEAST_ENTRIES = 10.0


@dataclass(frozen=True)
class ChiSquare:
    """Chi-square of one or several histograms of an observable.

    Args:
        values: Chi-square of each histogram (layer).
        freedom: Degrees of freedom of each; 0 where there is nothing to compare.
        p_values: Probability of a larger value for samples of one law; None where bins are correlated.
    """

    values: tuple[float, ...]
    freedom: tuple[int, ...]
    p_values: tuple[float, ...] | None

    @property
    def per_freedom(self) -> float:
        """Sum of the values over the sum of the degrees of freedom; 1 is expected, NaN without any bin."""
        return sum(self.values) / sum(self.freedom) if sum(self.freedom) else float("nan")

    def to_dict(self) -> dict[str, object]:
        """The fields and the value per degree of freedom; what is not finite becomes None."""
        ratio = self.per_freedom
        return {
            "per_degree_of_freedom": ratio if np.isfinite(ratio) else None,
            "values": list(self.values),
            "degrees_of_freedom": list(self.freedom),
            "p_values": None if self.p_values is None else list(self.p_values),
        }


def chi_square(first: FloatArray, second: FloatArray) -> ChiSquare:
    """Chi-square of histograms to which every shower gives one entry at most.

    Args:
        first: Entries of the reference, (histograms, bins).
        second: Entries of the generated sample, of the same shape.
    """
    rows = [_of_counts(n, m) for n, m in zip(np.atleast_2d(first), np.atleast_2d(second), strict=True)]
    values, freedom = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
    p_values = tuple(float(chi2.sf(value, free)) if free else 1.0 for value, free in rows)
    return ChiSquare(values, freedom, p_values)


def bunched_chi_square(first: FloatArray, second: FloatArray) -> ChiSquare:
    """Chi-square of one histogram to which a shower gives many entries.

    Args:
        first: Entries by shower of the reference, (N, bins).
        second: The same of the generated sample, (M, bins).
    """
    total = np.sum(first, axis=0) + np.sum(second, axis=0)
    starts = _bin_starts(total)
    if len(starts) == 0:
        return ChiSquare((0.0,), (0,), None)
    joined = [np.add.reduceat(np.asarray(part, dtype=np.float64), starts, axis=1) for part in (first, second)]
    if not (joined[0].any() and joined[1].any()):
        return ChiSquare((0.0,), (0,), None)
    ratio = float(joined[1].sum() / joined[0].sum())
    n, m = (part.sum(axis=0) for part in joined)
    spread = [
        np.square(part - np.outer(part.sum(axis=1), part.sum(axis=0) / part.sum())).sum(axis=0) for part in joined
    ]
    variance = ratio * spread[0] + spread[1] / ratio
    difference = np.sqrt(ratio) * n - m / np.sqrt(ratio)
    kept = variance > 0
    value = float(np.sum(difference[kept] ** 2 / variance[kept]))
    return ChiSquare((value,), (int(kept.sum()),), None)


def _of_counts(first: FloatArray, second: FloatArray) -> tuple[float, int]:
    """Value and degrees of freedom of one pair of histograms."""
    starts = _bin_starts(first + second)
    if len(starts) < 2 or first.sum() == 0 or second.sum() == 0:
        return 0.0, 0
    n, m = np.add.reduceat(first, starts), np.add.reduceat(second, starts)
    ratio = m.sum() / n.sum()
    value = float(np.sum((np.sqrt(ratio) * n - m / np.sqrt(ratio)) ** 2 / (n + m)))
    return value, len(starts) - 1


def _bin_starts(entries: FloatArray) -> NDArray[np.int64]:
    """Where joined bins begin, so that each holds enough entries; the last one takes up what is left over."""
    starts, held = [0], 0.0
    for position, number in enumerate(entries):
        if held >= _LEAST_ENTRIES:
            starts.append(position)
            held = 0.0
        held += float(number)
    if held < _LEAST_ENTRIES:
        starts.pop()
    return np.array(starts, dtype=np.int64)
