r"""The binary tree of a layer: how its energy is split down to its voxels, and which blocks a split looks at.

A block is a rectangle of cells, so many angular bins of so many rings. The tree starts at the whole layer; each level
cuts every block in radius or in angle, as far as it can still be cut there. Rings are cut near the axis first (a third
of the rings against the rest), since the energy falls steeply; angles are halved. Block 0 is the whole layer, and one
block more than there are, the **dummy**, is always empty: it stands for what is outside or must not be seen.

**Colours.** Within a level the splits are made in two turns, like the squares of a chessboard: those of the second
colour see the children that the first ones have just got. A neighbour that is itself a child of a second-colour block
(across the axis, round the whole circle) would be the answer before it is given, and is replaced by the dummy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.errors import DataError

__all__ = ["Block", "LayerTree", "Turn", "layer_tree"]

Direction = Literal["angle", "radius"]
IndexArray = NDArray[np.int64]


class Block(NamedTuple):
    """Cells of a layer: angular bins and rings, the ends not included."""

    angle_start: int
    angle_end: int
    ring_start: int
    ring_end: int

    @property
    def n_angles(self) -> int:
        """Number of angular bins."""
        return self.angle_end - self.angle_start

    @property
    def n_rings(self) -> int:
        """Number of rings."""
        return self.ring_end - self.ring_start


@dataclass(frozen=True, eq=False)
class Turn:
    """The splits of one colour of one level.

    Attributes:
        nodes: Block that is split, (n,).
        left: Its first child, (n,). right: its second child, (n,).
        around: The block itself, its neighbours (angle below, above, ring inside, outside), parent and grandparent,
            (n, 7), as they were before the level.
        below: Both children, then three outer neighbours of each at the children's level, (n, 8): what earlier layers
            are looked at in.
        beside: Those six neighbours in the layer itself, for the second colour, (n, 6); empty for the first.
        rings: First ring of the block, (n,).
    """

    nodes: IndexArray
    left: IndexArray
    right: IndexArray
    around: IndexArray
    below: IndexArray
    beside: IndexArray
    rings: IndexArray


@dataclass(frozen=True, eq=False)
class LayerTree:
    """All splits of a layer.

    Attributes:
        n_angles: Angular bins. n_rings: rings.
        n_blocks: Blocks without the dummy, whose number is ``n_blocks``.
        turns: The splits in the order in which they are made.
        leaves: Block of every cell, angle by angle, ring fastest, (cells,).
        splits: Node, left and right of every split, from the top down, (splits, 3).
    """

    n_angles: int
    n_rings: int
    n_blocks: int
    turns: tuple[Turn, ...]
    leaves: IndexArray
    splits: IndexArray


def layer_tree(n_angles: int, n_rings: int) -> LayerTree:
    """The tree of a layer of so many angular bins in each of so many rings.

    Raises:
        DataError: If there is no cell.
    """
    if n_angles < 1 or n_rings < 1:
        raise DataError(f"a layer of {n_angles} angular bins and {n_rings} rings has no cells: give a grid with some")
    return _Builder(n_angles, n_rings).tree()


class _Builder:
    """Blocks as they get their numbers, and the partition of the layer before each level."""

    def __init__(self, n_angles: int, n_rings: int) -> None:
        self.n_angles, self.n_rings = n_angles, n_rings
        self.numbers: dict[Block, int] = {}
        partition = [Block(0, n_angles, 0, n_rings)]
        self.partitions, self.cuts = [partition], []
        self._number(partition)
        for direction in _directions(n_angles, n_rings):
            cut = {block: _halves(block, direction) for block in partition if _can_cut(block, direction)}
            partition = [child for block in partition for child in cut.get(block, (block,))]
            self._number(partition)
            self.cuts.append((direction, cut))
            self.partitions.append(partition)
        self.maps = [self._map(partition) for partition in self.partitions]

    def tree(self) -> LayerTree:
        """The finished tree."""
        turns = tuple(turn for level in range(len(self.cuts)) for turn in self._turns(level))
        splits = [
            (self.numbers[block], *(self.numbers[child] for child in children))
            for _, cut in self.cuts
            for block, children in cut.items()
        ]
        return LayerTree(
            n_angles=self.n_angles,
            n_rings=self.n_rings,
            n_blocks=len(self.numbers),
            turns=turns,
            leaves=self.maps[-1].flatten(),
            splits=np.array(splits, dtype=np.int64).reshape(-1, 3),
        )

    def _number(self, partition: Sequence[Block]) -> None:
        for block in partition:
            self.numbers.setdefault(block, len(self.numbers))

    def _map(self, partition: Sequence[Block]) -> IndexArray:
        """Block of every cell, (angles, rings)."""
        cells = np.zeros((self.n_angles, self.n_rings), dtype=np.int64)
        for block in partition:
            cells[block.angle_start : block.angle_end, block.ring_start : block.ring_end] = self.numbers[block]
        return cells

    def _turns(self, level: int) -> Iterator[Turn]:
        direction, cut = self.cuts[level]
        blocks = list(cut)
        rings = sorted({block.ring_start for block in self.partitions[level]})
        widest = max((block.n_angles for block in blocks), default=1)
        colours = [(block.angle_start // widest + rings.index(block.ring_start)) % 2 for block in blocks]
        for colour in (0, 1):
            chosen = [block for block, own in zip(blocks, colours, strict=True) if own == colour]
            if chosen:
                hidden = {self.numbers[child] for block in chosen for child in cut[block]}
                yield self._turn(level, direction, {block: cut[block] for block in chosen}, hidden if colour else None)

    def _turn(
        self, level: int, direction: Direction, cut: dict[Block, tuple[Block, Block]], hidden: set[int] | None
    ) -> Turn:
        own, after = self.maps[level], self.maps[level + 1]
        parents = [self.maps[max(level - step, 0)] for step in (1, 2)]
        sides = {"angle": ("below in out", "above in out"), "radius": ("in below above", "out below above")}[direction]
        around, below = [], []
        for block, children in cut.items():
            corner = (block.angle_start, block.ring_start)
            near = [self._neighbour(own, block, side) for side in ("below", "above", "in", "out")]
            around.append([self.numbers[block], *near, *(int(cells[corner]) for cells in parents)])
            outer = [
                self._neighbour(after, child, side)
                for child, names in zip(children, sides, strict=True)
                for side in names.split()
            ]
            below.append([*(self.numbers[child] for child in children), *outer])
        looked = np.array(below, dtype=np.int64)
        beside = looked[:, 2:].copy() if hidden is not None else np.empty((len(cut), 0), dtype=np.int64)
        if hidden is not None:
            beside[np.isin(beside, sorted(hidden))] = len(self.numbers)
        return Turn(
            nodes=np.array([self.numbers[block] for block in cut]),
            left=looked[:, 0].copy(),
            right=looked[:, 1].copy(),
            around=np.array(around, dtype=np.int64),
            below=looked,
            beside=beside,
            rings=np.array([block.ring_start for block in cut]),
        )

    def _neighbour(self, cells: IndexArray, block: Block, side: str) -> int:
        """The block beside one; across the axis the opposite sector, outside the layer the dummy."""
        angle, ring = block.angle_start, block.ring_start
        if side == "below":
            return int(cells[(angle - 1) % self.n_angles, ring])
        if side == "above":
            return int(cells[block.angle_end % self.n_angles, ring])
        if side == "in":
            return int(cells[angle, ring - 1] if ring > 0 else cells[(angle + self.n_angles // 2) % self.n_angles, 0])
        return int(cells[angle, block.ring_end]) if block.ring_end < self.n_rings else len(self.numbers)


def _directions(n_angles: int, n_rings: int) -> list[Direction]:
    """Radius first, then twice the angle, then in turn, until neither can be cut."""
    left: dict[Direction, int] = {"radius": _depth(0, n_rings), "angle": _halvings(n_angles)}
    order: list[Direction] = []
    wanted: list[Direction] = ["radius", "angle"]
    while any(left.values()):
        direction = wanted[len(order)] if len(order) < len(wanted) else ("angle" if len(order) % 2 == 0 else "radius")
        if not left[direction]:
            direction = "angle" if direction == "radius" else "radius"
        left[direction] -= 1
        order.append(direction)
    return order


def _halvings(n: int) -> int:
    return int(np.ceil(np.log2(n))) if n > 1 else 0


def _depth(start: int, end: int) -> int:
    """Levels that the rings of an interval need."""
    if end - start == 1:
        return 0
    cut = _ring_cut(start, end)
    return 1 + max(_depth(start, cut), _depth(cut, end))


def _ring_cut(start: int, end: int) -> int:
    """Where rings are cut: a third of those at the axis, two fifths of others."""
    n = end - start
    return start + max(1, n // 3 if start == 0 else round(0.4 * n))


def _can_cut(block: Block, direction: Direction) -> bool:
    return (block.n_angles if direction == "angle" else block.n_rings) > 1


def _halves(block: Block, direction: Direction) -> tuple[Block, Block]:
    if direction == "angle":
        middle = block.angle_start + (block.n_angles + 1) // 2
        return block._replace(angle_end=middle), block._replace(angle_start=middle)
    cut = _ring_cut(block.ring_start, block.ring_end)
    return block._replace(ring_end=cut), block._replace(ring_start=cut)
