"""Two samples of feature vectors that are to be compared: checks, common scale, and the floor of a distance.

Order matters: features are divided by the largest absolute value that each has in the *reference* (a feature that is
zero there stays as it is), so that every function takes ``reference=`` and ``generated=`` by name.

**Floor.** A distance between finite samples of one law is not zero. What Geant4 shows against itself is found by
splitting the reference at random into two parts; the value to hold against it is computed at the same sample sizes,
with the same first part and as many generated showers.
"""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.seeds import derive_seed

__all__ = ["Distance", "FloorAndValue", "checked_pair", "floor_and_value", "scaled_pair"]

FloatArray = NDArray[np.float64]
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Distance(Protocol[Result_co]):
    """A distance between samples, such as :func:`~calo4pqvae.evaluation.metrics.frechet.fpd`."""

    def __call__(self, *, reference: ArrayLike, generated: ArrayLike) -> Result_co:
        """The distance between samples of feature vectors, (N, F) and (M, F)."""


@dataclass(frozen=True)
class FloorAndValue(Generic[Result]):
    """A distance beside what the reference shows against itself.

    Args:
        floor: Between two disjoint parts of the reference.
        value: Between the first of these parts and as many generated showers.
        size: Number of showers in each part.
        seed: Seed of the parts.
    """

    floor: Result
    value: Result
    size: int
    seed: int


def checked_pair(reference: ArrayLike, generated: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both samples as float64 matrices of the same width.

    Raises:
        DataError: If one is not a matrix of at least two rows, holds values that are not finite, or the widths differ.
    """
    first, second = _checked("reference", reference), _checked("generated", generated)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"the reference has {first.shape[1]} features a shower and the generated sample {second.shape[1]}; "
            "make both with the same geometry and the same kind of vector"
        )
    return first, second


def scaled_pair(reference: FloatArray, generated: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both samples with each feature divided by its largest absolute value in the reference, unless that is zero."""
    largest = np.abs(reference).max(axis=0)
    largest[largest == 0] = 1.0
    return reference / largest, generated / largest


def floor_and_value(
    distance: Distance[Result], *, reference: ArrayLike, generated: ArrayLike, seed: int = 0, size: int | None = None
) -> FloorAndValue[Result]:
    """A distance and its floor at the same sample sizes.

    Args:
        distance: Called with ``reference=`` and ``generated=``; settings and seed are bound to it before.
        reference: Features of Geant4 showers, (N, F).
        generated: Features of generated showers, (M, F).
        seed: Seed of the random parts.
        size: Showers of each part; at most, and by default, half of the reference, or all generated showers if these
            are fewer.

    Raises:
        DataError: As :func:`checked_pair`, or if the parts have fewer than two showers.

    Example:
        >>> from functools import partial
        >>> from calo4pqvae.evaluation.metrics.kernel_distance import KernelSettings, kpd
        >>> samples = np.random.default_rng(1).random((2, 40, 3))
        >>> both = floor_and_value(
        ...     partial(kpd, settings=KernelSettings(batch_size=20)), reference=samples[0], generated=samples[1]
        ... )
        >>> both.size
        20
    """
    first, second = checked_pair(reference, generated)
    size = min(len(first) // 2, len(second), size or len(second))
    if size < 2:
        raise DataError(f"a reference of {len(first)} showers cannot be split for a floor; give at least 4")
    order = np.random.default_rng(derive_seed(seed, "floor", "reference")).permutation(len(first))
    drawn = np.random.default_rng(derive_seed(seed, "floor", "generated")).permutation(len(second))[:size]
    part, other = first[np.sort(order[:size])], first[np.sort(order[size : 2 * size])]
    floor = distance(reference=part, generated=other)
    value = distance(reference=part, generated=second[np.sort(drawn)])
    return FloorAndValue(floor, value, size, seed)


def _checked(name: str, sample: ArrayLike) -> FloatArray:
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"the {name} sample has the shape {values.shape}; it must be (showers, features)")
    if len(values) < 2:
        raise DataError(f"the {name} sample has {len(values)} showers; a distance needs at least 2")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=0))
    if bad.size:
        raise DataError(
            f"the {name} sample holds NaN or infinite values in {bad.size} of {values.shape[1]} features, the first in "
            f"column {bad[0]}; leave these showers out or mend what makes them"
        )
    return np.ascontiguousarray(values)
