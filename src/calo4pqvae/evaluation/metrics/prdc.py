r"""Precision, recall, density and coverage: is a generated shower like Geant4 ones, and do all kinds occur.

Every shower is a point, log10 of all its voxels in MeV with empty ones counted as 0.1 MeV (as the challenge has it:
above the threshold, so that an empty voxel looks fuller than a faint one). With :math:`B_i` the open ball around
reference shower i that reaches to its k-th nearest neighbour in the reference, k = 5, and :math:`B'_j` the same of
generated shower j in the generated sample,

* precision is the share of generated showers in any :math:`B_i`,
* recall the share of reference showers in any :math:`B'_j`,
* density the mean number of balls :math:`B_i` that hold a generated shower, over k,
* coverage the share of :math:`B_i` that hold any generated shower.

In thousands of dimensions two samples of one law have a precision far below 1: hold the values against those of
Geant4 with itself, at equal sample sizes, since all four depend on the size. Samples of unequal size are cut to the
smaller one at random.

For the error both samples are cut into halves at random, several times. The values of the first halves and of the
second ones are independent and have twice the variance of the full samples, so that half of their root mean square
difference is the error. Being of smaller samples it errs on the large side, by two thirds for the density of 300
showers. The same halves give the value to hold against the floor, which is that between disjoint halves of the
reference.

Squared distances are :math:`|x|^2 + |y|^2 - 2 x \cdot y` from float32 products of centred points, a block of rows at
a time: memory is that of the points, of one block and of a list of near neighbours of each point, from which the radii
in all halves and the floor are read off.

References:
    Naeem et al., Reliable fidelity and diversity metrics for generative models, arXiv 2002.09797; Kynkäänniemi et
    al., arXiv 1904.06991; as used by Krause et al., CaloChallenge 2022, arXiv 2410.21611.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits
from calo4pqvae.seeds import derive_seed
from calo4pqvae.showers.geometry import Geometry

__all__ = ["PRDC_NAMES", "Prdc", "log_voxels", "prdc"]

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

PRDC_NAMES = ("precision", "recall", "density", "coverage")
_EMPTY_MEV = 0.1
_BLOCK_ELEMENTS = 5_000_000
_FIRST_LENGTH = 30  # of the lists of neighbours: with 6 k more, a half holds k of them but for 1e-10 of the points


@dataclass(frozen=True)
class Prdc:
    """The four numbers, each with error, floor and the value to hold against the floor.

    Args:
        precision: Share of generated showers that are like reference ones.
        recall: Share of reference showers that are like generated ones.
        density: Like precision, counting how often.
        coverage: Share of the reference that has a generated shower beside it.
        matched: By name, between halves of the reference and as many generated showers.
        floor: By name, between disjoint halves of the reference.
        k: Which neighbour gives the radius.
        seed: Seed of the halves.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    matched: dict[str, Splits]
    floor: dict[str, Splits]
    k: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain data."""
        numbers = {
            name: {
                "value": getattr(self, name).to_dict(),
                "matched": self.matched[name].to_dict(),
                "geant4_against_geant4": self.floor[name].to_dict(),
            }
            for name in PRDC_NAMES
        }
        return {**numbers, "k": self.k, "seed": self.seed}


def log_voxels(showers: ArrayLike, geometry: Geometry) -> NDArray[np.float32]:
    """The points that the challenge uses: log10 of voxels in MeV, below the threshold 0.1 MeV, (N, V).

    Raises:
        DataError: If the showers do not fit the geometry.
    """
    voxels = np.asarray(showers)
    if voxels.ndim != 2 or voxels.shape[1] != geometry.n_voxels:
        raise DataError(f"showers of shape {voxels.shape} do not fit {geometry.name}: {geometry.n_voxels} voxels")
    filled = (voxels >= np.float64(geometry.threshold_mev)) & (voxels > 0)
    points = np.full(voxels.shape, np.log10(_EMPTY_MEV), dtype=np.float32)
    np.log10(voxels, out=points, where=filled, casting="same_kind")
    return points


def prdc(
    *,
    reference: ArrayLike,
    generated: ArrayLike,
    k: int = 5,
    n_splits: int = 6,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Prdc:
    """Precision, recall, density and coverage of points.

    Args:
        reference: Points of the Geant4 showers, (N, D), for example from :func:`log_voxels`.
        generated: Points of the generated showers, (M, D).
        k: Which neighbour gives the radius.
        n_splits: Random halves, for errors and floor.
        seed: Seed of the halves, and of what is left out of the larger sample.
        device: Where distances are computed, ``cpu`` or ``cuda``.
        progress: Called with (blocks done, blocks in all).

    Raises:
        DataError: If the points do not fit each other, are not finite, or are fewer than 2 (k + 1).
        ConfigError: If ``k`` or ``n_splits`` are too small, or the device is not there.
    """
    _check(k, n_splits, device)
    first, second = _points(reference, generated, k, seed)
    n = len(first)
    selections = _halves(n, n_splits, seed)
    centre = first.mean(axis=0, dtype=np.float64).astype(np.float32)
    target = torch.device(device)
    x, y = (torch.from_numpy(points - centre).to(target) for points in (first, second))
    work = _Distances(target, progress, 3 * -(-n // _rows(n)))
    near_x, radii_x = work.neighbourhoods(x, selections[0], k)
    _, radii_y = work.neighbourhoods(y, selections[1], k)
    full = _ratios(work.compare(x, y, radii_x, radii_y), radii_x, radii_y, k)
    floor = _ratios(_compare_within(near_x, radii_x[1::2], radii_x[2::2]), radii_x[1::2], radii_x[2::2], k)
    errors = np.sqrt(np.mean((full[1::2] - full[2::2]) ** 2, axis=0)) / 2
    precision, recall, density, coverage = (Estimate(float(full[0, i]), float(errors[i]), n) for i in range(4))
    size = (n // 2, n // 2)
    return Prdc(
        precision,
        recall,
        density,
        coverage,
        matched={name: Splits.of(full[1:, i], size) for i, name in enumerate(PRDC_NAMES)},
        floor={name: Splits.of(floor[:, i], size) for i, name in enumerate(PRDC_NAMES)},
        k=k,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """The nearest neighbours of each point, the nearest first: their squared distances and numbers, (N, length)."""

    squares: Tensor
    numbers: Tensor

    def radii(self, selections: Tensor, k: int) -> Tensor | None:
        """Squared distance to the k-th neighbour in each selection, -1 for points that are not in it.

        Args:
            selections: Which points are in, (selections, N).
            k: Which neighbour.

        Returns:
            Squared radii, (selections, N), or None if the lists are too short for some point.
        """
        radii = torch.full(selections.shape, -1.0, device=selections.device)
        for selection, radius in zip(selections, radii, strict=True):
            reached = selection[self.numbers[selection]].cumsum(dim=1) >= k
            if not bool(reached[:, -1].all()):
                return None
            position = reached.int().argmax(dim=1, keepdim=True)
            radius[selection] = self.squares[selection].gather(1, position)[:, 0]
        return radii


class _Distances:
    """Squared distances, a block of rows at a time."""

    def __init__(self, device: torch.device, progress: Callable[[int, int], None] | None, n_blocks: int) -> None:
        self.device = device
        self.progress = progress
        self.n_blocks = n_blocks
        self.done = 0

    def neighbourhoods(self, points: Tensor, selections: Sequence[Mask], k: int) -> tuple[_Neighbours, Tensor]:
        """Lists of neighbours long enough for all selections, and the squared radii in each, (selections, N)."""
        masks = torch.from_numpy(np.stack(selections)).to(self.device)
        length = _FIRST_LENGTH + 6 * k
        while True:
            near = self._nearest(points, min(length, len(points) - 1))
            radii = near.radii(masks, k)
            if radii is not None:
                return near, radii
            length *= 2

    def compare(self, x: Tensor, y: Tensor, radii_x: Tensor, radii_y: Tensor) -> "_Tally":
        """Who lies in whose ball, for all selections; only pairs within some radius are looked at one by one."""
        tally = _Tally(len(radii_x), len(x), len(y), self.device)
        most_x, most_y = radii_x.amax(dim=0), radii_y.amax(dim=0)
        for rows, squares in self._blocks(x, y):
            inside = (squares < most_x[rows, None]).logical_or_(squares < most_y)
            row, j = inside.nonzero(as_tuple=True)
            i, square = rows[row], squares[row, j]
            for case, (radius_x, radius_y) in enumerate(zip(radii_x, radii_y, strict=True)):
                is_in, other_is_in = radius_x[i] >= 0, radius_y[j] >= 0
                holds = (square < radius_x[i]) & other_is_in
                tally.add_balls(case, i[holds], j[holds])
                tally.recalled[case, i[(square < radius_y[j]) & is_in]] = True
        return tally

    def _nearest(self, points: Tensor, length: int) -> _Neighbours:
        parts = []
        for rows, squares in self._blocks(points, points):
            squares[torch.arange(len(rows), device=self.device), rows] = torch.inf
            parts.append(squares.topk(length, dim=1, largest=False, sorted=True))
        return _Neighbours(torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts]))

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Row numbers of x and squared distances of these rows to all of y."""
        norm_x, norm_y = x.square().sum(dim=1), y.square().sum(dim=1)
        step = _rows(len(y))
        for start in range(0, len(x), step):
            rows = torch.arange(start, min(start + step, len(x)), device=self.device)
            squares = torch.addmm(norm_y, x[rows], y.T, alpha=-2.0)
            yield rows, squares.add_(norm_x[rows, None]).clamp_(min=0.0)
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, max(self.n_blocks, self.done))


