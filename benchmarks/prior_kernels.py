"""Sweeps per second of block Gibbs kernels on annealer graphs, all sides in one run.

Aims, for 1,024 chains on a CPU, against dense masked float32 block products as the published code makes them (six
n x n blocks used in both directions, so twelve products a sweep, sigmoid, ``torch.bernoulli``):

- packed kernel: at least 120 times on 4 x 1,200 Pegasus nodes, 45 times on 4 x 302 Zephyr nodes;
- two threads at least 1.7 times one;
- whole Zephyr Z12 and Pegasus P16, 1,000 sweeps: under 4 s, under 200 MB beyond imports;
- the statistics step (means and all coupling moments of 1,024 chains) below 20 sweeps.

Also in the table: torch sparse CSR products, ``embedding_bag`` (kernel torch-sparse), the Gibbs mode of dwave-samplers
and the block sampler of dwave-pytorch-plugin, if they are installed (``pip install -c constraints.txt --group bench``).
Sides take turns; a figure is the median over rounds of the time of one sweep. A side's sweeps are counted so that a
turn takes a few tenths of a second. An update is one free bit of one chain drawn once. The gain of
threads is that of calls of about a second, the fastest of three, which other work on the machine disturbs least; beside
it stands what a sweep costs in CPU time, which is the same for perfect threads and does not know of other work.

Run: python benchmarks/prior_kernels.py [--rounds N] [--threads 1 2] [--only GRAPH ...]
"""

import argparse
import importlib.util
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

N_CHAINS = 1024
COUPLING = 0.2
TURN_S = 0.3
Sweeps = Callable[[int], object]


@dataclass(frozen=True)
class Graph:
    """A graph of the table and the ratios to dense products that are aimed at."""

    name: str
    topology: Topology
    least: float | None
    has_others: bool


def graphs(names: list[str] | None) -> list[Graph]:
    """The graphs to measure."""
    every = {
        "zephyr-302": lambda: (chip_topology("zephyr", 12, (302,) * 4), 45.0, True),
        "pegasus-1200": lambda: (chip_topology("pegasus", 16, (1200,) * 4), 120.0, True),
        "zephyr-Z12": lambda: (chip_topology("zephyr", 12), None, False),
        "pegasus-P16": lambda: (chip_topology("pegasus", 16), None, False),
    }
    return [Graph(name, *make()) for name, make in every.items() if not names or name in names]


def machine_on(topology: Topology) -> BoltzmannMachine:
    """A machine in the paramagnet: what is timed does not depend on it."""
    machine = BoltzmannMachine(topology)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        machine.couplings.copy_(COUPLING * torch.randn(topology.n_edges, generator=generator))
        machine.biases.copy_(0.3 * torch.randn(topology.n_nodes, generator=generator))
    return machine


def own_kernel(machine: BoltzmannMachine, kernel: KernelName) -> Sweeps:
    """A kernel of this package."""
    sampler, generator = BlockGibbsSampler(machine, kernel), torch.Generator().manual_seed(2)
    state = sampler.init(N_CHAINS, generator)
    return lambda n_sweeps: sampler.sample(state, n_sweeps, generator)


def dense_masked(machine: BoltzmannMachine) -> Sweeps:
    """Six dense masked blocks in both directions: the published way."""
    topology, slices = machine.topology, machine.topology.slices
    matrix = machine.neighbours.dense(machine.couplings.detach())
    masked = {
        (i, j): matrix[slices[i].start : slices[i].stop, slices[j].start : slices[j].stop].contiguous()
        for i in range(topology.n_partitions)
        for j in range(i + 1, topology.n_partitions)
    }
    parts = [machine.biases.detach()[nodes.start : nodes.stop] for nodes in slices]
    start = [torch.randint(0, 2, (N_CHAINS, size)).float() for size in topology.sizes]

    def sweeps(n_sweeps: int) -> list[Tensor]:
        states = list(start)
        for _ in range(n_sweeps):
            for own in range(len(states)):
                field = parts[own].expand(N_CHAINS, -1).clone()
                for other in range(len(states)):
                    if other != own:
                        block = masked[(other, own)] if other < own else masked[(own, other)].t()
                        field += states[other] @ block
                states[own] = torch.bernoulli(torch.sigmoid(field))
        return states

    return sweeps


