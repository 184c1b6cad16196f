r"""A machine with one partition summed out: the law of the rest, and Gibbs sweeps that leave it invariant.

Given all other partitions the bits of one partition S are independent, so the sum over them is a product,

.. math:: \sum_{z_S} e^{-E(z)} = e^{-F(z_R)}, \qquad
    F(z_R) = -\sum_{i \in R} b_i z_i - \sum_{i<j \in R} W_{ij} z_i z_j - \sum_{k \in S} \ln(1 + e^{f_k(z_R)}),

with R the other free bits and :math:`f_k` the field on bit k. Estimates that use :math:`F(z_R)` instead of
:math:`E(z)` have a smaller variance (Rao and Blackwell), and enumeration needs the bits of R only.

Several *cases* are treated at once: every case has its own clamped bits and its own condition, which are folded
into fields and a constant,

.. math:: b_i \to b_i + \sum_a c_a A_{ai} + \sum_{j \in held} W_{ij} z_j .

A law is a point of the straight path from independent bits with biases :math:`b^0` to the machine,

.. math:: -\ln p^*_\beta(z) = (1 - \beta) E_0(z) + \beta E(z), \qquad E_0(z) = -\sum_i b^0_i z_i,

whose fields are :math:`(1-\beta) b^0_k + \beta f_k`: one product with the couplings serves all temperatures. A sweep
draws S first, at the temperature of the sweep, then the other partitions in order. The order matters: the bits of S
left over from another temperature are not part of the state.

States are columns: ``values`` has shape (F, chains), the bits of S in the first rows, chains of one case side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag, softplus

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.pairs import compressed_rows, coupling_field
from calo4pqvae.prior.graph.topology import IntArray, Topology
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["Cases", "Collapse", "CollapsedLaw", "free_energy"]

_DENSE_FROM = 0.4  # coupled share of a block's pairs from which matrix products are faster
_BATCH = 4096  # states whose free energies are computed at a time


@dataclass(frozen=True)
class Cases:
    """The situations whose partition functions are wanted, each with its clamped bits and condition.

    Args:
        clamped: Mask (N,) of the clamped bits.
        values: Clamped bits of every case, zeros elsewhere, shape (C, N).
        condition: c of every case, shape (C, n_c); None for a machine without a condition.
    """

    clamped: NDArray[np.bool_]
    values: Tensor
    condition: Tensor | None

    @classmethod
    def of(
        cls,
        machine: BoltzmannMachine,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        values: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Self:
        """Checks and completes what a caller gives; without clamped bits and condition there is one case.

        Args:
            machine: The machine.
            clamped: Mask (N,) of the bits to hold; none if None.
            values: Bits (C, N) or (N,), those under the mask are used; needed with a mask.
            condition: c, shape (C, n_c) or (n_c,), if the machine has a condition.

        Raises:
            PriorError: If a shape does not fit, values come without a mask or a mask without values, or a clamped
                value is not a bit.
        """
        n_nodes = machine.n_nodes
        mask = np.zeros(n_nodes, dtype=np.bool_) if clamped is None else np.asarray(torch.as_tensor(clamped).cpu())
        if mask.shape != (n_nodes,) or mask.dtype != np.bool_:
            raise PriorError(f"the clamp mask is {mask.dtype} of shape {mask.shape}; give {n_nodes} booleans")
        if (values is None) == bool(mask.any()):
            raise PriorError("clamped bits need a mask and values; give both or neither")
        rows = None if condition is None else _rows(condition, "condition")
        bits = None if values is None else _rows(values, "clamped values")
        n_cases = len(rows) if rows is not None else len(bits) if bits is not None else 1
        held = torch.zeros(n_cases, n_nodes) if bits is None else bits.detach() * torch.from_numpy(mask).to(bits.device)
        if held.shape != (n_cases, n_nodes) or not bool(((held == 0) | (held == 1)).all()):
            raise PriorError(
                f"clamped values must be bits of shape ({n_cases}, {n_nodes}), one row a case; correct them"
            )
        if n_cases == 0:
            raise PriorError("there is no case; give at least one condition or one row of clamped bits")
        machine.fields(rows)
        return cls(mask, held.to(machine.device, torch.float32), rows)

    @property
    def n_cases(self) -> int:
        """Number of cases C."""
        return len(self.values)


@dataclass(frozen=True)
class _Wiring:
    """Couplers from some free bits (rows) to others: where they are, without their strengths."""

    rows: slice
    columns: slice  # outside of it no row has a neighbour
    indices: Tensor  # neighbours of each row one after the other, counted from columns.start, int32
    offsets: Tensor  # (rows + 1,), int32
    couplers: Tensor  # coupler number of each entry of indices
    is_dense: bool

    @classmethod
    def of(cls, rows: slice, table: tuple[IntArray, IntArray, IntArray], device: torch.device) -> Self:
        indices, offsets, couplers = table
        part = slice(offsets[rows.start], offsets[rows.stop])
        own = indices[part]
        columns = slice(int(own.min()), int(own.max()) + 1) if len(own) else slice(0, 0)
        n_pairs = (rows.stop - rows.start) * (columns.stop - columns.start)
        return cls(
            rows=rows,
            columns=columns,
            indices=torch.from_numpy((own - columns.start).astype(np.int32)).to(device),
            offsets=torch.from_numpy((offsets[rows.start : rows.stop + 1] - offsets[rows.start]).astype(np.int32)).to(
                device
            ),
            couplers=torch.from_numpy(couplers[part]).to(device),
            is_dense=len(own) > _DENSE_FROM * n_pairs,
        )

    def strengths(self, couplings: Tensor) -> Tensor:
        """A matrix (rows, columns), or one number an entry."""
        entries = couplings[self.couplers]
        if not self.is_dense:
            return entries
        n_rows = self.rows.stop - self.rows.start
        matrix = couplings.new_zeros(n_rows, self.columns.stop - self.columns.start)
        matrix[torch.repeat_interleave(self.offsets.diff().long()), self.indices.long()] = entries
        return matrix

    def field(self, strengths: Tensor, values: Tensor) -> Tensor:
        """Couplers' part of the field on the rows, (rows, chains)."""
        others = values[self.columns]
        if self.is_dense:
            return strengths @ others
        if len(strengths) == 0:
            return values.new_zeros(self.rows.stop - self.rows.start, values.shape[1])
        field: Tensor = embedding_bag(
            self.indices, others, self.offsets, mode="sum", per_sample_weights=strengths, include_last_offset=True
        )
        return field