class _Tally:
    """Who lies in whose ball, for several selections of n reference and m generated points."""

    def __init__(self, n_selections: int, n: int, m: int, device: torch.device) -> None:
        self.precise = torch.zeros(n_selections, m, dtype=torch.bool, device=device)
        self.recalled = torch.zeros(n_selections, n, dtype=torch.bool, device=device)
        self.covered = torch.zeros(n_selections, n, dtype=torch.bool, device=device)
        self.n_balls = torch.zeros(n_selections, dtype=torch.int64)

    def add_balls(self, selection: int, i: Tensor, j: Tensor) -> None:
        """Generated point j lies in the ball of reference point i."""
        self.precise[selection, j] = True
        self.covered[selection, i] = True
        self.n_balls[selection] += len(i)


def _compare_within(near: _Neighbours, radii: Tensor, others: Tensor) -> _Tally:
    """The same between two disjoint selections of one sample, from its neighbours: those in a ball are listed."""
    tally = _Tally(len(radii), len(near.numbers), len(near.numbers), radii.device)
    for case, (one, other) in enumerate(zip(radii, others, strict=True)):
        i, place = ((near.squares < one[:, None]) & (other[near.numbers] >= 0)).nonzero(as_tuple=True)
        tally.add_balls(case, i, near.numbers[i, place])
        j, place = ((near.squares < other[:, None]) & (one[near.numbers] >= 0)).nonzero(as_tuple=True)
        tally.recalled[case, near.numbers[j, place]] = True
    return tally


