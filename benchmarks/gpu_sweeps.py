"""Spin updates a nanosecond of block Gibbs on a GPU against the number of chains, two kernels in one run.

Claim: on one H200, whole Zephyr Z12 (4,800 nodes with up to 20 neighbours) and 4,096 chains or more, the triton kernel
makes at least 500 updates a nanosecond. An update is one bit of one chain drawn once.

Both kernels, ``triton`` and ``torch-sparse``, run through the same sampler and take turns. A figure is the median over
rounds, with the least and the largest; "sweeps" is from the difference of a long and a short call and leaves out what a
call costs at its ends, "call" is the long call with everything. Fields are shared by all chains, or every chain has its
own, as it has with a clamped partition or a condition. ``--profile`` makes one long call and nothing else, for a
profiler.

Run: python benchmarks/gpu_sweeps.py [--rounds N] [--chains 4096 16384] [--only zephyr-Z12] [--sweeps N] [--profile]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.kernels.triton_sweeps import unavailable_because
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

SEED = 1
COUPLING = 0.2
CLAIM_PER_NS = 500.0
CLAIM_CHAINS = 4096
SHORT = 8  # a long call has this many times the sweeps of a short one
KERNELS: dict[KernelName, int] = {"triton": 1, "torch-sparse": 20}  # and how many times fewer sweeps are timed
GRAPHS: dict[str, Callable[[], Topology]] = {
    "zephyr-Z12": lambda: chip_topology("zephyr", 12),
    "pegasus-P16": lambda: chip_topology("pegasus", 16),
    "zephyr-4x302": lambda: chip_topology("zephyr", 12, (302,) * 4),
}


@dataclass(frozen=True)
class Rates:
    """Updates a nanosecond over the rounds of one side."""

    sweeps: list[float]
    call: list[float]

    def __str__(self) -> str:
        return (
            f"{statistics.median(self.sweeps):8.1f} [{min(self.sweeps):.1f}, {max(self.sweeps):.1f}], "
            f"call {statistics.median(self.call):8.1f}"
        )


def machine_on(topology: Topology, device: torch.device, has_own_fields: bool) -> BoltzmannMachine:
    """A machine in the paramagnet: what is timed does not depend on it."""
    machine, generator = BoltzmannMachine(topology, int(has_own_fields)), torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(COUPLING * torch.randn(parameter.shape, generator=generator))
    return machine.to(device)


class Side:
    """One kernel on one machine and number of chains."""

    def __init__(self, machine: BoltzmannMachine, kernel: KernelName, n_chains: int, n_sweeps: int) -> None:
        self.sampler = BlockGibbsSampler(machine, kernel)
        self.n_sweeps = max(2 * SHORT, n_sweeps // KERNELS[kernel])
        self.generator = torch.Generator(machine.device).manual_seed(SEED)
        self.state: GibbsState = self.sampler.init(n_chains, self.generator)
        self.condition = torch.rand(n_chains, 1, device=machine.device) if machine.n_condition else None
        self.rates = Rates([], [])

    def seconds(self, n_sweeps: int) -> float:
        """Wall time of a call, the device idle before and after."""
        device = self.state.states.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        self.sampler.sample(self.state, n_sweeps, self.generator, condition=self.condition)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    def turn(self) -> None:
        """A short and a long call."""
        short = self.n_sweeps // SHORT
        short_s, long_s = self.seconds(short), self.seconds(self.n_sweeps)
        updates = 1e-9 * self.state.states.numel()
        self.rates.sweeps.append(updates * (self.n_sweeps - short) / (long_s - short_s))
        self.rates.call.append(updates * self.n_sweeps / long_s)


def measure(machine: BoltzmannMachine, n_chains: int, n_sweeps: int, rounds: int) -> dict[KernelName, Rates]:
    """Both kernels in turns, after a turn that is not counted."""
    sides = {kernel: Side(machine, kernel, n_chains, n_sweeps) for kernel in KERNELS}
    for side in sides.values():
        side.seconds(side.n_sweeps // SHORT)
    for _ in range(rounds):
        for side in sides.values():
            side.turn()
    return {kernel: side.rates for kernel, side in sides.items()}


def compare(graph: str, machine: BoltzmannMachine, chains: list[int], n_sweeps: int, rounds: int) -> list[str]:
    """Prints the table of one graph and returns the claims that it misses."""
    missed = []
    fields = "own fields" if machine.n_condition else "shared fields"
    for n_chains in chains:
        rates = measure(machine, n_chains, n_sweeps, rounds)
        ratio = statistics.median(rates["triton"].sweeps) / statistics.median(rates["torch-sparse"].sweeps)
        print(f"{graph}, {fields}, {n_chains:6d} chains: triton {rates['triton']} | torch-sparse", end="")
        print(f" {rates['torch-sparse']} | ratio {ratio:.1f}", flush=True)
        reached = statistics.median(rates["triton"].sweeps)
        if graph == "zephyr-Z12" and not machine.n_condition and n_chains >= CLAIM_CHAINS and reached < CLAIM_PER_NS:
            missed.append(f"{reached:.0f} updates a nanosecond at {n_chains} chains, claimed {CLAIM_PER_NS:.0f}")
    return missed


def main() -> int:
    """Measures and prints; 1 if a claim is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chains", type=int, nargs="+", default=[256, 1024, 4096, 8192, 16384, 32768, 65536])
    parser.add_argument("--only", choices=list(GRAPHS), nargs="+", default=list(GRAPHS))
    parser.add_argument("--sweeps", type=int, default=800)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda")
    reason = "there is no CUDA device" if not torch.cuda.is_available() else unavailable_because(device)
    if reason:
        print(f"nothing to measure: {reason}", file=sys.stderr)
        return 2
    if options.profile:
        machine = machine_on(GRAPHS[options.only[0]](), device, has_own_fields=False)
        Side(machine, "triton", options.chains[0], options.sweeps).seconds(options.sweeps)
        return 0
    from triton import __version__ as triton_version

    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, triton {triton_version}")
    print(f"updates a nanosecond, median [least, largest] of {options.rounds} rounds, seed {SEED}")
    missed = []
    for graph in options.only:
        topology = GRAPHS[graph]()
        print(f"{graph}: {topology.n_nodes} nodes in {topology.sizes}, {topology.n_edges} couplers")
        for has_own_fields in (False, True):
            machine = machine_on(topology, device, has_own_fields)
            missed += compare(graph, machine, options.chains, options.sweeps, options.rounds)
    for line in missed:
        print(f"missed: {line}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
