"""What the phase-diagram study measures: zero-field machines over the diagram, and real machines placed on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.exact import enumerate_machine
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.tempering import tuned_ladder
from calo4pqvae.prior.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.overlaps import measure_overlaps, zero_field_machine
from calo4pqvae.studies.placement import BitOrder, DiagramPoint, bit_order, block_statistics, mode_point, place

__all__ = ["Form", "PlacedMachine", "Scan", "binder_crossing", "form_topology", "iid_machine", "place_machine", "scan"]

FloatArray = NDArray[np.float64]
Form = Literal["bipartite", "four-partite"]

N_BINS = 41  # of the distribution of overlaps
_N_BOOTSTRAP = 400
_EXACT_BITS = 20


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
        histograms: Density of q in equal bins of [-1, 1], mean over draws, shape (K, bins).
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
    histograms: FloatArray
    least_acceptance: float
    n_pairs: int


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
        n_draws: Independent chains behind them; all states where the machine was enumerated.
    """

    label: str
    step: int
    points: tuple[DiagramPoint, ...]
    order: BitOrder | None
    overlaps: FloatArray
    overlap_errors: FloatArray
    n_draws: int


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
    topology, edges = form_topology(form, n), np.linspace(-1, 1, N_BINS + 1)
    betas = (kt[0] / np.asarray(kt, dtype=np.float64))[::-1]
    rows, histograms, acceptances, n_pairs = [], [], [], 0
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
        rows.append([(q**2).mean(1), (q**4).mean(1), (m**2).mean(1), (m**4).mean(1), np.abs(m).mean(1)])
        histograms.append([np.histogram(level, edges, density=True)[0] for level in q])
        acceptances.append(found.least_acceptance)
        n_pairs = q.shape[1]
        progress()
    q2, q4, m2, m4, m_abs = np.array(rows).transpose(1, 0, 2)
    return Scan(
        form, topology.n_nodes, j0, np.asarray(kt, dtype=np.float64), q2, q4, m2, m4, m_abs,
        np.mean(histograms, axis=0), min(acceptances), n_pairs,
    )  # fmt: skip


def binder_crossing(
    small: Scan, large: Scan, quantity: Literal["q", "m"], rng: np.random.Generator
) -> tuple[float, float]:
    r"""Temperature at which the Binder ratios :math:`\tfrac12 (3 - [x^4] / [x^2]^2)` of two sizes meet.

    Args:
        small: Scan of the smaller size.
        large: Scan of the larger size at the same temperatures.
        quantity: ``"q"`` for the spin glass, ``"m"`` for the ferromagnet.
        rng: Source of the bootstrap over disorder draws.

    Returns:
        kT / J~ and its bootstrap error; NaN where the ratios do not meet.
    """

    def crossing(rows: tuple[NDArray[np.int64], NDArray[np.int64]]) -> float:
        ratios = []
        for one, picks in zip((small, large), rows, strict=True):
            second, fourth = (one.q2, one.q4) if quantity == "q" else (one.m2, one.m4)
            ratios.append((3 - fourth[picks].mean(axis=0) / second[picks].mean(axis=0) ** 2) / 2)
        lead = ratios[1] - ratios[0]  # positive in the ordered phase
        signs = [(k, k + 1) for k, (a, b) in enumerate(pairwise(lead)) if a > 0 >= b]
        if not signs:
            return float("nan")
        cold, warm = signs[-1]  # ratios of a cold phase may touch; the transition is the last change of sign
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
    slices = machine.topology.slices
    if machine.n_nodes <= _EXACT_BITS:
        squares = enumerate_machine(machine).first.numpy() ** 2
        overlaps = np.array([squares[nodes].mean() for nodes in slices])
        return PlacedMachine(label, step, points, order, overlaps, np.zeros_like(overlaps), 2**machine.n_nodes)
    betas = tuned_ladder(machine, n_levels, generator, n_chains=16, n_sweeps=40, n_rounds=3)
    runs = [
        measure_overlaps(machine, betas, generator, n_chains=n_chains, n_burn=100, n_records=5, every=20).bit_overlaps[
            -1
        ]
        for _ in range(4)
    ]  # independent runs, so that their spread is an error
    errors = np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
    return PlacedMachine(label, step, points, order, np.mean(runs, axis=0), errors, len(runs) * n_chains)