@dataclass(frozen=True)
class Collapse:
    """Which bits are summed out and how the free bits are wired; holds no parameter.

    Args:
        free: Free nodes, those summed out first, shape (F,).
        n_summed: Number of bits summed out.
        summed: Their partition.
        wirings: Couplers of every partition with free bits, the summed one first.
        inner: Couplers among the bits that are not summed out.
    """

    free: Tensor
    n_summed: int
    summed: int
    wirings: tuple[_Wiring, ...]
    inner: _Wiring

    @classmethod
    def of(
        cls, topology: Topology, clamped: NDArray[np.bool_], device: torch.device, summed: int | None = None
    ) -> Self:
        """Lays out the free bits of a graph.

        Args:
            topology: The graph.
            clamped: Mask (N,) of the bits that are held.
            device: Where the lists should be.
            summed: Partition to sum out; the one with most free bits if None.

        Raises:
            PriorError: If the partition does not exist or has no free bit.
        """
        free_of = [np.arange(part.start, part.stop)[~clamped[part]] for part in topology.slices]
        chosen = int(np.argmax([len(nodes) for nodes in free_of])) if summed is None else summed
        if not 0 <= chosen < len(free_of) or len(free_of[chosen]) == 0:
            raise PriorError(f"partition {chosen} has no free bits to sum out; leave some bits free or choose another")
        parts = [free_of[chosen], *(nodes for index, nodes in enumerate(free_of) if index != chosen and len(nodes))]
        free = np.concatenate(parts)
        row = np.full(topology.n_nodes, -1)
        row[free] = np.arange(len(free))
        ends = row[topology.edges]
        bounds = np.cumsum([0, *map(len, parts)]).tolist()
        table = _table(ends, ends.min(axis=1) >= 0, len(free))
        among = _table(ends, ends.min(axis=1) >= bounds[1], len(free))
        return cls(
            free=torch.from_numpy(free).to(device),
            n_summed=bounds[1],
            summed=chosen,
            wirings=tuple(_Wiring.of(slice(start, stop), table, device) for start, stop in pairwise(bounds)),
            inner=_Wiring.of(slice(bounds[1], len(free)), among, device),
        )

    @property
    def n_free(self) -> int:
        """Number of free bits F."""
        return len(self.free)


