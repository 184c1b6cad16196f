"""Log-likelihood of MNIST under a restricted Boltzmann machine with 500 hidden bits, trained by the preset ``mnist``.

Claim: PCD with one sweep a step and the centred gradient reaches, on the 10,000 test images binarised at half of the
full range, a mean log-likelihood of at least -90 nats by annealed importance sampling and at least -100 by reverse
annealing.
Published for the same size, data and method: -84.86 and -96.61 (documentation of PyDeep, page RBM_MNIST_big: 200
epochs; a trial of Melchior, Fischer and Wiskott, JMLR 17(99), 2016).

The images are fetched first: calo4pqvae prior fetch mnist --out data/mnist

Run: python benchmarks/mnist_likelihood.py DATA_FOLDER RUN_FOLDER [--chains N] [--temperatures N]
"""

import argparse
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from calo4pqvae.standalone.assessment import likelihood_of_run
from calo4pqvae.standalone.settings import load_prior_config
from calo4pqvae.standalone.training import train_prior_alone

LEAST = {"ais": -90.0, "reverse": -100.0}
TOLD_EVERY = 3000


def main() -> None:
    """Trains, estimates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--temperatures", type=int, default=20000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = load_prior_config("mnist", [f"data={options.data}", *options.set])

    def tell(done: int, total: int, numbers: Mapping[str, float]) -> None:
        if done % TOLD_EVERY == 0:
            told = ", ".join(f"{name} {value:.1f}" for name, value in numbers.items())
            print(f"step {done} of {total}: {told}", flush=True)

    start = time.perf_counter()
    run = train_prior_alone(config, options.run, overwrite=True, progress=tell)
    trained = time.perf_counter()
    found = likelihood_of_run(
        run, n_chains=options.chains, n_temperatures=options.temperatures, burn_in=3000, seed=1, start="chains"
    )
    done = time.perf_counter()
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"training {trained - start:.0f} s, estimates {done - trained:.0f} s")
    for direction, told in found["log_likelihood"]["test"].items():
        log_z = found["log_z"][direction]
        print(
            f"test, {direction}: {told['value']:.2f} +- {told['error']:.2f} (states) +- {told['log_z_error']:.2f} "
            f"(log Z), {told['n_states']} images, ESS {log_z['ess']:.0f} of {log_z['n_chains']} chains, "
            f"{log_z['n_temperatures']} temperatures, seed {told['seed']}; "
            f"{'reached' if told['value'] >= LEAST[direction] else 'MISSED'} {LEAST[direction]:g}"
        )


if __name__ == "__main__":
    main()
