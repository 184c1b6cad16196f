r"""Chip graphs of D-Wave as topologies: Pegasus and Zephyr, whole or as compact patches, with parts missing.

Both families are coloured with four colours by the rules of ``dwave.graphs``, which take coordinate tuples;
the colour is the partition. On a Pegasus chip these are ``2u + ((k ^ z) & 1)``, on a Zephyr chip
``j + ((w + 2(z + u) + j) & 2)``. Every :class:`~calo4pqvae.prior.graph.topology.Topology` checks its own colouring.

**Patches.** A model often needs fewer bits than a chip has, for example 4 x 302. A compact patch keeps the
number of couplers high. It is found in two deterministic steps: first every partition takes its nodes nearest
to the chip's centre; then, partition after partition, the nodes with most neighbours in the other partitions
of the patch are taken, until nothing changes. Nodes of one partition are never neighbours of each other, so
each such choice is optimal given the rest and the number of couplers never decreases. The result is kept if
it is connected, or if the first step was not connected either.

**Coordinates**, in units of the spacing of parallel qubits. A Zephyr qubit (u, w, k, j, z) lies at w across
the chip and at 2z + j + 1/2 along it; a Pegasus qubit (u, w, k, z) at 12w + k across and at 12z + offset_u(k)
+ 11/2 along. Vertical qubits (u = 0) have (x, y) = (across, along), horizontal ones (along, across).

**Missing parts.** No real chip is perfect: qubits and couplers that do not work are listed in a working-graph
file. Nothing needs equal partitions then, and nothing is dropped silently.

Boothby et al., "Next-generation topology of D-Wave quantum processors" (2020), arXiv 2003.00133;
Boothby, King and Raymond, "Zephyr topology of D-Wave quantum processors" (2021), D-Wave report 14-1056A-A.
"""

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import IntArray, Topology

__all__ = ["Family", "MissingParts", "chip_topology", "load_missing", "smallest_chip"]

Family = Literal["pegasus", "zephyr"]

_LARGEST = 30  # m up to which a chip is looked for
_TILE = 4  # qubits of one orientation in a Zephyr cell, on every chip built so far
_MAX_ROUNDS = 50


@dataclass(frozen=True)
class MissingParts:
    """Qubits and couplers that do not work, as linear labels of the ideal chip.

    Args:
        qubits: Dead qubits.
        couplers: Dead couplers, in any order of the two ends.
        family: Family of the chip that the list belongs to, None if unknown (then it is not compared).
        m: Its size, likewise.
        t: Its tile parameter (Zephyr), likewise.
    """

    qubits: tuple[int, ...] = ()
    couplers: tuple[tuple[int, int], ...] = ()
    family: str | None = None
    m: int | None = None
    t: int | None = None

    def check_chip(self, family: str, m: int, t: int) -> None:
        """Refuses a list that was made for another chip.

        Raises:
            PriorError: If family, size or tile differ.
        """
        own = (self.family or family, self.m or m, (self.t or t) if family == "zephyr" else t)
        if own != (family, m, t):
            raise PriorError(
                f"the working graph is of {own[0]} m={own[1]} t={own[2]}, the chip asked for is {family} "
                f"m={m} t={t}; use the file of that chip"
            )


@dataclass(frozen=True)
class _Chip:
    """Working nodes of a chip, sorted by partition and label, and its couplers as row pairs."""

    labels: IntArray  # (n,)
    partition: IntArray  # (n,)
    positions: NDArray[np.float64]  # (n, 2), relative to the centre of the ideal chip
    edges: IntArray  # (m, 2)


def chip_topology(
    family: Family,
    m: int,
    sizes: tuple[int, ...] | int | None = None,
    t: int = _TILE,
    missing: MissingParts | None = None,
) -> Topology:
    """The graph of a chip, or a compact patch of it, in four partitions.

    Args:
        family: ``"pegasus"`` (its fabric, without the stray qubits at the rim) or ``"zephyr"``.
        m: Size of the chip, 16 for Advantage and 12 for Advantage2.
        sizes: Nodes per partition, one number for all four, or up to four numbers (fewer leave the last partitions
            of the chip out); None takes every working node.
        t: Tile parameter of Zephyr chips; Pegasus chips have none.
        missing: Qubits and couplers that do not work.

    Raises:
        PriorError: If the chip does not exist, has too few working qubits, or is not the one of ``missing``.
    """
    chip = _working_chip(family, m, t, missing or MissingParts())
    available = np.bincount(chip.partition, minlength=4)
    wanted = _wanted_sizes(sizes, available, f"{family} m={m}")
    chosen = np.ones(len(chip.labels), dtype=bool) if sizes is None else _compact_patch(chip, wanted)
    number = np.cumsum(chosen) - 1
    kept = chosen[chip.edges].all(axis=1)
    name = f"{family}-{m}" if sizes is None else f"{family}-{m}-" + "x".join(str(size) for size in wanted)
    return Topology(name, wanted, number[chip.edges[kept]], tuple(chip.labels[chosen].tolist()))