def sparse_csr(machine: BoltzmannMachine) -> Sweeps:
    """Products with torch's sparse CSR blocks, nodes as rows."""
    topology = machine.topology
    matrix = machine.neighbours.dense(machine.couplings.detach())
    rows = [matrix[nodes.start : nodes.stop].to_sparse_csr() for nodes in topology.slices]
    biases = [machine.biases.detach()[nodes.start : nodes.stop, None] for nodes in topology.slices]
    start = torch.randint(0, 2, (topology.n_nodes, N_CHAINS)).float()

    def sweeps(n_sweeps: int) -> Tensor:
        states = start.clone()
        for _ in range(n_sweeps):
            for nodes, block, bias in zip(topology.slices, rows, biases, strict=True):
                states[nodes.start : nodes.stop] = torch.bernoulli(torch.sigmoid(block @ states + bias))
        return states

    return sweeps


def ising(machine: BoltzmannMachine) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """Fields and couplings of the machine's spins."""
    couplings = machine.couplings.detach().numpy()
    fields = -machine.biases.detach().numpy() / 2
    edges = machine.topology.edges
    for ends in edges.T:
        np.subtract.at(fields, ends, couplings / 4)
    pairs = {(int(i), int(j)): float(-w / 4) for (i, j), w in zip(edges, couplings, strict=True)}
    return dict(enumerate(fields.tolist())), pairs


def dwave_gibbs(machine: BoltzmannMachine) -> Sweeps:
    """Gibbs mode of dwave-samplers' simulated annealing at constant beta, with the preparation of a call."""
    from dwave.samplers import SimulatedAnnealingSampler

    fields, pairs = ising(machine)
    sampler = SimulatedAnnealingSampler()

    def sweeps(n_sweeps: int) -> object:
        return sampler.sample_ising(
            fields, pairs, num_reads=N_CHAINS, beta_schedule_type="custom", beta_schedule=[1.0],
            num_sweeps_per_beta=n_sweeps, proposal_acceptance_criteria="Gibbs", seed=3,
        )  # fmt: skip

    return sweeps


def dwave_blocks(machine: BoltzmannMachine) -> Sweeps:
    """Block sampler of dwave-pytorch-plugin."""
    from dwave.plugins.torch.models import GraphRestrictedBoltzmannMachine
    from dwave.plugins.torch.samplers import BlockSampler

    fields, pairs = ising(machine)
    theirs = GraphRestrictedBoltzmannMachine(list(fields), list(pairs), linear=fields, quadratic=pairs)
    colour = {
        node: part for part, nodes in enumerate(machine.topology.slices) for node in range(nodes.start, nodes.stop)
    }
    return lambda n_sweeps: BlockSampler(theirs, colour.__getitem__, N_CHAINS, [1.0] * n_sweeps, seed=4).sample()


def sides(graph: Graph) -> dict[str, Sweeps]:
    """Everything that takes turns on a graph."""
    machine = machine_on(graph.topology)
    table: dict[str, Sweeps] = {
        "packed": own_kernel(machine, "packed"),
        "embedding_bag (torch-sparse)": own_kernel(machine, "torch-sparse"),
    }
    if graph.has_others:
        table["dense masked float32"] = dense_masked(machine)
        table["torch sparse CSR"] = sparse_csr(machine)
        if importlib.util.find_spec("dwave.samplers"):
            table["dwave-samplers, Gibbs"] = dwave_gibbs(machine)
        if importlib.util.find_spec("dwave.plugins"):
            table["dwave-pytorch-plugin, blocks"] = dwave_blocks(machine)
    return table