@dataclass(frozen=True)
class CollapsedLaw:
    """The path from independent bits to a machine in given cases, with one partition summed out.

    Args:
        collapse: Layout of the free bits.
        fields: Fields without couplers among free bits, shape (F, C), or (F, chains) once spread.
        base: Biases of the independent bits, same shape.
        constant: Minus the energy of the clamped bits, float64, shape (C,) or (chains,).
        strengths: Couplings of every wiring.
        inner: Couplings among the bits that are not summed out.
    """

    collapse: Collapse
    fields: Tensor
    base: Tensor
    constant: Tensor
    strengths: tuple[Tensor, ...]
    inner: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        machine: BoltzmannMachine,
        cases: Cases,
        collapse: Collapse,
        base: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Reads the parameters of a machine; later changes of the machine do not reach the law.

        Args:
            machine: The machine.
            cases: Clamped bits and conditions.
            collapse: Layout for the same graph and clamp mask.
            base: Biases of the independent bits (N,) or (C, N); None takes the fields without couplers.
            dtype: Type of the sums.

        Raises:
            PriorError: If a parameter is not finite or the base has a wrong shape.
        """
        machine.check_finite()
        couplings = machine.couplings.detach().to(dtype)
        held = cases.values.to(dtype)
        linear = machine.biases.detach().to(dtype).expand(cases.n_cases, -1)
        if cases.condition is not None and machine.condition_weights is not None:
            linear = linear + cases.condition.to(linear) @ machine.condition_weights.detach().to(dtype)
        from_held = coupling_field(held, couplings, machine.neighbours)
        fields = (linear + from_held)[:, collapse.free].t().contiguous()
        if base is None:
            start = fields
        else:
            rows = _rows(base, "base").to(linear)
            if rows.shape not in ((1, machine.n_nodes), (cases.n_cases, machine.n_nodes)):
                raise PriorError(f"base has shape {tuple(base.shape)}; give {machine.n_nodes} biases, or a row a case")
            start = rows.expand(cases.n_cases, -1)[:, collapse.free].t().contiguous()
        return cls(
            collapse=collapse,
            fields=fields,
            base=start,
            constant=(held * (linear + from_held / 2)).double().sum(dim=1),
            strengths=tuple(wiring.strengths(couplings) for wiring in collapse.wirings),
            inner=collapse.inner.strengths(couplings),
        )

    def spread(self, n_chains: int) -> Self:
        """The same law with ``n_chains`` columns a case, side by side; one case is left to broadcasting."""
        if len(self.constant) == 1:
            return self
        wide = [part.repeat_interleave(n_chains, dim=-1) for part in (self.fields, self.base, self.constant)]
        return replace(self, fields=wide[0], base=wide[1], constant=wide[2])

    @property
    def base_log_z(self) -> Tensor:
        """Log partition function of the independent bits, float64, shape (C,)."""
        return softplus(self.base.double()).sum(dim=0)

    def base_states(self, n_chains: int, generator: torch.Generator) -> Tensor:
        """Independent bits, exactly at beta = 0, shape (F, chains); for a law that was spread to them."""
        shape = (self.collapse.n_free, n_chains)
        noise = torch.rand(shape, generator=generator, dtype=self.base.dtype, device=self.base.device)
        return (noise < torch.sigmoid(self.base)).to(self.base)

    def field(self, values: Tensor) -> Tensor:
        """Full fields on the summed bits, shape (summed, chains)."""
        wiring = self.collapse.wirings[0]
        return wiring.field(self.strengths[0], values) + self.fields[wiring.rows]

    def log_marginal(self, values: Tensor, field: Tensor, betas: Sequence[float] = (1.0,)) -> list[Tensor]:
        """Log of the unnormalised law of the bits that are not summed out, float64 (chains,), at every beta.

        Args:
            values: Bits (F, chains).
            field: :meth:`field` of these values.
            betas: Places on the path.
        """
        rest = slice(self.collapse.n_summed, None)
        bits = values[rest]
        start = (self.base[rest] * bits).sum(dim=0).double()
        end = (self.fields[rest] * bits).sum(dim=0).double() + self.constant
        if len(self.collapse.inner.couplers):
            end = end + (bits * self.collapse.inner.field(self.inner, values)).sum(dim=0).double() / 2
        full, own = field.double(), self.base[: self.collapse.n_summed].double()
        return [(1 - beta) * start + beta * end + softplus(torch.lerp(own, full, beta)).sum(dim=0) for beta in betas]

    def sweep(self, values: Tensor, field: Tensor, beta: float, generator: torch.Generator) -> None:
        """Draws every free bit once at ``beta``, in place: the summed partition first, then the others in order.

        Args:
            values: Bits (F, chains).
            field: :meth:`field` of these values.
            beta: Place on the path.
            generator: Source of randomness, on the device of the values.
        """
        for wiring, strengths in zip(self.collapse.wirings, self.strengths, strict=True):
            rows = wiring.rows
            full = field if rows.start == 0 else wiring.field(strengths, values) + self.fields[rows]
            odds = torch.lerp(self.base[rows], full, beta).sigmoid_()
            noise = torch.rand(odds.shape, generator=generator, dtype=odds.dtype, device=odds.device)
            torch.lt(noise, odds, out=values[rows])


def free_energy(
    machine: BoltzmannMachine, states: Tensor, summed: NDArray[np.bool_], condition: Tensor | None = None
) -> Tensor:
    r"""Free energy of states in nats, with some bits summed out that no coupler joins.

    .. math:: F(z_R) = E(z_R, z_S = 0) - \sum_{k \in S} \ln(1 + e^{f_k(z_R)})

    Args:
        machine: The machine.
        states: Bits (B, N); those that are summed out do not matter.
        summed: Mask (N,) of the bits S; for an empty mask this is the energy.
        condition: c, shape (B, n_c), if the machine has one.

    Returns:
        Free energies, float64, shape (B,).

    Raises:
        PriorError: If a shape does not fit, or two of the summed bits are coupled.
    """
    if summed.shape != (machine.n_nodes,) or summed.dtype != np.bool_:
        raise PriorError(f"the mask of summed bits has shape {summed.shape}; give {machine.n_nodes} booleans")
    if summed[machine.topology.edges].all(axis=1).any():
        raise PriorError("two of the bits to sum out are coupled; sum out bits of one partition")
    if states.ndim != 2 or states.shape[1] != machine.n_nodes:
        raise PriorError(f"states have shape {tuple(states.shape)}; they must be (states, {machine.n_nodes})")
    mask = torch.from_numpy(summed).to(machine.device)
    parts = []
    with torch.no_grad():
        for start in range(0, max(1, len(states)), _BATCH):
            rows = slice(start, start + _BATCH)
            bits = states[rows].to(machine.biases) * ~mask
            given = None if condition is None else condition[rows]
            fields = machine.local_fields(bits, given)[:, mask]
            parts.append(machine.energy(bits, given).double() - softplus(fields.double()).sum(dim=1))
    return torch.cat(parts)


def _rows(values: Tensor, name: str) -> Tensor:
    """One row a case; a single row may come without its dimension."""
    if values.ndim not in (1, 2):
        raise PriorError(f"{name} has shape {tuple(values.shape)}; give one row a case")
    return values.reshape(-1, values.shape[-1])


def _table(ends: IntArray, kept: NDArray[np.bool_], n_rows: int) -> tuple[IntArray, IntArray, IntArray]:
    """Neighbours, row offsets and coupler numbers of the couplers that are kept."""
    couplers = np.flatnonzero(kept)
    indices, offsets, entries = compressed_rows(ends[couplers], n_rows)
    return indices, offsets, couplers[entries] if len(couplers) else entries