def smallest_chip(family: Family, sizes: tuple[int, ...]) -> int:
    """Size m of the smallest chip whose colour classes, a quarter of its qubits each, hold the partitions.

    Args:
        family: ``"pegasus"`` or ``"zephyr"``.
        sizes: Nodes per partition.

    Raises:
        PriorError: If no chip is large enough.
    """
    for m in range(1, _LARGEST + 1):
        n_qubits = 16 * m * (2 * m + 1) if family == "zephyr" else 8 * (m - 1) * (3 * m - 1)
        if n_qubits // 4 >= max(sizes):
            return m
    raise PriorError(f"no chip up to m = {_LARGEST} holds partitions of {max(sizes)} bits; ask for fewer")


def load_missing(path: Path) -> MissingParts:
    """Reads a working-graph file.

    The file is JSON: ``{"family": "zephyr", "m": 12, "t": 4, "missing_qubits": [17], "missing_couplers": [[3,
    8]]}``, labels linear; ``t`` and either list may be absent.

    Raises:
        PriorError: If the file cannot be read, is not of this form, or names parts that the ideal chip lacks.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise PriorError(f"cannot read the working graph {path}: {reason}; give an existing file") from error
    except ValueError as error:
        raise PriorError(f"the working graph {path} is not JSON ({error}); write it again") from error
    missing = _parse_missing(content, path)
    if missing.family is None or missing.m is None:
        raise PriorError(f"the working graph {path} lacks family (pegasus or zephyr) or m; add them")
    _working_chip(missing.family, missing.m, missing.t or _TILE, missing)
    return missing


def _parse_missing(content: Any, path: Path) -> MissingParts:  # noqa: ANN401
    try:
        unknown = set(content) - {"family", "m", "t", "missing_qubits", "missing_couplers"}
        couplers = [(_whole(a), _whole(b)) for a, b in content.get("missing_couplers", [])]
        missing = MissingParts(
            qubits=tuple(_whole(qubit) for qubit in content.get("missing_qubits", [])),
            couplers=tuple((min(pair), max(pair)) for pair in couplers),
            family=content.get("family"),
            m=_whole(content["m"]),
            t=_whole(content["t"]) if "t" in content else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PriorError(
            f"the working graph {path} needs family, m, missing_qubits (whole numbers) and missing_couplers "
            f"(pairs); correct it ({type(error).__name__}: {error})"
        ) from error
    if unknown:
        raise PriorError(f"the working graph {path} has unknown keys {sorted(unknown)}; correct them")
    return missing


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _wanted_sizes(sizes: tuple[int, ...] | int | None, available: IntArray, chip: str) -> tuple[int, ...]:
    if sizes is None:
        return tuple(available.tolist())
    wanted = (sizes,) * 4 if isinstance(sizes, int) else tuple(sizes)
    if not 1 <= len(wanted) <= 4 or min(wanted) < 1:
        raise PriorError(f"partition sizes {wanted} do not fit a chip; give one number or up to four positive ones")
    if (available[: len(wanted)] < wanted).any():
        raise PriorError(
            f"{chip} has {tuple(available.tolist())} working qubits a partition, fewer than {wanted}; "
            "ask for fewer bits or a larger chip"
        )
    return wanted


def _working_chip(family: str, m: int, t: int, missing: MissingParts) -> _Chip:
    import dwave.graphs as chips

    if family not in get_args(Family):
        raise PriorError(f"chip family {family!r} is unknown; choose from {', '.join(get_args(Family))}")
    smallest = 2 if family == "pegasus" else 1
    if m < smallest or t < 1 or (family == "pegasus" and t != _TILE):
        raise PriorError(f"there is no {family} chip with m={m}, t={t}; choose m >= {smallest} and t = 4")
    missing.check_chip(family, m, t)
    if family == "pegasus":
        graph = chips.pegasus_graph(m, coordinates=True)
        linear = chips.pegasus_coordinates(m).pegasus_to_linear
        colour, place = chips.pegasus_four_color, _pegasus_place(graph.graph)
    else:
        graph = chips.zephyr_graph(m, t, coordinates=True)
        linear = chips.zephyr_coordinates(m, t).zephyr_to_linear
        colour, place = chips.zephyr_four_color, _zephyr_place
    tuples = sorted(graph.nodes, key=lambda node: (colour(node), linear(node)))
    labels = np.array([linear(node) for node in tuples], dtype=np.int64)
    row = {node: index for index, node in enumerate(tuples)}
    edges = np.array([sorted((row[a], row[b])) for a, b in graph.edges], dtype=np.int64)
    places = np.array([place(node) for node in tuples], dtype=np.float64)
    partition = np.array([colour(node) for node in tuples], dtype=np.int64)
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    return _without(_Chip(labels, partition, places - centre, edges), missing)


def _zephyr_place(node: tuple[int, int, int, int, int]) -> tuple[float, float]:
    u, w, _, j, z = node
    along = 2 * z + j + 0.5
    return (w, along) if u == 0 else (along, w)


def _pegasus_place(attributes: dict[str, Any]) -> Any:  # noqa: ANN401
    offsets = (attributes["vertical_offsets"], attributes["horizontal_offsets"])

    def place(node: tuple[int, int, int, int]) -> tuple[float, float]:
        u, w, k, z = node
        along = 12 * z + offsets[u][k] + 5.5
        return (12 * w + k, along) if u == 0 else (along, 12 * w + k)

    return place


def _without(chip: _Chip, missing: MissingParts) -> _Chip:
    """Removes what does not work; a part that the chip never had is an error, not a no-op."""
    row = {label: index for index, label in enumerate(chip.labels.tolist())}
    strange = _first_unknown(missing.qubits, row)
    if strange is not None:
        raise PriorError(f"missing qubit {strange} is not on the chip; correct the working graph")
    ends = np.sort(chip.labels[chip.edges], axis=1).tolist()
    edge_row = {(a, b): index for index, (a, b) in enumerate(ends)}
    couplers = [(min(pair), max(pair)) for pair in missing.couplers]
    strange = _first_unknown(couplers, edge_row)
    if strange is not None:
        raise PriorError(f"missing coupler {strange} is not on the chip; correct the working graph")
    alive = np.ones(len(chip.labels), dtype=bool)
    alive[[row[qubit] for qubit in missing.qubits]] = False
    works = np.array(alive[chip.edges].all(axis=1))
    works[[edge_row[pair] for pair in couplers]] = False
    number = np.cumsum(alive) - 1
    return _Chip(chip.labels[alive], chip.partition[alive], chip.positions[alive], number[chip.edges[works]])


def _first_unknown(wanted: Iterable[Hashable], known: dict[Any, int]) -> Hashable | None:
    return next((part for part in wanted if part not in known), None)


def _compact_patch(chip: _Chip, sizes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Chosen nodes (n,): nearest to the centre first, then the best connected of each partition in turn."""
    distance = np.hypot(chip.positions[:, 0], chip.positions[:, 1])
    near = np.zeros(len(chip.labels), dtype=bool)
    for index, size in enumerate(sizes):
        _choose(near, chip.partition == index, size, (chip.labels, distance))
    chosen = near.copy()
    for _ in range(_MAX_ROUNDS):
        before = chosen.copy()
        for index, size in enumerate(sizes):
            keys = (chip.labels, distance, ~chosen, -_degrees(chip, chosen))
            _choose(chosen, chip.partition == index, size, keys)
        if (chosen == before).all():
            break
    return chosen if _is_connected(chip, chosen) or not _is_connected(chip, near) else near


def _choose(chosen: NDArray[np.bool_], members: NDArray[np.bool_], size: int, keys: tuple[NDArray[Any], ...]) -> None:
    """Takes the first ``size`` members by the keys (the last one first) in place of those chosen so far."""
    nodes = np.flatnonzero(members)
    order = np.lexsort(tuple(key[nodes] for key in keys))
    chosen[nodes] = False
    chosen[nodes[order[:size]]] = True


def _degrees(chip: _Chip, chosen: NDArray[np.bool_]) -> IntArray:
    """Neighbours of every node among the chosen ones."""
    first, second = chip.edges.T
    counts = np.bincount(first[chosen[second]], minlength=len(chosen))
    return counts + np.bincount(second[chosen[first]], minlength=len(chosen))


def _is_connected(chip: _Chip, chosen: NDArray[np.bool_]) -> bool:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = np.cumsum(chosen) - 1
    first, second = number[chip.edges[chosen[chip.edges].all(axis=1)]].T
    n_nodes = int(chosen.sum())
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n_nodes, n_nodes))
    return int(connected_components(graph, directed=False)[0]) == 1
