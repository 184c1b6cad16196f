r"""What the emulator and the thermometer take at full chip size, and how near the thermometer comes.

Aims:

- Zephyr Z12, all qubits: 1,000 reads of the emulator (mode ``calibrated``) under 10 s on two cores;
- Pegasus P16 and Zephyr Z12: inverse temperature by pseudo-likelihood from 100 reads of mode ``ideal`` within 0.5 %
  (root mean square over programmings) in under 3 s, the bootstrap of its error included.

No estimate without bias does better than the bound of Cramer and Rao, :math:`\sigma(\ln\beta) = 1 / \sqrt{n Var(E)}`
with E in nats, which the energies of the reads themselves tell; it is printed beside the errors.

The machines are random: in spins, couplings of 0.2 nats and fields of 0.1. "opening" is the emulator with its working
graph; the first call, which compiles or loads the Gibbs kernel, is made before the clock starts. The access time is
what the emulated chip would charge, by the documented numbers; it says nothing about the speed of this code or of a
real chip.

Run: python benchmarks/annealer.py [--threads 2] [--seed 1] [--only CHIP ...] [--reads 1000] [--programmings 20]
"""

import argparse
import math
import platform
import statistics
import time

import torch

from calo4pqvae.annealer.beta.pseudo_likelihood import maximum_pseudo_likelihood
from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.chip.problem import IsingProblem, ising_problem
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine

CHIPS = ("advantage2", "advantage4")
COUPLING = 0.8  # of bits: four times that of spins
BIAS = 0.2


def problem_on(annealer: Annealer, seed: int) -> IsingProblem:
    """A random machine on all working qubits, divided by the documented inverse temperature."""
    chip = annealer.chip
    topology = chip_topology(chip.family, chip.m)
    machine = BoltzmannMachine(topology)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        machine.couplings.copy_(COUPLING * torch.randn(topology.n_edges, generator=generator))
        machine.biases.copy_(BIAS * torch.randn(topology.n_nodes, generator=generator))
    placement = place(topology, annealer.nodelist, annealer.edgelist, prune=True)
    return ising_problem(machine, chip.beta, placement=placement)


def thermometer(name: str, n_programmings: int, seed: int) -> None:
    """Errors and time of estimates from 100 reads of a whole chip."""
    started = time.perf_counter()
    annealer = open_annealer(f"emulator:{name}", seed=seed, mode="ideal")
    opened = time.perf_counter() - started
    problem = problem_on(annealer, seed)
    shifts, quoted, seconds, variances = [], [], [], []
    for number in range(n_programmings):
        reads = annealer.read(problem, 100)
        started = time.perf_counter()
        found = maximum_pseudo_likelihood(reads, seed=seed + number)
        seconds.append(time.perf_counter() - started)
        shifts.append(found.value / annealer.chip.beta - 1)
        quoted.append(found.error / found.value)
        variances.append(float(problem.machine_energy(reads.bits).var(ddof=1)))
    rms = math.sqrt(statistics.fmean(shift**2 for shift in shifts))
    slowest, bound = max(seconds), 1 / math.sqrt(100 * statistics.fmean(variances))
    print(
        f"{annealer.name}: 100 reads of {problem.n_qubits} qubits, {n_programmings} programmings, seed {seed}: beta "
        f"off by {rms:.2%} rms, {max(map(abs, shifts)):.2%} at most, {statistics.fmean(shifts):+.2%} in the mean "
        f"(quoted {statistics.fmean(quoted):.2%}, bound {bound:.2%}); {slowest:.2f} s an estimate at most (opening "
        f"{opened:.1f} s) "
        f"{'ok' if rms < 0.005 and slowest < 3 else 'MISSED'}"
    )


def reading(name: str, n_reads: int, seed: int) -> None:
    """Time of many reads of a whole chip with all errors on."""
    annealer = open_annealer(f"emulator:{name}", seed=seed, mode="calibrated")
    problem = problem_on(annealer, seed)
    annealer.read(problem, 1)
    before = annealer.ledger.access_seconds
    started = time.perf_counter()
    annealer.read(problem, n_reads)
    seconds = time.perf_counter() - started
    rate = 200 * n_reads * problem.n_qubits / seconds / 1e6
    print(
        f"{annealer.name}: {n_reads} reads of {problem.n_qubits} qubits in {seconds:.2f} s ({rate:.0f} M updates/s); "
        f"emulated access time {annealer.ledger.access_seconds - before:.3f} s "
        f"{'' if n_reads != 1000 or name != 'advantage2' else 'ok' if seconds < 10 else 'MISSED'}"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--programmings", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=CHIPS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}")
    for name in options.only:
        thermometer(name, options.programmings, options.seed)
    for name in options.only:
        reading(name, options.reads, options.seed)


if __name__ == "__main__":
    main()
