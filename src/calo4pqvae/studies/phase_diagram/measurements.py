"""What the phase-diagram study measures: zero-field machines over the diagram, and real machines placed on it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.tempering import tuned_ladder
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.theory.overlaps import coupling_variance, measure_overlaps, zero_field_machine
from calo4pqvae.studies.theory.placement import BitOrder, DiagramPoint, bit_order, block_statistics, mode_point, place

__all__ = [
    "OVERLAP_EDGES",
    "Form",
    "PlacedMachine",
    "Scan",
    "form_topology",
    "iid_machine",
    "place_machine",
    "scaling_crossing",
    "scan",
]

FloatArray = NDArray[np.float64]
Form = Literal["bipartite", "four-partite"]

OVERLAP_EDGES = np.linspace(-1.05, 1.05, 43)
"""Bins of the distribution of overlaps; 1.05, because the cells of 1 and -1 reach beyond them."""

_N_BOOTSTRAP = 400
_EXACT_BITS = 20
_N_RUNS = 4  # independent temperings of a machine


@dataclass(frozen=True)
class Scan:
    """Zero-field machines at one ratio J0~ / J~ over a line of temperatures, one number a disorder draw and level.

    Args:
        form: Form of the graph.
        n_units: Spins N.
        j0: J0~ / J~.
        kt: Temperatures kT / J~ of the levels, shape (K,).
        q2: Mean of q^2, shape (draws, K).
        q4: Mean of q^4.
        m2: Mean of m^2.
        m4: Mean of m^4.
        m_abs: Mean of the modulus of m.
        energy: Mean energy of the spins at a level's temperature, in units of kT.
        link: Mean link overlap.
        histograms: Density of q in the bins of ``OVERLAP_EDGES``, mean over draws and both signs, shape (K, bins).
        couplings: Sum of squared couplings over its mean, shape (draws,).
        least_acceptance: Lowest acceptance of exchanges in any draw.
        n_pairs: Overlaps taken of every draw and level.
    """

    form: Form
    n_units: int
    j0: float
    kt: FloatArray
    q2: FloatArray
    q4: FloatArray
    m2: FloatArray
    m4: FloatArray
    m_abs: FloatArray
    energy: FloatArray
    link: FloatArray
    histograms: FloatArray
    couplings: FloatArray
    least_acceptance: float
    n_pairs: int

    def thermal_excess(self) -> FloatArray:
        r"""How far the energy of every draw and level is from :math:`-\beta s^2 M (1 - q_l)`, relative to the mean.

        Its mean over draws is zero in equilibrium, without ferromagnetic couplings. What the energy owes to the sum
        of squared couplings of its draw, whose mean is known, is taken off, which makes the error small.

        Returns:
            Numbers of shape (draws, K).
        """
        variance, n_couplers = coupling_variance(form_topology(self.form, self.n_units // 4))
        unit = variance / self.kt**2 * n_couplers
        share = (1 - self.link).mean(axis=0)
        drawn = (self.couplings - 1)[:, None] * share
        return np.asarray((self.energy / unit + 1 - self.link + drawn) / share)


@dataclass(frozen=True)
class PlacedMachine:
    """A machine on the diagram, with its replica-symmetric law and what it really does.

    Args:
        label: Name for people.
        step: Learning step; 0 for untrained machines.
        points: Coordinates in bits, in spins, and by the leading mode.
        order: Replica-symmetric order parameters of bits; None where the equations have no stable fixed point.
        overlaps: Measured Q of every partition, shape (P,).
        overlap_errors: Their errors; zero where the machine was enumerated.
        spin_overlap: Mean overlap q of the spins of two replicas, and its error.
        spread: N times the variance of q, and its error; NaN where the machine was enumerated.
        histogram: Density of q in the bins of ``OVERLAP_EDGES``; empty where the machine was enumerated.
        least_acceptance: Lowest acceptance of exchanges; NaN where the machine was enumerated.
        sizes: Bits of every partition.
        n_draws: Independent chains behind the overlaps; all states where the machine was enumerated.
    """

    label: str
    step: int
    points: tuple[DiagramPoint, DiagramPoint, DiagramPoint]
    order: BitOrder | None
    overlaps: FloatArray
    overlap_errors: FloatArray
    spin_overlap: tuple[float, float]
    spread: tuple[float, float]
    histogram: FloatArray
    least_acceptance: float
    sizes: tuple[int, ...]
    n_draws: int

    @property
    def symmetric_spin_overlap(self) -> float:
        """Replica-symmetric q of the spins, from that of the bits; NaN without a solution."""
        if self.order is None:
            return math.nan
        parts = 4 * self.order.overlaps - 4 * self.order.means + 1
        return float(np.average(parts, weights=self.sizes))


def form_topology(form: Form, n: int) -> Topology:
    """The graph of a form with ``4 n`` units, so that forms of one n are equally large."""
    return bipartite_topology(2 * n, 2 * n) if form == "bipartite" else complete_topology((n,) * 4)


def scan(
    form: Form,
    n: int,
    j0: float,
    kt: Sequence[float],
    seed: int,
    *,
    n_disorder: int,
    n_chains: int,
    n_burn: int,
    n_records: int,
    every: int,
    progress: Callable[[], None],
) -> Scan:
    """Measures machines over disorder draws.

    Args:
        form: Form of the graph.
        n: A quarter of the units.
        j0: J0~ / J~.
        kt: Temperatures kT / J~, rising; the first is that of the machine, the others are levels of its ladder.
        seed: Seed of couplings and chains.
        n_disorder: Disorder draws, two or more.
        n_chains: Chains of every draw, an even number.
        n_burn: Sweeps before the first record.
        n_records: Records.
        every: Sweeps between records.
        progress: Called after every draw.
    """
    topology = form_topology(form, n)
    variance, n_couplers = coupling_variance(topology)
    betas = (kt[0] / np.asarray(kt, dtype=np.float64))[::-1]
    rows, histograms, couplings, acceptances, n_pairs = [], [], [], [], 0
    for draw in range(n_disorder):
        name = ("scan", form, n, f"{j0:g}", draw)
        machine = zero_field_machine(topology, j0 / kt[0], 1 / kt[0], np.random.default_rng(derive_seed(seed, *name)))
        found = measure_overlaps(
            machine,
            betas.tolist(),
            stream(seed, *name, "chains"),
            n_chains=n_chains,
            n_burn=n_burn,
            n_records=n_records,
            every=every,
        )
        q, m = found.overlaps[::-1], found.magnetisations[::-1]
        energies = (found.energies - float(machine.couplings.detach().double().sum()) / 4) * found.betas
        rows.append([(q**2).mean(1), (q**4).mean(1), (m**2).mean(1), (m**4).mean(1), np.abs(m).mean(1),
                     energies[::-1], found.link_overlaps[::-1]])  # fmt: skip
        histograms.append([_density(np.concatenate([level, -level]), topology.n_nodes) for level in q])
        squares = float((machine.couplings.detach().double() / 4).square().sum())
        couplings.append(squares / (variance / kt[0] ** 2 * n_couplers))
        acceptances.append(found.least_acceptance)
        n_pairs = q.shape[1]
        progress()
    q2, q4, m2, m4, m_abs, energy, link = np.array(rows).transpose(1, 0, 2)
    return Scan(
        form, topology.n_nodes, j0, np.asarray(kt, dtype=np.float64), q2, q4, m2, m4, m_abs, energy, link,
        np.mean(histograms, axis=0), np.array(couplings), min(acceptances), n_pairs,
    )  # fmt: skip


def _density(overlaps: FloatArray, n_units: int) -> FloatArray:
    """Density of overlaps in bins, each of the values 2 / N apart spread evenly over its cell."""
    counts = np.bincount(np.rint((overlaps + 1) * n_units / 2).astype(np.int64), minlength=n_units + 1)
    cells = np.linspace(-1 - 1 / n_units, 1 + 1 / n_units, n_units + 2)
    cumulative = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return np.asarray(np.diff(np.interp(OVERLAP_EDGES, cells, cumulative)) / np.diff(OVERLAP_EDGES))


def scaling_crossing(
    small: Scan, large: Scan, quantity: Literal["q", "m"], rng: np.random.Generator
) -> tuple[float, float]:
    r"""Temperature at which scaled second moments of two sizes meet.

    At a mean-field transition :math:`\overline{\langle q^2 \rangle} \propto N^{-2/3}` (spin glass) and
    :math:`\overline{\langle m^2 \rangle} \propto N^{-1/2}` (ferromagnet); below it they do not fall with N,
    above it they fall as 1/N.

    Args:
        small: Scan of the smaller size.
        large: Scan of the larger size at the same temperatures.
        quantity: ``"q"`` for the spin glass, ``"m"`` for the ferromagnet.
        rng: Source of the bootstrap over disorder draws.

    Returns:
        kT / J~ and its bootstrap error; NaN where the moments do not meet.
    """
    exponent = 2 / 3 if quantity == "q" else 1 / 2

    def crossing(rows: tuple[NDArray[np.int64], NDArray[np.int64]]) -> float:
        scaled = [
            np.log((one.q2 if quantity == "q" else one.m2)[picks].mean(axis=0)) + exponent * math.log(one.n_units)
            for one, picks in zip((small, large), rows, strict=True)
        ]
        lead = scaled[1] - scaled[0]  # positive in the ordered phase
        signs = [(k, k + 1) for k, (a, b) in enumerate(pairwise(lead)) if a > 0 >= b]
        if not signs:
            return float("nan")
        cold, warm = signs[-1]
        share = lead[cold] / (lead[cold] - lead[warm])
        return float(small.kt[cold] + share * (small.kt[warm] - small.kt[cold]))

    counts = len(small.q2), len(large.q2)
    value = crossing((np.arange(counts[0]), np.arange(counts[1])))
    again = np.array([crossing((rng.integers(counts[0], size=counts[0]), rng.integers(counts[1], size=counts[1])))
                      for _ in range(_N_BOOTSTRAP)])  # fmt: skip
    found = again[np.isfinite(again)]
    return value, float(found.std(ddof=1)) if len(found) > _N_BOOTSTRAP // 2 else float("nan")


def iid_machine(
    draw: Callable[[np.random.Generator, int], FloatArray], n: int, rng: np.random.Generator
) -> BoltzmannMachine:
    """A machine of n and n bits with all weights and biases drawn from one law."""
    machine = BoltzmannMachine(bipartite_topology(n, n))
    with torch.no_grad():
        machine.biases.copy_(torch.from_numpy(draw(rng, machine.n_nodes)))
        machine.couplings.copy_(torch.from_numpy(draw(rng, machine.topology.n_edges)))
    return machine


def place_machine(
    machine: BoltzmannMachine, label: str, step: int, generator: torch.Generator, n_chains: int, n_levels: int
) -> PlacedMachine:
    """Places a machine and measures its overlaps: by enumeration up to 20 bits, by parallel tempering beyond.

    Args:
        machine: The machine.
        label: Its name.
        step: Its learning step.
        generator: Source of randomness of the tempering.
        n_chains: Chains of the tempering, an even number.
        n_levels: Levels of the tempering.
    """
    statistics = block_statistics(machine)
    biases = machine.biases.detach().cpu().double().numpy()
    try:
        order = bit_order(statistics, biases, machine.topology)
    except PriorError:
        order = None  # told as such: the equations of this machine have no fixed point that the iteration finds
    points = (place(statistics, "bits"), place(statistics, "spins"), mode_point(machine))
    sizes = machine.topology.sizes
    if machine.n_nodes <= _EXACT_BITS:
        means = enumerate_machine(machine).first.numpy()
        exact = np.array([np.mean(means[nodes] ** 2) for nodes in machine.topology.slices])
        exact_q = float(np.mean((2 * means - 1) ** 2))
        nothing = (math.nan, math.nan)
        return PlacedMachine(
            label, step, points, order, exact, np.zeros_like(exact), (exact_q, 0.0), nothing, np.empty(0), math.nan,
            sizes, 2**machine.n_nodes,
        )  # fmt: skip
    betas = tuned_ladder(machine, n_levels, generator, n_chains=16, n_sweeps=40, n_rounds=3)
    runs = [
        measure_overlaps(machine, betas, generator, n_chains=n_chains, n_burn=100, n_records=5, every=20)
        for _ in range(_N_RUNS)
    ]  # independent runs, so that their spread is an error
    bits, bit_errors = _over_runs([run.bit_overlaps[-1] for run in runs])
    q = _over_runs([run.overlaps[-1].mean() for run in runs])
    spread = _over_runs([machine.n_nodes * run.overlaps[-1].var() for run in runs])
    histogram = _density(np.concatenate([run.overlaps[-1] for run in runs]), machine.n_nodes)
    return PlacedMachine(
        label, step, points, order, bits, bit_errors, (float(q[0]), float(q[1])), (float(spread[0]), float(spread[1])),
        histogram, min(run.least_acceptance for run in runs), sizes, _N_RUNS * n_chains,
    )  # fmt: skip


def _over_runs(values: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Mean over independent runs and its error."""
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / math.sqrt(len(values))
