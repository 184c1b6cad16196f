"""An annealer whose law is known: Gibbs at an inverse temperature that the test chooses call by call."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.annealer.calls.ledger import Ledger
from calo4pqvae.annealer.chip.problem import IsingProblem, Reads
from calo4pqvae.annealer.chip.table import Chip, access_time, chip, flux_to_fields
from calo4pqvae.annealer.placing.tiles import chip_of
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler

BetaOf = Callable[[int, int], float]


def machine_of(
    problem: IsingProblem, fields: NDArray[np.float64], colour: Mapping[int, int]
) -> tuple[BoltzmannMachine, NDArray[np.int64]]:
    """Bits with E(z) = H(2 z - 1) + constant, and which row of the problem each node is."""
    colours = np.array([colour[int(qubit)] for qubit in problem.qubits])
    rows = np.argsort(colours, kind="stable")
    place = np.argsort(rows)
    sizes = np.bincount(colours)
    edges = np.sort(place[problem.edges], axis=1)
    machine = BoltzmannMachine(Topology("known", tuple(sizes[sizes > 0].tolist()), edges))
    around = np.zeros(problem.n_qubits)
    for (i, j), coupling in zip(problem.edges, problem.couplings, strict=True):
        around[i] += coupling
        around[j] += coupling
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    with torch.no_grad():
        machine.biases.copy_(torch.from_numpy((2 * around - 2 * fields)[rows]))
        machine.couplings.copy_(torch.from_numpy(-4 * problem.couplings[order]))
    return machine, rows


class KnownAnnealer:
    """Stands in for an annealer; ``beta_of(call, n_reads)`` is its inverse temperature."""

    is_emulated = True
    has_chip = True

    def __init__(self, topology: Topology, beta_of: BetaOf | float, *, seed: int = 0, flips: float = 0.0) -> None:
        labels = list(topology.node_labels)
        self.colour = dict(zip(labels, topology.partition.tolist(), strict=True))
        self.beta_of: BetaOf = beta_of if callable(beta_of) else lambda _call, _n, fixed=beta_of: fixed
        self.chip: Chip = chip("advantage2")
        self.nodelist = labels
        self.edgelist = np.array(labels)[topology.edges].tolist()
        family, size = chip_of(topology)
        shape = [size, 4] if family == "zephyr" else [size]
        self.properties = {"num_qubits": max(labels) + 1, "topology": {"type": family, "shape": shape}}
        self.ledger = Ledger(is_emulated=True)
        self.flips = flips
        self.betas: list[float] = []
        self.n_reads: list[int] = []
        self.waited = 0.0
        self.generator = torch.Generator().manual_seed(seed)

    def wait(self, seconds: float) -> None:
        self.waited += seconds

    def most_reads(self, n_qubits: int, **_options: Any) -> int:
        del n_qubits
        return 1000

    def read(
        self,
        problem: IsingProblem,
        n_reads: int,
        *,
        flux_biases: NDArray[np.float64] | None = None,
        label: str = "",
        **_options: Any,
    ) -> Reads:
        fields = problem.fields.copy()
        if flux_biases is not None:
            assert len(flux_biases) == self.properties["num_qubits"]
            fields = fields + flux_to_fields(self.chip, flux_biases)[problem.qubits]
        seconds = access_time(self.chip, n_reads, n_qubits=problem.n_qubits).seconds
        call = self.ledger.reserve("known", n_reads, seconds, label=label)
        self.betas.append(self.beta_of(len(self.betas), n_reads))
        self.n_reads.append(n_reads)
        machine, rows = machine_of(problem, fields, self.colour)
        sampler = BlockGibbsSampler(machine)
        start = sampler.init(n_reads, self.generator)
        drawn = sampler.sample(start, 60, self.generator, beta=self.betas[-1]).states.numpy().astype(np.uint8)
        bits = np.empty_like(drawn)
        bits[:, rows] = drawn
        if self.flips:
            flipped = torch.rand(bits.shape, generator=self.generator).numpy() < self.flips
            bits ^= flipped.astype(np.uint8)
        self.ledger.settle(call, "complete", reads=n_reads, access_seconds=seconds)
        return Reads(bits, problem, info={"emulated": True})
