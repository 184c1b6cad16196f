"""Time of one step of persistent contrastive divergence on a restricted Boltzmann machine of MNIST size.

Claim: 784 visible and 500 hidden bits, 1,000 chains, 10 sweeps a step, batch of 1,000, centred gradient: a step of
``PriorLearner`` takes at most half the time of the usual way, which is that of the package rbms (DsysDML, MIT licence):
both partitions drawn in turn by a float32 matrix product, a sigmoid and ``torch.bernoulli``. That way is written out
plainly below; the package itself is not needed. Both run here, in one process, in turns, from the same parameters, with
bundled images.

Run: python benchmarks/mnist_pcd.py [--repeats N] [--threads N] [--chains N] [--sweeps N]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from calo4pqvae.prior.bits.mnist import bundled_images
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.seeds import stream

N_VISIBLE, N_HIDDEN, BATCH = 784, 500, 1000
RATE = 0.01


class UsualWay:
    """PCD with the centred gradient, by dense products and ``torch.bernoulli``."""

    def __init__(self, machine: BoltzmannMachine, start: Tensor, n_sweeps: int) -> None:
        self.weights = machine.couplings.detach().view(N_VISIBLE, N_HIDDEN).clone()
        self.visible_biases, self.hidden_biases = machine.biases.detach().clone().split((N_VISIBLE, N_HIDDEN))
        self.chains, self.n_sweeps = start.clone(), n_sweeps
        self.generator = stream(1, "usual")

    def step(self, batch: Tensor) -> None:
        """One update."""
        of_data = torch.sigmoid(batch @ self.weights + self.hidden_biases)
        visible = self.chains
        for _ in range(self.n_sweeps):
            means = torch.sigmoid(visible @ self.weights + self.hidden_biases)
            hidden = torch.bernoulli(means, generator=self.generator)
            means = torch.sigmoid(hidden @ self.weights.t() + self.visible_biases)
            visible = torch.bernoulli(means, generator=self.generator)
        self.chains = visible
        of_model = torch.sigmoid(visible @ self.weights + self.hidden_biases)
        mu, nu = batch.mean(0), of_data.mean(0)
        slope = (batch - mu).t() @ (of_data - nu) / len(batch) - (visible - mu).t() @ (of_model - nu) / len(visible)
        self.visible_biases += RATE * (mu - visible.mean(0) - slope @ nu)
        self.hidden_biases += RATE * (nu - of_model.mean(0) - mu @ slope)
        self.weights += RATE * slope


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chains", type=int, default=1000)
    parser.add_argument("--sweeps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.from_numpy(bundled_images("mnist", "train").bits.copy()).float()
    batch = images[:BATCH]
    machine = BoltzmannMachine(bipartite_topology(N_VISIBLE, N_HIDDEN))
    means = torch.cat([images.mean(0), torch.full((N_HIDDEN,), 0.5)])
    machine.initialise(means, 0.05, stream(1, "couplings"))
    usual = UsualWay(machine, images[torch.arange(options.chains) % len(images)], options.sweeps)
    settings = LearningSettings(
        learning_rate=RATE, n_sweeps=options.sweeps, n_chains=options.chains, rao_blackwell=True
    )
    hidden = machine.topology.is_in_partition(1)
    learner = PriorLearner(machine, settings, stream(1, "chains"), hidden=hidden)
    for _ in range(3):
        usual.step(batch)
        learner.step(batch)
    pairs = [(seconds(lambda: learner.step(batch)), seconds(lambda: usual.step(batch))) for _ in range(options.repeats)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(other / own for own, other in pairs)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(
        f"{options.threads} threads; {N_VISIBLE} x {N_HIDDEN}, {options.chains} chains, {options.sweeps} sweeps a step"
    )
    print(f"ours {1e3 * ours:.1f} ms a step, usual way {1e3 * theirs:.1f} ms (medians of {options.repeats} pairs)")
    quarter = len(ratios) // 4
    middle = f"{ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}"
    print(f"usual / ours: {statistics.median(ratios):.2f} (middle half {middle})")
    print(f"kernel: {learner.sampler.choice}")


if __name__ == "__main__":
    main()