def _ratios(tally: _Tally, radii_x: Tensor, radii_y: Tensor, k: int) -> FloatArray:
    """Precision, recall, density and coverage of each selection, (selections, 4)."""
    n_x, n_y = ((radii >= 0).sum(dim=1).cpu().numpy() for radii in (radii_x, radii_y))
    precise, recalled, covered = (
        part.sum(dim=1).cpu().numpy() for part in (tally.precise, tally.recalled, tally.covered)
    )
    return np.stack([precise / n_y, recalled / n_x, tally.n_balls.numpy() / (k * n_y), covered / n_x], axis=1)


def _rows(n: int) -> int:
    return max(1, _BLOCK_ELEMENTS // n)


def _check(k: int, n_splits: int, device: str) -> None:
    if k < 1 or n_splits < 2:
        raise ConfigError(f"k = {k} and n_splits = {n_splits} must be at least 1 and 2")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"there is no device {device!r} here; use 'cpu'")


def _points(
    reference: ArrayLike, generated: ArrayLike, k: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both samples in float32, the larger one cut at random to the size of the smaller."""
    samples = {"reference": np.asarray(reference), "generated": np.asarray(generated)}
    for name, points in samples.items():
        if points.ndim != 2 or points.shape[1] != samples["reference"].shape[1]:
            shapes = [sample.shape for sample in samples.values()]
            raise DataError(f"points have the shapes {shapes[0]} and {shapes[1]}; both must be (showers, same width)")
        if not np.isfinite(points).all():
            raise DataError(f"the {name} points hold NaN or infinity; leave these showers out")
    n = min(map(len, samples.values()))
    if n < 2 * (k + 1):
        raise DataError(f"{k} neighbours in halves of a sample need at least {2 * (k + 1)} showers, but there are {n}")
    cut = []
    for name, points in samples.items():
        order = np.random.default_rng(derive_seed(seed, "prdc", name)).permutation(len(points))[:n]
        cut.append(np.ascontiguousarray(points if len(points) == n else points[np.sort(order)], dtype=np.float32))
    return cut[0], cut[1]


def _halves(n: int, n_splits: int, seed: int) -> tuple[list[Mask], list[Mask]]:
    """Selections of reference and of generated showers: first all of them, then two disjoint halves for each split."""
    generator = np.random.default_rng(derive_seed(seed, "prdc", "halves"))
    selections: tuple[list[Mask], list[Mask]] = ([np.ones(n, dtype=np.bool_)], [np.ones(n, dtype=np.bool_)])
    for _ in range(n_splits):
        for side in selections:
            order = generator.permutation(n)
            for part in (order[: n // 2], order[n // 2 : 2 * (n // 2)]):
                mask = np.zeros(n, dtype=np.bool_)
                mask[part] = True
                side.append(mask)
    return selections