def measure(table: dict[str, Sweeps], rounds: int) -> dict[str, float]:
    """Median seconds a sweep of each side, sides taking turns."""
    counts = {}
    for name, sweeps in table.items():
        sweeps(1)
        start = time.perf_counter()
        sweeps(2)
        counts[name] = max(1, min(400, round(TURN_S / ((time.perf_counter() - start) / 2))))
    times: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, sweeps in table.items():
            start = time.perf_counter()
            sweeps(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name])
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(graph: Graph, seconds: dict[str, float], n_threads: int) -> None:
    topology = graph.topology
    print(
        f"\n{graph.name}: {topology.n_nodes} nodes {topology.sizes}, mean degree "
        f"{2 * topology.n_edges / topology.n_nodes:.1f}, {N_CHAINS} chains, {n_threads} thread(s)"
    )
    dense = seconds.get("dense masked float32")
    print(f"  {'':30} {'ms a sweep':>11} {'updates/ns/core':>16} {'dense / this':>13}")
    for name, value in sorted(seconds.items(), key=lambda entry: entry[1]):
        cores = 1 if name.startswith("dwave-samplers") else n_threads
        rate = topology.n_nodes * N_CHAINS / value / 1e9 / cores
        claim = f"  aim: {graph.least:.0f}" if graph.least and name == "packed" else ""
        ratio = f"{dense / value:12.1f}x{claim}" if dense else ""
        print(f"  {name:30} {1e3 * value:11.3f} {rate:16.2f} {ratio}")


def whole_chip(graph: Graph, rounds: int) -> None:
    """1,000 sweeps of 1,024 chains, memory beyond imports, and the statistics step."""
    machine = machine_on(graph.topology)
    sampler, generator = BlockGibbsSampler(machine, "packed"), torch.Generator().manual_seed(5)
    sampler.sample(sampler.init(64, generator), 1, generator)
    machine.sufficient_statistics(torch.zeros(64, machine.n_nodes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state: GibbsState = sampler.init(N_CHAINS, generator)
    times, statistics_times = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        drawn = sampler.sample(state, 1000, generator)
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
        machine.sufficient_statistics(drawn.states)
        statistics_times.append(time.perf_counter() - start)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    total, step = statistics.median(times), statistics.median(statistics_times)
    print(
        f"  {graph.name}: 1,000 sweeps of {N_CHAINS} chains {total:.2f} s, peak memory +{more:.0f} MB; "
        f"statistics step {1e3 * step:.1f} ms = {step / (total / 1000):.1f} sweeps"
    )


def thread_gain(graph: Graph, n_threads: int) -> None:
    """What more threads bring."""
    sweeps = own_kernel(machine_on(graph.topology), "packed")
    n_sweeps = round(1.2e9 / (0.25 * N_CHAINS * graph.topology.n_nodes))
    wall: dict[int, list[float]] = {1: [], n_threads: []}
    cpu: dict[int, list[float]] = {1: [], n_threads: []}
    sweeps(1)
    for _ in range(3):
        for n, times in wall.items():
            torch.set_num_threads(n)
            start, own = time.perf_counter(), time.process_time()
            sweeps(n_sweeps)
            times.append(time.perf_counter() - start)
            cpu[n].append(time.process_time() - own)
    gain, cost = min(wall[1]) / min(wall[n_threads]), min(cpu[n_threads]) / min(cpu[1])
    print(f"  packed: {n_threads} threads {gain:.2f} times 1 ({n_sweeps} sweeps a call; CPU time {cost:.2f} times)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", help="graphs to measure")
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "numba"))
    print(f"Python {platform.python_version()}, {packages}")
    for package in ("dwave-samplers", "dwave-pytorch-plugin"):
        found = importlib.util.find_spec("dwave.samplers" if package == "dwave-samplers" else "dwave.plugins")
        print(f"{package} {version(package) if found else 'is not installed: left out'}")
    chosen = graphs(arguments.only)
    print("whole chips (memory first, while nothing else has been held):")
    torch.set_num_threads(max(arguments.threads))
    for graph in chosen:
        if not graph.has_others:
            whole_chip(graph, 3)
    for graph in chosen:
        for n_threads in arguments.threads:
            torch.set_num_threads(n_threads)
            print_table(graph, measure(sides(graph), arguments.rounds), n_threads)
        if max(arguments.threads) > 1:
            thread_gain(graph, max(arguments.threads))


if __name__ == "__main__":
    main()
