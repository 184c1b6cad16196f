"""Trees of layers: every cell is reached once, neighbours are those of the cylinder, no answer is seen too early."""

import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.cascade.tree import LayerTree, layer_tree

SHAPES = [(16, 9), (50, 18), (10, 8), (1, 8), (7, 5), (3, 1), (1, 1)]


def cells_of(tree: LayerTree) -> dict[int, set[int]]:
    """Cells below every block, from the leaves and the splits alone."""
    cells = {int(block): {cell} for cell, block in enumerate(tree.leaves)}
    for node, left, right in tree.splits[::-1].tolist():
        cells[node] = cells[left] | cells[right]
    return cells


@pytest.mark.parametrize("shape", SHAPES)
def test_splits_share_out_all_cells(shape: tuple[int, int]) -> None:
    tree = layer_tree(*shape)
    cells = cells_of(tree)
    assert cells[0] == set(range(shape[0] * shape[1]))
    assert len(cells) == tree.n_blocks == 2 * shape[0] * shape[1] - 1
    for node, left, right in tree.splits.tolist():
        assert cells[left]
        assert cells[right]
        assert not cells[left] & cells[right]
        assert cells[left] | cells[right] == cells[node]
    in_turns = [int(node) for turn in tree.turns for node in turn.nodes]
    assert sorted(in_turns) == sorted(tree.splits[:, 0].tolist())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_is_split_before_its_children(shape: tuple[int, int]) -> None:
    tree, known = layer_tree(*shape), {0}
    for turn in tree.turns:
        assert set(turn.nodes.tolist()) <= known
        known |= set(turn.left.tolist()) | set(turn.right.tolist())


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_turn_looks_at_is_known_and_not_its_own_answer(shape: tuple[int, int]) -> None:
    """Nothing that a turn sees of its own layer may come from its own splits; the dummy is empty and safe."""
    tree = layer_tree(*shape)
    known = {0, tree.n_blocks}
    for turn in tree.turns:
        assert set(turn.around.flatten().tolist()) <= known
        assert set(turn.beside.flatten().tolist()) <= known
        children = set(turn.left.tolist()) | set(turn.right.tolist())
        assert not set(turn.beside.flatten().tolist()) & children
        known |= children


def test_neighbours_are_those_of_the_cylinder() -> None:
    """At the last level of the 16 x 9 grid the outer neighbours of a cell are the cells beside it."""
    tree = layer_tree(16, 9)
    leaf = {int(block): cell for cell, block in enumerate(tree.leaves)}
    seen = 0
    for turn in tree.turns[-2:]:  # radius is cut last
        for row in turn.below:
            left, right = (divmod(leaf[int(block)], 9) for block in row[:2])
            inside, below, above = (leaf.get(int(block)) for block in row[2:5])
            outside = leaf.get(int(row[5]))
            assert right == (left[0], left[1] + 1)
            assert below == ((left[0] - 1) % 16) * 9 + left[1]
            assert above == ((left[0] + 1) % 16) * 9 + left[1]
            assert inside == (left[0] * 9 + left[1] - 1 if left[1] else ((left[0] + 8) % 16) * 9)
            assert outside == (right[0] * 9 + right[1] + 1 if right[1] < 8 else None)
            seen += 1
    assert seen == 32


def test_colours_alternate() -> None:
    """No two blocks of one turn share an edge, where the number of blocks on the circle is even."""
    for turn in layer_tree(16, 9).turns:
        neighbours = {(int(row[0]), int(other)) for row in turn.around for other in row[[1, 2, 4]]}
        own = set(turn.nodes.tolist())
        touching = [(one, other) for one, other in neighbours if other in own and other != one]
        if len(own) > 2:
            assert touching == []


def test_a_layer_without_cells_is_refused() -> None:
    with pytest.raises(DataError, match="has no cells"):
        layer_tree(0, 3)


def test_sixteen_by_nine_has_the_splits_that_were_counted() -> None:
    tree = layer_tree(16, 9)
    assert (len(tree.splits), tree.n_blocks, len(tree.turns)) == (143, 287, 15)
    assert np.unique(tree.leaves).size == 144
